"""Queries and documents read together: scores."""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from mgte_rag import relevance
from mgte_rag.async_calls import in_thread
from mgte_rag.batching import read_ahead
from mgte_rag.checkpoints import MINI, MINI_RERANKER, Checkpoint
from mgte_rag.checkpoints.export import Format, export
from mgte_rag.checkpoints.saving import save
from mgte_rag.engine import Wanted
from mgte_rag.errors import InputTypeError, InvalidOptionError, UnsupportedOutputError, shown
from mgte_rag.handle import ModelHandle
from mgte_rag.options import check_top_k
from mgte_rag.progress import Progress
from mgte_rag.token_rules import Inputs
from mgte_rag.tokenization import check_texts
from mgte_rag.types import Bools, Floats, ModelIdentity, RankedDocument

# Pairs tokenised and sorted together.
_WINDOW = 4_096


class Reranker:
    """A handle on a cross-encoder: ``Reranker.load()``.

    Handles share weights, may be used from many threads, pickle as references and are closed as EmbeddingModel's are.
    """

    def __init__(self, handle: ModelHandle) -> None:
        self._handle = handle

    @classmethod
    def load(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        device: str | torch.device | None = None,
        devices: Sequence[str | torch.device] | None = None,
        dtype: str | torch.dtype | None = None,
        attention: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a reranker: mGTE's, bge-reranker-*, jina-reranker-v2, ModernBERT's, BERT cross-encoders with one label.

        Args:
            name: a hub id or a folder; nothing for the embedded default, "mini-reranker": English, works offline.
            device: "cpu", "cuda", "cuda:1", "mps"; None takes the best one there is.
            devices: several devices instead of one, as ``EmbeddingModel.load`` has them.
            dtype: "float32", "bfloat16", "float16"; None or "auto" is bf16 where the device computes in it, else fp32.
            attention: attention kernel; None chooses.
            revision: branch, tag or commit on the hub.
            local_files_only: never use the network.

        Raises:
            UnknownModelError: no such folder, no such model on the hub.
            CheckpointError: the folder cannot be loaded exactly as published.
            UnsupportedOutputError: the model is no reranker.
            InvalidOptionError: a device, dtype or attention kernel that is not to be had.
        """
        handle = ModelHandle.open(
            MINI_RERANKER if name in (None, MINI) else name,
            device=device,
            devices=devices,
            dtype=dtype,
            attention=attention,
            revision=revision,
            local_files_only=local_files_only,
            check=_check_has_scores,
        )
        return cls(handle)

    @property
    def identity(self) -> ModelIdentity:
        """Name, revision and fingerprint; equal fingerprints give comparable scores."""
        return self._handle.checkpoint.identity

    @property
    def max_length(self) -> int:
        """Tokens read of one pair at most, markers included."""
        return self._handle.checkpoint.config.max_length

    @property
    def device(self) -> str:
        """Where the model computes; several devices are separated by commas."""
        return ", ".join(map(str, self._handle.key.devices))

    @property
    def dtype(self) -> str:
        """What the projections compute in; scores are float32."""
        return str(self._handle.key.dtype).removeprefix("torch.")

    @property
    def forwards(self) -> int:
        """Forward passes of this model's encoder so far in this process, of all handles; 0 once closed."""
        engine = self._handle.shared_engine
        return 0 if engine is None else engine.forwards

    def score(
        self, pairs: Iterable[tuple[str, str]], *, max_length: int | None = None, show_progress: bool = False
    ) -> Floats:
        """Score pairs of query and document; pairs of all lengths go through the encoder together, without padding.

        Args:
            pairs: (query, document) each.
            max_length: tokens read of a pair, markers included; None is the model's own limit. Only the document is
                cut to fit, and a query only where it is longer than three quarters of that.
            show_progress: draw a progress bar on standard error.

        Returns:
            float32 [pairs], raw logits.

        Raises:
            InputTypeError: something is no pair of strings; the message names its position.
            InvalidOptionError: a max_length that the model does not allow.
            ClosedError: the handle was closed.
        """
        return self._score(_check_pairs(pairs), max_length, show_progress)[0]

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> list[RankedDocument]:
        """Sort documents by how well they answer the query.

        Args:
            query: the query.
            documents: the documents' texts.
            top_k: how many to return; None is all.
            max_length: as in ``score``.
            show_progress: draw a progress bar on standard error.

        Returns:
            The best first; equally good ones in the order they were given.

        Raises:
            InputTypeError: a text is not a string.
            InvalidOptionError: a max_length that the model does not allow, or a top_k below 1.
            ClosedError: the handle was closed.
        """
        check_top_k(top_k)
        if not isinstance(query, str):
            raise InputTypeError(f"query must be a string, not {type(query).__name__}: {shown(query)}")
        pairs = [(query, document) for document in check_texts(documents)]
        scores, truncated = self._score(pairs, max_length, show_progress)
        relevances = relevance.of_logits(scores)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [RankedDocument(int(i), float(scores[i]), float(relevances[i]), bool(truncated[i])) for i in order]

    async def ascore(
        self, pairs: Iterable[tuple[str, str]], *, max_length: int | None = None, show_progress: bool = False
    ) -> Floats:
        """``score`` in a worker thread: the event loop goes on."""
        return await in_thread(self.score, pairs, max_length=max_length, show_progress=show_progress)

    async def arank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_k: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> list[RankedDocument]:
        """``rank`` in a worker thread: the event loop goes on."""
        return await in_thread(
            self.rank, query, documents, top_k=top_k, max_length=max_length, show_progress=show_progress
        )

    def _score(self, pairs: list[tuple[str, str]], max_length: int | None, show_progress: bool) -> tuple[Floats, Bools]:
        engine = self._handle.engine
        rules = self._handle.checkpoint.rules
        checked = self._check_max_length(max_length)
        scores = np.empty(len(pairs), dtype=np.float32)
        truncated = np.zeros(len(pairs), dtype=np.bool_)

        def read(window: slice) -> Inputs:
            return rules.read_pairs(pairs[window], max_length=checked, query_max_length=checked * 3 // 4)

        with Progress("scoring", unit="pairs", total=len(pairs), show=show_progress) as progress:
            for window, inputs in read_ahead(len(pairs), read):
                scores[window] = engine.encode(inputs, Wanted(score=True), progress.advance).scores
                truncated[window] = inputs.truncated
        return scores, truncated

    def _check_max_length(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        lowest = self._handle.checkpoint.tokenizer.min_pair_length + 2
        if not isinstance(max_length, int) or not lowest <= max_length <= self.max_length:
            raise InvalidOptionError(
                f"max_length={max_length!r}: the model {self.identity.name!r} reads {lowest} to {self.max_length}"
            )
        return max_length

    def save(self, folder: str | Path) -> None:
        """Write the model to a new or empty folder that ``load`` reads back without any loss.

        Raises:
            InvalidOptionError: the folder is not empty.
        """
        save(self._handle.checkpoint, folder)

    def export(self, folder: str | Path, *, format: Format = "sentence-transformers") -> None:
        """Write the model to a new or empty folder for a CrossEncoder or AutoModelForSequenceClassification.

        Raises:
            InvalidOptionError: another format, or the folder is not empty.
        """
        export(self._handle.checkpoint, folder, format)

    def close(self) -> None:
        """Give this handle back; the last handle of a model frees its memory. Closing twice is allowed."""
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Reranker({self._handle!r})"

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Self], tuple[dict[str, Any]]]:
        return type(self)._reload, (dict(self._handle.source),)

    @classmethod
    def _reload(cls, source: dict[str, Any]) -> Self:
        return cls.load(**source)


def _check_has_scores(checkpoint: Checkpoint) -> None:
    if checkpoint.config.classifier is None:
        raise UnsupportedOutputError(
            f"the model {checkpoint.identity.name!r} has no reranker head; load it with EmbeddingModel.load(), or give "
            f"a reranker"
        )


def _check_pairs(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    if not isinstance(pairs, Iterable):
        raise InputTypeError(f"pairs must be a list of (query, document), not {type(pairs).__name__}")
    listed = []
    for position, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise InputTypeError(f"pairs[{position}] must be (query, document), two strings, not {shown(pair)}")
        listed.append((pair[0], pair[1]))
    return listed
