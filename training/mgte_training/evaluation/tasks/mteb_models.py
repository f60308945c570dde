"""Our models in the protocols of the package mteb, so that ``mteb.evaluate(model, tasks)`` runs them.

``MTEBEncoder`` for every kind of task; ``MTEBReranker`` for reranking by a cross-encoder; mteb_search.py for sparse,
late-interaction and hybrid scores. mteb keeps results by a model's name and revision: the revision here is the
fingerprint of the weights, so no result is ever taken for that of other weights.

Source: mteb 2.26, ``mteb/models/models_protocols.py``.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mgte_rag import (
    EmbeddingModel,
    MissingExtraError,
    ModelIdentity,
    Reranker,
    scoring,
)
from mgte_rag.types import Floats
from mgte_training.evaluation.tasks.prompts import symmetric_prompt

try:
    from mteb.models.abs_encoder import get_prompt
    from mteb.models.model_meta import ModelMeta
    from mteb.types import PromptType
except ImportError as missing:
    raise MissingExtraError("mteb", "evaluating with MTEB's tasks") from missing

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata


class Prompts:
    """Which prompt a text gets: the caller's for that task, else the model's for that role.

    Args:
        model: whose prompts they are.
        prompts: the caller's, by mteb's keys.
    """

    def __init__(self, model: EmbeddingModel, prompts: Mapping[str, str] | None) -> None:
        self._own = dict(model.prompts)
        self._symmetric = symmetric_prompt(model)
        self._given = None if prompts is None else dict(prompts)

    def choose(self, task: "TaskMetadata", prompt_type: PromptType | None) -> str:
        """The prompt for a text of that task and role; a task without roles takes ``symmetric_prompt``."""
        given = get_prompt(self._given, task, prompt_type)
        if given is not None:
            return given
        if prompt_type is None:
            return self._symmetric
        return self._own["query" if prompt_type == PromptType.query else "document"]


class MTEBEncoder:
    """An embedding model's dense vectors for mteb's tasks of every kind: the encoder protocol.

    In retrieval and reranking queries and documents get the model's prompts for them (BGE's instruction stands before
    queries alone); sentence pairs, texts to classify and texts to cluster get that of ``symmetric_prompt``.

    Args:
        model: with a dense output. The caller closes it.
        dim: components of the vectors; None is all.
        prompts: prompts of the caller's own, by mteb's keys: a task's name, a task type such as "STS", "query" or
            "document", or "name-query"; what they do not name has the model's own.
        max_length: tokens read of a text; None is the model's limit.

    Raises:
        InvalidOptionError: a dim or max_length that the model does not allow.
        UnsupportedOutputError: the model has no dense output.
        MissingExtraError: mteb is not installed.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        *,
        dim: int | None = None,
        prompts: Mapping[str, str] | None = None,
        max_length: int | None = None,
    ) -> None:
        model.encode_document([], outputs=("dense",), dim=dim, max_length=max_length)  # says at once what is wrong
        self.model = model
        self._dim = dim
        self._prompts = Prompts(model, prompts)
        self._max_length = max_length
        settings = {"dim": dim, "prompts": prompts and dict(prompts), "max_length": max_length, "dtype": model.dtype}
        self.mteb_model_meta = model_meta(
            model.identity,
            settings,
            model_type=["dense"],
            max_tokens=max_length or model.max_length,
            embed_dim=dim or model.dims[-1],
            use_instructions=any(model.prompts.values()),
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Floats:
        """Dense vectors of every text, float32 [texts, dim]; mteb's batch size is not needed and not used."""
        encode = self.model.encode_query if prompt_type == PromptType.query else self.model.encode_document
        encodings = encode(
            texts_of(inputs),
            outputs=("dense",),
            dim=self._dim,
            prompt=self._prompts.choose(task_metadata, prompt_type),
            max_length=self._max_length,
            show_progress=bool(kwargs.get("show_progress_bar", False)),
        )
        assert encodings.dense is not None, "asked for above"
        return encodings.dense

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of every vector with every other, fp32 [first, second]."""
        return scoring.cosine(_matrix(embeddings1), _matrix(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """Cosine of each vector with the one in the same place, fp32 [pairs]."""
        return F.cosine_similarity(_matrix(embeddings1), _matrix(embeddings2))


class MTEBReranker:
    """A reranker's scores for mteb's reranking tasks: the cross-encoder protocol.

    Args:
        reranker: a cross-encoder. The caller closes it.
        max_length: tokens read of a pair; None is the model's limit.

    Raises:
        InvalidOptionError: a max_length that the model does not allow.
        MissingExtraError: mteb is not installed.
    """

    def __init__(self, reranker: Reranker, *, max_length: int | None = None) -> None:
        reranker.score([], max_length=max_length)  # says at once what is wrong
        self.reranker = reranker
        self._max_length = max_length
        self.mteb_model_meta = model_meta(
            reranker.identity,
            {"max_length": max_length, "dtype": reranker.dtype},
            model_type=["cross-encoder"],
            max_tokens=max_length or reranker.max_length,
        )

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Any]],
        inputs2: Iterable[Mapping[str, Any]],
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> Floats:
        """Raw logits of every pair of a query and a document, float32 [pairs]."""
        pairs = zip(texts_of(inputs1), texts_of(inputs2), strict=True)
        return self.reranker.score(
            pairs, max_length=self._max_length, show_progress=bool(kwargs.get("show_progress_bar", False))
        )


def texts_of(inputs: Iterable[Mapping[str, Any]]) -> list[str]:
    """The texts of mteb's batches, in order."""
    return [text for batch in inputs for text in batch["text"]]


def _matrix(vectors: Any) -> Tensor:
    rows = torch.as_tensor(vectors).float()
    return rows[None] if rows.ndim == 1 else rows


def model_meta(identity: ModelIdentity, settings: Mapping[str, Any], **fields: Any) -> ModelMeta:
    """What mteb wants to know of a model and files its results under; settings that are not None are told apart."""
    name = identity.name if identity.name.count("/") == 1 else f"mgte-rag/{Path(identity.name).name}"
    told = {key: value for key, value in settings.items() if value is not None}
    return ModelMeta.create_empty(
        overwrites={
            "name": name,
            "revision": identity.fingerprint,
            "framework": ["PyTorch"],
            "experiment_kwargs": told,
            **fields,
        }
    )
