"""The sampled-corpus protocol of Jina-ColBERT-v2: all judged documents and the best 250 by BM25 for each query.

Source: arXiv 2408.16672, section on evaluation during development.
"""

from collections.abc import Mapping

from mgte_rag import InvalidOptionError
from mgte_rag.errors import shown
from mgte_training.evaluation.bm25 import Bm25, analysis_for
from mgte_training.evaluation.languages import document_language
from mgte_training.evaluation.measures import agreement
from mgte_training.evaluation.ranking import NONE, best
from mgte_training.evaluation.results import SampleResult
from mgte_training.evaluation.retrieval_sets import RetrievalSet

PUBLISHED_DEPTH = 250
# Queries scored at a time.
_AT_ONCE = 64


def sampled_corpus(data: RetrievalSet, *, depth: int = PUBLISHED_DEPTH, language: str | None = None) -> RetrievalSet:
    """The set with every judged document and the best by BM25 for each query.

    Args:
        data: the set.
        depth: documents of BM25 for each query.
        language: of the documents; None is as the set says, or detected.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InvalidOptionError(f"depth={shown(depth)}: a whole number above 0, the paper's is {PUBLISHED_DEPTH}")
    kept = {document for grades in data.grades.values() for document in grades}
    index = Bm25(data.documents, analysis_for(language or document_language(data)))
    for start in range(0, len(data.queries), _AT_ONCE):
        found = best(index.scores(data.queries[start : start + _AT_ONCE]), depth, above_zero=True).documents
        kept.update(data.document_ids[place] for place in set(found.ravel().tolist()) - {NONE})
    return data.keep_documents(kept, f"{data.name}, sampled")


def compare(
    data: RetrievalSet, sample: RetrievalSet, depth: int, full: Mapping[str, float], sampled: Mapping[str, float]
) -> SampleResult:
    """The systems' figures over the corpus and over the sample, and how far both order them alike."""
    names = [name for name in full if name in sampled]
    return SampleResult(
        documents=len(sample.documents),
        of_documents=len(data.documents),
        depth=depth,
        full={name: full[name] for name in names},
        sampled={name: sampled[name] for name in names},
        tau=agreement([full[name] for name in names], [sampled[name] for name in names]),
    )
