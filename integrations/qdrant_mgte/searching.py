"""Queries in, hits out."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from qdrant_client import models

from mgte_rag import Encodings, InputTypeError, InvalidOptionError, relevance
from mgte_rag.errors import shown
from qdrant_mgte.documents import HIT_FIELDS, hit_of, point_id
from qdrant_mgte.encodings import vectors_of
from qdrant_mgte.plan import Search, combined, fused, plan
from qdrant_mgte.schema import DENSE, MULTI_VECTOR, SPARSE, Schema, Vector, vector_fault
from qdrant_mgte.store import Found, Stage, Store
from qdrant_mgte.types import EncodingModel, Hit, ScoringModel

# Points fetched beyond those asked for, so that those with equal scores can be put in order.
_BEYOND = 16
_MOST_POINTS = 2**31


@dataclass(frozen=True, slots=True)
class Query:
    """A question, encoded.

    Attributes:
        text: None where only its vectors were given.
        vectors: by name.
    """

    text: str | None
    vectors: Mapping[str, Vector]


def search_all(
    store: Store, model: EncodingModel, given: Iterable[str | Encodings] | Encodings, search: Search
) -> list[list[Hit]]:
    """The hits of every query, best first."""
    queries = _encoded(given, model, search, store.schema)
    found = _fetch(store, queries, search)
    hits = [[hit_of(one.payload, one.score, search.last) for one in _ordered(each, search)] for each in found]
    if search.rerank is not None:
        hits = _reranked(queries, hits, search)
    chosen = [_with_relevance(_chosen(each, search), query, search) for query, each in zip(queries, hits, strict=True)]
    return _with_all_scores(store, queries, chosen, search) if search.all_scores else chosen


def _encoded(
    given: Iterable[str | Encodings] | Encodings, model: EncodingModel, search: Search, schema: Schema
) -> list[Query]:
    """Queries from texts, encoded in one pass, and from encodings."""
    outputs = search.outputs(schema)
    rows: list[tuple[str | None, Encodings | None, int]] = []
    if isinstance(given, Encodings):
        rows = [(None, given, row) for row in range(len(given))]
    else:
        for query in given:
            if not isinstance(query, str | Encodings):
                raise InputTypeError(f"a query must be a string or what encode_query returned, not {shown(query)}")
            if isinstance(query, Encodings) and len(query) != 1:
                raise InvalidOptionError(f"search takes one query, not {len(query)}")
            rows.append((query, None, 0) if isinstance(query, str) else (None, query, 0))
    texts = [text for text, encoded, _ in rows if encoded is None and text is not None]
    if texts:
        encoded_texts = model.encode_query(texts, outputs=outputs, dim=schema.dense, token_dim=schema.multi_vector)
        places = iter(range(len(texts)))
        rows = [(t, encoded_texts, next(places)) if encoded is None else (t, encoded, row) for t, encoded, row in rows]
    if search.rerank is not None and any(text is None for text, _, _ in rows):
        raise InvalidOptionError("reranking reads the query's text; give the query as a string")
    return [Query(text, _vectors(encoded, row, outputs, schema)) for text, encoded, row in rows if encoded is not None]


def _vectors(encoded: Encodings, row: int, outputs: Sequence[str], schema: Schema) -> dict[str, Vector]:
    for output in outputs:
        if getattr(encoded, output) is None:
            size = {DENSE: schema.dense, MULTI_VECTOR: schema.multi_vector}.get(output)
            raise InvalidOptionError(
                f"the query needs a {output} vector{f' of dim {size}' if size else ''}; "
                f"encode it with outputs={outputs}"
            )
    vectors = vectors_of(encoded, row, schema)
    for name, vector in vectors.items():
        if fault := vector_fault(name, vector, schema):
            raise InvalidOptionError(f"the query cannot be searched for: {fault}")
    return vectors


def _fetch(store: Store, queries: Sequence[Query], search: Search) -> list[list[Found]]:
    """Points for every query: as many as the hits need, those of equal scores at their end included."""
    schema = store.schema
    needed = min(search.offset + search.limit, _MOST_POINTS)
    if search.rerank is not None:
        needed = max(needed, search.rerank_candidates)
    # What is reranked is put in order after that, and what MMR chooses depends on how many it chooses from.
    limit = needed + _BEYOND if search.rerank is None and search.mmr is None else needed
    if search.group_by_parent:
        limit *= 3
    most = store.count() if limit > search.candidates else _MOST_POINTS  # engines reserve memory for their limit
    results: list[list[Found]] = [[] for _ in queries]
    pending = list(range(len(queries)))
    while pending:
        limit = max(1, min(limit, most))
        stages = {i: plan(queries[i].vectors, search, schema, limit) for i in pending}
        asked = {i: stage for i, stage in stages.items() if stage is not None}
        found = store.query(list(asked.values()), fields=HIT_FIELDS) if asked else []
        results = [dict(zip(asked, found, strict=True)).get(i, each) for i, each in enumerate(results)]
        if limit >= most:
            break
        pending = [i for i in asked if len(results[i]) >= limit and not _is_enough(results[i], needed, search)]
        limit *= 4
        most = min(most, store.count()) if pending else most
    return results


def _is_enough(found: Sequence[Found], needed: int, search: Search) -> bool:
    ranked = _ordered(found, search)
    if search.group_by_parent:
        documents = {one.payload["doc_id"]: one for one in reversed(ranked)}
        ranked = sorted(documents.values(), key=lambda one: -one.score)
    if len(ranked) < needed:
        return False
    return search.rerank is not None or search.mmr is not None or ranked[needed - 1].score > found[-1].score


def _ordered(found: Sequence[Found], search: Search) -> list[Found]:
    """Best first, equal scores by id; MMR's order is its own."""
    if search.mmr is not None:
        return list(found)
    return sorted(found, key=lambda one: (-one.score, one.payload["doc_id"], one.payload["chunk_no"]))


def _reranked(queries: Sequence[Query], hits: Sequence[list[Hit]], search: Search) -> list[list[Hit]]:
    """The best hits of every query, scored by a cross-encoder in one call, alone or beside what found them."""
    assert search.rerank is not None
    weight = search.fusion.weights.get("rerank", 0.0)
    least = search.thresholds.get("rerank")
    wanted = max(search.rerank_candidates, search.offset + search.limit)
    kept = [each if search.group_by_parent else each[:wanted] for each in hits]
    pairs = [(query.text or "", hit.text) for query, each in zip(queries, kept, strict=True) for hit in each]
    scores = iter(_scored(search.rerank, pairs))
    results = []
    for each in kept:
        judged = zip(each, scores, strict=False)  # the next of all scores
        scored = [
            replace(hit, score=hit.score + weight * score if weight else score, scores={"rerank": score})
            for hit, score in judged
        ]
        scored = [hit for hit in scored if least is None or hit.score >= least]
        results.append(sorted(scored, key=lambda hit: (-hit.score, hit.id, hit.chunk_no)))
    return results


def _scored(reranker: ScoringModel, pairs: Sequence[tuple[str, str]]) -> list[float]:
    scores = [float(score) for score in reranker.score(pairs)] if pairs else []
    if len(scores) != len(pairs) or not np.isfinite(scores).all():
        wrong = "NaN or infinity" if len(scores) == len(pairs) else f"{len(scores)} scores for {len(pairs)} pairs"
        raise InvalidOptionError(f"rerank gave {wrong}; score(pairs) must give one finite number for each pair")
    return scores


def _chosen(hits: Sequence[Hit], search: Search) -> list[Hit]:
    if search.group_by_parent:
        best: dict[str, Hit] = {}
        for hit in hits:
            best.setdefault(hit.id, hit)
        hits = list(best.values())
    return list(hits[search.offset : search.offset + search.limit])


def _with_relevance(hits: Sequence[Hit], query: Query, search: Search) -> list[Hit]:
    """The hits with their scores as 0 to 1, where these mean something by themselves."""
    scores = [hit.score for hit in hits]
    if search.rerank is not None:
        relevances = relevance.of_logits([hit.scores["rerank"] for hit in hits])
    elif search.last == "late_interaction":
        relevances = relevance.of_max_sim(scores, len(query.vectors.get(MULTI_VECTOR, ())))
    elif search.last == "dense":
        relevances = relevance.of_cosine(scores)
    else:
        return list(hits)
    return [replace(hit, relevance=float(each)) for hit, each in zip(hits, relevances, strict=True)]


def _with_all_scores(
    store: Store, queries: Sequence[Query], hits: Sequence[list[Hit]], search: Search
) -> list[list[Hit]]:
    """The hits with their scores of every stage: each stage is asked again, for these points only."""
    schema = store.schema
    stages: list[Stage] = []
    asked: list[tuple[int, str]] = []
    for number, (query, each) in enumerate(zip(queries, hits, strict=True)):
        for name, stage in _scoring_stages(query, each, search, schema) if each else ():
            stages.append(stage)
            asked.append((number, name))
    found = store.query(stages, fields=()) if stages else []
    scores = {key: {one.id: one.score for one in points} for key, points in zip(asked, found, strict=True)}
    return [
        [replace(hit, scores=_scores_of(hit, number, scores, search, schema)) for hit in each]
        for number, each in enumerate(hits)
    ]


def _scoring_stages(query: Query, hits: Sequence[Hit], search: Search, schema: Schema) -> list[tuple[str, Stage]]:
    ids = models.Filter(must=[models.HasIdCondition(has_id=[str(point_id(hit.id, hit.chunk_no)) for hit in hits])])
    using = {"dense": DENSE, "sparse": SPARSE, "late_interaction": MULTI_VECTOR}
    scoring = []
    for name in search.stages(schema):
        if name in hits[0].scores:
            continue
        vector = using.get(name)
        if vector is not None and vector in query.vectors:
            stage = Stage(query=query.vectors[vector], using=vector, limit=len(hits), filter=ids, exact=True)
            scoring.append((name, stage))
        elif name in ("hybrid", "combined"):
            again = fused if name == "hybrid" else combined
            stage_or_none = again(query.vectors, search, schema, search.offset + search.limit + _BEYOND)
            if stage_or_none is not None:
                scoring.append((name, stage_or_none))
    return scoring


def _scores_of(
    hit: Hit, number: int, scores: Mapping[tuple[int, str], Mapping[uuid.UUID, float]], search: Search, schema: Schema
) -> dict[str, float]:
    point = point_id(hit.id, hit.chunk_no)
    merged: dict[str, float] = {}
    for name in search.stages(schema):
        if name in hit.scores:
            merged[name] = hit.scores[name]
        elif (score := scores.get((number, name), {}).get(point)) is not None:
            merged[name] = score
        elif name == "sparse":
            merged[name] = 0.0  # no term in common
    return merged
