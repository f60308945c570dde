"""LangChain classes over mgte-rag models and collections; they need langchain-core only."""

from mgte_rag.errors import MissingExtraError

try:
    import langchain_core as _langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("langchain-core", "langchain_mgte") from error

from langchain_mgte.embeddings import MGTEEmbeddings
from langchain_mgte.retrievers import MGTERetriever

__all__ = ["MGTEEmbeddings", "MGTERetriever"]
