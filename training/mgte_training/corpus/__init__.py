"""Raw documents to training pairs, as C-MTP was made (C-Pack, arXiv 2309.07597): structure, filters, statistics.

options = CorpusOptions(languages=("en",), min_score=MINI_MIN_SCORE)
print(build_pairs(["docs"], "pairs", options=options, model=EmbeddingModel.load()))
data = SourceData.read(Source("docs", "pairs/pairs-00000.jsonl.gz"))
"""

from mgte_training.corpus.build import build_pairs
from mgte_training.corpus.documents import Document, Row, Unreadable, corpus_files, read_records
from mgte_training.corpus.options import CorpusOptions
from mgte_training.corpus.pairs import TASKS, Pair, make_pairs_of
from mgte_training.corpus.semantic import MINI_MIN_SCORE, LabelledScores, is_labelled, score_labelled, score_shuffled
from mgte_training.corpus.statistics import Statistics

__all__ = [
    "MINI_MIN_SCORE",
    "TASKS",
    "CorpusOptions",
    "Document",
    "LabelledScores",
    "Pair",
    "Row",
    "Statistics",
    "Unreadable",
    "build_pairs",
    "corpus_files",
    "is_labelled",
    "make_pairs_of",
    "read_records",
    "score_labelled",
    "score_shuffled",
]
