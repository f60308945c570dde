"""The way in: texts to vectors."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from mgte_rag.async_calls import in_thread
from mgte_rag.batching import read_ahead
from mgte_rag.checkpoints import Checkpoint
from mgte_rag.checkpoints.export import Format, export
from mgte_rag.checkpoints.saving import save
from mgte_rag.config import HybridWeights
from mgte_rag.engine import Engine, Vectors
from mgte_rag.errors import UnsupportedOutputError
from mgte_rag.handle import ModelHandle
from mgte_rag.options import EncodeOptions, check_options, outputs_of
from mgte_rag.output_view import OutputView
from mgte_rag.progress import Progress
from mgte_rag.similarity import compare
from mgte_rag.token_rules import Inputs
from mgte_rag.tokenization import check_texts
from mgte_rag.types import Encodings, Floats, Integers, ModelIdentity, Output, Role, Similarity, SparseVector


class EmbeddingModel:
    """A handle on a retrieval model: ``EmbeddingModel.load()``.

    Handles that name the same model share one copy of the weights in a process. A handle may be used from many
    threads at once, pickles as a reference (the weights are not in the pickle), and is closed by ``close()``, by
    leaving a ``with`` block or by the garbage collector; the last handle of a model frees its memory.
    """

    def __init__(self, handle: ModelHandle) -> None:
        self._handle = handle
        self._config = handle.checkpoint.config

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
        attend_to_mask: bool | None = None,
    ) -> Self:
        """Load a model: mGTE, BGE and BGE-M3, E5, Jina-ColBERT-v2, ModernBERT, what ``save`` wrote.

        Checkpoints are read strictly: every tensor is accounted for, no head is ever made up, and remote code that a
        configuration names in ``auto_map`` is ignored.

        Args:
            name: a hub id, a folder, or None (or "mini") for the embedded default, which works offline.
            device: "cpu", "cuda", "cuda:1", "mps"; None takes the best one there is.
            devices: several devices, ["cuda:0", "cuda:1"], instead of one: each gets a copy of the weights, and a long
                list of texts is shared out among them batch by batch.
            dtype: "float32", "bfloat16", "float16"; None or "auto" is bf16 where the device computes in it, else fp32.
                Scores and everything returned are fp32 in any case.
            attention: "sdpa" everywhere, "varlen" (torch's) or "flash" (the package flash-attn) on CUDA in 16
                bits; None or "auto" is the fastest of them.
            revision: branch, tag or commit on the hub.
            local_files_only: never use the network.
            attend_to_mask: whether a late-interaction query's text attends to the mask tokens that the query is filled
                up with; None is as published (jina-colbert-v2: it does).

        Raises:
            UnknownModelError: no such folder, no such model on the hub.
            CheckpointError: the folder cannot be loaded exactly as published.
            InvalidOptionError: a device, dtype or attention kernel that is not to be had, or attend_to_mask for a
                model whose queries are not filled up.
            UnsupportedOutputError: the model has no vectors to give; a reranker is loaded with ``Reranker.load``.
        """
        handle = ModelHandle.open(
            name,
            device=device,
            devices=devices,
            dtype=dtype,
            attention=attention,
            revision=revision,
            local_files_only=local_files_only,
            check=_check_has_vectors,
            attend_to_mask=attend_to_mask,
        )
        return cls(handle)

    @property
    def identity(self) -> ModelIdentity:
        """Name, revision and fingerprint; equal fingerprints give comparable vectors."""
        return self._handle.checkpoint.identity

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What this model can return."""
        return outputs_of(self._config)

    @property
    def dims(self) -> tuple[int, ...]:
        """Sizes that ``dim=`` may have, ascending; the last is the default. Empty without a dense output."""
        return self._config.dims

    @property
    def token_dims(self) -> tuple[int, ...]:
        """Sizes that ``token_dim=`` may have, ascending; empty without a late-interaction head."""
        return self._config.multi_vector.dims if self._config.multi_vector is not None else ()

    @property
    def max_length(self) -> int:
        """Tokens read of one text at most, markers included."""
        return self._config.max_length

    @property
    def prompts(self) -> Mapping[Role, str]:
        """Text put before every text of that role unless ``prompt=`` says otherwise."""
        return {"query": self._config.query_prompt, "document": self._config.document_prompt}

    @property
    def hybrid_weights(self) -> Mapping[Output, float] | None:
        """What each output counts in the hybrid score that the model was published with; None where it was without."""
        published = self._config.weights
        if published == HybridWeights():
            return None
        shares = {output: getattr(published, output) for output in self.outputs}
        total = sum(shares.values()) if published.averaged else 1.0
        return {output: share / total for output, share in shares.items()}

    @property
    def device(self) -> str:
        """Where the model computes; several devices are separated by commas."""
        return ", ".join(map(str, self._handle.key.devices))

    @property
    def dtype(self) -> str:
        """What the projections compute in; everything returned is float32."""
        return str(self._handle.key.dtype).removeprefix("torch.")

    @property
    def forwards(self) -> int:
        """Forward passes of this model's encoder so far in this process, of all handles; 0 once closed."""
        return 0 if self._engine is None else self._engine.forwards

    @property
    def _engine(self) -> Engine | None:
        return self._handle.shared_engine

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
            outputs: of ``self.outputs``, all of them made in one forward pass; None is the dense vector if the model
                has one, else its first output. Terms of sparse vectors are token ids and keep their largest weight;
                the script released with mGTE merges ids that decode to the same string, so its scores may differ
                slightly where a text has both. Heads with a lexicon, as the embedded default's, have stems as
                terms, which count as in BM25: queries and documents are weighted differently.
            dim: components of the dense vector, one of ``self.dims``; None is all of them.
            token_dim: components of each token's vector, one of ``self.token_dims``.
            prompt: put before every text; None is the role's own, "" is none. Its tokens enter neither sparse nor
                token vectors.
            max_length: tokens read of each text, markers included; None is the model's own limit, which for queries
                that are filled up with mask tokens is the length they are filled up to. What was longer is marked in
                ``truncated``.
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
        return await in_thread(self._encode, texts, "query", outputs, dim, token_dim, prompt, max_length, show_progress)

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
        return await in_thread(
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
        engine = self._handle.engine
        checkpoint = self._handle.checkpoint
        options = check_options(
            checkpoint, role, outputs=outputs, dim=dim, token_dim=token_dim, prompt=prompt, max_length=max_length
        )
        listed = check_texts(texts)
        truncated = np.zeros(len(listed), dtype=np.bool_)
        token_counts = np.zeros(len(listed), dtype=np.int32)
        parts: list[Vectors] = []

        def read(window: slice) -> Inputs:
            return checkpoint.rules.read(
                listed[window], role, options.outputs, prompt=options.prompt, max_length=options.max_length
            )

        with Progress("encoding", unit="texts", total=len(listed), show=show_progress) as progress:
            for window, inputs in read_ahead(len(listed), read):
                parts.append(engine.encode(inputs, options.wanted, progress.advance))
                truncated[window] = inputs.truncated
                token_counts[window] = [len(ids) for ids in inputs.ids]
        return _joined(parts, options, truncated=truncated, token_counts=token_counts)

    def view(self, output: Output, *, dim: int | None = None, token_dim: int | None = None) -> OutputView:
        """One output of this model, whose forward passes are shared with the open views of its other outputs.

        For frameworks that have a class for dense and another for sparse vectors and call both on the same texts.

        Args:
            output: of ``self.outputs``.
            dim: components of the dense vector; None is all.
            token_dim: components of each token's vector; None is the largest.

        Raises:
            UnsupportedOutputError: the model has no head for it.
            InvalidOptionError: a size that the model does not allow.
        """
        return OutputView(self, output, dim=dim, token_dim=token_dim)

    def token_offsets(self, texts: str | Iterable[str], *, prompt: str | None = None) -> list[Integers]:
        """Where in each text the tokens are that ``encode_document`` would read, were there no limit.

        A text is read whole if it has at most ``max_length`` of them. Nothing is computed but tokens.

        Args:
            texts: any strings; one string is a list of one.
            prompt: put before every text; None is the model's own for documents, "" is none.

        Returns:
            int32 [tokens, 2] per text, markers and prompt included: first character and one after the last; (0, 0)
            for markers and prompt before the text, its end twice for markers after it. Several tokens may share
            characters.
        """
        prompt = self.prompts["document"] if prompt is None else prompt
        return self._handle.checkpoint.rules.offsets(check_texts(texts), "document", prompt=prompt)

    def similarity(
        self, queries: Encodings, documents: Encodings, *, weights: Mapping[Output, float] | None = None
    ) -> Similarity:
        """Score every query against every document, for each output that both have.

        Args:
            queries: what ``encode_query`` returned.
            documents: what ``encode_document`` returned, with the same dim and token_dim.
            weights: of each output in the hybrid score, a plain weighted sum in which an output not named counts 0.
                None is what the model was published with: mGTE 1 dense + 0.1 sparse, BGE-M3 the mean of its three,
                others 1 for each.

        Returns:
            Raw scores. MaxSim is a sum over the query's tokens, for BGE-M3 their mean, as published.

        Raises:
            InvalidOptionError: the two share no output, their sizes differ, or a weight names an output they lack.
        """
        multi_vector = self._config.multi_vector
        return compare(
            queries,
            documents,
            weights=weights,
            published=self._config.weights,
            mean_max_sim=multi_vector is not None and multi_vector.mean,
        )

    def tokens(self, vector: SparseVector) -> list[tuple[str, float]]:
        """A sparse vector for people: its tokens as the vocabulary spells them, with weights, the heaviest first."""
        token = self._handle.checkpoint.tokenizer.token
        pairs = [(token(int(i)), float(w)) for i, w in zip(vector.indices, vector.values, strict=True)]
        return sorted(pairs, key=lambda pair: -pair[1])

    def save(self, folder: str | Path) -> None:
        """Write the model, heads included, to a new or empty folder that ``load`` reads back without any loss.

        The copy's vectors are the same; its files are others, and so is its fingerprint.

        Raises:
            InvalidOptionError: the folder is not empty.
        """
        save(self._handle.checkpoint, folder)

    def export(self, folder: str | Path, *, format: Format = "sentence-transformers") -> None:
        """Write the model to a new or empty folder that another library loads.

        Args:
            folder: where to.
            format: "sentence-transformers": the dense part, for SentenceTransformer. "transformers": the encoder, for
                AutoModel; mGTE's needs transformers 5.18 and has its sparse head as token classifier.

        Raises:
            InvalidOptionError: another format, or the folder is not empty.
            UnsupportedOutputError: the model has nothing that the format can hold.
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
        return f"EmbeddingModel({self._handle!r})"

    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Self], tuple[dict[str, Any]]]:
        return type(self)._reload, (dict(self._handle.source),)

    @classmethod
    def _reload(cls, source: dict[str, Any]) -> Self:
        return cls.load(**source)


def _check_has_vectors(checkpoint: Checkpoint) -> None:
    if not outputs_of(checkpoint.config):
        is_reranker = checkpoint.config.classifier is not None
        raise UnsupportedOutputError(
            f"the model {checkpoint.identity.name!r} has no vectors to give: it is a "
            f"{'reranker, load it with Reranker.load()' if is_reranker else 'language model to train from'}"
        )


def _joined(parts: list[Vectors], options: EncodeOptions, *, truncated: Any, token_counts: Any) -> Encodings:
    """The windows' vectors one after the other; of the right shape where there is none."""
    dense: Floats | None = None
    if "dense" in options.outputs:
        none = np.empty((0, options.dim), dtype=np.float32)
        dense = np.concatenate([none, *(part.dense for part in parts if part.dense is not None)])
    return Encodings(
        dense=dense,
        sparse=[v for part in parts for v in part.sparse or ()] if "sparse" in options.outputs else None,
        multi_vector=(
            [rows for part in parts for rows in part.multi_vector or ()] if "multi_vector" in options.outputs else None
        ),
        truncated=truncated,
        token_counts=token_counts,
    )
