"""Reranker logits against transformers, and what scores and rankings promise."""

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from mgte_rag import (
    ClosedError,
    EmbeddingModel,
    InputTypeError,
    InvalidOptionError,
    RankedDocument,
    Reranker,
    UnsupportedOutputError,
)

RERANKERS = [
    "gte-multilingual-reranker-base",
    "ms-marco-cross-encoder",
    "bge-reranker-v2-m3",
    "jina-reranker-v2-base-multilingual",
    "gte-reranker-modernbert-base",
    "modernbert-reranker-with-mean-pooling",
]
PAIRS = [
    ("the cat", "a dog ran under the tree and then the cat sat on the mat."),
    ("cat", "dog"),
    ("the dog sat on the mat", ""),
    ("", "the tree"),
    ("the cat", "the cat sat " * 20),
]


@pytest.fixture
def reranker(published: Callable[[str], Any]):
    with Reranker.load(str(published("bge-reranker-v2-m3").folder), dtype="float32") as loaded:
        yield loaded


@pytest.mark.parametrize("name", RERANKERS)
def test_logits_of_pairs_of_mixed_lengths_equal_transformers(published: Callable[[str], Any], name: str) -> None:
    case = published(name)
    tokenizer = Tokenizer.from_file(str(case.folder / "tokenizer.json"))
    encodings = [tokenizer.encode(*pair) for pair in PAIRS]
    ids = [np.array(encoding.ids) for encoding in encodings]
    types = [np.array(encoding.type_ids) for encoding in encodings] if name == "ms-marco-cross-encoder" else None
    with Reranker.load(str(case.folder), dtype="float32") as model:
        ours = model.score(PAIRS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, case.logits(ids, types)[:, 0], atol=1e-5)


def test_pairs_of_mixed_lengths_take_one_forward_pass(reranker: Reranker) -> None:
    before = reranker.forwards
    reranker.score(PAIRS)
    assert reranker.forwards == before + 1


@pytest.mark.parametrize("name", RERANKERS)
def test_order_batch_size_and_token_budget_change_nothing(
    published: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with Reranker.load(str(published(name).folder), dtype="float32") as model:
        together = model.score(PAIRS)
        np.testing.assert_allclose(model.score(PAIRS[::-1]), together[::-1], atol=1e-5)
        np.testing.assert_allclose([model.score([pair])[0] for pair in PAIRS], together, atol=1e-5)
        monkeypatch.setattr(model._handle.engine, "_token_budget", 20)
        np.testing.assert_allclose(model.score(PAIRS), together, atol=1e-5)


def test_only_the_document_is_cut(reranker: Reranker) -> None:
    long_document = "the cat sat on the mat " * 30
    cut = reranker.score([("the dog", long_document)], max_length=20)
    # <s> q q </s></s> d ... </s>: 20 tokens leave 14 for the document.
    by_hand = reranker.score([("the dog", " ".join(long_document.split()[:14]))])
    np.testing.assert_allclose(cut, by_hand, atol=1e-6)


def test_a_query_is_cut_at_three_quarters_so_that_the_document_is_read(reranker: Reranker) -> None:
    ranked = reranker.rank("the cat sat " * 40, ["the dog", "a tree"], max_length=24)
    assert ranked[0].score != ranked[1].score
    assert all(document.truncated for document in ranked)


def test_a_ranking_is_sorted_by_logit_with_its_sigmoid_as_relevance(reranker: Reranker) -> None:
    documents = [document for _, document in PAIRS]
    ranked = reranker.rank("the cat", documents)
    scores = reranker.score([("the cat", document) for document in documents])
    assert [document.index for document in ranked] == np.argsort(-scores, kind="stable").tolist()
    for document in ranked:
        assert isinstance(document, RankedDocument)
        assert document.score == pytest.approx(scores[document.index], abs=1e-6)
        assert document.relevance == pytest.approx(1 / (1 + np.exp(-document.score)))


def test_equally_good_documents_keep_their_order(reranker: Reranker) -> None:
    assert [document.index for document in reranker.rank("cat", ["dog"] * 5)] == [0, 1, 2, 3, 4]


def test_top_k_limits_a_ranking(reranker: Reranker) -> None:
    assert len(reranker.rank("cat", ["dog", "tree", "mat"], top_k=2)) == 2
    assert reranker.rank("cat", []) == []
    with pytest.raises(InvalidOptionError, match="top_k=0"):
        reranker.rank("cat", ["dog"], top_k=0)


def test_no_pairs_give_no_scores(reranker: Reranker) -> None:
    assert reranker.score([]).shape == (0,)


@pytest.mark.parametrize("pairs", [[("a",)], [("a", 3)], ["ab"], [None], 7])
def test_something_that_is_no_pair_of_strings_is_an_error(reranker: Reranker, pairs: Any) -> None:
    with pytest.raises(InputTypeError, match="pairs"):
        reranker.score(pairs)


@pytest.mark.parametrize("max_length", [0, 5, 513, "long"])
def test_a_max_length_the_model_does_not_have_is_an_error(reranker: Reranker, max_length: Any) -> None:
    with pytest.raises(InvalidOptionError, match="reads 6 to 512"):
        reranker.score([("a", "b")], max_length=max_length)


def test_an_embedding_model_is_no_reranker_and_the_other_way_round(published: Callable[[str], Any]) -> None:
    with pytest.raises(UnsupportedOutputError, match="no reranker head"):
        Reranker.load(str(published("bge-m3").folder))
    with pytest.raises(UnsupportedOutputError, match=r"Reranker\.load"):
        EmbeddingModel.load(str(published("bge-reranker-v2-m3").folder))
    with pytest.raises(UnsupportedOutputError, match="language model"):
        EmbeddingModel.load(str(published("gte-multilingual-mlm-base").folder))


def test_a_model_of_the_wrong_kind_is_refused_before_its_weights_are_read(copy_of: Callable[..., Any]) -> None:
    folder = copy_of("bge-reranker-v2-m3").folder
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UnsupportedOutputError, match=r"Reranker\.load"):
        EmbeddingModel.load(str(folder))


async def test_async_twins_give_the_same(reranker: Reranker) -> None:
    scores, ranked = await asyncio.gather(reranker.ascore(PAIRS), reranker.arank("cat", ["dog", "tree"]))
    np.testing.assert_allclose(scores, reranker.score(PAIRS), atol=1e-6)
    assert ranked == reranker.rank("cat", ["dog", "tree"])


def test_handles_share_weights_pickle_as_references_and_close(published: Callable[[str], Any]) -> None:
    folder = str(published("bge-reranker-v2-m3").folder)
    first = Reranker.load(folder, dtype="float32")
    pickled = pickle.dumps(first)
    assert len(pickled) < 1000
    with pickle.loads(pickled) as second:
        assert second._handle.engine is first._handle.engine
        first.close()
        with pytest.raises(ClosedError, match="was closed"):
            first.score(PAIRS)
        assert len(second.score(PAIRS)) == len(PAIRS)
