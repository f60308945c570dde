"""A model folder to a configuration, weights under our names, and a tokenizer. Nothing in it is ever executed."""

import hashlib
import json
import logging
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mgte_rag.checkpoints import added_heads, bert, gte, jina, modernbert, native, xlm_roberta
from mgte_rag.checkpoints.family import Family, Names, Reading
from mgte_rag.checkpoints.fields import read_json
from mgte_rag.checkpoints.sentence_transformers_files import asks_for_lower_case
from mgte_rag.checkpoints.source import ModelFolder, file_sha256
from mgte_rag.checkpoints.weights import find_weights, read_tensors
from mgte_rag.config import ModelConfig
from mgte_rag.errors import CheckpointError, InvalidOptionError
from mgte_rag.nn.model import RetrievalModel
from mgte_rag.token_rules import TokenRules
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import ModelIdentity

_log = logging.getLogger(__name__)

# jina before xlm_roberta: both have the same model_type.
FAMILIES: dict[str, Family] = {
    "bert": bert.FAMILY,
    "gte": gte.FAMILY,
    "jina": jina.FAMILY,
    "mgte-rag": native.FAMILY,
    "modernbert": modernbert.FAMILY,
    "new": gte.FAMILY,
    "xlm-roberta": xlm_roberta.FAMILY,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that has been read.

    Attributes:
        config: the model's switches.
        identity: what it is called and what makes it comparable.
        tokenizer: its tokenizer.
        rules: its conventions about tokens.
        folder: where the weights are.
        head_files: files beside the weights that hold heads, relative to the folder.
        family: how to read them.
    """

    config: ModelConfig
    identity: ModelIdentity
    tokenizer: TextTokenizer
    rules: TokenRules
    folder: ModelFolder
    head_files: tuple[str, ...]
    family: Family

    def load_model(self, device: torch.device, dtype: torch.dtype) -> RetrievalModel:
        """The model with its weights, ready for inference.

        The encoder's projections and word embeddings are in ``dtype``; norms, small tables and heads in fp32.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of the wrong shape, or a file is damaged.
        """
        with torch.device("meta"):
            model = RetrievalModel(self.config)
        tensors = self.read_weights()
        state = {name: tensor.to(device=device, dtype=_dtype(name, tensor, dtype)) for name, tensor in tensors.items()}
        model.load_state_dict(state, strict=True, assign=True)
        return model.eval().requires_grad_(False)

    def read_weights(self) -> dict[str, Tensor]:
        """Every tensor of the model under our names, on the CPU, in the dtype it is stored in.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of the wrong shape, or a file is damaged.
        """
        files = find_weights(self.folder.path)
        tensors = read_tensors(files)
        for head_file in self.head_files:
            heads = read_tensors([self.folder.path / head_file])
            tensors |= {f"{head_file}:{name}": tensor for name, tensor in heads.items()}
        adapters = {} if self.folder.heads is None else added_heads.take_adapters(tensors, self.folder.heads)
        table, renamed = self._renamed(tensors, files[0])
        unknown = sorted(adapters.keys() - renamed.keys())
        if unknown:
            raise CheckpointError(f"{self.folder.heads} has an adapter for {unknown[0]!r}, a weight that is not there")
        for name, factors in adapters.items():
            for factor in factors:
                _check_numbers(factor, f"{self.folder.heads}: the adapter of {name}")
            renamed[name] = added_heads.adapted(renamed[name], factors)
        with torch.device("meta"):
            model = RetrievalModel(self.config)
        for name, parameter in model.state_dict().items():
            if renamed[name].shape != parameter.shape:
                raise CheckpointError(
                    f"{files[0]}: {' + '.join(table[name])} has shape {tuple(renamed[name].shape)}, "
                    f"the configuration asks for {tuple(parameter.shape)}"
                )
        return renamed

    def _renamed(self, tensors: dict[str, Tensor], file: Path) -> tuple[Names, dict[str, Tensor]]:
        """The layout that fits and the tensors under our names; every tensor is accounted for."""
        prefix = next((p for p in self.family.prefixes if any(name.startswith(p) for name in tensors)), "")
        found = {name.removeprefix(prefix): name for name in tensors}
        if len(found) < len(tensors):
            raise CheckpointError(f"{file} has tensors both with and without the prefix {prefix!r} under one name")
        layouts = self.family.layouts(self.config)
        table = min(layouts, key=lambda layout: len(_sources(layout) - found.keys()))
        if self.folder.heads is not None:
            table = table | added_heads.names(self.config, self.folder.heads)
        missing = sorted(_sources(table) - found.keys())
        if missing:
            raise CheckpointError(
                f"{file} lacks {len(missing)} tensors that its configuration asks for, the first is {missing[0]!r}. "
                f"The file belongs to another model or is incomplete; fetch the model's folder again."
            )
        unexpected = sorted(found[name] for name in found.keys() - _sources(table) if not self.family.leaves_out(name))
        if unexpected:
            raise CheckpointError(
                f"{file} has {len(unexpected)} tensors that this project does not know, the first is "
                f"{unexpected[0]!r}. Loading without them could give wrong vectors, so it is refused."
            )
        for name in sorted(_sources(table)):
            _check_numbers(tensors[found[name]], f"{file}: {name}")
        return table, {ours: _stacked(file, theirs, tensors, found) for ours, theirs in table.items()}


def _sources(layout: Names) -> set[str]:
    return {name for group in layout.values() for name in group}


def _stacked(file: Path, names: tuple[str, ...], tensors: dict[str, Tensor], found: dict[str, str]) -> Tensor:
    parts = [tensors[found[name]] for name in names]
    if len(parts) == 1:
        return parts[0]
    if any(not part.ndim or part.shape[1:] != parts[0].shape[1:] for part in parts):
        shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in zip(names, parts, strict=True))
        raise CheckpointError(f"{file}: the shapes of {shapes} do not fit together")
    return torch.cat(parts)


def _check_numbers(tensor: Tensor, name: str) -> None:
    if name.endswith(_WHOLE_NUMBERS):
        if tensor.dtype != torch.int32 or bool(((tensor < 0) | (tensor >= len(tensor))).any()):
            raise CheckpointError(f"{name} must hold a token's number for each of its {len(tensor)} tokens, int32")
        return
    if tensor.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise CheckpointError(f"{name} holds {tensor.dtype}; supported are floats of 16, 32 and 64 bits")
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{name} holds NaN or infinity; fetch the model's folder again")


# Tables of token numbers; everything else is a weight.
_WHOLE_NUMBERS = "sparse.lexicon.term"


def _dtype(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """What a tensor is kept in by a model that computes in ``dtype``."""
    if name == _WHOLE_NUMBERS:
        return tensor.dtype
    return torch.float32 if _is_kept_in_fp32(name, tensor) else dtype


def _is_kept_in_fp32(name: str, tensor: Tensor) -> bool:
    if not name.startswith("encoder."):
        return True
    is_norm = tensor.ndim == 1 and "norm" in name
    return is_norm or name.startswith(("encoder.embeddings.position", "encoder.embeddings.token"))


def load_checkpoint(folder: ModelFolder, *, attend_to_mask: bool | None = None) -> Checkpoint:
    """Read a model folder's configuration and tokenizer; the weights follow with ``load_model``.

    Remote code that a configuration names in ``auto_map`` is ignored: it is neither fetched nor run.

    Args:
        folder: where the files are.
        attend_to_mask: whether queries attend to the mask tokens they are filled up with; None as published.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is of a kind this project does not know.
        InvalidOptionError: attend_to_mask for a model that does not fill its queries up.
    """
    family, reading = _read(folder)
    config = reading.config if attend_to_mask is None else _with_attention(folder, reading.config, attend_to_mask)
    tokenizer = TextTokenizer(folder.path / "tokenizer.json")
    if tokenizer.vocabulary > config.encoder.vocabulary:
        raise CheckpointError(
            f"{folder.path}: the tokenizer has {tokenizer.vocabulary} tokens, the encoder embeddings for only "
            f"{config.encoder.vocabulary}; the two files belong to different models"
        )
    if asks_for_lower_case(folder.path) and not tokenizer.lower_cases:
        raise CheckpointError(
            f"{folder.path}/sentence_bert_config.json asks for do_lower_case, and the tokenizer keeps the case; "
            f"supported is what the tokenizer itself does"
        )
    if config.max_length <= tokenizer.min_length:
        raise CheckpointError(
            f"{folder.path}: the model reads {config.max_length} tokens, and its tokenizer's markers alone are "
            f"{tokenizer.min_length}"
        )
    if config.licence is not None:
        _tell_licence(folder.name, config.licence)
    return Checkpoint(
        config=config,
        identity=_identify(folder, config, reading.head_files),
        tokenizer=tokenizer,
        rules=TokenRules(config, tokenizer),
        folder=folder,
        head_files=reading.head_files,
        family=family,
    )


def _read(folder: ModelFolder) -> tuple[Family, Reading]:
    """The folder's family and what it makes of the folder's settings, heads added to it included."""
    path = folder.path / "config.json"
    content = read_json(path)
    try:
        family = next((family for family in FAMILIES.values() if family.recognises(content)), None)
        if family is None:
            raise CheckpointError(
                f"{path} has model_type {content.get('model_type')!r}; supported families are "
                f"{', '.join(sorted(FAMILIES))}"
            )
        reading = family.read(folder, content)
        return family, reading if folder.heads is None else added_heads.add(reading, folder.heads)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder.path}: a configuration file is malformed, a field of the wrong kind perhaps "
            f"({type(error).__name__}: {error}); fetch the model's folder again"
        ) from error


def _with_attention(folder: ModelFolder, config: ModelConfig, attend_to_mask: bool) -> ModelConfig:
    if config.multi_vector is None or config.multi_vector.query_length is None:
        raise InvalidOptionError(
            f"attend_to_mask={attend_to_mask!r}: the model {folder.name!r} does not fill its queries with mask tokens"
        )
    return replace(config, multi_vector=replace(config.multi_vector, attend_to_mask=attend_to_mask))


@cache
def _tell_licence(name: str, licence: str) -> None:
    """Once in a process for every model."""
    _log.warning("the model %r has the licence %s", name, licence)


_CHANGES_NO_VECTOR = ("licence", "weights")


def _settings(config: Any) -> dict[str, Any]:
    """What changes a vector, where it is not the default: settings added by later releases change no fingerprint."""
    settings = {}
    for field in fields(config):
        value = getattr(config, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value != default and field.name not in _CHANGES_NO_VECTOR:
            settings[field.name] = _settings(value) if is_dataclass(value) else value
    return settings


def _identify(folder: ModelFolder, config: ModelConfig, head_files: tuple[str, ...]) -> ModelIdentity:
    files = [*find_weights(folder.path), *(folder.path / name for name in head_files), folder.path / "tokenizer.json"]
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise CheckpointError(f"{missing} is missing: the model has a head in it; fetch the model's folder again")
    parts = [*(file_sha256(file) for file in files), json.dumps(_settings(config), sort_keys=True)]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return ModelIdentity(name=folder.name, revision=folder.revision, fingerprint=fingerprint)
