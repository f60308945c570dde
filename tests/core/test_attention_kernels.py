"""Every attention kernel gives the numbers of the one by text length."""

import math
import random
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import Tensor

from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.devices import choose_attention
from mgte_rag.nn import attention
from mgte_rag.nn.attention import SelfAttention, attend, attend_where, use_attention
from mgte_rag.nn.packing import PackedBatch, pack

CPU = torch.device("cpu")
LENGTHS = [[1], [7], [5, 5, 5], [9, 9, 4, 1, 1], [1, 30, 2, 30], [40, 33, 33, 20, 3]]
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
PACKED = [
    pytest.param(
        kernel,
        marks=[
            pytest.mark.gpu,
            on_cuda,
            pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is missing"),
        ],
    )
    for kernel, package in (("varlen", "torch.nn.attention.varlen"), ("flash", "flash_attn"))
]


def batch_of(lengths: list[int], attended: list[int] | None = None, device: torch.device = CPU) -> PackedBatch:
    return pack([np.arange(length, dtype=np.int32) for length in lengths], device, attended=attended)


def random_qkv(tokens: int, heads: int = 2, head_dim: int = 8) -> Tensor:
    return torch.randn(tokens, 3, heads, head_dim, generator=torch.Generator().manual_seed(0))


def some_attended(lengths: list[int]) -> list[int]:
    chance = random.Random(len(lengths))
    return [chance.randint(1, length) for length in lengths]


def naive_attention(qkv: Tensor, lengths: list[int], attended: list[int] | None, window: int | None) -> Tensor:
    """Text by text, head by head, token by token."""
    mixed = torch.zeros(len(qkv), *qkv.shape[2:])
    start = 0
    for text, length in enumerate(lengths):
        limit = length if attended is None else attended[text]
        for place in range(length):
            seen = [other for other in range(limit) if window is None or abs(other - place) <= window]
            if not seen:  # which only mask tokens do not
                continue
            query, keys, values = qkv[start + place, 0], qkv[start:][seen, 1], qkv[start:][seen, 2]
            weights = torch.softmax(torch.einsum("hd,khd->hk", query, keys) / math.sqrt(qkv.shape[-1]), dim=-1)
            mixed[start + place] = torch.einsum("hk,khd->hd", weights, values)
        start += length
    return mixed.flatten(1)


class NaiveKernel:
    """What flash-attn's and torch's packed kernels promise, in loops: keys are counted from the last one."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, borders: Tensor, key_borders: Tensor, longest: int, window: int
    ) -> Tensor:
        self.calls += 1
        assert borders.dtype == key_borders.dtype == torch.int32
        assert borders[0] == key_borders[0] == 0
        assert borders[-1] == len(query)
        assert key_borders[-1] == len(key) == len(value)
        assert len(borders) == len(key_borders)
        assert longest >= int(borders.diff().max()) >= int(key_borders.diff().max())
        mixed = torch.zeros_like(query)
        for text in range(len(borders) - 1):
            rows = query[borders[text] : borders[text + 1]]
            keys, values = (part[key_borders[text] : key_borders[text + 1]] for part in (key, value))
            scores = torch.einsum("qhd,khd->hqk", rows, keys) / math.sqrt(query.shape[-1])
            if window >= 0:
                places = torch.arange(len(rows))[:, None] + len(keys) - len(rows)
                scores = scores.masked_fill((places - torch.arange(len(keys))).abs() > window, -torch.inf)
            mixed[borders[text] : borders[text + 1]] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
        return mixed


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> NaiveKernel:
    """Takes the place of torch's kernel, which needs CUDA."""
    naive = NaiveKernel()
    monkeypatch.setitem(attention._PACKED_KERNELS, "varlen", naive)
    return naive


@pytest.mark.parametrize("window", [None, 0, 1, 3, 10, 100])
@pytest.mark.parametrize("subset", [False, True], ids=["all attended", "some attended"])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_both_paths_equal_a_loop_over_tokens(
    kernel: NaiveKernel, lengths: list[int], subset: bool, window: int | None
) -> None:
    attended = some_attended(lengths) if subset else None
    qkv = random_qkv(sum(lengths))
    expected = naive_attention(qkv, lengths, attended, window)
    for name in ("sdpa", "varlen"):
        mixed = attend(qkv, batch_of(lengths, attended), window, name)  # type: ignore[arg-type]
        torch.testing.assert_close(mixed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_mixed_precision_does_not_bring_back_16_bit_attention_where_it_is_slow(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """On processors without matrix tiles a training step took many times longer with it."""
    computed_in = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watched(*sides: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        mixed = kernel(*sides, attn_mask=attn_mask)
        computed_in.append(mixed.dtype)
        return mixed

    monkeypatch.setattr(attention, "_has_fast_16_bit_attention", lambda _: False)
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", watched)
    qkv = random_qkv(12).to(dtype).requires_grad_()
    sides = [side.transpose(0, 1)[None] for side in qkv.unbind(1)]  # [1, heads, tokens, head_dim]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(qkv, batch_of([9, 3]))
        masked = attend_where(*sides, torch.ones(1, 1, 12, 12, dtype=torch.bool))
    assert computed_in == [torch.float32] * 3
    assert mixed.dtype == masked.dtype == dtype
    (mixed.float().sum() + masked.float().sum()).backward()
    assert qkv.grad is not None


def test_windows_that_cross_the_blocks_of_long_texts_are_exact() -> None:
    lengths = [attention._LOCAL_BLOCK * 2 + 7, attention._LOCAL_BLOCK, attention._LOCAL_BLOCK + 1]
    attended = [attention._LOCAL_BLOCK + 3, 5, attention._LOCAL_BLOCK + 1]
    qkv = random_qkv(sum(lengths), heads=1, head_dim=4)
    for subset in (None, attended):
        mixed = attend(qkv, batch_of(lengths, subset), 20)
        torch.testing.assert_close(mixed, naive_attention(qkv, lengths, subset, 20), atol=1e-5, rtol=1e-5)


def test_one_kernel_call_serves_all_texts_of_a_packed_batch(kernel: NaiveKernel) -> None:
    attend(random_qkv(45), batch_of([30, 9, 3, 2, 1]), None, "varlen")
    assert kernel.calls == 1


def test_a_window_over_a_subset_is_left_to_the_kernel_by_length(kernel: NaiveKernel) -> None:
    attend(random_qkv(12), batch_of([8, 4], [5, 4]), 2, "varlen")
    assert kernel.calls == 0


def test_the_kernel_chosen_reaches_every_attention_block() -> None:
    module = torch.nn.ModuleList(SelfAttention(hidden=8, heads=2) for _ in range(3))
    use_attention(module, "varlen")
    assert [block.kernel for block in module] == ["varlen"] * 3  # type: ignore[union-attr]


def test_texts_do_not_see_each_other(kernel: NaiveKernel) -> None:
    lengths, qkv = [6, 6, 3], random_qkv(15)
    changed = qkv.clone()
    changed[6:12] = 100.0
    for name in ("sdpa", "varlen"):
        before, after = (attend(each, batch_of(lengths), None, name) for each in (qkv, changed))  # type: ignore[arg-type]
        assert torch.equal(before[:6], after[:6])
        assert torch.equal(before[12:], after[12:])


def test_a_torch_whose_packed_kernel_has_no_windows_is_not_given_packed_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None): ...

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cuda = [torch.device("cuda", 0)]
    if find_spec("flash_attn") is None:
        assert choose_attention(None, cuda, torch.bfloat16) == "varlen"
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    assert choose_attention(None, cuda, torch.bfloat16) != "varlen"
    with pytest.raises(InvalidOptionError, match="'varlen' is not to be had with bfloat16 on cuda:0"):
        choose_attention("varlen", cuda, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("window", [None, 1, 10, 64])
@pytest.mark.parametrize("subset", [False, True], ids=["all attended", "some attended"])
@pytest.mark.parametrize("kernel_name", PACKED)
def test_the_packed_kernels_on_a_gpu_equal_the_one_by_length(
    kernel_name: attention.Attention, subset: bool, window: int | None, dtype: torch.dtype
) -> None:
    cuda = torch.device("cuda")
    for lengths in [*LENGTHS, [700, 513, 512, 130, 64, 64, 9]]:
        attended = some_attended(lengths) if subset else None
        qkv = random_qkv(sum(lengths), heads=4, head_dim=64).to(cuda, dtype)
        packed = attend(qkv, batch_of(lengths, attended, cuda), window, kernel_name)
        expected = attend(qkv.float().cpu(), batch_of(lengths, attended), window)
        assert packed.dtype == dtype
        torch.testing.assert_close(packed.float().cpu(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kernel_name", PACKED)
def test_vectors_made_on_a_gpu_are_close_to_fp32_on_the_cpu(
    kernel_name: attention.Attention, mini_fp32: EmbeddingModel, real_texts: list[str]
) -> None:
    some = real_texts[:64]
    with EmbeddingModel.load(device="cuda", dtype="bfloat16", attention=kernel_name) as model:
        cosines = (model.encode_document(some).dense * mini_fp32.encode_document(some).dense).sum(1)
    assert cosines.min() >= 0.9995
