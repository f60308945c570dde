"""Bidirectional self-attention over a packed batch: every token sees its own text and nothing else."""

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgte_rag.nn.linear import Linear
from mgte_rag.nn.packing import PackedBatch
from mgte_rag.nn.rotary import Rotation, rotate, rotate_in_place

Attention = Literal["flash", "varlen", "sdpa"]
"""Kernels, the fastest first: flash-attn's and torch's own for packed batches (CUDA, 16 bits), and by text length."""

# Queries of one call in local layers: each sees this many keys and the window on both sides, so that the work grows
# with the length and not with its square.
_LOCAL_BLOCK = 512


def attend(qkv: Tensor, batch: PackedBatch, window: int | None = None, kernel: Attention = "sdpa") -> Tensor:
    """Scaled dot-product attention within each text, softmax(q k' / sqrt(head_dim)) v.

    Args:
        qkv: [tokens, 3, heads, head_dim].
        batch: the texts' places on the token axis.
        window: tokens seen to each side; None is the whole text.
        kernel: what computes it; all give the same numbers but for rounding.

    Returns:
        [tokens, heads * head_dim] in the dtype of qkv.

    Source: Vaswani et al. 2017, arXiv 1706.03762, equation 1.
    """
    # The packed kernels count a window from the last key, which is another token where not all are attended to.
    if kernel == "sdpa" or (batch.attended is not None and window is not None):
        return _attend_by_length(qkv, batch, window)
    return _attend_packed(qkv, batch, window, _PACKED_KERNELS[kernel])


def _attend_packed(qkv: Tensor, batch: PackedBatch, window: int | None, kernel: "_PackedKernel") -> Tensor:
    """One kernel call for all texts, whatever their lengths."""
    query, key, value = qkv.unbind(1)  # each [tokens, heads, head_dim]
    borders = key_borders = _borders(batch.lengths)
    longest = max(run.length for run in batch.runs)
    if batch.attended is not None:
        kept = batch.positions < batch.attended[batch.texts]
        key, value, key_borders = key[kept], value[kept], _borders(batch.attended)
    mixed = kernel(query, key, value, borders, key_borders, longest, -1 if window is None else window)
    return mixed.flatten(1)


def _borders(lengths: Tensor) -> Tensor:
    """Where texts start and end on a packed axis: int32 [texts + 1]."""
    return F.pad(lengths.cumsum(0), (1, 0)).int()


def _flash_kernel(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, key_borders: Tensor, longest: int, window: int
) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]  # an extra, for CUDA only

    mixed: Tensor = flash_attn_varlen_func(
        query, key, value, borders, key_borders, longest, longest, window_size=(window, window)
    )
    return mixed


def _varlen_kernel(
    query: Tensor, key: Tensor, value: Tensor, borders: Tensor, key_borders: Tensor, longest: int, window: int
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    mixed: Any = varlen_attn(query, key, value, borders, key_borders, longest, longest, window_size=(window, window))
    return mixed


_PackedKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, int, int], Tensor]
_PACKED_KERNELS: dict[Attention, _PackedKernel] = {"flash": _flash_kernel, "varlen": _varlen_kernel}


@cache
def _has_fast_16_bit_attention(device_type: str) -> bool:
    """Whether attention in 16 bits pays there.

    On CPUs only with matrix tiles (AMX): twice the fp32 speed at 512 tokens there, while on AVX-512 alone it is no
    faster and for some shapes many times slower (measured with torch 2.13).
    """
    return device_type != "cpu" or bool(torch.cpu._is_amx_tile_supported())


def _is_slow_in_16_bits(rows: Tensor) -> bool:
    """Whether attention on these would be in 16 bits, which autocast makes of any dtype, where fp32 is faster."""
    kind = rows.device.type
    in_16_bits = rows.dtype.itemsize == 2 or torch.is_autocast_enabled(kind)
    return in_16_bits and not _has_fast_16_bit_attention(kind)


def attend_where(query: Tensor, key: Tensor, value: Tensor, seen: Tensor) -> Tensor:
    """The kernel of torch with a mask, in fp32 where 16 bits are slow.

    Args:
        query: [texts, heads, queries, head_dim].
        key: [texts, heads, keys, head_dim].
        value: as key.
        seen: bool [texts, 1, queries, keys].

    Returns:
        [texts, heads, queries, head_dim] in the dtype of the query.
    """
    if _is_slow_in_16_bits(query):
        with torch.autocast(query.device.type, enabled=False):
            return attend_where(query.float(), key.float(), value.float(), seen).to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)


def _attend_by_length(qkv: Tensor, batch: PackedBatch, window: int | None) -> Tensor:
    """One kernel call per run of equally long texts, on views of the packed tensor: a mask only in local layers.

    torch's own kernel at every length: in bf16 plain matrix products were slower from 12 tokens on (with AMX).
    """
    if _is_slow_in_16_bits(qkv):
        with torch.autocast(qkv.device.type, enabled=False):
            return _attend_by_length(qkv.float(), batch, window).to(qkv.dtype)
    heads_out = []
    for run, rows in zip(batch.runs, qkv.split([run.texts * run.length for run in batch.runs]), strict=True):
        grouped = rows.view(run.texts, run.length, *rows.shape[1:])  # [texts, length, 3, heads, head_dim]
        query, key, value = grouped.permute(2, 0, 3, 1, 4).unbind()  # each [texts, heads, length, head_dim]
        if run.attended is not None:
            key, value = key[:, :, : run.attended], value[:, :, : run.attended]
        if window is None or run.length <= window + 1:
            mixed = F.scaled_dot_product_attention(query, key, value)  # [texts, heads, length, head_dim]
        else:
            mixed = _attend_locally(query, key, value, window)
        heads_out.append(mixed.transpose(1, 2).reshape(run.texts * run.length, -1))
    return heads_out[0] if len(heads_out) == 1 else torch.cat(heads_out)


def _attend_locally(query: Tensor, key: Tensor, value: Tensor, window: int) -> Tensor:
    """Attention in which token i sees the tokens i - window .. i + window: exact, block by block.

    Args:
        query: [texts, heads, length, head_dim].
        key: [texts, heads, attended, head_dim]; attended may be below length.
        value: as key.
        window: tokens seen to each side.

    Returns:
        [texts, heads, length, head_dim]; a token that sees none, which only mask tokens do, gets zeros.
    """
    blocks = []
    for start in range(0, query.shape[2], _LOCAL_BLOCK):
        stop = min(start + _LOCAL_BLOCK, query.shape[2])
        low = min(max(0, start - window), key.shape[2] - 1)
        high = min(stop + window, key.shape[2])
        places = torch.arange(start, stop, device=query.device)[:, None]
        seen = (places - torch.arange(low, high, device=query.device)).abs() <= window  # [block, keys]
        block = query[:, :, start:stop]
        mixed = F.scaled_dot_product_attention(block, key[:, :, low:high], value[:, :, low:high], attn_mask=seen)
        blocks.append(mixed.masked_fill(~seen.any(-1)[:, None], 0.0))
    return torch.cat(blocks, dim=2)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for query, key and value.

    Args:
        hidden: width of the residual stream.
        heads: attention heads.
        bias: whether the projections have a bias.
        window: tokens seen to each side; None is the whole text.
    """

    def __init__(self, *, hidden: int, heads: int, bias: bool = True, window: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.kernel: Attention = "sdpa"
        self.qkv = Linear(hidden, 3 * hidden, bias=bias)
        self.out = Linear(hidden, hidden, bias=bias)

    def forward(self, hidden: Tensor, batch: PackedBatch, turn: Rotation | None = None) -> Tensor:
        """[tokens, hidden] -> [tokens, hidden]; ``turn`` are the batch's rotary positions, if it has any."""
        qkv = self.qkv(hidden).view(len(hidden), 3, self.heads, -1)  # [tokens, 3, heads, head_dim]
        if turn is not None and torch.is_grad_enabled():
            qkv = torch.cat([rotate(qkv[:, :2], turn), qkv[:, 2:]], dim=1)
        elif turn is not None:
            rotate_in_place(qkv[:, :2], turn)
        return self.out(attend(qkv, batch, self.window, self.kernel))


def use_attention(module: nn.Module, kernel: Attention) -> None:
    """Let every attention block of a module compute with that kernel."""
    for child in module.modules():
        if isinstance(child, SelfAttention):
            child.kernel = kernel
