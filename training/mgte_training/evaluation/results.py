"""What an evaluation found; everything a report shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mgte_training.evaluation.measures import Estimate, Values
from mgte_training.evaluation.systems import Kind
from mgte_training.evaluation.tasks.scores import TaskScore


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemResult:
    """A system on a set.

    Attributes:
        name: of the system.
        kind: what it is.
        detail: how it is done.
        measures: by name, over all queries.
        by_language: nDCG@10 by the query's language; one entry where all are in one.
        by_length: nDCG@10 by the length of the relevant documents, in tokens.
        latency_ms: milliseconds for one query alone, its encoding included: the median.
        index_bytes: what its index holds, in bytes.
        per_query: each measure for each query.
    """

    name: str
    kind: Kind
    detail: str
    measures: Mapping[str, Estimate]
    by_language: Mapping[str, Estimate]
    by_length: Mapping[str, Estimate]
    latency_ms: float
    index_bytes: int
    per_query: Mapping[str, Values]


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionResult:
    """A mode of a ``HybridCollection`` over the set, as users run it, on some of the queries.

    Attributes:
        mode: of the search.
        measures: by name, over the queries asked.
        exact: nDCG@10 on the same queries of the system that compares every document; None where there is none.
        p50_ms: median milliseconds of a search, the query's encoding not included.
        p95_ms: 95 in 100 searches are faster.
    """

    mode: str
    measures: Mapping[str, Estimate]
    exact: float | None
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionRun:
    """A collection of the set's documents.

    Attributes:
        modes: how each of its modes did.
        queries: how many were asked.
        points: documents, or pieces of documents where some were split.
        split: whether long documents were split.
        build_seconds: seconds for filling it, encoding not included where it was cached.
        disk_bytes: bytes of its folder.
        encode_ms: median milliseconds of encoding one query alone.
    """

    modes: Sequence[CollectionResult]
    queries: int
    points: int
    split: bool
    build_seconds: float
    disk_bytes: int
    encode_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """The sampled-corpus protocol beside the full corpus.

    Attributes:
        documents: how many are in the sample.
        of_documents: how many are in the corpus.
        depth: documents of BM25 for each query.
        full: nDCG@10 of each system over the corpus.
        sampled: the same over the sample.
        tau: Kendall's tau-b of the two orders of systems; None where one has no order.
    """

    documents: int
    of_documents: int
    depth: int
    full: Mapping[str, float]
    sampled: Mapping[str, float]
    tau: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthVariant:
    """How much of each document is read.

    Attributes:
        name: "first 128 tokens", "whole, best piece".
        output: the model output that is searched.
        overall: nDCG@10 over all queries.
        by_length: nDCG@10 by the length of the relevant documents, in tokens.
    """

    name: str
    output: str
    overall: Estimate
    by_length: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A document that a system returned.

    Attributes:
        id: of the document.
        text: how it begins.
        score: the system's.
        relevant: whether it is judged so.
    """

    id: str
    text: str
    score: float
    relevant: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WorstQuery:
    """A query that the systems failed at.

    Attributes:
        id: of the query.
        text: of the query.
        ndcg: mean nDCG@10 over the systems shown.
        relevant: the documents that should have come first.
        returned: by system, its first documents.
        ranks: by system, the rank of the first relevant document; None where none was found.
    """

    id: str
    text: str
    ndcg: float
    relevant: Sequence[Found]
    returned: Mapping[str, Sequence[Found]]
    ranks: Mapping[str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """All that was found on a set.

    Attributes:
        name: of the set.
        documents: how many.
        queries: how many were asked.
        judgments: how many of these queries' documents are judged relevant.
        without_judgment: queries left out because no document is relevant to them.
        language: of the documents; None where they are mixed.
        query_languages: how many queries are in each.
        query_ids: of the queries asked, in the order of every ``per_query``.
        lengths: how many documents there are of each length, in tokens.
        query_lengths: how many queries there are to each length of their relevant documents.
        truncated: share of the documents whose end the model did not read.
        systems: in the order of the report.
        significance: for every two systems the adjusted p-value of no difference in nDCG@10.
        collection: as users would run it.
        sample: the sampled-corpus protocol.
        variants: quality by length; empty where not asked for.
        worst: the queries that went worst.
        seconds: how long it took.
    """

    name: str
    documents: int
    queries: int
    judgments: int
    without_judgment: int
    language: str | None
    query_languages: Mapping[str, int]
    query_ids: Sequence[str]
    lengths: Mapping[str, int]
    query_lengths: Mapping[str, int]
    truncated: float
    systems: Sequence[SystemResult]
    significance: Mapping[tuple[str, str], float]
    collection: CollectionRun | None
    sample: SampleResult | None
    variants: Sequence[LengthVariant]
    worst: Sequence[WorstQuery]
    seconds: float

    @property
    def best(self) -> SystemResult:
        """The system with the highest nDCG@10; of equal ones the first."""
        return max(self.systems, key=lambda system: system.measures["nDCG@10"].value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model on sets and tasks.

    Attributes:
        model: its name.
        fingerprint: of its weights and settings.
        max_length: tokens it reads.
        device: where it computed.
        dtype: in which numbers.
        version: of this project.
        sets: retrieval.
        tasks: everything else.
    """

    model: str
    fingerprint: str
    max_length: int
    device: str
    dtype: str
    version: str
    sets: Sequence[SetResult]
    tasks: Sequence[TaskScore] = ()
