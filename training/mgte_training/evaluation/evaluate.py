"""One model over retrieval sets: every system, every figure of the report."""

import re
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mgte_rag import EmbeddingModel, InvalidOptionError, Reranker, __version__
from mgte_rag.errors import shown
from mgte_rag.types import Integers
from mgte_training.evaluation.breakdown import bucket_of, by_part, count_tokens, in_order, length_buckets
from mgte_training.evaluation.build_systems import KINDS, LATE_INTERACTION, build_systems, check_kinds
from mgte_training.evaluation.cached_model import CachedModel, CachedReranker, default_cache
from mgte_training.evaluation.collection_run import run_collection
from mgte_training.evaluation.languages import document_language, query_languages
from mgte_training.evaluation.lengths import check_lengths, length_variants
from mgte_training.evaluation.measures import MAIN, Values, estimate, measure, significance
from mgte_training.evaluation.ranking import Ranking
from mgte_training.evaluation.results import (
    CollectionRun,
    Evaluation,
    LengthVariant,
    SampleResult,
    SetResult,
    SystemResult,
)
from mgte_training.evaluation.retrieval_sets import RetrievalSet
from mgte_training.evaluation.sampling import PUBLISHED_DEPTH, compare, sampled_corpus
from mgte_training.evaluation.systems import Kind, System
from mgte_training.evaluation.tasks.scores import TaskScore
from mgte_training.evaluation.worst_queries import worst_queries

COLLECTION = "collection"
SYSTEMS = (*KINDS, COLLECTION)
_CODE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]+)*")
# Queries of which the median latency is taken, and seconds after which fewer will do.
_TIMED, _TIMED_SECONDS = 30, 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What to evaluate, and how.

    Attributes:
        systems: of ``SYSTEMS``; None is all that the model can do.
        dims: sizes of the dense vector; None is those that the model was trained for. Others are allowed: the first
            components are taken as they are.
        language: of the documents, an ISO 639-1 code; None is as the data says, or detected.
        queries: how many of a set's queries at most, a seeded choice; None is all.
        sampled: "compare" adds the sampled-corpus protocol beside the full corpus, "only" evaluates on the sample
            alone, for corpora that are too large.
        sample_depth: documents of BM25 for each query of that protocol.
        lengths: measure quality by how much of each document is read, at these lengths in tokens; empty is halvings
            of what the model reads; None is not at all.
        cache: folder of kept encodings; None is in the user's cache.
        show_progress: draw progress bars on standard error.
    """

    systems: Sequence[str] | None = None
    dims: Sequence[int] | None = None
    language: str | None = None
    queries: int | None = None
    sampled: Literal["no", "compare", "only"] = "no"
    sample_depth: int = PUBLISHED_DEPTH
    lengths: Sequence[int] | None = None
    cache: Path | None = None
    show_progress: bool = False


def evaluate(
    model: EmbeddingModel,
    sets: Sequence[RetrievalSet],
    *,
    reranker: Reranker | None = None,
    options: Options | None = None,
    tasks: Sequence[TaskScore] = (),
) -> Evaluation:
    """Measure a model on retrieval sets.

    Every text is encoded once, whatever the number of systems, and its encoding kept on disk: after an interruption
    the same call goes on where it stopped.

    Args:
        model: the model.
        sets: read by ``read_folder`` or ``read_hub``.
        reranker: adds the system "reranker".
        options: what to evaluate.
        tasks: results on other tasks, for the report.

    Raises:
        InvalidOptionError: a system, size or length that the model cannot do.
        MissingExtraError: a package of the extra "eval" is not installed.
    """
    options = options or Options()
    asked = None if options.systems is None else [kind for kind in options.systems if kind != COLLECTION]
    kinds = check_kinds(asked, model.outputs, reranker=reranker is not None)
    if options.language is not None and not _CODE.fullmatch(options.language):
        raise InvalidOptionError(
            f"language={shown(options.language)}: give a code of two or three letters: en, zh, yue"
        )
    if options.lengths is not None:
        check_lengths(model, options.lengths)
    folder = options.cache or default_cache()
    cached = CachedModel(model, folder, show_progress=options.show_progress)
    scorer = None if reranker is None else CachedReranker(reranker, folder, show_progress=options.show_progress)
    run = _Run(cached, scorer, kinds, _check_dims(model, options.dims), options)
    return Evaluation(
        model=model.identity.name,
        fingerprint=model.identity.fingerprint,
        max_length=model.max_length,
        device=model.device,
        dtype=model.dtype,
        version=__version__,
        sets=[run.over(data) for data in sets],
        tasks=tuple(tasks),
    )


def _check_dims(model: EmbeddingModel, dims: Sequence[int] | None) -> list[int]:
    if dims is None or not model.dims:
        return list(model.dims)
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, int) or not 1 <= dim <= model.dims[-1]:
            raise InvalidOptionError(f"dims: {shown(dim)} is no size from 1 to {model.dims[-1]}")
    return sorted({*dims, model.dims[-1]})


class _Run:
    """One evaluation's settings."""

    def __init__(
        self,
        model: CachedModel,
        reranker: CachedReranker | None,
        kinds: Sequence[Kind],
        dims: Sequence[int],
        options: Options,
    ) -> None:
        self.model, self.reranker, self.kinds, self.dims, self.options = model, reranker, kinds, dims, options

    def over(self, data: RetrievalSet) -> SetResult:
        """All that is to be found on a set."""
        started = time.perf_counter()
        options = self.options
        if options.queries is not None:
            data = data.sample_queries(options.queries)
        if options.sampled == "only":
            data = sampled_corpus(data, depth=options.sample_depth, language=options.language)
        tokens = count_tokens(data.documents, self.model)
        systems = self._systems(data)
        rankings = self._rankings(data, systems)
        values = {name: measure(ranking, data) for name, ranking in rankings.items()}
        main = {name: each[MAIN] for name, each in values.items()}
        languages, buckets = query_languages(data), length_buckets(data, tokens)
        encode_ms = self._encode_ms(data)
        results = [
            _result(system, values[system.name], languages, buckets, self._latency(system, data, encode_ms))
            for system in systems
        ]
        counted, asked = Counter(bucket_of(count) for count in tokens), Counter(buckets)
        return SetResult(
            name=data.name,
            documents=len(data.documents),
            queries=len(data.queries),
            judgments=sum(grade > 0 for grades in data.grades.values() for grade in grades.values()),
            without_judgment=data.without_judgment,
            language=options.language or document_language(data),
            query_languages=dict(Counter(languages).most_common()),
            query_ids=data.query_ids,
            lengths={bucket: counted[bucket] for bucket in in_order(counted)},
            query_lengths={bucket: asked[bucket] for bucket in in_order(asked)},
            truncated=float((tokens > self.model.max_length).mean()),
            systems=results,
            significance=significance(main),
            collection=self._collection(data, results, encode_ms),
            sample=self._sample(data, main),
            variants=self._variants(data, tokens),
            worst=worst_queries(data, systems, rankings, main),
            seconds=time.perf_counter() - started,
        )

    def _systems(self, data: RetrievalSet, *, first_stage: bool | None = None) -> list[System]:
        return build_systems(
            data,
            self.model,
            kinds=self.kinds,
            dims=self.dims,
            reranker=self.reranker,
            language=self.options.language,
            first_stage=first_stage,
        )

    def _rankings(self, data: RetrievalSet, systems: Sequence[System]) -> dict[str, Ranking]:
        show = self.options.show_progress
        return {each.name: each.ranked(len(data.queries), len(data.documents), show_progress=show) for each in systems}

    def _encode_ms(self, data: RetrievalSet) -> float:
        """Median milliseconds of encoding one query alone, with all outputs, nothing cached."""
        times = []
        for text in data.queries[: _TIMED + 1]:
            started = time.perf_counter()
            self.model.model.encode_query(text, outputs=self.model.outputs)
            times.append(time.perf_counter() - started)
        return statistics.median(times[1:] or times) * 1000  # the first one also prepares what is prepared once

    def _latency(self, system: System, data: RetrievalSet, encode_ms: float) -> float:
        """Median milliseconds of one query alone."""
        times: list[float] = []
        for row in range(min(_TIMED, len(data.queries))):
            started = time.perf_counter()
            system.alone([row])
            times.append(time.perf_counter() - started)
            if sum(times) > _TIMED_SECONDS:
                break
        return statistics.median(times) * 1000 + (encode_ms if system.encodes else 0.0)

    def _collection(
        self, data: RetrievalSet, systems: Sequence[SystemResult], encode_ms: float
    ) -> CollectionRun | None:
        if self.options.systems is not None and COLLECTION not in self.options.systems:
            return None
        return run_collection(data, self.model, systems, encode_ms=encode_ms, show_progress=self.options.show_progress)

    def _sample(self, data: RetrievalSet, full: Mapping[str, Values]) -> SampleResult | None:
        if self.options.sampled != "compare":
            return None
        depth = self.options.sample_depth
        sample = sampled_corpus(data, depth=depth, language=self.options.language)
        # The same systems, though late interaction could look at every document of the smaller corpus.
        rankings = self._rankings(sample, self._systems(sample, first_stage=LATE_INTERACTION in full))
        figures = {name: float(measure(ranking, sample)[MAIN].mean()) for name, ranking in rankings.items()}
        return compare(data, sample, depth, {name: float(values.mean()) for name, values in full.items()}, figures)

    def _variants(self, data: RetrievalSet, tokens: Integers) -> list[LengthVariant]:
        if self.options.lengths is None:
            return []
        return length_variants(data, self.model, tokens, self.options.lengths)


def _result(
    system: System, values: Mapping[str, Values], languages: Sequence[str], buckets: Sequence[str], latency_ms: float
) -> SystemResult:
    lengths = by_part(values[MAIN], buckets)
    return SystemResult(
        name=system.name,
        kind=system.kind,
        detail=system.detail,
        measures={name: estimate(each) for name, each in values.items()},
        by_language=by_part(values[MAIN], languages),
        by_length={bucket: lengths[bucket] for bucket in in_order(lengths)},
        latency_ms=latency_ms,
        index_bytes=system.index_bytes,
        per_query=values,
    )
