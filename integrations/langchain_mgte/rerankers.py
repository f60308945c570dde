"""Cross-encoders for LangChain."""

from collections.abc import Sequence

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field

from langchain_mgte.documents import check_documents, ranked
from langchain_mgte.settings import RerankerSettings, check_question
from mgte_rag.async_calls import in_thread
from mgte_rag.types import Floats


class MGTEReranker(RerankerSettings, BaseDocumentCompressor):
    """Documents sorted by a cross-encoder: ``MGTEReranker(model="BAAI/bge-reranker-v2-m3", top_n=5)``.

    The documents given are not changed. Those returned are copies with their ids, best first by the raw score, which
    is ``metadata["mgte_score"]``; ``metadata["relevance_score"]`` is its sigmoid, 0 to 1. Where the end of a document
    was not read, ``metadata["mgte_truncated"]`` is True. Callbacks are not called: there are no steps to report.
    """

    top_n: int | None = Field(default=3, gt=0)
    """Documents returned at most; None is all."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """The best documents, best first."""
        check_question(query)
        listed = check_documents(documents)
        texts = [document.page_content for document in listed]
        return ranked(listed, self.model.rank(query, texts, top_k=self.top_n, max_length=self.max_length))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """``compress_documents`` without blocking the event loop."""
        return await in_thread(self.compress_documents, documents, query)

    def score(self, pairs: Sequence[tuple[str, str]], /) -> Floats:
        """The raw logit of each pair, float32 [pairs]: what a collection's ``rerank=`` needs of a reranker."""
        return self.model.score(pairs, max_length=self.max_length)


class MGTECrossEncoder(RerankerSettings, BaseCrossEncoder):
    """A cross-encoder for classes that want one, such as ``langchain_classic``'s ``CrossEncoderReranker``."""

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """The raw logit of each pair of query and document, higher is better."""
        scores: list[float] = self.model.score(text_pairs, max_length=self.max_length).tolist()
        return scores
