"""How long texts are in tokens, which decides the batches they go in."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mgte_rag.checkpoints import Checkpoint
from mgte_rag.progress import Progress
from mgte_rag.types import Role
from mgte_training.data.store import SourceData

# Texts, their role, a prompt or None for the model's own -> tokens of each.
TokenLengths = Callable[[Sequence[str], Role, str | None], Sequence[int]]

_EXAMPLES = 1_024  # tokenised together


def checkpoint_lengths(
    checkpoint: Checkpoint, *, max_length: int | None = None, query_max_length: int | None = None
) -> TokenLengths:
    """What a model would read of texts: markers and prompt included, cut at the limit.

    Only the start of a text that is longer than the limit is tokenised.

    Args:
        checkpoint: of the model that is trained.
        max_length: tokens read of a document; None is the model's limit.
        query_max_length: tokens read of a query; None is ``max_length``.
    """
    config, rules = checkpoint.config, checkpoint.rules
    document_limit = max_length or config.max_length
    limits: dict[Role, int] = {"document": document_limit, "query": query_max_length or document_limit}
    prompts: dict[Role, str] = {"document": config.document_prompt, "query": config.query_prompt}

    def lengths(texts: Sequence[str], role: Role, prompt: str | None) -> list[int]:
        own = prompts[role] if prompt is None else prompt
        return [len(ids) for ids in rules.read(texts, role, (), prompt=own, max_length=limits[role]).ids]

    return lengths


def example_lengths(data: SourceData, lengths: TokenLengths, *, show_progress: bool = False) -> NDArray[np.int32]:
    """Tokens of each example's longest text, int32 [examples].

    Args:
        data: the examples.
        lengths: counts tokens.
        show_progress: draw a progress bar on standard error.
    """
    longest = np.zeros(len(data), dtype=np.int32)
    source = data.source
    with Progress(f"measuring {source.name}", unit="examples", total=len(data), show=show_progress) as progress:
        for start in range(0, len(data), _EXAMPLES):
            examples = data[start : start + _EXAMPLES]
            queries = lengths([example.query for example in examples], "query", source.query_prompt)
            groups = [(*example.positives, *example.negatives) for example in examples]
            documents = lengths([text for group in groups for text in group], "document", source.document_prompt)
            starts = np.cumsum([0, *map(len, groups)])[:-1]
            longest[start : start + len(examples)] = np.maximum(queries, np.maximum.reduceat(documents, starts))
            progress.advance(len(examples), int(np.sum(queries) + np.sum(documents)))
    return longest
