"""``mgte-rag evaluate`` as a user runs it."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mgte_cli.main import main


def test_the_command_evaluates_prints_and_writes(
    docs_folder: Path, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: tmp_path / f"out.{name}" for name in ("html", "md", "json")}
    command = ["evaluate", "--model", "mini", "--data", str(docs_folder), "--data", str(docs_folder), "--queries", "20"]
    command += ["--report", str(files["html"]), "--markdown", str(files["md"]), "--json", str(files["json"])]
    command += ["--dims", "64,128", "--sampled", "--lengths", "32,64", "--cache", str(cache)]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert out.count("stdlib: 120 documents, 20 queries") == 2
    assert re.search(r"dense 384 +0\.\d{3} .*", out)
    assert "best" in out
    assert f"wrote {files['html']}" in out
    assert "encoding, document" in err
    assert files["html"].read_text().startswith("<!doctype html>")
    found = json.loads(files["json"].read_text())["sets"][0]
    assert [each["name"] for each in found["systems"]][:4] == ["BM25", "dense 64", "dense 128", "dense 384"]
    assert {each["name"] for each in found["variants"]} == {"first 32 tokens", "first 64 tokens", "whole, best piece"}
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
    with pytest.raises(SystemExit) as ended:
        main(["evaluate"])
    assert ended.value.code == 2
    assert "--data" in capsys.readouterr().err


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
