"""``mgte-rag evaluate`` as a user runs it."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mgte_cli.main import main


def test_the_command_evaluates_prints_and_writes(
    docs_folder: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("html", "md", "json")}
    command = ["evaluate", "--model", "mini", "--data", str(docs_folder), "--data", str(docs_folder), "--queries", "20"]
    command += ["--report", str(files["html"]), "--markdown", str(files["md"]), "--json", str(files["json"])]
    command += ["--dims", "64,128", "--sampled", "--lengths", "16,256", "--cache", str(cache), "--dtype", "float32"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.count("stdlib: 120 documents, 20 queries") == 2
    assert re.search(r"dense 384 +0\.\d{3} .*", out)
    assert "best" in out
    assert f"wrote {files['html']}" in out
    assert "searching, late interaction" in err
    assert "indexing" in err
    assert files["html"].read_text().startswith("<!doctype html>")
    found = json.loads(files["json"].read_text())["sets"][0]
    assert [each["name"] for each in found["systems"]][:4] == ["BM25", "dense 64", "dense 128", "dense 384"]
    assert {each["name"] for each in found["variants"]} == {"first 16 tokens", "first 256 tokens", "whole, best piece"}
    assert files["md"].read_text().startswith("# mini\n")


def test_bad_data_ends_the_command_with_file_and_line(
    write_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(qrels=["query-id\tcorpus-id\tscore", "q\tnowhere\t1"])
    assert main(["evaluate", "--data", str(folder)]) == 1
    assert f"mgte-rag: {folder}/qrels.tsv:2: judges the document 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--systems", "bm52"], "'bm52' is unknown"),
        (["--dims", "1000"], "1000 is no size from 1 to 384"),
        (["--language", "english"], "language='english': give a code of two or three letters"),
        (["--systems", "reranker"], "'reranker' needs a reranker: name one too (--reranker on the command line)"),
        (["--data", "hf:"], "--data hf: names no data set"),
        (["--split", "dev"], "has no qrels/dev.tsv"),
        (["--tasks", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--model", "nowhere/nothing-of-this-name"], "nowhere/nothing-of-this-name"),
        (["--report", "no-such-folder/out.html"], "give a file in a folder that is there"),
    ],
)
def test_bad_options_end_the_command_with_what_is_allowed(
    write_set: Callable[..., Path],
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["evaluate", "--data", str(write_set()), *options]) == 1
    assert message in capsys.readouterr().err


def test_without_data_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate"]) == 1
    assert "nothing to evaluate: give --data with a retrieval set, --tasks" in capsys.readouterr().err


def test_numbers_that_are_none_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for given in ("64,many", "0"):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "--dims", given])
        assert ended.value.code == 2
        assert f"argument --dims: '{given.split(',')[-1]}' is no whole number from 1 up" in capsys.readouterr().err


TASKS = """
[[task]]
kind = "sts"
test = "sts.jsonl"

[[task]]
kind = "classification"
train = "labelled.jsonl"
test = "labelled.jsonl"

[[task]]
kind = "fine-tuned-classification"
train = "labelled.jsonl"
test = "labelled.jsonl"
name = "tuned"
"""


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    animals, others = ["the cat", "a cat sat", "cat and cat", "cat ran"], ["tree", "under the tree", "a mat", "on mat"]
    labels = [{"text": text, "label": label} for texts, label in ((animals, 1), (others, 0)) for text in texts]
    write_rows(tmp_path / "labelled.jsonl", labels)
    pairs = [{"sentence1": "the cat", "sentence2": text, "score": i} for i, text in enumerate(others + animals[1:])]
    write_rows(tmp_path / "sts.jsonl", pairs)
    (tmp_path / "tasks.toml").write_text(TASKS)
    return tmp_path / "tasks.toml"


def test_other_tasks_stand_in_the_same_report(
    tasks: Path, write_set: Callable[..., Path], tiny_bert: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", "--model", str(tiny_bert), "--tasks", str(tasks), "--cache", str(tmp_path / "cache")]
    report, figures = tmp_path / "out.html", tmp_path / "out.json"
    command += ["--data", str(write_set()), "--systems", "bm25", "--report", str(report), "--json", str(figures)]
    assert main(command) == 0
    found = json.loads(figures.read_text())
    assert [each["name"] for each in found["sets"]] == ["small"]
    groups = [("sts", "STS"), ("labelled", "Classification"), ("tuned", "fine-tuned classification")]
    assert list(dict.fromkeys((each["task"], each["group"]) for each in found["tasks"])) == groups
    value = next(each["value"] for each in found["tasks"] if each["measure"] == "spearman")
    assert f"sts, STS, und: spearman {value:.3f}, 7 examples" in capsys.readouterr().out
    page = report.read_text()
    assert "Other tasks" in page
    assert "fine-tuned classification" in page
    assert list((tmp_path / "cache" / "mteb").rglob("labelled.json"))  # the next run takes it from there


def test_bad_data_of_a_task_is_told_before_anything_is_computed(
    tasks: Path, write_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tasks.parent / "labelled.jsonl", [{"text": "a"}])
    assert main(["evaluate", "--data", str(write_set()), "--tasks", str(tasks)]) == 1
    err = capsys.readouterr().err
    assert "labelled.jsonl, line 1" in err
    assert "%|" not in err  # no bar of any work


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
def test_figures_on_a_public_collection_are_those_that_were_measured(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """cranfield by BM25: .382, as measured with bm25s alone."""
    folder = Path(os.environ["MGTE_DATA"]) / "retrieval" / "cranfield"
    report = tmp_path / "out.json"
    command = ["evaluate", "--data", str(folder), "--systems", "bm25", "--json", str(report), "--cache", str(cache)]
    command += ["--queries", "225", "--model", "mini"]
    assert main(command) == 0
    found = json.loads(report.read_text())["sets"][0]
    assert found["systems"][0]["measures"]["nDCG@10"]["value"] == pytest.approx(0.382, abs=0.001)
    assert found["language"] == "en"
