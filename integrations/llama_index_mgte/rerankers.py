"""Node postprocessors that rank again: a cross-encoder, and late interaction."""

from abc import abstractmethod
from functools import cached_property
from typing import Any

from llama_index.core import instrumentation
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from pydantic import Field

from llama_index_mgte.loading import LoadOptions
from mgte_rag import EmbeddingModel, InvalidOptionError, RankedDocument, Reranker
from mgte_rag.async_calls import in_thread
from mgte_rag.late_interaction import LateInteractionIndex

_dispatcher = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class _RankingPostprocessor(LoadOptions, BaseNodePostprocessor):
    """What both have: events, order, and nodes that stay as they are."""

    top_n: int | None = Field(default=None, gt=0, description="Nodes returned at most; None returns all, sorted.")
    max_length: int | None = Field(
        default=None, frozen=True, description="Tokens read of each text (or pair); None is the model's limit."
    )
    raw_scores: bool = Field(
        default=False, description="Whether node.score is the model's raw score instead of the relevance in 0..1."
    )
    keep_retrieval_score: bool = Field(
        default=False, description="Put the score of before into metadata['retrieval_score'] of a copy of the node."
    )

    @property
    @abstractmethod
    def _name(self) -> str:
        """The model's name, for events."""

    @abstractmethod
    def _rank(self, query: str, texts: list[str]) -> list[RankedDocument]:
        """All texts, best first by raw score."""

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InvalidOptionError("ranking again needs the query: postprocess_nodes(nodes, query_str='...')")
        if not nodes:
            return []
        top_n = len(nodes) if self.top_n is None else self.top_n
        query = query_bundle.query_str
        _dispatcher.event(ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=top_n, model_name=self._name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._name,
            EventPayload.QUERY_STR: query,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            ranked = self._rank(query, [each.node.get_content(MetadataMode.EMBED) for each in nodes])
            best = [self._scored(nodes[one.index], one) for one in ranked[:top_n]]
            event.on_end(payload={EventPayload.NODES: best})
        _dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        return await in_thread(self._postprocess_nodes, nodes, query_bundle)

    def _scored(self, given: NodeWithScore, ranked: RankedDocument) -> NodeWithScore:
        """Another envelope for the same node; the caller's stays as it is."""
        node = given.node
        if self.keep_retrieval_score:
            hidden = ["retrieval_score"]  # or it would be embedded, and read by the language model
            node = node.model_copy(
                update={
                    "metadata": {**node.metadata, "retrieval_score": given.score},
                    "excluded_embed_metadata_keys": [*node.excluded_embed_metadata_keys, *hidden],
                    "excluded_llm_metadata_keys": [*node.excluded_llm_metadata_keys, *hidden],
                }
            )
        return NodeWithScore(node=node, score=ranked.score if self.raw_scores else ranked.relevance)


class MGTEReranker(_RankingPostprocessor):
    """Ranks nodes again with a cross-encoder: ``MGTEReranker(model="BAAI/bge-reranker-v2-m3", top_n=3)``.

    Sorted by raw logit; ``node.score`` is its sigmoid, the relevance in 0..1, or with ``raw_scores`` the logit. The
    nodes come back as they went in. Loaded on first use; objects that name the same model share its weights.
    """

    model: str | None = Field(
        default=None, frozen=True, description="Hub id or folder of a cross-encoder; None is the embedded default's."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex stores in its own files."""
        return "MGTEReranker"

    @cached_property
    def reranker(self) -> Reranker:
        """The core model behind this object."""
        return Reranker.load(self.model, **self.load_options())

    @property
    def _name(self) -> str:
        return self.model or "mini"

    def _rank(self, query: str, texts: list[str]) -> list[RankedDocument]:
        return self.reranker.rank(query, texts, max_length=self.max_length)


class MGTELateInteractionReranker(_RankingPostprocessor):
    """Ranks nodes again by late interaction, with any model that has token vectors, the embedded default too.

    Sorted by raw MaxSim; ``node.score`` is MaxSim divided by the query's tokens, the relevance in 0..1, or with
    ``raw_scores`` MaxSim, the sum. All nodes are encoded in one batch.
    """

    model: str = Field(default="mini", frozen=True, description="Hub id or folder; 'mini' is the embedded default.")
    token_dim: int | None = Field(
        default=None, frozen=True, description="Components of each token's vector, one of the model's; None is all."
    )

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex stores in its own files."""
        return "MGTELateInteractionReranker"

    @cached_property
    def embedding_model(self) -> EmbeddingModel:
        """The core model behind this object."""
        return EmbeddingModel.load(self.model, **self.load_options())

    @property
    def _name(self) -> str:
        return self.model

    def _rank(self, query: str, texts: list[str]) -> list[RankedDocument]:
        index = LateInteractionIndex(self.embedding_model, texts, token_dim=self.token_dim, max_length=self.max_length)
        return index.rank(query)
