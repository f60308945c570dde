"""What sentence-transformers' files beside a checkpoint say: pooling, length, prompts."""

import json
from pathlib import Path
from typing import Any

from mgte_rag.config import Pooling
from mgte_rag.errors import CheckpointError

_POOLING_FLAGS: dict[str, Pooling] = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
_KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


def read_modules(folder: Path) -> dict[str, str] | None:
    """The modules of ``modules.json``, {kind: its folder}, such as {"Pooling": "1_Pooling"}; None without the file."""
    modules = _read(folder / "modules.json")
    if not isinstance(modules, list):
        return None
    kinds = {str(module.get("type", "")).rsplit(".", 1)[-1]: str(module.get("path", "")) for module in modules}
    if len(kinds) < len(modules):
        raise CheckpointError(f"{folder}/modules.json lists one kind of module twice; supported is one of each")
    return kinds


def read_pooling(folder: Path, *, default: Pooling | None = None) -> Pooling:
    """How ``modules.json`` and the pooling folder it names turn hidden states into one vector.

    Args:
        folder: the model's folder.
        default: the family's pooling, for folders that are published without these files; None makes that an error.

    Raises:
        CheckpointError: the files are missing, or ask for modules or a pooling that this project does not do.
    """
    kinds = read_modules(folder)
    if kinds is None and default is not None:
        return default
    if kinds is None:
        raise CheckpointError(
            f"{folder} has no modules.json, so how its vectors are pooled is unknown; "
            f"use the folder as sentence-transformers saves it"
        )
    unknown = kinds.keys() - _KNOWN_MODULES
    if unknown or "Pooling" not in kinds:
        raise CheckpointError(
            f"{folder}/modules.json lists {', '.join(kinds)}; supported are Transformer, Pooling and Normalize"
        )
    path = folder / kinds["Pooling"] / "config.json"
    config = _read(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is missing; it says how the model's vectors are pooled")
    chosen = {mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)}
    if config.get("pooling_mode") in ("cls", "mean"):
        chosen.add(config["pooling_mode"])
    others = {flag for flag, on in config.items() if flag.startswith("pooling_mode_") and on} - _POOLING_FLAGS.keys()
    if config.get("include_prompt", True) is not True:
        raise CheckpointError(f"{path} leaves the prompt out of the pooling; supported is pooling over all tokens")
    if len(chosen) != 1 or others:
        raise CheckpointError(f"{path} asks for the pooling {config}; supported is exactly one of cls and mean")
    return chosen.pop()


def read_max_length(folder: Path, *, default: int) -> int:
    """``max_seq_length`` of ``sentence_bert_config.json``, else the default."""
    path = folder / "sentence_bert_config.json"
    config = _read(path)
    if not isinstance(config, dict):
        return default
    stated = config.get("max_seq_length")
    if stated is None:
        return default
    if not isinstance(stated, int) or stated < 1:
        raise CheckpointError(f"{path}: max_seq_length is {stated!r}; a whole number above 0 is needed")
    return min(stated, default)


def asks_for_lower_case(folder: Path) -> bool:
    """``do_lower_case`` of ``sentence_bert_config.json``: texts are lower-cased before they are tokenised."""
    config = _read(folder / "sentence_bert_config.json")
    return isinstance(config, dict) and bool(config.get("do_lower_case"))


def read_prompts(folder: Path) -> tuple[str, str] | None:
    """The prompts for queries and for documents; sentence-transformers also calls the latter passage or corpus.

    None where the files give none: sentence-transformers writes empty prompts into every folder it saves.
    """
    config = _read(folder / "config_sentence_transformers.json")
    prompts: Any = config.get("prompts") if isinstance(config, dict) else None
    if not prompts:
        return None
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise CheckpointError(f"{folder}/config_sentence_transformers.json: prompts must be names and their texts")
    if not any(prompts.values()):
        return None
    fallback: str = prompts.get(config.get("default_prompt_name"), "")
    document_names = [name for name in ("document", "passage", "corpus") if name in prompts]
    return prompts.get("query", fallback), prompts[document_names[0]] if document_names else fallback


def _read(path: Path) -> Any:
    """The content of a JSON file, or None where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
