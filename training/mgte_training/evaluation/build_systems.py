"""Which systems an evaluation compares, made from one pass over the texts."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from scipy import sparse as scipy_sparse  # type: ignore[import-untyped]

from mgte_rag import EmbeddingModel, Encodings, InvalidOptionError, SparseVector, scoring
from mgte_rag.errors import shown
from mgte_rag.types import Floats, Output
from mgte_training.evaluation.bm25 import Bm25, analysis_for
from mgte_training.evaluation.cached_model import CachedModel, CachedReranker, first_components
from mgte_training.evaluation.languages import document_language
from mgte_training.evaluation.ranking import dbsf, rrf
from mgte_training.evaluation.retrieval_sets import RetrievalSet
from mgte_training.evaluation.systems import (
    DEPTH,
    RERANKED,
    RESCORED,
    Kind,
    MaxSim,
    Searcher,
    System,
    by_fusion,
    by_reranker,
    by_scores,
)
from qdrant_mgte.fusion import DEFAULT_K

# Its name as a first stage; as a second one it is named after the first.
LATE_INTERACTION = "late interaction"
KINDS: tuple[Kind, ...] = ("bm25", "dense", "sparse", "fusion", "late_interaction", "reranker")
# Query tokens times document tokens up to which late interaction looks at every document: ten seconds on two cores.
_FIRST_STAGE = 5e9
# Bytes of token vectors that are held in memory; more are read from the disk each time.
_IN_MEMORY = 2e9

Scores = Callable[[Sequence[int]], Floats]

_NOTHING = Encodings(truncated=np.zeros(0, dtype=np.bool_), token_counts=np.zeros(0, dtype=np.int32))


def check_kinds(asked: Sequence[str] | None, outputs: Sequence[Output], *, reranker: bool) -> tuple[Kind, ...]:
    """The kinds of systems to compare; None is all that there can be.

    Raises:
        InvalidOptionError: an unknown kind, or one that the model cannot do.
    """
    can: dict[Kind, bool] = {
        "bm25": True,
        "dense": "dense" in outputs,
        "sparse": "sparse" in outputs,
        "fusion": "dense" in outputs,
        "late_interaction": "multi_vector" in outputs,
        "reranker": reranker,
    }
    chosen = [kind for kind in KINDS if can[kind]] if asked is None else list(asked)
    for kind in chosen:
        if kind not in can:
            raise InvalidOptionError(f"the system {shown(kind)} is unknown; choose from {', '.join(KINDS)}")
        if not can[kind]:
            why = f"is nothing this model can do; it has {', '.join(outputs)}"
            if kind == "reranker":
                why = "needs a reranker: name one too (--reranker on the command line)"
            raise InvalidOptionError(f"the system {kind!r} {why}")
    if reranker and "reranker" not in chosen:
        raise InvalidOptionError(f"a reranker is given, but 'reranker' is not among the systems {', '.join(chosen)}")
    if not chosen:
        raise InvalidOptionError(f"name at least one of {', '.join(KINDS)}; a collection is compared with them")
    return tuple(kind for kind in KINDS if kind in chosen)


def build_systems(
    data: RetrievalSet,
    model: CachedModel,
    *,
    kinds: Sequence[Kind],
    dims: Sequence[int],
    reranker: CachedReranker | None,
    language: str | None = None,
    first_stage: bool | None = None,
) -> list[System]:
    """The systems over a set, in the order of the report.

    Args:
        data: the set.
        model: encodes queries and documents, each once and with all outputs that are needed.
        kinds: which systems.
        dims: sizes of the dense vector, the last is what other systems use.
        reranker: for the kind "reranker".
        language: of the documents; None is as the set says, or detected.
        first_stage: whether late interaction looks at every document; None: if that takes seconds.
    """
    outputs = _needed(kinds, model.outputs)
    documents = model.encode_document(data.documents, outputs=outputs) if outputs else _NOTHING
    queries = model.encode_query(data.queries, outputs=outputs) if outputs else _NOTHING
    builder = _Builder(data, queries, documents)
    bm25 = builder.bm25(language) if {"bm25", "fusion"} & set(kinds) else None
    dense = [builder.dense(dim, last=dim == dims[-1]) for dim in dims] if queries.dense is not None else []
    sparse = builder.sparse() if queries.sparse is not None else None
    fused = builder.fusions(dense[-1], sparse, bm25, _published(model.model)) if "fusion" in kinds else []
    by_kind: dict[Kind, list[System]] = {
        "bm25": [bm25] if bm25 else [],
        "dense": dense,
        "sparse": [sparse] if sparse else [],
        "fusion": fused,
    }
    first = next((each for each in (*fused[:1], *dense[-1:], sparse, bm25) if each), None) or builder.bm25(language)
    if "late_interaction" in kinds:
        by_kind["late_interaction"] = [builder.late_interaction(first, first_stage)]
    if "reranker" in kinds and reranker is not None:
        by_kind["reranker"] = [builder.reranked(first, reranker)]
    return [system for kind in kinds for system in by_kind[kind]]


def _needed(kinds: Sequence[Kind], there: Sequence[Output]) -> tuple[Output, ...]:
    """The outputs that the systems are made of; a reranker and late interaction start from the best there is."""
    wanted: set[Output] = set()
    for kind in kinds:
        if kind in ("dense", "fusion", "late_interaction", "reranker"):
            wanted.add("dense")
        if kind in ("sparse", "fusion"):
            wanted.add("sparse")
        if kind == "late_interaction":
            wanted.add("multi_vector")
    return tuple(output for output in there if output in wanted)


class _Builder:
    def __init__(self, data: RetrievalSet, queries: Encodings, documents: Encodings) -> None:
        self.data, self.queries, self.documents = data, queries, documents
        self._scores: dict[str, Scores] = {}

    def bm25(self, language: str | None) -> System:
        analysis = analysis_for(language or document_language(self.data))
        index = Bm25(self.data.documents, analysis)
        return System(
            "BM25",
            "bm25",
            detail=f"bm25s, Lucene's formula, k1 1.5, b 0.75; {analysis.name}",
            index_bytes=index.index_bytes,
            encodes=False,
            search=by_scores(lambda rows: index.scores([self.data.queries[i] for i in rows]), above_zero=True),
        )

    def dense(self, dim: int, *, last: bool) -> System:
        assert self.queries.dense is not None, "asked for"
        assert self.documents.dense is not None, "asked for"
        queries = torch.from_numpy(first_components(self.queries.dense, dim))
        documents = torch.from_numpy(first_components(self.documents.dense, dim))

        def scores(rows: Sequence[int]) -> Floats:
            return scoring.cosine(queries[list(rows)], documents).numpy()

        if last:
            self._scores["dense"] = scores
        return System(
            f"dense {dim}",
            "dense",
            detail=f"cosine of the first {dim} components, every document compared",
            index_bytes=documents.numel() * 4,
            encodes=True,
            search=by_scores(scores),
        )

    def sparse(self) -> System:
        assert self.queries.sparse is not None, "asked for"
        assert self.documents.sparse is not None, "asked for"
        queries, documents = term_matrices(self.queries.sparse, self.documents.sparse)
        transposed = documents.T.tocsr()

        def scores(rows: Sequence[int]) -> Floats:
            product: Floats = (queries[list(rows)] @ transposed).toarray()
            return product

        self._scores["sparse"] = scores
        return System(
            "sparse",
            "sparse",
            detail="dot product of the learnt term weights",
            index_bytes=documents.nnz * 8,
            encodes=True,
            search=by_scores(scores, above_zero=True),
        )

    def fusions(
        self, dense: System, sparse: System | None, bm25: System | None, weights: tuple[float, float]
    ) -> list[System]:
        ranks = partial(rrf, depth=DEPTH, k=DEFAULT_K)
        fused = []
        if sparse is not None:
            legs, size = [dense, sparse], dense.index_bytes + sparse.index_bytes
            best_of_each = f"of the {DEPTH} best of each; dense and sparse"
            ways: list[tuple[str, str, Searcher, list[System]]] = [
                ("rrf", f"reciprocal rank fusion, k={DEFAULT_K}, {best_of_each}", by_fusion(ranks), legs),
                (
                    "dbsf",
                    f"distribution-based score fusion {best_of_each}",
                    by_fusion(partial(dbsf, depth=DEPTH)),
                    legs,
                ),
                (
                    "weighted",
                    f"{weights[0]:g} dense + {weights[1]:g} sparse over all documents, the model's published weights",
                    by_scores(self._weighted(*weights)),
                    [],
                ),
            ]
            fused = [
                System(
                    f"dense + sparse, {name}",
                    "fusion",
                    detail=detail,
                    index_bytes=size,
                    encodes=True,
                    search=search,
                    legs=built_on,
                )
                for name, detail, search, built_on in ways
            ]
        if bm25 is not None:
            fused.append(
                System(
                    "dense + BM25, rrf",
                    "fusion",
                    detail=f"reciprocal rank fusion, k={DEFAULT_K}, of the {DEPTH} best of each",
                    index_bytes=dense.index_bytes + bm25.index_bytes,
                    encodes=True,
                    search=by_fusion(ranks),
                    legs=[dense, bm25],
                )
            )
        return fused

    def _weighted(self, dense: float, sparse: float) -> Scores:
        of_dense, of_sparse = self._scores["dense"], self._scores["sparse"]
        return lambda rows: np.float32(dense) * of_dense(rows) + np.float32(sparse) * of_sparse(rows)

    def late_interaction(self, first: System, first_stage: bool | None) -> System:
        assert self.queries.multi_vector is not None, "asked for"
        assert self.documents.multi_vector is not None, "asked for"
        tokens = sum(len(rows) for rows in self.documents.multi_vector)
        asked = list(self.queries.multi_vector)
        width = asked[0].shape[1]
        whole = tokens * sum(len(rows) for rows in asked) <= _FIRST_STAGE if first_stage is None else first_stage
        vectors: Sequence[Floats] = self.documents.multi_vector
        max_sim = MaxSim(asked, list(vectors) if tokens * width * 4 <= _IN_MEMORY else vectors)
        size = tokens * width * 2
        if whole:
            name, detail, search = LATE_INTERACTION, "MaxSim with every document", max_sim.first_stage()
        else:
            name = f"{first.name} -> {LATE_INTERACTION}"
            detail = f"MaxSim with the best {RESCORED} of {first.name}"
            search = max_sim.rescoring()
            size += first.index_bytes
        detail += f", {width} components a token in float16"
        legs = [] if whole else [first]
        return System(name, "late_interaction", detail=detail, index_bytes=size, encodes=True, search=search, legs=legs)

    def reranked(self, first: System, reranker: CachedReranker) -> System:
        return System(
            f"{first.name} -> reranker",
            "reranker",
            detail=f"{reranker.reranker.identity.name} scores the best {RERANKED} of {first.name}",
            index_bytes=first.index_bytes,
            encodes=first.encodes,
            search=by_reranker(reranker, self.data.queries, self.data.documents),
            legs=[first],
            timed=by_reranker(reranker.reranker, self.data.queries, self.data.documents),
        )


def term_matrices(
    queries: Sequence[SparseVector], documents: Sequence[SparseVector]
) -> "tuple[scipy_sparse.csr_matrix, scipy_sparse.csr_matrix]":
    """Sparse vectors as matrices [queries, terms] and [documents, terms], as wide as the last term that occurs."""
    terms = 1 + max((int(vector.indices[-1]) for vector in (*queries, *documents) if len(vector)), default=0)
    return _matrix(queries, terms), _matrix(documents, terms)


def _matrix(vectors: Sequence[SparseVector], terms: int) -> "scipy_sparse.csr_matrix":
    ends = np.cumsum([0, *(len(vector) for vector in vectors)])
    indices = np.concatenate([np.empty(0, dtype=np.int32), *(vector.indices for vector in vectors)])
    values = np.concatenate([np.empty(0, dtype=np.float32), *(vector.values for vector in vectors)])
    return scipy_sparse.csr_matrix((values, indices, ends), shape=(len(vectors), terms))


def _published(model: EmbeddingModel) -> tuple[float, float]:
    """The model's own factors of dense and sparse in the hybrid score, read off scores of 1 and 0."""
    if "sparse" not in model.outputs:
        return 1.0, 0.0
    term = SparseVector(np.zeros(1, dtype=np.int32), np.ones(1, dtype=np.float32))
    nothing = SparseVector(term.indices[:0], term.values[:0])

    def hybrid(dense: float, sparse: SparseVector) -> float:
        alone = Encodings(
            truncated=np.zeros(1, dtype=np.bool_),
            token_counts=np.ones(1, dtype=np.int32),
            dense=np.full((1, 1), dense, dtype=np.float32),
            sparse=[sparse],
        )
        return round(float(model.similarity(alone, alone).hybrid[0, 0]), 6)

    return hybrid(1.0, nothing), hybrid(0.0, term)
