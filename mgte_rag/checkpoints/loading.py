"""A model folder to a configuration, weights under our names, and a tokenizer. Nothing in it is ever executed."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mgte_rag.checkpoints import bert
from mgte_rag.checkpoints.source import ModelFolder, file_sha256
from mgte_rag.config import ModelConfig
from mgte_rag.errors import CheckpointError
from mgte_rag.nn.encoder import Encoder
from mgte_rag.tokenization import TextTokenizer
from mgte_rag.types import ModelIdentity


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of checkpoints is read.

    Attributes:
        read_config: folder and its config.json to our configuration.
        names: configuration to {our name: the checkpoint's names, whose rows are stacked}.
        prefixes: what may stand before every name of the file.
        unused: names (without prefix) that are known and left out.
    """

    read_config: Callable[[Path, Mapping[str, Any]], ModelConfig]
    names: Callable[[ModelConfig], dict[str, tuple[str, ...]]]
    prefixes: tuple[str, ...]
    unused: frozenset[str]


FAMILIES: dict[str, Family] = {
    "bert": Family(bert.read_config, bert.names, bert.PREFIXES, bert.UNUSED),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model folder that has been read.

    Attributes:
        config: the model's switches.
        identity: what it is called and what makes it comparable.
        tokenizer: its tokenizer.
        folder: where the weights are, for load_encoder.
        family: how to read them.
    """

    config: ModelConfig
    identity: ModelIdentity
    tokenizer: TextTokenizer
    folder: ModelFolder
    family: Family

    def load_encoder(self, device: torch.device, dtype: torch.dtype) -> Encoder:
        """The encoder with its weights, ready for inference.

        Projections and word embeddings are in ``dtype``, norms and the small tables in fp32.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of the wrong shape, or the file is damaged.
        """
        with torch.device("meta"):
            encoder = Encoder(self.config.encoder)
        expected = {name: parameter.shape for name, parameter in encoder.named_parameters()}
        weights_file = self.folder.path / "model.safetensors"
        tensors = self._renamed(_read_tensors(weights_file), weights_file)
        state: dict[str, Tensor] = {}
        for name, shape in expected.items():
            tensor = tensors[name]
            if tensor.shape != shape:
                raise CheckpointError(
                    f"{weights_file}: {' + '.join(self.family.names(self.config)[name])} has shape "
                    f"{tuple(tensor.shape)}, the configuration asks for {tuple(shape)}"
                )
            in_fp32 = (tensor.ndim == 1 and "norm" in name) or name.startswith(
                ("embeddings.position", "embeddings.token")
            )
            state[name] = tensor.to(device=device, dtype=torch.float32 if in_fp32 else dtype)
        encoder.load_state_dict(state, strict=True, assign=True)
        return encoder.eval().requires_grad_(False)

    def _renamed(self, tensors: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
        """The file's tensors under our names; every tensor is accounted for."""
        prefix = next((p for p in self.family.prefixes if any(name.startswith(p) for name in tensors)), "")
        names = self.family.names(self.config)
        sources = [prefix + source for group in names.values() for source in group]
        missing = sorted(set(sources) - tensors.keys())
        if missing:
            raise CheckpointError(
                f"{file} lacks {len(missing)} tensors that its configuration asks for, the first is {missing[0]!r}. "
                f"The file belongs to another model or is incomplete; fetch the model's folder again."
            )
        unexpected = sorted(
            name for name in tensors.keys() - set(sources) if name.removeprefix(prefix) not in self.family.unused
        )
        if unexpected:
            raise CheckpointError(
                f"{file} has {len(unexpected)} tensors that this project does not know, the first is "
                f"{unexpected[0]!r}. Loading without them could give wrong vectors, so it is refused."
            )
        return {ours: torch.cat([tensors[prefix + name] for name in theirs]) for ours, theirs in names.items()}


def load_checkpoint(folder: ModelFolder) -> Checkpoint:
    """Read a model folder's configuration and tokenizer; the weights follow with ``load_encoder``.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is of a kind this project does not know.
    """
    config = read_json(folder.path / "config.json")
    model_type = config.get("model_type")
    if model_type not in FAMILIES:
        raise CheckpointError(
            f"{folder.path / 'config.json'} has model_type {model_type!r}; supported are {', '.join(sorted(FAMILIES))}"
        )
    family = FAMILIES[model_type]
    model_config = family.read_config(folder.path, config)
    tokenizer = TextTokenizer(folder.path / "tokenizer.json")
    if tokenizer.vocabulary > model_config.encoder.vocabulary:
        raise CheckpointError(
            f"{folder.path}: the tokenizer has {tokenizer.vocabulary} tokens, the encoder embeddings for only "
            f"{model_config.encoder.vocabulary}; the two files belong to different models"
        )
    return Checkpoint(model_config, _identify(folder, model_config), tokenizer, folder, family)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing: {path.parent} is not a complete model folder") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(content).__name__}")
    return content


def _identify(folder: ModelFolder, config: ModelConfig) -> ModelIdentity:
    weights = folder.path / "model.safetensors"
    if not weights.is_file():
        raise CheckpointError(f"{weights} is missing; only safetensors weights are loaded")
    parts = [
        file_sha256(weights),
        file_sha256(folder.path / "tokenizer.json"),
        json.dumps(asdict(config), sort_keys=True),
    ]
    fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    return ModelIdentity(name=folder.name, revision=folder.revision, fingerprint=fingerprint)


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); fetch the model's folder again") from error
