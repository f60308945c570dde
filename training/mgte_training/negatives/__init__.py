"""Hard negatives from the current model, and a teacher's scores; both written as n-tuples that training reads.

report = mine(model, data, read_corpus("corpus.jsonl.gz"), "mined.jsonl", options=MiningOptions(relative_margin=0.05))
print(report)
distill_scores(reranker, SourceData.read(Source("mined", "mined.jsonl")), "scored.jsonl")
"""

from mgte_training.negatives.distillation import DistillationReport, distill_scores
from mgte_training.negatives.mining import mine
from mgte_training.negatives.options import MiningOptions
from mgte_training.negatives.report import MiningReport, Sample

__all__ = ["DistillationReport", "MiningOptions", "MiningReport", "Sample", "distill_scores", "mine"]
