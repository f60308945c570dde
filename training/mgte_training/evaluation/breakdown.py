"""Figures for parts of the queries."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mgte_rag.types import Integers
from mgte_training.evaluation.cached_model import CachedModel
from mgte_training.evaluation.measures import Estimate, Values, estimate
from mgte_training.evaluation.retrieval_sets import RetrievalSet

# Upper ends of the length buckets, in tokens, those of mGTE's and C-Pack's long-document tables and below.
_ENDS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
# Texts whose tokens are counted at a time.
_AT_ONCE = 512


def count_tokens(texts: Sequence[str], model: CachedModel) -> Integers:
    """Tokens of each whole document, markers and prompt included, however long it is: int32 [texts]."""
    counts = [
        len(places)
        for start in range(0, len(texts), _AT_ONCE)
        for places in model.token_offsets(texts[start : start + _AT_ONCE])
    ]
    return np.array(counts, dtype=np.int32)


def bucket_of(tokens: float) -> str:
    """The name of a length's bucket."""
    lower = 0
    for end in _ENDS:
        if tokens <= end:
            return f"{lower + 1}-{end}"
        lower = end
    return f"above {lower}"


def in_order(buckets: Mapping[str, object]) -> list[str]:
    """Names of buckets from short to long."""
    names = [bucket_of(end) for end in (*_ENDS, _ENDS[-1] + 1)]
    return [name for name in names if name in buckets]


def length_buckets(data: RetrievalSet, tokens: Integers) -> list[str]:
    """For each query the bucket of its relevant documents' mean length."""
    place = {key: i for i, key in enumerate(data.document_ids)}
    return [
        bucket_of(float(np.mean([tokens[place[key]] for key, grade in data.grades[query].items() if grade > 0])))
        for query in data.query_ids
    ]


def by_part(values: Values, parts: Sequence[str]) -> dict[str, Estimate]:
    """The mean of each part of the queries, the most frequent part first."""
    labels = np.array(parts)
    return {part: estimate(values[labels == part]) for part, _ in Counter(parts).most_common()}
