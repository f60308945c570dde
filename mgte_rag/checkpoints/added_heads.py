"""Heads that this project trained on a published model whose own weights stay as they are.

A folder with ``config.json``, the fields of ``ModelConfig`` that the heads set, and ``heads.safetensors``, their
tensors under our names.
"""

from dataclasses import replace
from pathlib import Path

import torch

from mgte_rag.checkpoints.family import Names, Reading
from mgte_rag.checkpoints.fields import read_json
from mgte_rag.checkpoints.native import build
from mgte_rag.config import HybridWeights, ModelConfig, MultiVectorConfig
from mgte_rag.errors import CheckpointError
from mgte_rag.nn.model import RetrievalModel

WEIGHTS = "heads.safetensors"
CONFIG = "config.json"
_FIELDS = {"sparse", "multi_vector", "weights"}
_MODULES = ("sparse.", "multi_vector.")


def add(reading: Reading, folder: Path) -> Reading:
    """The model with the heads.

    Raises:
        CheckpointError: the folder is incomplete or has unknown fields.
    """
    path = folder / CONFIG
    content = read_json(path)
    if content.keys() != _FIELDS:
        raise CheckpointError(f"{path} has the fields {sorted(content)}; needed are {sorted(_FIELDS)}")
    config = replace(
        reading.config,
        sparse=content["sparse"],
        multi_vector=build(MultiVectorConfig, content["multi_vector"], path),
        weights=build(HybridWeights, content["weights"], path),
    )
    return Reading(config, (*reading.head_files, str(folder / WEIGHTS)))


def names(config: ModelConfig, folder: Path) -> Names:
    """Where the heads' tensors are."""
    with torch.device("meta"):
        model = RetrievalModel(config)
    ours = [name for name, _ in model.named_parameters() if name.startswith(_MODULES)]
    return {name: (f"{folder / WEIGHTS}:{name}",) for name in ours}
