"""Published model folders, read strictly: one module per family, each a table from its names to ours."""

from mgte_rag.checkpoints.loading import Checkpoint, load_checkpoint
from mgte_rag.checkpoints.source import MINI, MINI_RERANKER, ModelFolder, find_model

__all__ = ["MINI", "MINI_RERANKER", "Checkpoint", "ModelFolder", "find_model", "load_checkpoint"]
