"""This project's own format, what ``save()`` writes: one config.json with every switch, one file with every tensor."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import torch

from mgte_rag.checkpoints.family import Family, Names, Reading
from mgte_rag.checkpoints.source import ModelFolder
from mgte_rag.config import ModelConfig
from mgte_rag.errors import CheckpointError
from mgte_rag.nn.model import RetrievalModel

MODEL_TYPE = "mgte-rag"
_FORMAT = 1
# Fields that folders of this format may lack, and what they then are.
_ADDED_SINCE = {"lexicon": False}


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json."""
    return {"model_type": MODEL_TYPE, "format": _FORMAT, **asdict(config)}


def read(folder: ModelFolder, config: Mapping[str, Any]) -> Reading:
    """The switches of a folder that ``save()`` wrote.

    Raises:
        CheckpointError: a field is unknown or missing, or the format is a later one.
    """
    path = folder.path / "config.json"
    if config.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} has format {config.get('format')!r}; this version reads format {_FORMAT}: update mgte-rag"
        )
    content = {name: value for name, value in config.items() if name not in ("model_type", "format")}
    content = _ADDED_SINCE | content
    return Reading(build(ModelConfig, content, path))


def build(kind: Any, content: Any, path: Path) -> Any:
    """A dataclass out of JSON: every field there, none more.

    Raises:
        CheckpointError: a field is unknown or missing.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: {kind.__name__} must be an object, not {content!r}")
    hints = get_type_hints(kind)
    known = {field.name for field in fields(kind)}
    wrong = sorted(known ^ content.keys())
    if wrong:
        state = "lacks the field" if wrong[0] in known else "has the unknown field"
        raise CheckpointError(f"{path} {state} {wrong[0]!r} of {kind.__name__}")
    return kind(**{name: _value(hints[name], value, path) for name, value in content.items()})


def _value(hint: Any, value: Any, path: Path) -> Any:
    choices = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    nested = next((choice for choice in choices if is_dataclass(choice)), None)
    if nested is not None and value is not None:
        return build(nested, value, path)
    return tuple(value) if isinstance(value, list) else value


def layouts(config: ModelConfig) -> list[Names]:
    """Our own names."""
    with torch.device("meta"):
        model = RetrievalModel(config)
    return [{name: (name,) for name in model.state_dict()}]


FAMILY = Family(
    recognises=lambda config: config.get("model_type") == MODEL_TYPE,
    read=read,
    layouts=layouts,
)
