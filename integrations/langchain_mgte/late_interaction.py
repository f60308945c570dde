"""Late interaction for LangChain: token vectors compared one by one (ColBERT's MaxSim)."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    Callbacks,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import LangSmithRetrieverParams
from pydantic import Field, model_validator

from langchain_mgte.documents import check_documents, from_hits, ranked
from langchain_mgte.retrievers import CollectionRetriever
from langchain_mgte.settings import EmbeddingSettings, check_k, check_question
from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.async_calls import in_thread
from mgte_rag.late_interaction import LateInteractionIndex
from qdrant_mgte import HybridCollection
from qdrant_mgte.filters import Filter


class MGTELateInteractionRetriever(CollectionRetriever):
    """Retrieves by late interaction as the first stage: every document is compared with the question.

    ``MGTELateInteractionRetriever(collection=...)`` searches a ``HybridCollection`` that has token vectors;
    ``MGTELateInteractionRetriever.from_documents(documents)`` a list in memory, without any store. Metadata has
    "mgte_score", MaxSim, and "relevance_score", MaxSim divided by the query's tokens. Unknown constructor and call
    arguments are errors; ``invoke(question, k=2)`` overrides for one call.
    """

    collection: HybridCollection | None = None
    """Where the documents are; ``close()`` closes it."""
    candidates: int | None = Field(default=None, gt=0)
    """Score only so many, found by the collection's dense and sparse vectors; None compares with all."""
    documents: tuple[Document, ...] = ()
    """The documents, where there is no collection."""
    index: LateInteractionIndex | None = None
    """Their token vectors, made by ``from_documents``."""

    @model_validator(mode="after")
    def _check_one_source(self) -> Self:
        if (self.collection is None) == (self.index is None):
            raise ValueError("give collection=, or use MGTELateInteractionRetriever.from_documents(documents)")
        if self.collection is not None and "multi_vector" not in self.collection.outputs:
            stored = ", ".join(self.collection.outputs)
            raise ValueError(f"the collection {self.collection.location} stores {stored} and no multi_vector")
        if self.index is not None:
            if self.filter is not None or self.candidates is not None or self.group_by_parent:
                raise ValueError("filter, candidates and group_by_parent need a collection")
            if len(self.documents) != len(self.index):
                raise ValueError(f"{len(self.documents)} documents for an index of {len(self.index)}")
        return self

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        model: EmbeddingModel | str | None = None,
        k: int = 4,
        token_dim: int | None = None,
        show_progress: bool = False,
    ) -> Self:
        """A retriever over documents in memory, encoded here.

        A document takes 4 bytes for each of its tokens and each of ``token_dim``: 1,000 documents of 200 tokens of
        128 are 100 MB. Documents longer than the model reads are warned of; split them, or use a collection.

        Args:
            documents: kept as they are.
            model: a loaded model, a hub id or folder, or None for the embedded default.
            k: documents returned at most.
            token_dim: components of each token's vector; None is the largest.
            show_progress: draw a progress bar.

        Raises:
            InvalidOptionError: k is below 1.
            UnsupportedOutputError: the model has no late-interaction head.
            InputTypeError: something is no document.
        """
        check_k(k)
        listed = check_documents(documents)
        loaded = model if isinstance(model, EmbeddingModel) else EmbeddingModel.load(model)
        texts = [document.page_content for document in listed]
        index = LateInteractionIndex(loaded, texts, token_dim=token_dim, show_progress=show_progress)
        if count := int(index.truncated.sum()):
            warnings.warn(
                f"{count} documents are longer than the {loaded.max_length} tokens that the model "
                f"{loaded.identity.name!r} reads, the first is documents[{int(index.truncated.argmax())}]: their ends "
                f"cannot be found. Split them, or search a collection, which does it",
                stacklevel=2,
            )
        return cls(documents=tuple(listed), index=index, k=k)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:
        if self.collection is not None:
            hits = self.collection.search(query, **self._arguments(k, filter))
            return from_hits(hits, scored=True, grouped=self.group_by_parent)
        return ranked(self.documents, self._index(filter).rank(query, top_k=self.k if k is None else check_k(k)))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:
        if self.collection is not None:
            hits = await self.collection.asearch(query, **self._arguments(k, filter))
            return from_hits(hits, scored=True, grouped=self.group_by_parent)
        return ranked(self.documents, await self._index(filter).arank(query, top_k=self.k if k is None else check_k(k)))

    def _arguments(self, k: int | None, filter: Filter | None) -> dict[str, Any]:
        first_stage = {"exact": True} if self.candidates is None else {"candidates": self.candidates}
        return {**self._common(k, filter), "mode": "late_interaction", **first_stage}

    def _index(self, filter: Filter | None) -> LateInteractionIndex:
        if filter is not None:
            raise InvalidOptionError("a filter needs a collection: MGTELateInteractionRetriever(collection=...)")
        assert self.index is not None  # there is a collection or an index
        return self.index

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        source = self.collection or self._index(None)
        return self._trace("mgtelateinteraction", source.model.identity.name)


class MGTELateInteractionReranker(EmbeddingSettings, BaseDocumentCompressor):
    """Documents sorted by late interaction: ``MGTELateInteractionReranker(model="jinaai/jina-colbert-v2", top_n=5)``.

    The documents given are not changed. Those returned are copies with their ids, best first by the raw score
    (MaxSim), which is ``metadata["mgte_score"]``; ``metadata["relevance_score"]`` is MaxSim divided by the
    query's tokens, 0 to 1. Where the end of a document was not read, ``metadata["mgte_truncated"]`` is True. Callbacks
    are not called: there are no steps to report.
    """

    top_n: int | None = Field(default=3, gt=0)
    """Documents returned at most; None is all."""
    max_length: int | None = None
    """Tokens read of each document; None is the model's limit."""
    token_dim: int | None = None
    """Components of each token's vector; None is the largest."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The best documents, best first."""
        check_question(query)
        listed = check_documents(documents)
        texts = [document.page_content for document in listed]
        index = LateInteractionIndex(self.model, texts, token_dim=self.token_dim, max_length=self.max_length)
        return ranked(listed, index.rank(query, top_k=self.top_n))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """``compress_documents`` without blocking the event loop."""
        return await in_thread(self.compress_documents, documents, query)
