"""Tasks named in files are run as they are named."""

from pathlib import Path
from typing import Any

import pytest

from mgte_rag import DataError, InvalidOptionError
from mgte_training.evaluation.tasks.fine_tuning import FineTuning
from mgte_training.evaluation.tasks.run import TaskFile, read_tasks, run_tasks


@pytest.fixture
def folder(write_rows: Any, tmp_path: Path) -> Path:
    """A small file for every kind of task."""
    animals, others = ["the cat", "a cat sat", "cat and cat", "cat ran"], ["tree", "under the tree", "a mat", "on mat"]
    labelled = [{"text": text, "label": label} for texts, label in ((animals, 1), (others, 0)) for text in texts]
    write_rows("labelled.jsonl", labelled)
    pairs = [(a, b, int((a in animals) == (b in animals))) for a in animals for b in animals[:1] + others[:1]]
    write_rows("pairs.jsonl", [{"sentence1": a, "sentence2": b, "label": label} for a, b, label in pairs])
    write_rows("sts.jsonl", [{"sentence1": a, "sentence2": b, "score": i} for i, (a, b, _) in enumerate(pairs)])
    write_rows("reranking.jsonl", [{"query": "cat", "positives": animals[:2], "negatives": others}])
    answers = {"text": ["cat"], "answer_start": [4]}
    write_rows("squad.jsonl", [{"question": "dog", "context": "the cat sat", "answers": answers}] * 8)
    (tmp_path / "tasks.toml").write_text(
        """
[[task]]
kind = "sts"
test = "sts.jsonl"

[[task]]
kind = "classification"
train = "labelled.jsonl"
test = "labelled.jsonl"
name = "animals"

[[task]]
kind = "clustering"
test = "labelled.jsonl"

[[task]]
kind = "pair-classification"
test = "pairs.jsonl"

[[task]]
kind = "reranking"
test = "reranking.jsonl"
language = "de"

[[task]]
kind = "fine-tuned-classification"
train = "labelled.jsonl"
test = "labelled.jsonl"

[[task]]
kind = "fine-tuned-spans"
train = "squad.jsonl"
test = "squad.jsonl"
"""
    )
    return tmp_path


def test_every_kind_of_task_runs_from_one_file(folder: Path, tiny_bert: Path) -> None:
    scores = run_tasks(tiny_bert, read_tasks(folder / "tasks.toml"), fine_tuning=FineTuning(epochs=1, device="cpu"))
    assert [(score.task, score.group, score.measure) for score in scores] == [
        ("sts", "STS", "spearman"),
        ("sts", "STS", "pearson"),
        ("animals", "Classification", "accuracy"),
        ("labelled", "Clustering", "v_measure"),
        ("pairs", "PairClassification", "max_ap"),
        ("reranking", "Reranking", "map_at_1000"),
        ("labelled", "fine-tuned classification", "accuracy"),
        ("labelled", "fine-tuned classification", "macro F1"),
        ("labelled", "fine-tuned classification", "matthews"),
        ("labelled", "fine-tuned classification", "F1"),
        ("squad", "fine-tuned spans", "exact match"),
        ("squad", "fine-tuned spans", "F1"),
    ]
    assert scores[5].language == "de"


def test_a_reranker_runs_reranking_and_says_what_it_cannot_run(folder: Path, tiny_reranker: Path) -> None:
    (score,) = run_tasks(tiny_reranker, [TaskFile(kind="reranking", test=folder / "reranking.jsonl")], reranker=True)
    assert score.group == "Reranking"
    with pytest.raises(InvalidOptionError, match="a reranker gives no vectors"):
        run_tasks(tiny_reranker, [TaskFile(kind="sts", test=folder / "sts.jsonl")], reranker=True)


def test_bad_data_of_the_last_task_is_told_before_the_first_is_computed(folder: Path, write_rows: Any) -> None:
    bad = write_rows("bad.jsonl", [{"sentence1": "a"}])
    tasks = [TaskFile(kind="sts", test=folder / "sts.jsonl"), TaskFile(kind="sts", test=bad)]
    with pytest.raises(DataError, match=r"bad.jsonl, line 1: lacks the field 'sentence2'"):
        run_tasks("no/such-model", tasks)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[task]", "cannot be read"),
        ("", r"must hold \[\[task\]\] tables and nothing else; it has nothing"),
        ('[task]\nkind = "sts"', "must hold"),
        ('[[task]]\ntest = "a.jsonl"', "task 1: every value must be a text, and 'kind' be there"),
        ('[[task]]\nkind = "sts"\ntest = 3', "task 1: every value must be a text"),
        ('[[task]]\nkind = "sts"\ntest = "a"\n[[task]]\nkind = "sts"\ntset = "a"', "task 2: unknown keys: tset"),
        ('[[task]]\nkind = "stss"\ntest = "a"', "task 1: a task of kind 'stss': choose one of sts, classification"),
        ('[[task]]\nkind = "classification"\ntest = "a"', "task 1: .* needs test, train and may have language, name"),
        ('[[task]]\nkind = "clustering"\ntest = "a"\nsplit = "b"', "task 1: .*given: split, test"),
        ('[[task]]\nkind = "mteb"', "task 1: a task of kind 'mteb' needs name"),
    ],
)
def test_a_task_file_that_is_not_as_it_should_be_is_named_with_the_task(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "tasks.toml").write_text(content)
    with pytest.raises(DataError, match=f"tasks.toml.*{message}"):
        read_tasks(tmp_path / "tasks.toml")
