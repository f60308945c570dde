"""Rerankers: sorted by raw score, relevance in 0..1, nodes that stay as they were, and LlamaIndex's events."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode
from pydantic import PrivateAttr, ValidationError

from llama_index_mgte import MGTELateInteractionReranker, MGTEReranker
from mgte_rag import EmbeddingModel, InvalidOptionError, Reranker
from mgte_rag.sharing import POOL

QUESTION = "the cat sat on the mat"
TEXTS = ["the dog ran under the tree", "the cat sat on the mat", "and then a tree", "cats", "a dog and a cat"]
Make = Callable[..., BaseNodePostprocessor]


@pytest.fixture(params=["cross-encoder", "late interaction"])
def make(request: pytest.FixtureRequest, cross_encoder: str) -> Make:
    if request.param == "cross-encoder":
        return lambda **options: MGTEReranker(**{"model": cross_encoder, "dtype": "float32", **options})
    return lambda **options: MGTELateInteractionReranker(**{"dtype": "float32", **options})


def given() -> list[NodeWithScore]:
    return [
        NodeWithScore(
            node=TextNode(
                id_=str(i),
                text=text,
                metadata={"a": "mat", "hidden": "tree"},
                excluded_embed_metadata_keys=["hidden"],
                embedding=[0.5],
            ),
            score=i / 10,
        )
        for i, text in enumerate(TEXTS)
    ]


def embedded() -> list[str]:
    return [each.node.get_content(MetadataMode.EMBED) for each in given()]


def test_a_cross_encoder_sorts_by_logit_and_gives_its_sigmoid(cross_encoder: str) -> None:
    with Reranker.load(cross_encoder, dtype="float32") as model:
        expected = model.rank(QUESTION, embedded())
    ranked = MGTEReranker(model=cross_encoder, dtype="float32").postprocess_nodes(given(), query_str=QUESTION)
    raw = MGTEReranker(model=cross_encoder, dtype="float32", raw_scores=True)
    assert [each.node_id for each in ranked] == [str(one.index) for one in expected]
    np.testing.assert_allclose([each.score for each in ranked], [one.relevance for one in expected], atol=1e-6)
    logits = [each.score for each in raw.postprocess_nodes(given(), query_str=QUESTION)]
    np.testing.assert_allclose(logits, [one.score for one in expected], atol=1e-6)


def test_late_interaction_sorts_by_max_sim_and_gives_it_divided_by_the_querys_tokens(mini_fp32: EmbeddingModel) -> None:
    query = mini_fp32.encode_query(QUESTION, outputs=("multi_vector",)).multi_vector[0]
    documents = mini_fp32.encode_document(embedded(), outputs=("multi_vector",)).multi_vector
    expected = np.array([(query @ rows.T).max(axis=1).sum() / len(query) for rows in documents])
    ranked = MGTELateInteractionReranker(dtype="float32").postprocess_nodes(given(), query_str=QUESTION)
    assert [each.node_id for each in ranked] == [str(i) for i in np.argsort(-expected)]
    np.testing.assert_allclose([each.score for each in ranked], np.sort(expected)[::-1], atol=1e-5)
    raw = MGTELateInteractionReranker(dtype="float32", raw_scores=True)
    sums = [each.score for each in raw.postprocess_nodes(given(), query_str=QUESTION)]
    np.testing.assert_allclose(sums, np.sort(expected)[::-1] * len(query), atol=1e-4)
    assert ranked[0].node_id == "1"


def test_nodes_and_envelopes_are_left_as_they_were(make: Make) -> None:
    nodes = given()
    before = copy.deepcopy(nodes)
    ranked = make(top_n=3).postprocess_nodes(nodes, query_str=QUESTION)
    assert nodes == before
    assert len(ranked) == 3
    for each in ranked:
        assert each.node is nodes[int(each.node_id)].node
        assert 0 <= each.score <= 1
        assert "score" not in each.node.get_content(MetadataMode.ALL)


def test_a_kept_retrieval_score_is_on_a_copy_and_never_in_what_is_embedded_or_read(make: Make) -> None:
    nodes = given()
    ranked = make(keep_retrieval_score=True).postprocess_nodes(nodes, query_str=QUESTION)
    for each in ranked:
        original = nodes[int(each.node_id)]
        assert each.node.metadata == {**original.node.metadata, "retrieval_score": original.score}
        assert "retrieval_score" not in original.node.metadata
        for mode in (MetadataMode.EMBED, MetadataMode.LLM):
            assert each.node.get_content(mode) == original.node.get_content(mode)
    again = make(keep_retrieval_score=True).postprocess_nodes(ranked, query_str=QUESTION)
    assert [each.node.get_content(MetadataMode.EMBED) for each in again] == [
        each.node.get_content(MetadataMode.EMBED) for each in ranked
    ]


async def test_async_calls_give_the_same(make: Make) -> None:
    reranker = make(top_n=2)
    there = await reranker.apostprocess_nodes(given(), query_str=QUESTION)
    assert there == reranker.postprocess_nodes(given(), query_str=QUESTION)


def test_no_query_is_an_error_and_no_nodes_give_none(make: Make) -> None:
    with pytest.raises(InvalidOptionError, match="needs the query"):
        make().postprocess_nodes(given())
    assert make().postprocess_nodes([], query_str=QUESTION) == []


class Recorder(BaseEventHandler):
    """Keeps the events of reranking."""

    _events: list[Any] = PrivateAttr(default_factory=list)

    def handle(self, event: Any, **kwargs: Any) -> None:
        if isinstance(event, ReRankStartEvent | ReRankEndEvent):
            self._events.append(event)


def test_reranking_tells_dispatcher_and_callbacks(make: Make) -> None:
    recorder, debug = Recorder(), LlamaDebugHandler(print_trace_on_end=False)
    root = get_dispatcher()
    root.add_event_handler(recorder)
    try:
        reranker = make(top_n=2, callback_manager=CallbackManager([debug]))
        ranked = reranker.postprocess_nodes(given(), query_str=QUESTION)
    finally:
        root.event_handlers.remove(recorder)
    start, end = recorder._events
    assert (start.query.query_str, len(start.nodes), start.top_n) == (QUESTION, len(TEXTS), 2)
    assert start.model_name == reranker.model
    assert end.nodes == ranked
    ((begun, ended),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert begun.payload[EventPayload.TOP_K] == 2
    assert ended.payload[EventPayload.NODES] == ranked


def test_rerankers_pickle_and_copy_as_references(make: Make) -> None:
    reranker = make(top_n=2)
    ranked = reranker.postprocess_nodes(given(), query_str=QUESTION)
    before = len(POOL)
    pickled = pickle.dumps(reranker)
    assert len(pickled) < 5_000
    for again in (pickle.loads(pickled), copy.deepcopy(reranker), type(reranker).from_dict(reranker.to_dict())):
        assert again.postprocess_nodes(given(), query_str=QUESTION) == ranked
    assert len(POOL) == before


def test_unknown_arguments_are_errors_and_options_are_fixed(make: Make) -> None:
    for wrong in ({"use_fp16": True}, {"top_n": 0}):
        with pytest.raises(ValidationError):
            make(**wrong)
    with pytest.raises(ValidationError, match="frozen"):
        make().model = "other"


def test_a_length_that_the_model_does_not_allow_is_an_error(make: Make) -> None:
    with pytest.raises(InvalidOptionError, match="max_length"):
        make(max_length=100_000).postprocess_nodes(given(), query_str=QUESTION)


def test_late_interaction_encodes_query_and_nodes_in_one_pass_each(mini: EmbeddingModel) -> None:
    before = mini.forwards
    MGTELateInteractionReranker().postprocess_nodes(given(), query_str=QUESTION)
    assert mini.forwards == before + 2


def test_without_a_model_the_embedded_defaults_reranker_scores() -> None:
    found = MGTEReranker(raw_scores=True).postprocess_nodes(given(), query_str=QUESTION)
    texts = [node.node.get_content(MetadataMode.EMBED) for node in found]
    with Reranker.load() as reranker:
        expected = reranker.score([(QUESTION, text) for text in texts])
    assert [node.score for node in found] == pytest.approx(expected.tolist(), abs=2e-2)
