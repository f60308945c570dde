"""Retrieval quality of a model and of everything that can be built from it, measured as the papers do.

>>> from mgte_training.evaluation import Options, evaluate, read_folder, write_html   # doctest: +SKIP
>>> found = evaluate(model, [read_folder("my-set")], options=Options(lengths=()))     # doctest: +SKIP
>>> write_html(found, "report.html")                                                  # doctest: +SKIP
"""

from mgte_rag.errors import MissingExtraError

try:
    import scipy as _scipy  # type: ignore[import-untyped]  # noqa: F401 - comes with the extra, through mteb
except ImportError as error:
    raise MissingExtraError("mteb", "mgte_training.evaluation") from error

from mgte_training.evaluation.evaluate import SYSTEMS, Options, evaluate
from mgte_training.evaluation.hub_sets import read_hub
from mgte_training.evaluation.measures import MEASURES, Estimate
from mgte_training.evaluation.report.documents import write_html, write_json, write_markdown
from mgte_training.evaluation.results import Evaluation, SetResult, SystemResult
from mgte_training.evaluation.retrieval_sets import RetrievalSet, read_folder
from mgte_training.evaluation.tasks.scores import TaskScore

__all__ = [
    "MEASURES",
    "SYSTEMS",
    "Estimate",
    "Evaluation",
    "Options",
    "RetrievalSet",
    "SetResult",
    "SystemResult",
    "TaskScore",
    "evaluate",
    "read_folder",
    "read_hub",
    "write_html",
    "write_json",
    "write_markdown",
]
