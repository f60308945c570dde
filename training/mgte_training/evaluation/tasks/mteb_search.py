"""Sparse, late-interaction and hybrid scores of our models in the search protocol of the package mteb.

Source: mteb 2.26, ``mteb/models/models_protocols.py``.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mgte_rag import EmbeddingModel, Encodings, InvalidOptionError, MissingExtraError
from mgte_rag.types import Floats, Output, Role
from mgte_training.evaluation.tasks.mteb_models import Prompts, model_meta, texts_of

try:
    from mteb._create_dataloaders import create_dataloader
    from mteb.types import PromptType
except ImportError as missing:
    raise MissingExtraError("mteb", "evaluating with MTEB's tasks") from missing

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata

# Documents encoded and scored together, so that memory does not grow with the corpus.
_CHUNK = 4_096

_MODEL_TYPES = {"dense": "dense", "sparse": "sparse", "multi_vector": "late-interaction"}

Places = np.ndarray[Any, np.dtype[np.int64]]


class MTEBSearch:
    """Sparse, late-interaction or hybrid scores for mteb's retrieval and reranking: the search protocol.

    Every query is scored against every document exactly; all outputs come from one forward pass, and the corpus is
    encoded in parts, so that memory does not grow with it.

    Args:
        model: with these outputs. The caller closes it.
        outputs: one, or several whose weighted sum is the score; None is all that the model has.
        weights: of the outputs in that sum; None is what the model was published with.
        dim: components of the dense vectors; None is all.
        token_dim: components of a token's vector; None is all.
        prompts: as ``MTEBEncoder`` has them.
        max_length: tokens read of a text; None is the model's limit.

    Raises:
        InvalidOptionError: an option that the model does not allow, or a weight of an output that is not used.
        UnsupportedOutputError: an output that the model does not have.
        MissingExtraError: mteb is not installed.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        *,
        outputs: Sequence[Output] | None = None,
        weights: Mapping[Output, float] | None = None,
        dim: int | None = None,
        token_dim: int | None = None,
        prompts: Mapping[str, str] | None = None,
        max_length: int | None = None,
    ) -> None:
        self.model = model
        self._outputs: tuple[Output, ...] = model.outputs if outputs is None else tuple(outputs)
        self._weights = None if weights is None else dict(weights)
        self._dim, self._token_dim, self._max_length = dim, token_dim, max_length
        self._prompts = Prompts(model, prompts)
        self._corpus: Any = None
        nothing = self._encode([], "query", "")
        model.similarity(nothing, nothing, weights=self._weights)  # says at once what is wrong
        settings = {
            "outputs": "+".join(self._outputs),
            "weights": self._weights,
            "dim": dim,
            "token_dim": token_dim,
            "prompts": prompts and dict(prompts),
            "max_length": max_length,
            "dtype": model.dtype,
        }
        self.mteb_model_meta = model_meta(
            model.identity,
            settings,
            model_type=[_MODEL_TYPES[self._outputs[0]] if len(self._outputs) == 1 else "hybrid"],
            max_tokens=max_length or model.max_length,
            use_instructions=any(model.prompts.values()),
        )

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Keep the corpus, a data set with "id", "text" and perhaps "title"; it is encoded while it is searched."""
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: "TaskMetadata",
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """The best documents of every query with their scores; with ``top_ranked``, of those given for it.

        Raises:
            InvalidOptionError: nothing was indexed.
        """
        if self._corpus is None:
            raise InvalidOptionError("search() needs the corpus that index() is given; call index() before")
        names, ids = list(queries["id"]), list(self._corpus["id"])
        places = {name: place for place, name in enumerate(ids)}
        asked = self._encode(
            _loaded(queries, task_metadata, PromptType.query),
            "query",
            self._prompts.choose(task_metadata, PromptType.query),
        )
        wanted = None if top_ranked is None else [[places[each] for each in top_ranked.get(name, ())] for name in names]
        best = _Best(len(names), top_k)
        needed = range(len(ids)) if wanted is None else sorted({place for each in wanted for place in each})
        prompt = self._prompts.choose(task_metadata, PromptType.document)
        for start in range(0, len(needed), _CHUNK):
            chunk = needed[start : start + _CHUNK]
            texts = _loaded(self._corpus.select(chunk), task_metadata, PromptType.document)
            documents = self._encode(texts, "document", prompt)
            if wanted is None:
                best.add(self._scores(asked, documents), np.asarray(chunk))
            else:
                self._add_candidates(best, asked, documents, np.asarray(chunk), wanted)
        self._corpus = None
        return {name: {ids[place]: score for place, score in best.of(row)} for row, name in enumerate(names)}

    def _add_candidates(
        self,
        best: "_Best",
        queries: Encodings,
        documents: Encodings,
        chunk: Places,
        wanted: Sequence[Sequence[int]],
    ) -> None:
        """Score each query against its own candidates among these documents."""
        columns = {int(place): column for column, place in enumerate(chunk)}
        for row, candidates in enumerate(wanted):
            here = [columns[place] for place in candidates if place in columns]
            if here:
                best.add_row(row, self._scores(_some(queries, [row]), _some(documents, here))[0], chunk[here])

    def _encode(self, texts: Sequence[str], role: Role, prompt: str) -> Encodings:
        encode = self.model.encode_query if role == "query" else self.model.encode_document
        return encode(
            texts,
            outputs=self._outputs,
            dim=self._dim,
            token_dim=self._token_dim,
            prompt=prompt,
            max_length=self._max_length,
        )

    def _scores(self, queries: Encodings, documents: Encodings) -> Floats:
        return self.model.similarity(queries, documents, weights=self._weights).hybrid


class _Best:
    """The highest scores of every query so far and whose they are.

    Args:
        queries: how many.
        top_k: kept of each.
    """

    def __init__(self, queries: int, top_k: int) -> None:
        self._top_k = top_k
        self._scores = [np.empty(0, dtype=np.float32)] * queries
        self._places = [np.empty(0, dtype=np.int64)] * queries

    def add(self, scores: Floats, places: Places) -> None:
        """Scores of every query, [queries, documents], for the documents at these places."""
        for row, each in enumerate(scores):
            self.add_row(row, each, places)

    def add_row(self, row: int, scores: Floats, places: Places) -> None:
        """Scores of one query; of equal scores the earlier document stays."""
        scores = np.concatenate([self._scores[row], scores])
        order = np.argsort(-scores, kind="stable")[: self._top_k]
        self._scores[row] = scores[order]
        self._places[row] = np.concatenate([self._places[row], places])[order]

    def of(self, row: int) -> Iterable[tuple[int, float]]:
        """The documents' places and scores of one query, the best first."""
        return zip(self._places[row].tolist(), self._scores[row].tolist(), strict=True)


def _loaded(rows: Any, task: "TaskMetadata", prompt_type: PromptType) -> list[str]:
    """The texts as mteb gives them to an encoder: a title before its text, an instruction after its query."""
    return texts_of(create_dataloader(rows, task_metadata=task, prompt_type=prompt_type))


def _some(encodings: Encodings, places: Sequence[int]) -> Encodings:
    """The encodings of the texts at these places."""
    return Encodings(
        truncated=encodings.truncated[list(places)],
        token_counts=encodings.token_counts[list(places)],
        dense=None if encodings.dense is None else encodings.dense[list(places)],
        sparse=None if encodings.sparse is None else [encodings.sparse[place] for place in places],
        multi_vector=None if encodings.multi_vector is None else [encodings.multi_vector[place] for place in places],
    )
