"""The packed encoder's parts against naive loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgte_rag.nn import heads
from mgte_rag.nn.attention import attend
from mgte_rag.nn.packing import Run, pack

CPU = torch.device("cpu")


def batch_of(lengths: list[int]):
    return pack([np.arange(length, dtype=np.int32) for length in lengths], CPU)


def test_packing_groups_neighbours_of_equal_length_into_runs() -> None:
    batch = batch_of([3, 3, 1, 3])
    assert batch.runs == (Run(0, 2, 3), Run(6, 1, 1), Run(7, 1, 3))
    assert batch.lengths.tolist() == [3, 3, 1, 3]


def test_positions_count_from_zero_in_every_text() -> None:
    assert batch_of([3, 2]).positions.tolist() == [0, 1, 2, 0, 1]


def test_packing_adds_no_padding() -> None:
    assert batch_of([7, 2, 5]).ids.numel() == 14


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_attention_equals_a_loop_over_texts_and_heads(lengths: list[int]) -> None:
    batch = batch_of(lengths)
    qkv = torch.randn(sum(lengths), 3, 2, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.empty(sum(lengths), 8)
    start = 0
    for length in lengths:
        for head in range(2):
            q, k, v = qkv[start : start + length, :, head].unbind(1)
            weights = torch.softmax(q @ k.T / math.sqrt(4), dim=-1)
            expected[start : start + length, 4 * head : 4 * head + 4] = weights @ v
        start += length
    torch.testing.assert_close(attend(qkv, batch), expected)


def test_attention_in_bf16_stays_close_to_fp32() -> None:
    batch = batch_of([33, 33, 5])
    qkv = torch.randn(71, 3, 2, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(attend(qkv.bfloat16(), batch).float(), attend(qkv, batch), atol=0.02, rtol=0.02)


def test_mean_pooling_averages_each_text_on_its_own() -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    assert heads.pool(hidden, batch_of([2, 1]), "mean").tolist() == [[2.0, 3.0], [10.0, 20.0]]


def test_cls_pooling_takes_each_texts_first_token() -> None:
    hidden = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    assert heads.pool(hidden, batch_of([2, 1]), "cls").tolist() == [[1.0, 2.0], [10.0, 20.0]]


def test_a_dense_vector_is_cut_before_it_is_normalised() -> None:
    assert heads.dense(torch.tensor([[3.0, 4.0, 100.0]]), 2).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
