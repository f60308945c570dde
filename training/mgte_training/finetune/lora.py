"""Low-rank adapters on an encoder, by peft: trained beside the heads, written apart, merged when the model is written.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mgte_rag.errors import InvalidOptionError, MissingExtraError
from mgte_rag.nn.encoder import Encoder

_PROJECTIONS = ("attention.qkv", "attention.out", "feed_forward.up", "feed_forward.down")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA:
    """Low-rank adapters on every projection of the encoder.

    Attributes:
        rank: of the two factors.
        alpha: the product is scaled by alpha / rank.
    """

    rank: int = 8
    alpha: int = 16

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise InvalidOptionError(f"rank={self.rank!r}, alpha={self.alpha!r}; both must be above 0")


def add_lora(encoder: Encoder, lora: LoRA, *, seed: int = 0) -> None:
    """Freeze an encoder and put adapters on its projections; they change nothing until they are trained.

    The adapters are on the weights themselves, so projections with an activation on their result take them too.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise MissingExtraError("peft", "low-rank adapters") from error
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=[],
        target_parameters=[f"{projection}.weight" for projection in _PROJECTIONS],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LoraModel(encoder, {"default": config}, "default")
    for _, adapter in adapters(encoder):
        adapter.dtype = adapter.get_base_layer().dtype  # the encoder's layers ask their projections


def adapters(encoder: nn.Module) -> list[tuple[str, Any]]:
    """The adapted projections by name, in the encoder's order."""
    return [(name, module) for name, module in encoder.named_modules() if hasattr(module, "get_delta_weight")]


def merged(encoder: Encoder) -> Encoder:
    """The encoder with its adapters' products added to its weights; itself where it has none, else a copy."""
    if not adapters(encoder):
        return encoder
    plain = copy.deepcopy(encoder)
    for name, adapter in adapters(plain):
        adapter.merge()
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, adapter.get_base_layer())
    return plain
