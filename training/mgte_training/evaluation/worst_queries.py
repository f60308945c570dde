"""The queries that went worst, with what each system returned."""

from collections.abc import Mapping, Sequence

import numpy as np

from mgte_training.evaluation.measures import Values
from mgte_training.evaluation.ranking import NONE, Ranking
from mgte_training.evaluation.results import Found, WorstQuery
from mgte_training.evaluation.retrieval_sets import RetrievalSet
from mgte_training.evaluation.systems import System

_SHOWN, _DOCUMENTS, _CHARACTERS = 10, 3, 240


def worst_queries(
    data: RetrievalSet, systems: Sequence[System], rankings: Mapping[str, Ranking], values: Mapping[str, Values]
) -> list[WorstQuery]:
    """The ten queries with the lowest mean nDCG@10 over the best system of each kind.

    Args:
        data: the set.
        systems: all of them.
        rankings: by system.
        values: nDCG@10 of each query by system.
    """
    chosen: dict[str, System] = {}
    for system in systems:
        known = chosen.get(system.kind)
        if known is None or values[system.name].mean() > values[known.name].mean():
            chosen[system.kind] = system
    names = [system.name for system in chosen.values()]
    mean = np.mean([values[name] for name in names], axis=0)
    order = np.argsort(mean, kind="stable")[:_SHOWN]
    return [_shown(data, int(row), float(mean[row]), {name: rankings[name] for name in names}) for row in order]


def _shown(data: RetrievalSet, row: int, ndcg: float, rankings: Mapping[str, Ranking]) -> WorstQuery:
    grades = data.grades[data.query_ids[row]]
    relevant = [place for place, key in enumerate(data.document_ids) if grades.get(key, 0) > 0]

    def found(place: int, score: float) -> Found:
        text = data.documents[place]
        start = text[:_CHARACTERS] + (" ..." if len(text) > _CHARACTERS else "")
        return Found(id=data.document_ids[place], text=start, score=score, relevant=place in relevant)

    returned, ranks = {}, {}
    for name, ranking in rankings.items():
        places = [int(place) for place in ranking.documents[row] if place != NONE]
        scores = ranking.scores[row]
        returned[name] = [found(place, float(scores[i])) for i, place in enumerate(places[:_DOCUMENTS])]
        ranks[name] = next((i for i, place in enumerate(places, start=1) if place in relevant), None)
    return WorstQuery(
        id=data.query_ids[row],
        text=data.queries[row],
        ndcg=ndcg,
        relevant=[found(place, 1.0) for place in relevant[:_DOCUMENTS]],
        returned=returned,
        ranks=ranks,
    )
