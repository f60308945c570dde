"""Heads that this project trained on a published model whose own weights stay as they are.

A folder with ``config.json``, the fields of ``ModelConfig`` that the heads set, and ``heads.safetensors``, their
tensors under our names. A reranker reads both texts at once, for which the encoder itself must change: its file also
has low-rank adapters, two factors for each projection, whose product is added to the published weight (Hu et al. 2021,
arXiv 2106.09685).
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mgte_rag.checkpoints.family import Names, Reading
from mgte_rag.checkpoints.fields import read_json
from mgte_rag.checkpoints.native import build
from mgte_rag.config import ClassifierConfig, HybridWeights, ModelConfig, MultiVectorConfig
from mgte_rag.errors import CheckpointError
from mgte_rag.nn.model import RetrievalModel

WEIGHTS = "heads.safetensors"
CONFIG = "config.json"
DOWN, UP = ".adapter_down", ".adapter_up"
"""What the factors of a weight's adapter are called behind its name: [rank, in] and [out, rank]."""

_VECTORS = {"sparse", "lexicon", "multi_vector", "weights"}
_RERANKER = {"classifier", "max_length"}
_MODULES = ("sparse.", "multi_vector.", "classifier.")


def add(reading: Reading, folder: Path) -> Reading:
    """The model with the heads; with a reranker's it is a reranker and nothing else.

    Raises:
        CheckpointError: the folder is incomplete or has unknown fields.
    """
    path = folder / CONFIG
    content = read_json(path)
    files = (*reading.head_files, str(folder / WEIGHTS))
    if content.keys() == _RERANKER:
        classifier = build(ClassifierConfig, content["classifier"], path)
        changes = {"classifier": classifier, "max_length": content["max_length"], "pooling": None, "dims": ()}
        return Reading(replace(reading.config, **changes), files)
    if content.keys() != _VECTORS:
        raise CheckpointError(
            f"{path} has the fields {sorted(content)}; needed are {sorted(_VECTORS)} or {sorted(_RERANKER)}"
        )
    config = replace(
        reading.config,
        sparse=content["sparse"],
        lexicon=content["lexicon"],
        multi_vector=build(MultiVectorConfig, content["multi_vector"], path),
        weights=build(HybridWeights, content["weights"], path),
    )
    return Reading(config, files)


def names(config: ModelConfig, folder: Path) -> Names:
    """Where the heads' tensors are."""
    with torch.device("meta"):
        model = RetrievalModel(config)
    ours = [name for name in model.state_dict() if name.startswith(_MODULES)]
    return {name: (f"{folder / WEIGHTS}:{name}",) for name in ours}


def take_adapters(tensors: dict[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Take the adapters out of the tensors that were read: both factors by the weight that they are for.

    Raises:
        CheckpointError: a factor without the other, or of another rank.
    """
    prefix = f"{folder / WEIGHTS}:"
    ours = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    factors = [name for name in ours if name.endswith((DOWN, UP))]
    adapters = {}
    for weight in sorted({name.removesuffix(DOWN).removesuffix(UP) for name in factors}):
        down, up = (tensors.pop(f"{prefix}{weight}{end}", torch.empty(0)) for end in (DOWN, UP))
        if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
            raise CheckpointError(
                f"{folder / WEIGHTS}: the adapter of {weight} has factors of the shapes {tuple(down.shape)} and "
                f"{tuple(up.shape)}; [rank, in] and [out, rank] are needed"
            )
        adapters[weight] = (down, up)
    return adapters


def adapted(weight: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
    """A weight with its adapter's product added, fp32.

    Raises:
        CheckpointError: the factors are of another weight.
    """
    down, up = (factor.float() for factor in factors)
    if weight.shape != (len(up), down.shape[1]):
        raise CheckpointError(
            f"an adapter of shape {(len(up), down.shape[1])} does not fit a weight of {tuple(weight.shape)}"
        )
    return weight.float() + up @ down
