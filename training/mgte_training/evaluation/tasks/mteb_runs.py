"""Tasks of the package mteb, its own and local ones, run and turned into scores for the report."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mgte_rag import DataError, InvalidOptionError, MissingExtraError
from mgte_training.evaluation.tasks.local_tasks import LANGUAGES
from mgte_training.evaluation.tasks.mteb_models import MTEBEncoder, MTEBReranker
from mgte_training.evaluation.tasks.mteb_search import MTEBSearch
from mgte_training.evaluation.tasks.rows import UNDETERMINED
from mgte_training.evaluation.tasks.scores import TaskScore

try:
    import datasets  # type: ignore[import-untyped]
    import mteb
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.aggregated_task import AbsTaskAggregate
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.cache import ResultCache
    from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning  # type: ignore[import-untyped]
except ImportError as missing:
    raise MissingExtraError("mteb", "evaluating with MTEB's tasks") from missing

# ISO 639-3 as mteb has them to ISO 639-1 where there is one: C-MTEB says Mandarin, others say Chinese.
_TWO_LETTERS = {code.partition("-")[0]: short for short, code in LANGUAGES.items()} | {"cmn": "zh", "pes": "fa"}


def run_mteb(
    model: MTEBEncoder | MTEBSearch | MTEBReranker,
    tasks: Iterable[AbsTask | str],
    *,
    cache: str | Path | None = None,
    show_progress: bool = False,
) -> list[TaskScore]:
    """The main score of every task, split and language.

    mteb sets the random seeds of Python, NumPy and torch while its tasks run.

    Args:
        model: one of ours in mteb's protocols. ``MTEBSearch`` and ``MTEBReranker`` run retrieval and reranking only.
        tasks: mteb's tasks, its names of them ("STSBenchmark", "T2Reranking"), and local ones; names are fetched from
            the hub.
        cache: a folder for results, which later calls with the same weights, settings and data take from there; None
            keeps nothing. Nothing is ever kept in mteb's own folder in the home directory.
        show_progress: draw progress bars on standard error.

    Returns:
        No intervals: mteb gives means. ``task`` has the split where a task has several.

    Raises:
        InvalidOptionError: no such task, or one that the model cannot run.
        DataError: the data of one of mteb's own tasks cannot be had.
        MissingExtraError: mteb is not installed.
    """
    listed = [_task(task) for task in tasks]
    for task in listed:
        _check_runs(model, task)
    kept = None if cache is None else ResultCache(Path(cache))
    scores = []
    for task in listed:
        # Loaded here rather than by mteb, which lets the data go before its examples can be counted.
        was_loaded = task.data_loaded
        _load(task)
        with warnings.catch_warnings(), _data_set_bars(show_progress):
            # About labels that no text was given, and logistic regression cut short: both are mteb's protocol.
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = mteb.evaluate(
                model,
                task,
                co2_tracker=False,
                cache=kept,
                overwrite_strategy="always" if _is_of_other_data(kept, model, task) else "only-missing",
                encode_kwargs={"show_progress_bar": show_progress},
                show_progress_bar=show_progress,
            )
        for task_result in result.task_results:
            scores += _scores(task, task_result.scores)
        if not was_loaded:
            task.unload_data()
    return scores


def _load(task: AbsTask) -> None:
    try:
        task.load_data()
    except Exception as error:  # the hub's libraries raise errors of many kinds
        raise DataError(
            f"the data of mteb's task {task.metadata.name!r} cannot be loaded from "
            f"{task.metadata.dataset['path']!r} on the hub: {error}"
        ) from error


def _is_of_other_data(cache: ResultCache | None, model: MTEBEncoder | MTEBSearch | MTEBReranker, task: AbsTask) -> bool:
    """Whether the result that is kept was measured on another revision of the data, which mteb does not look at."""
    if cache is None:
        return False
    result = cache.load_task_result(task.metadata.name, model.mteb_model_meta)
    return result is not None and result.dataset_revision != task.metadata.dataset["revision"]


@contextmanager
def _data_set_bars(shown: bool) -> Iterator[None]:
    """Draw the progress bars of the package datasets, which mteb prepares texts with, only if they are asked for."""
    if shown or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _task(task: AbsTask | str) -> AbsTask:
    if not isinstance(task, str):
        return task
    try:
        return mteb.get_task(task)
    except KeyError as error:
        raise InvalidOptionError(f"mteb {mteb.__version__} has no task {task!r}: {error.args[0]}") from error


def _check_runs(model: MTEBEncoder | MTEBSearch | MTEBReranker, task: AbsTask) -> None:
    name, kind = task.metadata.name, task.metadata.type
    if isinstance(task, AbsTaskAggregate):
        raise InvalidOptionError(f"the task {name!r} is made of others; give those, as task.metadata.tasks has them")
    if "text" not in task.metadata.modalities:
        raise InvalidOptionError(f"the task {name!r} has {', '.join(task.metadata.modalities)}; our models read text")
    if not isinstance(model, MTEBEncoder) and not isinstance(task, AbsTaskRetrieval):
        raise InvalidOptionError(
            f"the task {name!r} is {kind}, which needs one vector per text: give MTEBEncoder, not "
            f"{type(model).__name__}"
        )
    if isinstance(model, MTEBReranker) and not _has_candidates(task):
        raise InvalidOptionError(
            f"the task {name!r} is {kind}; a reranker runs reranking, and retrieval over another's results only: call "
            f"mteb's task.convert_to_reranking(...) before"
        )


def _has_candidates(task: AbsTask) -> bool:
    """Whether every query comes with the documents to rank."""
    if "Reranking" in task.metadata.type:
        return True
    data: Any = task.dataset if task.data_loaded else {}
    splits = [split for subset in data.values() for split in subset.values()]
    return bool(splits) and all(split["top_ranked"] is not None for split in splits)


def _scores(task: AbsTask, by_split: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[TaskScore]:
    metadata = task.metadata
    found = []
    for split, results in by_split.items():
        name = metadata.name if len(by_split) == 1 else f"{metadata.name} ({split})"
        for result in results:
            subset = result["hf_subset"]
            languages = [_short(code) for code in result["languages"]]
            found.append(
                TaskScore(
                    task=name,
                    group=metadata.type,
                    language=", ".join(dict.fromkeys(languages)) or UNDETERMINED,
                    measure=metadata.main_score,
                    value=float(result["main_score"]),
                    low=None,
                    high=None,
                    examples=_examples(task, subset, split),
                )
            )
    return found


def _short(code: str) -> str:
    language = code.partition("-")[0]
    return _TWO_LETTERS.get(language, language)


def _examples(task: AbsTask, subset: str, split: str) -> int:
    """Queries of a retrieval or reranking, rows of anything else; older data sets have many examples in one row."""
    data: Any = task.dataset
    part = data[subset] if subset in data else data
    rows = part[split]
    if isinstance(rows, dict):
        return len(rows["queries"])
    column = getattr(task, "input1_column_name", None) or getattr(task, "input_column_name", None)
    if not isinstance(column, str) or column not in rows.column_names:
        return len(rows)
    return sum(len(each) if isinstance(each, list) else 1 for each in rows[column])
