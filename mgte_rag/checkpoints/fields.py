"""Fields of a config.json: read, or refused with their name, value and what is supported."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mgte_rag.config import Rotary, Scaling
from mgte_rag.errors import CheckpointError

_SCALINGS: dict[str, Scaling] = {"default": "none", "linear": "linear", "ntk": "ntk"}
_ROTARY_FIELDS = {"rope_theta", "rope_type", "type", "factor", "mixed_b", "original_max_position_embeddings"}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {path.parent} is not a complete model folder") from error
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def take(folder: Path, config: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    """The fields under our names, {ours: theirs}.

    Raises:
        CheckpointError: one is missing; there are no defaults, since a wrong one would go unnoticed.
    """
    missing = [theirs for theirs in fields.values() if theirs not in config]
    if missing:
        raise CheckpointError(f"{folder}/config.json lacks the field {missing[0]!r}")
    return {ours: config[theirs] for ours, theirs in fields.items()}


def require(folder: Path, config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
    """Fields that must have one value where they are there at all.

    Raises:
        CheckpointError: one asks for something that this family's encoder does not do.
    """
    for field, value in supported.items():
        if config.get(field, value) != value:
            raise CheckpointError(f"{folder}/config.json: {field} is {config[field]!r}; supported is {value!r}")


def choose(folder: Path, config: Mapping[str, Any], field: str, supported: Sequence[str], default: str) -> str:
    """A field with a few supported values.

    Raises:
        CheckpointError: it has another.
    """
    value = config.get(field, default)
    if value not in supported:
        raise CheckpointError(
            f"{folder}/config.json: {field} is {value!r}; supported are {', '.join(map(repr, supported))}"
        )
    return str(value)


def has_architecture(config: Mapping[str, Any], ending: str) -> bool:
    """Whether ``architectures`` names a class with that ending."""
    return any(str(name).endswith(ending) for name in config.get("architectures") or ())


def read_rotary(
    folder: Path,
    config: Mapping[str, Any],
    *,
    theta_field: str = "rope_theta",
    section: str | None = None,
    default_theta: float | None = None,
) -> Rotary:
    """Rotary positions in either spelling: ``rope_scaling`` beside a theta, or transformers 5's ``rope_parameters``.

    Args:
        folder: the model's folder, for messages.
        config: its config.json.
        theta_field: what the field beside ``rope_scaling`` is called.
        section: which kind of layer's part of ``rope_parameters``, where it has parts.
        default_theta: the base where no field gives one; None makes that an error.

    Raises:
        CheckpointError: a field is missing, or has a value that is not supported.
    """
    new = config.get("rope_parameters") or {}
    parameters = {**(config.get("rope_scaling") or {}), **(new.get(section) or {} if section else new)}
    unknown = sorted(key for key, value in parameters.items() if key not in _ROTARY_FIELDS and value is not None)
    if unknown:
        raise CheckpointError(
            f"{folder}/config.json: the rotary parameters have {unknown[0]!r} = {parameters[unknown[0]]!r}; "
            f"supported are {', '.join(sorted(_ROTARY_FIELDS))}"
        )
    theta = parameters.get("rope_theta", config.get(theta_field, default_theta))
    if theta is None:
        raise CheckpointError(
            f"{folder}/config.json lacks the field {theta_field!r} (or 'rope_theta' in 'rope_parameters'): stages of "
            f"one model differ in it, so it is not guessed"
        )
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in _SCALINGS:
        raise CheckpointError(
            f"{folder}/config.json: the rotary scaling is {kind!r}; supported are {', '.join(sorted(_SCALINGS))}"
        )
    if kind != "default" and parameters.get("factor") is None:
        raise CheckpointError(f"{folder}/config.json: the rotary scaling {kind!r} lacks its 'factor'")
    return Rotary(
        theta=float(theta),
        scaling=_SCALINGS[kind],
        factor=1.0 if kind == "default" else float(parameters["factor"]),
        mixed_b=parameters.get("mixed_b"),
    )
