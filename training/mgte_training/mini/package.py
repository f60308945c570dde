"""Two finished runs to what ships with the package: heads, adapters and their settings, in half precision."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.checkpoints.added_heads import CONFIG, DOWN, UP, WEIGHTS
from mgte_rag.config import HybridWeights

_PAIR_LENGTH = 256  # tokens of a pair that the reranker reads: what the published model was trained on


def write_heads(model: Path, weights: HybridWeights, folder: Path) -> None:
    """The sparse and late-interaction heads of a trained model.

    Args:
        model: the folder that the run has written.
        weights: of the hybrid score.
        folder: for heads.safetensors and config.json.
    """
    checkpoint = load_checkpoint(find_model(str(model)))
    config = checkpoint.config
    assert config.multi_vector is not None, "the recipe trains one"
    own = ("sparse.", "multi_vector.")
    tensors = {name: tensor for name, tensor in checkpoint.read_weights().items() if name.startswith(own)}
    content = {
        "sparse": True,
        "lexicon": config.lexicon,
        "multi_vector": asdict(config.multi_vector),
        "weights": asdict(weights),
    }
    _write(folder, tensors, content)


def write_reranker(model: Path, rank: int, folder: Path) -> None:
    """A reranker's head, and its encoder as low-rank adapters on the published one.

    Args:
        model: the folder that the run has written, adapters merged.
        rank: of the adapters that it was trained with.
        folder: for heads.safetensors and config.json.
    """
    checkpoint = load_checkpoint(find_model(str(model)))
    assert checkpoint.config.classifier is not None, "the recipe trains one"
    published = load_checkpoint(find_model(None)).read_weights()
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.read_weights().items():
        if name.startswith("classifier."):
            tensors[name] = tensor
        elif name.startswith("encoder.") and not torch.equal(tensor.float(), published[name].float()):
            down, up = factors(tensor.float() - published[name].float(), rank)
            tensors |= {f"{name}{DOWN}": down, f"{name}{UP}": up}
    content = {"classifier": asdict(checkpoint.config.classifier), "max_length": _PAIR_LENGTH}
    _write(folder, tensors, content)


def factors(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best two factors of a matrix: fp32 [out, in] -> [rank, in] and [out, rank]."""
    left, sizes, right = torch.linalg.svd(change, full_matrices=False)
    roots = sizes[:rank].sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def _write(folder: Path, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    halved = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous() for name, tensor in tensors.items()
    }
    save_file(halved, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
