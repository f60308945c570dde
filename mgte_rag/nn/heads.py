"""Hidden states to vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mgte_rag.config import Pooling
from mgte_rag.nn.packing import PackedBatch


def pool(hidden: Tensor, batch: PackedBatch, how: Pooling) -> Tensor:
    """One hidden state per text.

    Args:
        hidden: fp32 [tokens, hidden].
        batch: the texts' places on the token axis.
        how: "cls", the first token, or "mean", over all tokens of the text, markers included.

    Returns:
        fp32 [texts, hidden].
    """
    if how == "cls":
        starts = batch.lengths.cumsum(0) - batch.lengths
        return hidden[starts]
    return torch.cat([hidden[run.tokens].unflatten(0, (run.texts, run.length)).mean(1) for run in batch.runs])


def dense(pooled: Tensor, dim: int) -> Tensor:
    """The first ``dim`` components, L2-normalised after the cut: fp32 [texts, hidden] -> fp32 [texts, dim].

    Source: Kusupati et al. 2022, arXiv 2205.13147 (Matryoshka prefixes are renormalised for retrieval).
    """
    return F.normalize(pooled[:, :dim], dim=-1)
