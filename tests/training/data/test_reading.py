"""Rows to examples: every format read, every fault named with its file and line."""

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import datasets
import hypothesis.strategies as st
import pyarrow
import pytest
from hypothesis import given
from pyarrow import parquet

from mgte_rag import DataError, InvalidOptionError, MissingExtraError
from mgte_training.data import Example, Source, SourceData, example_to_row, parse_row, read_corpus, read_examples

PAIRS = [{"query": "who?", "positive": "me"}, {"query": "where?", "positive": "hier — 这里"}]
EXAMPLES = [Example("who?", ("me",)), Example("where?", ("hier — 这里",))]


def write_lines(path: Path, rows: list[Any]) -> Source:
    lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return Source("test", str(path))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"query": "q", "positive": "p"}, Example("q", ("p",))),
        ({"query": "q", "positive": "p", "negative": "n"}, Example("q", ("p",), ("n",))),
        ({"query": "q", "positive": "p", "negatives": ["n", "m"]}, Example("q", ("p",), ("n", "m"))),
        ({"query": "q", "positives": ["p", "r"], "negatives": []}, Example("q", ("p", "r"))),
        ({"query": "q", "positive": "r", "positives": ["p", "r"]}, Example("q", ("p", "r"))),
        ({"query": "q", "pos": ["p"], "neg": ["n"]}, Example("q", ("p",), ("n",))),
        (
            {"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [3], "neg_scores": [1.5, -2]},
            Example("q", ("p",), ("n", "m"), (3.0,), (1.5, -2.0)),
        ),
        (
            {"query": "q", "documents": ["a", "b", "c"], "scores": [0.1, 0.9, 0.5]},
            Example("q", ("b",), ("a", "c"), (0.9,), (0.1, 0.5)),
        ),
        ({"query": "q", "positive": "p", "label": 7, "language": "en"}, Example("q", ("p",), label="7")),
        ({"query": "q", "positive": "p", "negative": None, "label": None}, Example("q", ("p",))),
        ({"query": "q", "pos": ["p"], "neg": ["n", "m", "n"]}, Example("q", ("p",), ("n", "m"))),
        (
            {"query": "q", "pos": ["p"], "neg": ["n", "n"], "pos_scores": [3], "neg_scores": [1, 2]},
            Example("q", ("p",), ("n",), (3.0,), (1.0,)),
        ),
    ],
)
def test_every_format_gives_the_same_kind_of_example(row: dict[str, Any], expected: Example) -> None:
    assert parse_row(row, "here") == expected


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("text", "an example is an object"),
        ({"positive": "p"}, "query is missing"),
        ({"query": "q"}, "no positive"),
        ({"query": 7, "positive": "p"}, "query must be a string, not 7"),
        ({"query": " ", "positive": "p"}, "query is empty"),
        ({"query": "q", "positive": ""}, "positive is empty"),
        ({"query": "q", "positive": ["p"]}, "positive must be a string"),
        ({"query": "q", "positives": "p"}, r"positives must be a list of strings, not 'p' \(write \['p'\] for one\)"),
        ({"query": "q", "pos": []}, "no positive"),
        ({"query": "q", "pos": ["p"], "neg": "text"}, "neg must be a list of strings, not 'text'"),
        ({"query": "q", "pos": ["p"], "neg": ["n", None]}, r"neg\[1\] is missing"),
        ({"query": "q", "pos": ["p"], "neg": ["n", "\n"]}, r"neg\[1\] is empty"),
        ({"query": "q", "pos": ["p"], "positives": ["p"]}, "both positives and pos"),
        ({"query": "q", "positive": "x", "positives": ["p"]}, "positive is not among positives"),
        ({"query": "q", "pos": ["p"], "neg": ["p"]}, "a negative is a positive as well"),
        ({"query": "q", "positive": "p", "prompt": "x"}, "unknown field 'prompt'"),
        ({"query": "q", "pos": ["p"], "pos_scores": [1, 2]}, "pos_scores has 2 numbers for 1 documents"),
        ({"query": "q", "pos": ["p"], "pos_scores": 1}, "pos_scores must be a list of numbers"),
        ({"query": "q", "pos": ["p"], "pos_scores": [float("nan")]}, r"pos_scores\[0\] must be a finite number"),
        ({"query": "q", "pos": ["p"], "pos_scores": [True]}, r"pos_scores\[0\] must be a finite number"),
        ({"query": "q", "pos": ["p"], "pos_scores": [1], "positive_scores": [1]}, "both positive_scores and pos_score"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "pos_scores": [1]}, "positive_scores without negative_scores"),
        ({"query": "q", "pos": ["p"], "neg": ["n"], "neg_scores": [1]}, "negative_scores without positive_scores"),
        ({"query": "q", "documents": ["a"]}, "scores must be a list"),
        ({"query": "q", "documents": [], "scores": []}, "documents is empty"),
        ({"query": "q", "documents": ["a"], "scores": [1], "pos": ["a"]}, "have no field 'pos'"),
        ({"query": "q", "positive": "p", "label": 1.5}, "label must be a string or a whole number"),
    ],
)
def test_a_wrong_row_is_an_error_that_names_the_place_and_the_field(row: object, said: str) -> None:
    with pytest.raises(DataError, match=f"^file, line 3: .*{said}"):
        parse_row(row, "file, line 3")


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_lines_are_read_in_order_and_blank_ones_skipped(tmp_path: Path, name: str) -> None:
    source = write_lines(tmp_path / name, [PAIRS[0], "", PAIRS[1], "  "])
    assert list(read_examples(source)) == EXAMPLES


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\ufeff" + json.dumps(PAIRS[0]), encoding="utf-8")
    assert list(read_examples(Source("a", str(tmp_path / "a.jsonl")))) == EXAMPLES[:1]


def test_parquet_gives_the_same_examples_and_nulls_are_absent_fields(tmp_path: Path) -> None:
    rows = [{**PAIRS[0], "negatives": ["you"]}, {**PAIRS[1], "negatives": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = list(read_examples(Source("a", str(tmp_path / "a.parquet"))))
    assert found == [Example("who?", ("me",), ("you",)), EXAMPLES[1]]


def test_a_saved_dataset_is_read_by_split(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"dev": datasets.Dataset.from_list(PAIRS)})
    saved.save_to_disk(tmp_path / "saved")
    assert list(read_examples(Source("a", str(tmp_path / "saved"), split="dev"))) == EXAMPLES
    with pytest.raises(DataError, match="no split 'train'; there are dev"):
        list(read_examples(Source("a", str(tmp_path / "saved"))))


def test_a_folder_of_files_is_read_through_the_datasets_library_as_a_stream(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write_lines(tmp_path / "folder" / "train.jsonl", PAIRS)
    assert list(read_examples(Source("a", str(tmp_path / "folder")))) == EXAMPLES


def test_columns_rename_fields_and_named_fields_are_ignored(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"question": "who?", "answer": "me", "votes": 3}])
    columns = {"question": "query", "answer": "positive"}
    with pytest.raises(DataError, match="line 1: unknown field 'votes'"):
        list(read_examples(Source("a", file.path, columns=columns)))
    assert list(read_examples(Source("a", file.path, columns=columns, ignored_fields=("votes",)))) == EXAMPLES[:1]
    with pytest.raises(DataError, match="line 1: no field 'title', which columns= names; there are question, answer"):
        list(read_examples(Source("a", file.path, columns={"title": "query"})))
    with pytest.raises(DataError, match="line 1: columns= gives two fields the same name"):
        list(read_examples(Source("a", file.path, columns={"question": "answer"})))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"query": "q", "positive": "p"}\n{"query": ', "line 2: not JSON"),
        (b'\n\n{"query": "\xff"}', "line 3: not UTF-8"),
        (b"[" * 100_000, "line 1: not JSON"),
        (b'["q", "p"]', "line 1: an example is an object"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jsonl, {said}"):
        list(read_examples(Source("a", str(tmp_path / "a.jsonl"))))


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet"])
def test_a_file_cut_short_is_an_error_and_not_fewer_examples(tmp_path: Path, name: str) -> None:
    rows = [{"query": f"q{i}", "positive": os.urandom(20).hex()} for i in range(200)]
    if name.endswith("gz"):
        write_lines(tmp_path / name, rows)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot be read on"):
        list(read_examples(Source("a", str(tmp_path / name))))


def test_what_is_not_there_or_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl: no such file"):
        list(read_examples(Source("a", str(tmp_path / "a.jsonl"))))
    (tmp_path / "a.csv").write_text("query,positive\n")
    with pytest.raises(DataError, match="unknown kind of file; known are"):
        list(read_examples(Source("a", str(tmp_path / "a.csv"))))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is no file, and the dataset cannot be read"):
        list(read_examples(Source("a", str(tmp_path / "empty"))))


def test_without_the_datasets_library_the_pip_line_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    for module in ("datasets", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    for path in (tmp_path / "a.parquet", "owner/name"):
        with pytest.raises(MissingExtraError, match=r"pip install 'mgte-rag\[train\]'"):
            list(read_examples(Source("a", str(path))))


def test_a_corpus_is_title_and_text(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [{"_id": "1", "title": "On", "text": "cats"}, {"_id": "2", "text": "dogs"}])
    assert read_corpus(tmp_path / "a.jsonl") == ["On cats", "dogs"]
    for row, said in (({"title": "On"}, "a document is an object with text"), ({"text": " "}, "are empty")):
        write_lines(tmp_path / "a.jsonl", [{"text": "x"}, row])
        with pytest.raises(DataError, match=f"line 2: .*{said}"):
            read_corpus(tmp_path / "a.jsonl")


texts = st.text(min_size=1).filter(lambda text: text.strip())  # any characters, lone surrogates too
numbers = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def examples(draw: st.DrawFn) -> Example:
    documents = draw(st.lists(texts, min_size=1, max_size=6, unique=True))
    positives = draw(st.integers(1, len(documents)))
    scores = draw(st.none() | st.lists(numbers, min_size=len(documents), max_size=len(documents)))
    return Example(
        draw(texts),
        tuple(documents[:positives]),
        tuple(documents[positives:]),
        None if scores is None else tuple(scores[:positives]),
        None if scores is None else tuple(scores[positives:]),
        draw(st.none() | texts),
    )


@given(examples())
def test_an_example_written_and_read_back_is_the_same(example: Example) -> None:
    read = parse_row(json.loads(json.dumps(example_to_row(example))), "here")
    assert read == example


@given(st.lists(examples().map(lambda e: Example(e.query, e.positives, e.negatives, label=e.label)), min_size=1))
def test_what_is_stored_comes_back_the_same_by_number_and_slice(given_examples: list[Example]) -> None:
    data = SourceData(Source("a", "memory"), given_examples)
    assert list(data) == given_examples
    assert data[-1] == given_examples[-1]
    assert data[1:3] == given_examples[1:3]
    assert data.positive_counts.tolist() == [len(each.positives) for each in given_examples]
    assert data.negative_counts.tolist() == [len(each.negatives) for each in given_examples]
    with pytest.raises(IndexError):
        data[len(data)]


def test_a_source_without_examples_or_with_some_unscored_is_an_error() -> None:
    with pytest.raises(DataError, match=r"source 'a' .* has no example"):
        SourceData(Source("a", "memory"), [])
    with pytest.raises(DataError, match="a teacher scored 1 of 2 examples; it scores all or none"):
        SourceData(Source("a", "memory"), [Example("q", ("p",), (), (1.0,)), Example("q", ("r",))])


@pytest.mark.parametrize(
    "options",
    [
        {"max_examples": 0},
        {"negatives": -1},
        {"random_negatives": True},
        {"weight": 0.0},
        {"name": ""},
        {"ignored_fields": "id"},
    ],
)
def test_a_source_with_a_senseless_option_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        Source(**{"name": "a", "path": "a.jsonl", **options})


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
def test_real_pairs_of_every_kind_are_read() -> None:
    folder = Path(os.environ["MGTE_DATA"]) / "pairs"
    clinc = SourceData.read(Source("clinc", str(folder / "clinc.jsonl.gz")))
    assert len(clinc) == 15_000
    assert len(set(clinc.labels.tolist())) == 150
    selqa = SourceData.read(Source("selqa", str(folder / "selqa-dev.jsonl.gz")))
    assert len(selqa) == 784
    assert selqa.negative_counts.max() > 1
