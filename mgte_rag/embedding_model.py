"""The way in: texts to vectors."""

import asyncio
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from mgte_rag import scoring
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.checkpoints.loading import Checkpoint
from mgte_rag.engine import POOL, Engine, EngineKey, choose_attention, choose_device, choose_dtype
from mgte_rag.errors import ClosedError, InputTypeError, InvalidOptionError, UnsupportedOutputError
from mgte_rag.progress import Progress
from mgte_rag.tokenization import check_texts
from mgte_rag.types import Encodings, Floats, ModelIdentity, Output, Role, Similarity

# Texts tokenised and sorted together: enough for long runs of equal length, few enough to bound memory.
_WINDOW = 8_192


class EmbeddingModel:
    """A handle on a retrieval model: ``EmbeddingModel.load()``.

    Handles that name the same model share one copy of the weights in a process. A handle may be used from many
    threads at once, pickles as a reference (the weights are not in the pickle), and is closed by ``close()``, by
    leaving a ``with`` block or by the garbage collector; the last handle of a model frees its memory.
    """

    def __init__(self, checkpoint: Checkpoint, key: EngineKey, *, source: dict[str, Any]) -> None:
        self._checkpoint = checkpoint
        self._key = key
        self._source = source
        self._engine: Engine | None = POOL.acquire(key, checkpoint)
        self._release = weakref.finalize(self, POOL.release, key)

    @classmethod
    def load(
        cls,
        name: str | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        attention: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a model.

        Args:
            name: a hub id, a folder, or None (or "mini") for the embedded default, which works offline.
            device: "cpu", "cuda", "cuda:1", "mps"; None takes the best one there is.
            dtype: "float32", "bfloat16", "float16"; None or "auto" is bf16 where the device computes in it, else fp32.
                Scores and everything returned are fp32 in any case.
            attention: attention kernel; None chooses.
            revision: branch, tag or commit on the hub.
            local_files_only: never use the network.

        Raises:
            UnknownModelError: no such folder, no such model on the hub.
            CheckpointError: the folder cannot be loaded exactly as published.
            InvalidOptionError: a device, dtype or attention kernel that is not to be had.
        """
        if name is not None and not isinstance(name, str):
            raise InputTypeError(f"name must be a string or None, not {type(name).__name__}")
        chosen_device = choose_device(device)
        chosen_dtype = choose_dtype(dtype, chosen_device)
        chosen_attention = choose_attention(attention)
        checkpoint = load_checkpoint(find_model(name, revision=revision, local_files_only=local_files_only))
        source = {
            "name": name,
            "device": str(chosen_device),
            "dtype": str(chosen_dtype).removeprefix("torch."),
            "attention": chosen_attention,
            "revision": checkpoint.identity.revision,
            "local_files_only": local_files_only,
        }
        key = EngineKey(checkpoint.identity.fingerprint, chosen_device, chosen_dtype, chosen_attention)
        return cls(checkpoint, key, source=source)

    @property
    def identity(self) -> ModelIdentity:
        """Name, revision and fingerprint; equal fingerprints give comparable vectors."""
        return self._checkpoint.identity

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What this model can return."""
        return ("dense",)

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes that ``dim=`` may have, ascending; the last is the default."""
        return (self._checkpoint.config.encoder.hidden,)

    @property
    def token_dims(self) -> tuple[int, ...]:
        """Sizes that ``token_dim=`` may have, ascending; empty without a late-interaction head."""
        return ()

    @property
    def max_length(self) -> int:
        """Tokens read of one text at most, markers included."""
        return self._checkpoint.config.max_length

    @property
    def prompts(self) -> Mapping[Role, str]:
        """Text put before every text of that role unless ``prompt=`` says otherwise."""
        config = self._checkpoint.config
        return {"query": config.query_prompt, "document": config.document_prompt}

    @property
    def device(self) -> str:
        """Where the model computes."""
        return str(self._key.device)

    @property
    def dtype(self) -> str:
        """What the projections compute in; everything returned is float32."""
        return str(self._key.dtype).removeprefix("torch.")

    def encode_query(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """Encode questions; the arguments are those of ``encode_document``."""
        return self._encode(texts, "query", outputs, dim, token_dim, prompt, max_length, show_progress)

    def encode_document(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """Encode documents.

        Args:
            texts: any strings; one string is a list of one. An empty list gives empty results of the right shape,
                an empty text a vector made of the markers alone.
            outputs: of ``self.outputs``; None is the dense vector if the model has one.
            dim: components of the dense vector, one of ``self.dims``; None is all of them.
            token_dim: components of each token's vector, one of ``self.token_dims``.
            prompt: put before every text; None is the role's own, "" is none.
            max_length: tokens read of each text, markers included; None is the model's own limit. What was longer is
                marked in ``truncated``.
            show_progress: draw a progress bar on standard error.

        Raises:
            InputTypeError: a text is not a string; the message names its position.
            UnsupportedOutputError: an output the model has no head for.
            InvalidOptionError: a dim, token_dim or max_length that the model does not allow.
            ClosedError: the handle was closed.
        """
        return self._encode(texts, "document", outputs, dim, token_dim, prompt, max_length, show_progress)

    async def aencode_query(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """``encode_query`` in a worker thread: the event loop goes on."""
        return await asyncio.to_thread(
            self._encode, texts, "query", outputs, dim, token_dim, prompt, max_length, show_progress
        )

    async def aencode_document(
        self,
        texts: str | Iterable[str],
        *,
        outputs: Sequence[Output] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Encodings:
        """``encode_document`` in a worker thread: the event loop goes on."""
        return await asyncio.to_thread(
            self._encode, texts, "document", outputs, dim, token_dim, prompt, max_length, show_progress
        )

    def _encode(
        self,
        texts: str | Iterable[str],
        role: Role,
        outputs: Sequence[Output] | None,
        dim: int | None,
        token_dim: int | None,
        prompt: str | None,
        max_length: int | None,
        show_progress: bool,
    ) -> Encodings:
        engine = self._open_engine()
        self._check_outputs(outputs, token_dim)
        dim = self._check_dim(dim)
        prompt = self.prompts[role] if prompt is None else check_texts([prompt])[0]
        max_length = self._check_max_length(max_length)
        listed = check_texts(texts)

        vectors = np.empty((len(listed), dim), dtype=np.float32)
        truncated = np.zeros(len(listed), dtype=np.bool_)
        token_counts = np.zeros(len(listed), dtype=np.int32)
        with Progress("encoding", unit="texts", total=len(listed), show=show_progress) as progress:
            for start in range(0, len(listed), _WINDOW):
                window = slice(start, start + _WINDOW)
                tokens = self._checkpoint.tokenizer.tokenize(listed[window], prompt=prompt, max_length=max_length)
                vectors[window] = engine.dense(tokens.ids, dim, progress.advance)
                truncated[window] = tokens.truncated
                token_counts[window] = [len(ids) for ids in tokens.ids]
        return Encodings(dense=vectors, truncated=truncated, token_counts=token_counts)

    def similarity(
        self, queries: Encodings, documents: Encodings, *, weights: Mapping[Output, float] | None = None
    ) -> Similarity:
        """Score every query against every document, for each output that both have.

        Args:
            queries: what ``encode_query`` returned.
            documents: what ``encode_document`` returned, with the same dim and token_dim.
            weights: of each output in the hybrid score; None is 1 for each. An output not named counts 0.

        Raises:
            InvalidOptionError: the two share no output, their sizes differ, or a weight names an output they lack.
        """
        scores: dict[Output, Floats] = {}
        if queries.dense is not None and documents.dense is not None:
            _check_widths("dim", queries.dense.shape[1], documents.dense.shape[1])
            dense = scoring.cosine(torch.from_numpy(queries.dense), torch.from_numpy(documents.dense))
            scores["dense"] = dense.numpy()
        if queries.sparse is not None and documents.sparse is not None:
            scores["sparse"] = scoring.sparse_dot(queries.sparse, documents.sparse).numpy()
        if queries.multi_vector is not None and documents.multi_vector is not None:
            sides = [[torch.from_numpy(rows) for rows in side.multi_vector or ()] for side in (queries, documents)]
            if sides[0] and sides[1]:
                _check_widths("token_dim", sides[0][0].shape[1], sides[1][0].shape[1])
            scores["multi_vector"] = scoring.max_sim_ragged(*sides).numpy()
        if not scores:
            raise InvalidOptionError(
                "the queries and the documents share no output; encode both with the same outputs="
            )
        unknown = sorted((weights or {}).keys() - scores.keys())
        if unknown:
            raise InvalidOptionError(
                f"weights name {', '.join(unknown)}; the queries and the documents share {', '.join(scores)}"
            )
        hybrid = sum(np.float32(1 if weights is None else weights.get(name, 0)) * s for name, s in scores.items())
        return Similarity(hybrid=np.asarray(hybrid, dtype=np.float32), **scores)

    def close(self) -> None:
        """Give this handle back; the last handle of a model frees its memory. Closing twice is allowed."""
        self._engine = None
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else f"{self.device}, {self.dtype}"
        return f"EmbeddingModel({self.identity.name!r}, {state})"

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Self], tuple[dict[str, Any]]]:
        return type(self)._reload, (self._source,)

    @classmethod
    def _reload(cls, source: dict[str, Any]) -> Self:
        return cls.load(**source)

    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise ClosedError(f"the model {self.identity.name!r} was closed; load it again with EmbeddingModel.load()")
        return self._engine

    def _check_outputs(self, outputs: Sequence[Output] | None, token_dim: int | None) -> None:
        asked = self.outputs if outputs is None else (outputs,) if isinstance(outputs, str) else tuple(outputs)
        missing = [output for output in asked if output not in self.outputs]
        if missing or not asked:
            raise UnsupportedOutputError(
                f"outputs={outputs!r}: the model {self.identity.name!r} has {', '.join(self.outputs)}"
            )
        if token_dim is not None:
            raise InvalidOptionError(
                f"token_dim={token_dim!r}: the model {self.identity.name!r} has no late-interaction head"
            )

    def _check_dim(self, dim: int | None) -> int:
        if dim is None:
            return self.dims[-1]
        if dim not in self.dims:
            raise InvalidOptionError(
                f"dim={dim!r}: the model {self.identity.name!r} allows {', '.join(map(str, self.dims))}"
            )
        return dim

    def _check_max_length(self, max_length: int | None) -> int:
        if max_length is None:
            return self.max_length
        lowest = self._checkpoint.tokenizer.min_length + 1
        if not isinstance(max_length, int) or not lowest <= max_length <= self.max_length:
            raise InvalidOptionError(
                f"max_length={max_length!r}: the model {self.identity.name!r} reads {lowest} to {self.max_length}"
            )
        return max_length


def _check_widths(name: str, query: int, document: int) -> None:
    if query != document:
        raise InvalidOptionError(
            f"queries have {name} {query}, documents {document}; encode both with the same {name}="
        )
