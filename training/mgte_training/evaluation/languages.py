"""Which language texts are in."""

import random
from collections import Counter

from mgte_training.evaluation.retrieval_sets import RetrievalSet
from mgte_training.languages import detect_language

# Documents looked at for a set's language.
_SAMPLE = 300
# A set whose most frequent language has a smaller share has no one language.
_MAJORITY = 0.8
# A language that fewer of a set's queries seem to be in is a mistake about short texts.
_LEAST_SHARE = 0.02


def document_language(data: RetrievalSet) -> str | None:
    """The language of a set's documents, as an ISO 639-1 code: as given, else detected; None where they are mixed."""
    if data.language is not None:
        return data.language
    texts = random.Random(0).sample(data.documents, min(_SAMPLE, len(data.documents)))
    votes = Counter(detect_language(text) for text in texts if text)
    if not votes:
        return None
    language, count = votes.most_common(1)[0]
    return language if count >= _MAJORITY * votes.total() else None


def query_languages(data: RetrievalSet) -> list[str]:
    """The language of each query: as given, else detected among those that a fair share of the queries are in."""
    first = [given or detect_language(text) for given, text in zip(data.query_languages, data.queries, strict=True)]
    votes = Counter(first)
    likely = {language for language, count in votes.items() if count >= max(2, _LEAST_SHARE * len(first))}
    likely = likely or {votes.most_common(1)[0][0]}
    return [
        language if given or language in likely else detect_language(text, likely)
        for given, language, text in zip(data.query_languages, first, data.queries, strict=True)
    ]
