"""LlamaIndex classes over mgte-rag models and collections; they need llama-index-core only."""

from mgte_rag.errors import MissingExtraError

try:
    import llama_index.core as _llama_index_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("llama-index-core", "llama_index_mgte") from error

from llama_index_mgte.embeddings import MGTEEmbedding
from llama_index_mgte.retrievers import MGTERetriever

__all__ = ["MGTEEmbedding", "MGTERetriever"]
