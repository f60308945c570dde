"""Document compressors and the cross-encoder."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document
from pydantic import ValidationError

from langchain_mgte import MGTECrossEncoder, MGTELateInteractionReranker, MGTEReranker
from mgte_rag import CheckpointError, EmbeddingModel, InputTypeError, InvalidOptionError, Reranker


@pytest.fixture(params=["cross-encoder", "late interaction"])
def reranker(request: pytest.FixtureRequest, reranker_folder: str) -> MGTEReranker | MGTELateInteractionReranker:
    if request.param == "cross-encoder":
        return MGTEReranker(model=reranker_folder, top_n=None)
    return MGTELateInteractionReranker(top_n=None)


async def test_documents_come_back_as_copies_sorted_by_the_raw_score(reranker: Any, sentences: list[Document]) -> None:
    originals = copy.deepcopy(sentences)
    found = reranker.compress_documents(sentences, "the cat sat")
    assert sentences == originals
    assert {document.id for document in found} == {document.id for document in sentences}
    scores = [document.metadata["mgte_score"] for document in found]
    relevances = [document.metadata["relevance_score"] for document in found]
    assert scores == sorted(scores, reverse=True)
    assert relevances == sorted(relevances, reverse=True)
    assert all(0 <= relevance <= 1 and type(relevance) is float for relevance in relevances)
    assert all(originals[document.metadata["place"]].page_content == document.page_content for document in found)
    assert await reranker.acompress_documents(sentences, "the cat sat") == found


def test_a_cross_encoders_relevance_is_the_sigmoid_of_its_logit(
    sentences: list[Document], reranker_folder: str
) -> None:
    with Reranker.load(reranker_folder) as core:
        logits = core.score([("the cat", document.page_content) for document in sentences])
    for document in MGTEReranker(model=reranker_folder, top_n=None).compress_documents(sentences, "the cat"):
        logit = float(logits[document.metadata["place"]])
        assert document.metadata["mgte_score"] == pytest.approx(logit, abs=1e-5)
        assert document.metadata["relevance_score"] == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_late_interactions_relevance_is_maxsim_over_the_querys_tokens(
    sentences: list[Document], mini: EmbeddingModel
) -> None:
    query = mini.encode_query("the cat", outputs=("multi_vector",)).multi_vector[0]
    for document in MGTELateInteractionReranker(top_n=None).compress_documents(sentences, "the cat"):
        rows = mini.encode_document(document.page_content, outputs=("multi_vector",)).multi_vector[0]
        score = sum(max(float(np.dot(token, row)) for row in rows) for token in query)
        assert document.metadata["mgte_score"] == pytest.approx(score, abs=1e-4)
        assert document.metadata["relevance_score"] == pytest.approx(score / len(query), abs=1e-5)


def test_token_dim_and_max_length_reach_the_model(sentences: list[Document]) -> None:
    whole, short, cut = (
        MGTELateInteractionReranker(**options).compress_documents(sentences, "the cat")[0].metadata
        for options in ({}, {"token_dim": 32}, {"max_length": 4})
    )
    assert whole["mgte_score"] != short["mgte_score"]
    assert cut["mgte_truncated"] is True
    assert "mgte_truncated" not in whole


def test_a_document_whose_end_was_not_read_says_so(reranker_folder: str) -> None:
    documents = [Document("cat " * 100, id="long"), Document("cat", id="short")]
    found = MGTEReranker(model=reranker_folder).compress_documents(documents, "the cat")
    assert {document.id: document.metadata.get("mgte_truncated", False) for document in found} == {
        "long": True,
        "short": False,
    }


async def test_no_documents_are_none(reranker: Any) -> None:
    assert reranker.compress_documents([], "the cat") == []
    assert await reranker.acompress_documents([], "the cat") == []


def test_equally_good_documents_keep_their_order(reranker: Any) -> None:
    same = [Document("the cat", id=name) for name in "cab"]
    assert [document.id for document in reranker.compress_documents(same, "a dog")] == ["c", "a", "b"]


def test_top_n_limits_and_is_checked(reranker: Any, sentences: list[Document]) -> None:
    assert len(reranker.model_copy(update={"top_n": 2}).compress_documents(sentences, "the cat")) == 2
    assert len(type(reranker)(model=reranker.source).compress_documents(sentences, "the cat")) == 3
    with pytest.raises(ValidationError, match="greater than 0"):
        type(reranker)(top_n=0)


async def test_what_is_no_document_or_no_question_is_an_error(reranker: Any, sentences: list[Document]) -> None:
    with pytest.raises(InputTypeError, match=r"documents\[1\] must be a langchain_core Document, not 'the cat'"):
        reranker.compress_documents([sentences[0], "the cat"], "the cat")
    with pytest.raises(InputTypeError, match=r"a question must be a string, not \['the cat'\]"):
        await reranker.acompress_documents(sentences, ["the cat"])


def test_a_cross_encoder_gives_raw_logits_as_python_floats(sentences: list[Document], reranker_folder: str) -> None:
    pairs = [("the cat", document.page_content) for document in sentences]
    with Reranker.load(reranker_folder) as core:
        expected = core.score(pairs)
    scores = MGTECrossEncoder(model=reranker_folder).score(pairs)
    assert all(type(score) is float for score in scores)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    with pytest.raises(InvalidOptionError, match="max_length=1000"):
        MGTECrossEncoder(model=reranker_folder, max_length=1000).score(pairs)


def test_without_a_model_the_embedded_defaults_reranker_orders(sentences: list[Document]) -> None:
    found = MGTEReranker(top_n=2).compress_documents(sentences, "the cat")
    with Reranker.load() as reranker:
        expected = reranker.rank("the cat", [document.page_content for document in sentences], top_k=2)
    assert [document.page_content for document in found] == [sentences[each.index].page_content for each in expected]


def test_a_cross_encoder_with_two_labels_is_refused_and_not_ranked_by_one_of_them(
    make_reranker: Callable[..., str], sentences: list[Document]
) -> None:
    with pytest.raises(CheckpointError, match=r"classifier.weight has shape \(2, 32\)"):
        MGTEReranker(model=make_reranker(num_labels=2)).compress_documents(sentences, "the cat")


def test_rerankers_pickle_as_references(reranker: Any, sentences: list[Document]) -> None:
    found = reranker.compress_documents(sentences, "the cat")
    assert len(pickle.dumps(reranker)) < 3_000
    for copied in (pickle.loads(pickle.dumps(reranker)), copy.deepcopy(reranker)):
        assert copied.compress_documents(sentences, "the cat") == found
