"""Bidirectional self-attention over a packed batch: every token sees its own text and nothing else."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.nn.packing import PackedBatch


@cache
def _has_fast_16_bit_attention(device_type: str) -> bool:
    """Whether attention in 16 bits pays there.

    On CPUs only with matrix tiles (AMX): twice the fp32 speed at 512 tokens there, while on AVX-512 alone it is no
    faster and for some shapes many times slower (BENCHMARKS.md).
    """
    return device_type != "cpu" or bool(torch.cpu._is_amx_tile_supported())


def attend(qkv: Tensor, batch: PackedBatch) -> Tensor:
    """Scaled dot-product attention within each text, softmax(q k' / sqrt(head_dim)) v.

    One kernel call per run of equally long texts, on views of the packed tensor: no padding, no mask.

    Args:
        qkv: [tokens, 3, heads, head_dim].
        batch: the texts' places on the token axis.

    Returns:
        [tokens, heads * head_dim] in the dtype of qkv.

    Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1.
    """
    dtype = qkv.dtype
    if dtype.itemsize == 2 and not _has_fast_16_bit_attention(qkv.device.type):
        qkv = qkv.float()
    heads_out = []
    for run in batch.runs:
        grouped = qkv[run.tokens].unflatten(0, (run.texts, run.length))  # [texts, length, 3, heads, head_dim]
        query, key, value = grouped.permute(2, 0, 3, 1, 4)  # each [texts, heads, length, head_dim]
        mixed = F.scaled_dot_product_attention(query, key, value)  # [texts, heads, length, head_dim]
        heads_out.append(mixed.transpose(1, 2).reshape(run.texts * run.length, -1))
    return torch.cat(heads_out).to(dtype)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value.

    Args:
        hidden: width of the residual stream.
        heads: attention heads.
    """

    def __init__(self, *, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, hidden: Tensor, batch: PackedBatch) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]."""
        qkv = self.qkv(hidden).unflatten(-1, (3, self.heads, -1))  # [tokens, 3, heads, head_dim]
        return self.out(attend(qkv, batch))
