"""The set in a ``HybridCollection``, searched as users search it."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mgte_rag import Encodings
from mgte_rag.progress import Progress
from mgte_rag.types import Output
from mgte_training.evaluation.cached_model import CachedModel
from mgte_training.evaluation.measures import MAIN, estimate, measure
from mgte_training.evaluation.ranking import Ranking, padded
from mgte_training.evaluation.results import CollectionResult, CollectionRun, SystemResult
from mgte_training.evaluation.retrieval_sets import RetrievalSet
from qdrant_mgte import HybridCollection
from qdrant_mgte.plan import MODES

# Queries asked at most, one by one, and hits for each.
_QUERIES, _LIMIT = 200, 10
# Whether a system does by exact search what a mode does.
_EXACT: dict[str, Callable[[SystemResult], bool]] = {
    "dense": lambda system: system.kind == "dense",
    "sparse": lambda system: system.kind == "sparse",
    "hybrid": lambda system: system.name == "dense + sparse, rrf",
    "late_interaction": lambda system: system.kind == "late_interaction",
}


def run_collection(
    data: RetrievalSet, model: CachedModel, systems: Sequence[SystemResult], *, encode_ms: float, show_progress: bool
) -> CollectionRun:
    """Fill a collection in a temporary folder, with long documents split, and search it in every mode it has.

    Args:
        data: the set; at most 200 of its queries, a seeded choice, are asked.
        model: its cached encodings fill the collection.
        systems: results over the set, to compare with on the same queries.
        encode_ms: milliseconds of encoding one query.
        show_progress: draw progress bars.
    """
    sample = data.sample_queries(_QUERIES)
    place_of = {key: place for place, key in enumerate(data.query_ids)}
    asked = [place_of[key] for key in sample.query_ids]
    outputs: tuple[Output, ...] = model.outputs
    queries = model.encode_query(sample.queries, outputs=outputs)
    with (
        tempfile.TemporaryDirectory() as place,
        # Without the bars of its many small batches: the collection draws one for all of them.
        HybridCollection.open(Path(place) / "index", model=CachedModel(model.model, model.folder)) as collection,
    ):
        started = time.perf_counter()
        # A collection takes no empty text; a blank has the same tokens.
        pairs = zip(data.document_ids, data.documents, strict=True)
        texts = [{"id": key, "text": text or " "} for key, text in pairs]
        report = collection.upsert(texts, split=True, show_progress=show_progress)
        report.raise_for_rejected()
        collection.optimize()
        seconds = time.perf_counter() - started
        split = report.chunks > report.written
        modes = []
        for mode in _modes_of(outputs):
            ranking, times = _search(collection, sample, queries, mode, split, show_progress)
            modes.append(_result(mode, ranking, times, sample, _exact(mode, systems, asked)))
        size = sum(path.stat().st_blocks * 512 for path in Path(place).rglob("*") if path.is_file())
    return CollectionRun(
        modes=modes,
        queries=len(asked),
        points=report.chunks,
        split=split,
        build_seconds=seconds,
        disk_bytes=size,
        encode_ms=encode_ms,
    )


def _modes_of(outputs: Sequence[Output]) -> list[str]:
    needed = {"hybrid": {"dense", "sparse"}, "late_interaction": {"multi_vector"}}
    return [mode for mode in MODES if needed.get(mode, {mode}) <= set(outputs)]


def _search(
    collection: HybridCollection, data: RetrievalSet, queries: Encodings, mode: str, split: bool, show_progress: bool
) -> tuple[Ranking, list[float]]:
    """Ranked documents and the seconds of each search, one query at a time."""
    places = {key: place for place, key in enumerate(data.document_ids)}
    limit = min(_LIMIT, len(places))
    rows, times = [], []
    collection.search(_one(queries, 0), limit=limit, mode=mode, group_by_parent=split)  # opens what is opened once
    with Progress(f"collection, {mode}", unit="queries", total=len(queries), show=show_progress) as progress:
        for row in range(len(queries)):
            query = _one(queries, row)
            started = time.perf_counter()
            hits = collection.search(query, limit=limit, mode=mode, group_by_parent=split)
            times.append(time.perf_counter() - started)
            found = np.array([places[hit.id] for hit in hits], dtype=np.int32)
            rows.append((found, np.array([hit.score for hit in hits], dtype=np.float32)))
            progress.advance(1, 0)
    return padded(rows, limit), times


def _one(encoded: Encodings, row: int) -> Encodings:
    """One query's encodings."""
    part = slice(row, row + 1)
    return Encodings(
        truncated=encoded.truncated[part],
        token_counts=encoded.token_counts[part],
        dense=None if encoded.dense is None else encoded.dense[part],
        sparse=None if encoded.sparse is None else encoded.sparse[part],
        multi_vector=None if encoded.multi_vector is None else list(encoded.multi_vector[part]),
    )


def _exact(mode: str, systems: Sequence[SystemResult], asked: Sequence[int]) -> float | None:
    """nDCG@10 on the queries asked of the system that does the same by exact search; the last, of several sizes."""
    same = [each for each in systems if _EXACT[mode](each)]
    if not same:
        return None
    return float(same[-1].per_query[MAIN][list(asked)].mean())


def _result(
    mode: str, ranking: Ranking, times: Sequence[float], data: RetrievalSet, exact: float | None
) -> CollectionResult:
    values = measure(ranking, data)
    return CollectionResult(
        mode=mode,
        measures={name: estimate(values[name]) for name in (MAIN, "MRR@10", "Success@5")},
        exact=exact,
        p50_ms=statistics.median(times) * 1000,
        p95_ms=float(np.percentile(times, 95)) * 1000,
    )
