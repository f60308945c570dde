"""LangChain classes over mgte-rag models and collections; they need langchain-core only."""

from mgte_rag.errors import MissingExtraError

try:
    import langchain_core as _langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("langchain-core", "langchain_mgte") from error

from langchain_mgte.embeddings import MGTEEmbeddings
from langchain_mgte.late_interaction import MGTELateInteractionReranker, MGTELateInteractionRetriever
from langchain_mgte.rerankers import MGTECrossEncoder, MGTEReranker
from langchain_mgte.retrievers import MGTERetriever
from langchain_mgte.sparse_embeddings import MGTESparseEmbeddings
from langchain_mgte.vector_store import MGTEVectorStore

__all__ = [
    "MGTECrossEncoder",
    "MGTEEmbeddings",
    "MGTELateInteractionReranker",
    "MGTELateInteractionRetriever",
    "MGTEReranker",
    "MGTERetriever",
    "MGTESparseEmbeddings",
    "MGTEVectorStore",
]
