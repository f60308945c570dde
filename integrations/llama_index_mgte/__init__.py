"""LlamaIndex classes over mgte-rag models and collections; they need llama-index-core only."""

from mgte_rag.errors import MissingExtraError

try:
    import llama_index.core as _llama_index_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError("llama-index-core", "llama_index_mgte") from error

from llama_index_mgte.embeddings import MGTEEmbedding
from llama_index_mgte.late_interaction import MGTELateInteractionRetriever
from llama_index_mgte.rerankers import MGTELateInteractionReranker, MGTEReranker
from llama_index_mgte.retrievers import MGTERetriever
from llama_index_mgte.sparse_embeddings import MGTESparseEmbedding
from llama_index_mgte.vector_store import MGTEVectorStore

__all__ = [
    "MGTEEmbedding",
    "MGTELateInteractionReranker",
    "MGTELateInteractionRetriever",
    "MGTEReranker",
    "MGTERetriever",
    "MGTESparseEmbedding",
    "MGTEVectorStore",
]
