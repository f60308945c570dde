"""What PyLate and Stanford's ColBERT write beside a checkpoint: marker tokens, query length, punctuation.

Source: PyLate 1f1f47c ``pylate/models/colbert.py``; Stanford ColBERT 501c29d ``colbert/modeling/tokenization``.
"""

import json
import string
from pathlib import Path
from typing import Any

from mgte_rag.checkpoints.fields import read_json
from mgte_rag.checkpoints.sentence_transformers_files import read_modules
from mgte_rag.config import MultiVectorConfig
from mgte_rag.errors import CheckpointError

PUNCTUATION = tuple(string.punctuation)
_IDENTITY = "torch.nn.modules.linear.Identity"


def read_pylate(folder: Path) -> tuple[MultiVectorConfig, str] | None:
    """A late-interaction head in PyLate's layout and the folder of its projection; None where there is none.

    ``document_length``, PyLate's default cut, is not taken over: documents are read up to the encoder's own limit.

    Raises:
        CheckpointError: the projection's files are missing or ask for something that this project does not do.
    """
    modules = read_modules(folder)
    if modules is None or "Dense" not in modules or "Pooling" in modules:
        return None
    if set(modules) != {"Transformer", "Dense"}:
        raise CheckpointError(f"{folder}/modules.json lists {', '.join(modules)}; supported are Transformer and Dense")
    dense = read_json(folder / modules["Dense"] / "config.json")
    if dense.get("activation_function", _IDENTITY) != _IDENTITY or dense.get("use_residual"):
        raise CheckpointError(f"{folder}/{modules['Dense']}/config.json is {dense}; supported is a plain projection")
    options = _options(folder / "config_sentence_transformers.json")
    head = MultiVectorConfig(
        dims=(dense["out_features"],),
        bias=bool(dense.get("bias", True)),
        query_marker=options.get("query_prefix", "[Q] "),
        document_marker=options.get("document_prefix", "[D] "),
        query_length=options.get("query_length", 32) if options.get("do_query_expansion", True) else None,
        attend_to_mask=bool(options.get("attend_to_expansion_tokens", False)),
        skipped=tuple(options.get("skiplist_words", PUNCTUATION)),
    )
    return head, modules["Dense"]


def read_query_length(folder: Path, *, default: int) -> int:
    """``query_maxlen`` of Stanford's ``artifact.metadata``, else the default."""
    return int(_options(folder / "artifact.metadata").get("query_maxlen", default))


def _options(path: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    return content if isinstance(content, dict) else {}
