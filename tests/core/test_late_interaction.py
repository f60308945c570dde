"""Late interaction in memory, and scores as relevance."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgte_rag import EmbeddingModel, InputTypeError, InvalidOptionError, UnsupportedOutputError, relevance
from mgte_rag.late_interaction import LateInteractionIndex

TEXTS = ["Cats sleep most of the day.", "Most birds can fly.", "", "Fish breathe under water."]


def test_documents_are_ranked_by_the_sum_of_each_query_tokens_best_match(mini_fp32: EmbeddingModel) -> None:
    query = mini_fp32.encode_query("Which animal has wings?", outputs=("multi_vector",)).multi_vector[0]
    documents = mini_fp32.encode_document(TEXTS, outputs=("multi_vector",)).multi_vector
    by_hand = [sum(max((float(q @ d) for d in rows), default=-1.0) for q in query) for rows in documents]
    ranked = LateInteractionIndex(mini_fp32, TEXTS).rank("Which animal has wings?")
    assert [each.index for each in ranked] == sorted(range(4), key=lambda i: -by_hand[i])
    for each in ranked:
        assert each.score == pytest.approx(by_hand[each.index], abs=1e-4)
        assert each.relevance == pytest.approx(max(0, by_hand[each.index] / len(query)), abs=1e-5)


def test_the_mean_that_a_model_was_published_with_changes_no_score(mini_fp32: EmbeddingModel) -> None:
    index = LateInteractionIndex(mini_fp32, TEXTS, token_dim=32)
    query = mini_fp32.encode_query("wings", outputs=("multi_vector",), token_dim=32)
    documents = mini_fp32.encode_document(TEXTS, outputs=("multi_vector",), token_dim=32)
    published = mini_fp32.similarity(query, documents).multi_vector[0]
    for each in index.rank("wings"):
        assert each.score == pytest.approx(published[each.index] * len(query.multi_vector[0]), abs=1e-5)


async def test_top_k_limits_and_the_async_twin_gives_the_same(mini: EmbeddingModel) -> None:
    index = LateInteractionIndex(mini, TEXTS)
    assert len(index) == 4
    assert index.rank("wings", top_k=2) == index.rank("wings")[:2] == await index.arank("wings", top_k=2)
    assert LateInteractionIndex(mini, []).rank("wings") == []
    for top_k in (0, -1, True, 1.5):
        with pytest.raises(InvalidOptionError, match="top_k"):
            index.rank("wings", top_k=top_k)


def test_a_document_whose_end_was_not_read_says_so(mini: EmbeddingModel) -> None:
    index = LateInteractionIndex(mini, ["short", "a b c d e f g h"], max_length=6)
    assert index.truncated.tolist() == [False, True]
    assert {each.index: each.truncated for each in index.rank("short")} == {0: False, 1: True}


def test_what_is_no_text_or_a_model_without_token_vectors_is_an_error(mini: EmbeddingModel, tiny_bert: Path) -> None:
    with pytest.raises(InputTypeError, match="query must be a string"):
        LateInteractionIndex(mini, TEXTS).rank(["wings"])  # type: ignore[arg-type]
    with pytest.raises(InputTypeError, match=r"texts\[1\]"):
        LateInteractionIndex(mini, ["a", None])  # type: ignore[list-item]
    with EmbeddingModel.load(tiny_bert) as dense, pytest.raises(UnsupportedOutputError, match="multi_vector"):
        LateInteractionIndex(dense, ["cat"])


@pytest.mark.parametrize(
    ("function", "score", "expected"),
    [
        (relevance.of_logits, 0.0, 0.5),
        (relevance.of_logits, 2.0, 1 / (1 + math.exp(-2))),
        (relevance.of_logits, -1e6, 0.0),
        (relevance.of_cosine, 0.3, 0.3),
        (relevance.of_cosine, -0.3, 0.0),
        (relevance.of_cosine, 1.0000001, 1.0),
        (lambda scores: relevance.of_max_sim(scores, 4), 3.0, 0.75),
        (lambda scores: relevance.of_max_sim(scores, 4), -1.0, 0.0),
        (lambda scores: relevance.of_max_sim(scores, 0), 0.0, 0.0),
    ],
)
def test_relevance_is_from_0_to_1(function: Callable[[Any], Any], score: float, expected: float) -> None:
    np.testing.assert_allclose(function([score]), [expected], atol=1e-9)
