"""Scores against hand-computed values and naive loops."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mgte_rag import SparseVector, scoring
from mgte_rag.scoring import Terms


def sparse(terms: dict[int, float]) -> SparseVector:
    indices = np.array(sorted(terms), dtype=np.int32)
    return SparseVector(indices, np.array([terms[i] for i in sorted(terms)], dtype=np.float32))


def test_cosine_ignores_length() -> None:
    scores = scoring.cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 3.0], [-1.0, 0.0]]))
    assert scores.tolist() == [[1.0, 0.0, -1.0]]


def test_cosine_of_a_zero_vector_is_zero() -> None:
    assert scoring.cosine(torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [[0.0]]


def test_cosine_of_half_precision_vectors_is_computed_in_fp32() -> None:
    scores = scoring.cosine(torch.ones(1, 4096, dtype=torch.float16), torch.ones(1, 4096, dtype=torch.float16))
    assert scores.dtype == torch.float32
    assert scores.item() == pytest.approx(1.0)


def test_sparse_dot_multiplies_the_weights_of_shared_terms_only() -> None:
    queries = [sparse({1: 2.0, 7: 3.0}), sparse({})]
    documents = [sparse({1: 0.5, 7: 1.0, 9: 100.0}), sparse({2: 1.0}), sparse({})]
    assert scoring.sparse_dot(Terms.of(queries), Terms.of(documents)).tolist() == [[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


terms = st.dictionaries(st.integers(0, 50), st.floats(0.125, 5, width=32), max_size=12)


@given(st.lists(terms, max_size=4), st.lists(terms, max_size=6))
def test_sparse_dot_equals_a_loop_over_dictionaries(queries: list[dict], documents: list[dict]) -> None:
    expected = [[sum(w * d.get(t, 0) for t, w in q.items()) for d in documents] for q in queries]
    scores = scoring.sparse_dot(Terms.of([sparse(q) for q in queries]), Terms.of([sparse(d) for d in documents]))
    assert scores.shape == (len(queries), len(documents))
    np.testing.assert_allclose(scores.numpy(), np.array(expected).reshape(scores.shape), rtol=1e-5)


def test_sparse_dot_of_many_documents_is_computed_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [sparse({i: 1.0 + i, i + 1: 2.0}) for i in range(20)] + [sparse({})]
    whole = scoring.sparse_dot(Terms.of(vectors), Terms.of(vectors))
    monkeypatch.setattr(scoring, "_CHUNK_FLOATS", 60)
    assert torch.equal(scoring.sparse_dot(Terms.of(vectors), Terms.of(vectors)), whole)


def test_sparse_dot_passes_gradients_to_the_weights_of_shared_terms() -> None:
    queries = Terms(torch.tensor([0, 0]), torch.tensor([3, 5]), torch.tensor([2.0, 1.0], requires_grad=True), 1)
    documents = Terms(torch.tensor([0, 1]), torch.tensor([3, 9]), torch.tensor([4.0, 1.0], requires_grad=True), 2)
    scoring.sparse_dot(queries, documents).sum().backward()
    assert queries.weights.grad is not None
    assert documents.weights.grad is not None
    assert queries.weights.grad.tolist() == [4.0, 0.0]
    assert documents.weights.grad.tolist() == [2.0, 0.0]


def test_max_sim_sums_each_query_tokens_best_match() -> None:
    query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    document = torch.tensor([[[0.6, 0.8], [0.8, 0.6]]])
    ones = torch.ones(1, 2, dtype=torch.bool)
    assert scoring.max_sim(query, ones, document, ones).item() == pytest.approx(1.6)


def test_a_negative_best_match_survives_padding() -> None:
    query, document = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, False]])
    assert scoring.max_sim(query, torch.ones(1, 1, dtype=torch.bool), document, mask).item() == -1.0


def test_masked_document_tokens_never_win_whatever_they_hold() -> None:
    query, document = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.5, 0.0], [99.0, 0.0]]])
    mask = torch.tensor([[True, False]])
    assert scoring.max_sim(query, torch.ones(1, 1, dtype=torch.bool), document, mask).item() == 0.5


def test_masked_query_tokens_add_nothing() -> None:
    query, document = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]), torch.tensor([[[0.5, 0.0]]])
    scores = scoring.max_sim(query, torch.tensor([[True, False]]), document, torch.ones(1, 1, dtype=torch.bool))
    assert scores.item() == 0.5


def test_a_document_without_tokens_scores_the_lowest_cosine_for_every_query_token() -> None:
    query = torch.nn.functional.normalize(torch.randn(1, 3, 4), dim=-1)
    mask = torch.ones(1, 3, dtype=torch.bool)
    assert scoring.max_sim(query, mask, torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.bool)).item() == -3.0
    assert scoring.max_sim_ragged([query[0]], [torch.zeros(0, 4)]).item() == -3.0


def test_scoring_in_chunks_equals_scoring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 3, 4, generator=generator), torch.randn(7, 5, 4, generator=generator)
    masks = torch.ones(2, 3, dtype=torch.bool), torch.ones(7, 5, dtype=torch.bool)
    at_once = scoring.max_sim(queries, masks[0], documents, masks[1])
    monkeypatch.setattr(scoring, "_CHUNK_FLOATS", 60)
    torch.testing.assert_close(scoring.max_sim(queries, masks[0], documents, masks[1]), at_once)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_ragged_max_sim_equals_a_loop(query_lengths: list[int], document_lengths: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = [torch.randn(n, 4, generator=generator) for n in query_lengths]
    documents = [torch.randn(n, 4, generator=generator) for n in document_lengths]
    expected = torch.stack([torch.stack([(q @ d.T).amax(1).sum() for d in documents]) for q in queries])
    torch.testing.assert_close(scoring.max_sim_ragged(queries, documents), expected)


def test_max_sim_of_half_precision_vectors_is_computed_in_fp32() -> None:
    ones = torch.ones(1, 300, dtype=torch.bool)
    rows = torch.full((1, 300, 64), 0.125, dtype=torch.bfloat16)
    scores = scoring.max_sim(rows, ones, rows, ones)
    assert scores.dtype == torch.float32
    assert scores.item() == 300.0
