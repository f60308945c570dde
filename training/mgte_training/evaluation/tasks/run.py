"""Several tasks on one model, described by files: what ``mgte-rag evaluate`` calls."""

import tomllib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mgte_rag import DataError, EmbeddingModel, InvalidOptionError, Reranker
from mgte_training.evaluation.tasks.classification import fine_tune_classification, read_examples
from mgte_training.evaluation.tasks.fine_tuning import FineTuning
from mgte_training.evaluation.tasks.rows import task_name
from mgte_training.evaluation.tasks.scores import TaskScore
from mgte_training.evaluation.tasks.spans import fine_tune_spans, read_questions
from mgte_training.evaluation.tasks.sts import evaluate_sts, read_scored_pairs

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

Kind = Literal[
    "sts",
    "classification",
    "clustering",
    "pair-classification",
    "reranking",
    "fine-tuned-classification",
    "fine-tuned-spans",
    "mteb",
]
_FINE_TUNED = ("fine-tuned-classification", "fine-tuned-spans")

# For each kind the fields it needs and those it may have.
_FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "sts": ({"test"}, {"name", "split"}),
    "classification": ({"train", "test"}, {"name", "language"}),
    "clustering": ({"test"}, {"name", "language"}),
    "pair-classification": ({"test"}, {"name", "language"}),
    "reranking": ({"test"}, {"name", "language"}),
    "fine-tuned-classification": ({"train", "test"}, {"name", "split", "train_split"}),
    "fine-tuned-spans": ({"train", "test"}, {"name", "split", "train_split"}),
    "mteb": ({"name"}, set()),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFile:
    """One task.

    Attributes:
        kind: what to measure; "mteb" is one of mteb's own tasks, by its name.
        test: JSON Lines to measure on, in the form that the function for its kind describes; None for "mteb".
        train: JSON Lines to learn from: for "classification" the few vectors of logistic regression, for the
            fine-tuned kinds the encoder's training.
        split: rows of ``test`` to take, by their field "split"; for "sts" and the fine-tuned kinds.
        train_split: rows of ``train`` to take, for the fine-tuned kinds.
        language: ISO 639-1 code for the kinds that mteb runs; the others find it in each row.
        name: what to call it; None is the file's name. For "mteb" mteb's name.

    Raises:
        InvalidOptionError: a kind that is not there, or a field that its kind needs or does not know.
    """

    kind: Kind
    test: Path | None = None
    train: Path | None = None
    split: str | None = None
    train_split: str | None = None
    language: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in _FIELDS:
            raise InvalidOptionError(f"a task of kind {self.kind!r}: choose one of {', '.join(_FIELDS)}")
        needed, optional = _FIELDS[self.kind]
        given = {field.name for field in fields(self) if getattr(self, field.name) is not None} - {"kind"}
        if needed - given or given - needed - optional:
            raise InvalidOptionError(
                f"a task of kind {self.kind!r} needs {', '.join(sorted(needed))} and may have "
                f"{', '.join(sorted(optional)) or 'nothing else'}; given: {', '.join(sorted(given)) or 'nothing'}"
            )

    @property
    def title(self) -> str:
        """What it is called."""
        if self.name is not None:
            return self.name
        assert self.test is not None, "checked above"
        return task_name(self.test)


def read_tasks(path: str | Path) -> list[TaskFile]:
    """Tasks from a TOML file: a table ``[[task]]`` for each, its keys the fields of ``TaskFile``.

        [[task]]
        kind = "sts"
        test = "sts/stsb.jsonl.gz"     # paths are relative to the file
        split = "dev"

    Raises:
        DataError: the file is missing or is no TOML, or a task is not as it should be; the message names it.
    """
    path = Path(path).expanduser()
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    tables = content.get("task")
    if content.keys() != {"task"} or not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise DataError(f"{path}: must hold [[task]] tables and nothing else; it has {', '.join(content) or 'nothing'}")
    return [_task_file(path, number, table) for number, table in enumerate(tables, start=1)]


def _task_file(path: Path, number: int, table: dict[str, object]) -> TaskFile:
    known = [field.name for field in fields(TaskFile)]
    unknown = [key for key in table if key not in known]
    if unknown or "kind" not in table or not all(isinstance(value, str) for value in table.values()):
        what = f"unknown keys: {', '.join(unknown)}" if unknown else "every value must be a text, and 'kind' be there"
        raise DataError(f"{path}, task {number}: {what}; keys are {', '.join(known)}")
    values = {key: path.parent / str(value) if key in ("test", "train") else value for key, value in table.items()}
    try:
        return TaskFile(**values)  # type: ignore[arg-type]  # checked in there
    except InvalidOptionError as error:
        raise DataError(f"{path}, task {number}: {error}") from error


def check_tasks(tasks: Iterable[TaskFile]) -> None:
    """Read all the data that tasks name, so that what cannot be used is told before hours of work.

    Raises:
        DataError: a file cannot be used; the message names file and line.
        MissingExtraError: a task needs a package of the extra "eval".
    """
    for task in tasks:
        _prepared(task)


def run_tasks(
    model: str | Path | None,
    tasks: Iterable[TaskFile],
    *,
    reranker: bool = False,
    dtype: str | None = None,
    device: str | None = None,
    dim: int | None = None,
    fine_tuning: FineTuning | None = None,
    cache: str | Path | None = None,
    show_progress: bool = False,
) -> list[TaskScore]:
    """Measure a model on tasks, one after the other.

    Args:
        model: a hub id, a folder, or None for the embedded default.
        tasks: what to measure. The fine-tuned kinds train the model's encoder, in fp32; the others leave it as it is.
        reranker: the model is a reranker, which runs reranking and the fine-tuned kinds.
        dtype: what the model computes in; None chooses.
        device: where it computes; None takes the best one there is.
        dim: components of dense vectors; None is all.
        fine_tuning: how the fine-tuned kinds train; None is ``FineTuning()`` on that device.
        cache: a folder where mteb's results are kept and found again; None keeps none.
        show_progress: draw progress bars on standard error.

    Raises:
        DataError: a file cannot be used; the message names file and line.
        InvalidOptionError: a task that such a model cannot run, or options it does not allow.
        MissingExtraError: a task needs a package of the extra "eval".
    """
    tasks = list(tasks)
    if reranker and any(task.kind not in ("reranking", "mteb", *_FINE_TUNED) for task in tasks):
        raise InvalidOptionError("a reranker gives no vectors: it runs reranking and the fine-tuned kinds alone")
    made = [_prepared(task) for task in tasks]
    scores: list[TaskScore] = []
    with ExitStack() as stack:
        opened: EmbeddingModel | Reranker | None = None
        if any(task.kind not in _FINE_TUNED for task in tasks):
            if reranker:
                opened = stack.enter_context(Reranker.load(model, dtype=dtype, device=device))
            else:
                opened = stack.enter_context(EmbeddingModel.load(model, dtype=dtype, device=device))
        for task, mteb_task in zip(tasks, made, strict=True):
            if mteb_task is not None:
                scores += _run_mteb(opened, mteb_task, dim, cache, show_progress)
            elif isinstance(opened, EmbeddingModel) and task.kind == "sts":
                assert task.test is not None, "TaskFile checks"
                scores += evaluate_sts(
                    opened, task.test, split=task.split, dim=dim, task=task.title, show_progress=show_progress
                )
            else:
                scores += _fine_tune(model, task, fine_tuning or FineTuning(device=device), show_progress)
    return scores


def _prepared(task: TaskFile) -> "AbsTask | str | None":
    """The task for mteb, None for the kinds of our own; all its data is checked, before anything is computed."""
    if task.kind == "mteb":
        return task.title
    assert task.test is not None, "TaskFile checks"
    if task.kind == "sts":
        read_scored_pairs(task.test, split=task.split)
        return None
    if task.kind in _FINE_TUNED:
        assert task.train is not None, "TaskFile checks"
        read = read_examples if task.kind == "fine-tuned-classification" else read_questions
        read(task.train, split=task.train_split)
        read(task.test, split=task.split)
        return None
    from mgte_training.evaluation.tasks import local_tasks

    language = task.language or "en"
    if task.kind == "classification":
        assert task.train is not None, "TaskFile checks"
        return local_tasks.local_classification(task.train, task.test, language=language, name=task.name)
    make = {
        "clustering": local_tasks.local_clustering,
        "pair-classification": local_tasks.local_pair_classification,
        "reranking": local_tasks.local_reranking,
    }[task.kind]
    return make(task.test, language=language, name=task.name)


def _run_mteb(
    model: EmbeddingModel | Reranker | None,
    task: "AbsTask | str",
    dim: int | None,
    cache: str | Path | None,
    show_progress: bool,
) -> list[TaskScore]:
    from mgte_training.evaluation.tasks.mteb_models import MTEBEncoder, MTEBReranker
    from mgte_training.evaluation.tasks.mteb_runs import run_mteb

    assert model is not None, "loaded for every kind but the fine-tuned"
    wrapped = MTEBReranker(model) if isinstance(model, Reranker) else MTEBEncoder(model, dim=dim)
    return run_mteb(wrapped, [task], cache=cache, show_progress=show_progress)


def _fine_tune(model: str | Path | None, task: TaskFile, options: FineTuning, show_progress: bool) -> list[TaskScore]:
    assert task.train is not None, "TaskFile checks"
    assert task.test is not None, "TaskFile checks"
    tune = fine_tune_classification if task.kind == "fine-tuned-classification" else fine_tune_spans
    return tune(
        model,
        task.train,
        task.test,
        train_split=task.train_split,
        test_split=task.split,
        options=options,
        task=task.title,
        show_progress=show_progress,
    )
