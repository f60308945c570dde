"""Domain fine-tuning: a folder of documents to a model that knows them, and figures that say how much better it is.

tuned = tune("docs", "tuned", other=read_beir("scifact"), options=TuningOptions(epochs=2), say=print)
print(tuned.report)
model = EmbeddingModel.load(tuned.folder)
"""

from mgte_training.corpus.documents import Document
from mgte_training.corpus.structure import Section
from mgte_training.domain.comparison import Comparison, compare, measure
from mgte_training.domain.documents import Documents, read_documents
from mgte_training.domain.interpolation import interpolated
from mgte_training.domain.judged import Judged, read_beir
from mgte_training.domain.options import TuningOptions
from mgte_training.domain.pairs import Pairs, make_pairs
from mgte_training.domain.tuning import Tuned, tune

__all__ = [
    "Comparison",
    "Document",
    "Documents",
    "Judged",
    "Pairs",
    "Section",
    "Tuned",
    "TuningOptions",
    "compare",
    "interpolated",
    "make_pairs",
    "measure",
    "read_beir",
    "read_documents",
    "tune",
]
