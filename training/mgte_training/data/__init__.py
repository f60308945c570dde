"""Training data: read and checked, planned to the last batch from one seed.

sources = [Source("arxiv", "arxiv.jsonl.gz"), Source("faq", "faq.jsonl", query_prompt="query: ")]
data = [SourceData.read(source) for source in sources]
plan = make_plan(data, lengths=checkpoint_lengths(checkpoint), epochs=1, seed=0)
print(plan.describe())
batch = plan.batch(step, rank, world)
"""

from mgte_training.data.batches import TrainingBatch
from mgte_training.data.buckets import MGTE_BUCKETS, MGTE_RERANKER_BUCKETS, Bucket, scale_buckets
from mgte_training.data.examples import Example, example_to_row, parse_row
from mgte_training.data.lengths import TokenLengths, checkpoint_lengths
from mgte_training.data.plan import TrainingPlan
from mgte_training.data.planning import make_plan
from mgte_training.data.readers import read_corpus, read_examples
from mgte_training.data.sources import Source
from mgte_training.data.statistics import PassStatistics
from mgte_training.data.store import SourceData

__all__ = [
    "MGTE_BUCKETS",
    "MGTE_RERANKER_BUCKETS",
    "Bucket",
    "Example",
    "PassStatistics",
    "Source",
    "SourceData",
    "TokenLengths",
    "TrainingBatch",
    "TrainingPlan",
    "checkpoint_lengths",
    "example_to_row",
    "make_plan",
    "parse_row",
    "read_corpus",
    "read_examples",
    "scale_buckets",
]
