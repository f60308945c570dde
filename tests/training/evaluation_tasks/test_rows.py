"""Labelled data that cannot be used is an error that names file and line."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgte_rag import DataError
from mgte_training.evaluation.tasks.classification import read_examples
from mgte_training.evaluation.tasks.rows import read_rows, task_name
from mgte_training.evaluation.tasks.spans import read_questions
from mgte_training.evaluation.tasks.sts import read_scored_pairs

PAIR = {"sentence1": "a", "sentence2": "b", "score": 1.5}


def test_plain_and_compressed_files_give_the_same_rows_and_blank_lines_count(tmp_path: Path) -> None:
    content = '\ufeff{"text": "猫"}\n\n{"text": "dog"}\r\n'
    (tmp_path / "plain.jsonl").write_bytes(content.encode())
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("plain.jsonl", "packed.jsonl.gz"):
        rows = read_rows(tmp_path / name)
        assert [(row.place, row.text("text")) for row in rows] == [
            (f"{tmp_path / name}, line 1", "猫"),
            (f"{tmp_path / name}, line 3", "dog"),
        ]
        assert task_name(tmp_path / name) in ("plain", "packed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": \n', "line 2: not JSON"),
        (b'{"text": "a"}\n[1]\n', r"line 2: must be a JSON object, not \[1\]"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not UTF-8"),
        (b"\n\n", "nothing to read: it is empty"),
        (b"[" * 100_000, "line 1: not JSON"),
    ],
)
def test_a_malformed_file_is_named_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.jsonl.*{message}"):
        read_rows(path)


def test_a_missing_and_a_truncated_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.jsonl: no such file"):
        read_rows(tmp_path / "gone.jsonl")
    (tmp_path / "half.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' * 50_000)[:-20])
    with pytest.raises(DataError, match=r"half.jsonl.gz, after line \d+: cannot be read on"):
        read_rows(tmp_path / "half.jsonl.gz")


def test_a_split_is_chosen_and_one_that_is_not_there_is_an_error(write_rows: Any) -> None:
    path = write_rows("rows.jsonl", [{"text": "a", "split": "dev"}, {"text": "b", "split": "train"}])
    assert [row.text("text") for row in read_rows(path, split="dev")] == ["a"]
    with pytest.raises(DataError, match="no row of 2 has split 'test'; there are dev, train"):
        read_rows(path, split="test")


@pytest.mark.parametrize(
    ("read", "good", "bad", "message"),
    [
        (read_scored_pairs, PAIR, PAIR | {"score": "5"}, "'score' must be a finite number, not '5'"),
        (read_scored_pairs, PAIR, PAIR | {"score": float("nan")}, "'score' must be a finite number, not nan"),
        (read_scored_pairs, PAIR, PAIR | {"score": True}, "'score' must be a finite number, not True"),
        (read_scored_pairs, PAIR, PAIR | {"sentence2": " "}, "'sentence2' must be a text that is not empty"),
        (read_scored_pairs, PAIR, {"sentence1": "a", "score": 1}, "lacks the field 'sentence2'; it has 'sentence1'"),
        (read_scored_pairs, PAIR, PAIR | {"language": 3}, "'language' must be a text"),
        (read_examples, {"text": "a", "label": 1}, {"text": "a"}, "needs a 'label'.*or a 'score'.*and not both"),
        (read_examples, {"text": "a", "label": 1}, {"text": "a", "label": 1, "score": 2}, "and not both"),
        (read_examples, {"text": "a", "label": 1}, {"text": "a", "label": 1.5}, "'label' must be a text or a whole"),
        (read_examples, {"text": "a", "label": 1}, {"text": "a", "score": 1}, "has a text with a score, the first"),
        (read_examples, {"text": "a", "label": 1}, PAIR, "has a pair of texts with a score, the first line has a text"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_with_file_and_line(
    write_rows: Any, read: Callable[[Path], object], good: dict[str, Any], bad: dict[str, Any], message: str
) -> None:
    path = write_rows("rows.jsonl", [good, bad])
    with pytest.raises(DataError, match=f"rows.jsonl, line 2: .*{message}"):
        read(path)


def test_whole_numbers_and_truth_values_are_labels(write_rows: Any) -> None:
    labels = [1, "1", True, False, "yes"]
    path = write_rows("rows.jsonl", [{"text": "a", "label": label} for label in labels])
    assert [example.label for example in read_examples(path)] == ["1", "1", "1", "0", "yes"]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"text": ["cat"], "answer_start": [5]}, "the context has 'at ' at character 5, not the answer 'cat'"),
        ({"text": ["cat"], "answer_start": [-4]}, "must be a text and its start in characters"),
        ({"text": ["cat"], "answer_start": []}, "two lists of one length"),
        ({"text": [], "answer_start": []}, "no answer; leave unanswerable questions"),
        ([{"text": "cat", "answer_start": 4}], "two lists of one length"),
        ({"text": ["cat"], "answer_start": ["4"]}, "must be a text and its start in characters"),
    ],
)
def test_an_answer_that_is_not_where_it_says_is_named_with_file_and_line(
    write_rows: Any, answers: Any, message: str
) -> None:
    good = {"question": "who", "context": "the cat sat", "answers": {"text": ["cat"], "answer_start": [4]}}
    path = write_rows("squad.jsonl", [good, good | {"answers": answers}])
    with pytest.raises(DataError, match=f"squad.jsonl, line 2: .*{message}"):
        read_questions(path)
