"""``mgte-rag pairs`` as a user runs it, and the page it writes."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mgte_cli.main import main

Words = Callable[..., str]


@pytest.fixture
def documents(words: Words, write: Callable[..., Path]) -> Path:
    """A file of pairs of which some will be left out."""
    rows = [{"query": words(f"q{i}", 3), "positive": words(i), "language": "en"} for i in range(20)]
    rows.append({"query": "casino", "positive": "the best casino " + words("c"), "language": "en"})
    rows.append({"query": "site", "positive": "see http://bad.example/ " + words("s"), "language": "en"})
    rows.append({"query": "<script>alert(1)</script>", "positive": "x", "language": "<b>"})
    return write(rows)


def test_pairs_are_made_counted_and_shown(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows_of: Callable[[Path], list[Any]]
) -> None:
    (tmp_path / "sites").write_text("# known\nbad.example\n\n")
    (tmp_path / "words").write_text("casino\n")
    out = tmp_path / "out"
    command = ["pairs", str(documents), "--out", str(out), "--blocked-sites", str(tmp_path / "sites")]
    command += ["--blocked-words", str(tmp_path / "words"), "--shard-rows", "15"]
    assert main(command) == 0
    said, err = capsys.readouterr()
    assert "23 pairs made\n            20  87.0 %  kept" in said
    assert "2   8.7 %  unsafe" in said
    assert f"written to {out}" in said
    assert "reading" in err
    assert len(rows_of(out)) == 20
    assert [len(list(out.glob(f"{name}*"))) for name in ("pairs-", "report.", "progress")] == [2, 2, 1]
    assert json.loads((out / "report.json").read_text())["dropped"]["unsafe"] == 2


def test_scores_are_filtered_and_drawn(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pairs", str(documents), "--out", str(tmp_path / "out"), "--quiet", "--min-score", "0.5"]
    assert main([*command, "--score-languages", "en"]) == 0
    said, err = capsys.readouterr()
    assert "semantic" in said
    assert err == ""
    assert "<h4>Scores</h4>" in (tmp_path / "out" / "report.html").read_text()


def test_a_model_that_nothing_asks_is_refused_and_near_duplicates_can_be_kept(
    words: Words, write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [words(1, 100), f"{words(1, 100)} more"]
    path = write([{"query": words(f"q{i}", 3), "positive": text, "language": "en"} for i, text in enumerate(texts)])
    assert main(["pairs", str(path), "--out", str(tmp_path / "out"), "--quiet", "--model", "mini"]) == 1
    assert "--min-score, which is missing" in capsys.readouterr().err
    for similarity, kept in (("0.8", 1), ("0", 2)):
        out = tmp_path / similarity
        assert main(["pairs", str(path), "--out", str(out), "--quiet", "--near-duplicates", similarity]) == 0
        assert json.loads((out / "report.json").read_text())["kept"] == kept
    capsys.readouterr()


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name in ("src", "href") or name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_asks_nobody_and_runs_no_text_of_a_document(documents: Path, tmp_path: Path) -> None:
    assert main(["pairs", str(documents), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    page = Page((tmp_path / "out" / "report.html").read_text())
    assert page.open == []
    assert not page.tags & {"script", "img", "link", "iframe"}
    assert {"svg", "table", "details"} <= page.tags


def test_thresholds_are_printed_for_each_sample_and_for_all(
    words: Words, write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write([{"query": words(i, 3), "positive": words(i, 12)} for i in range(20)], "pairs.jsonl")
    labelled = write([{"query": "a cat", "text": "cats", "matches": m} for m in (True, False)], "labelled.jsonl")
    assert main(["pairs", "--threshold-from", str(pairs), str(labelled)]) == 0
    said = capsys.readouterr().out
    assert f"{pairs}, against exchanged positives\n20 pairs that match, 20 that do not" in said
    assert f"{labelled}, as labelled\n1 pairs that match, 1 that do not" in said
    assert "all together\n21 pairs that match, 21 that do not" in said


def test_errors_are_one_line_and_status_1(documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pairs", str(documents)]) == 1
    assert capsys.readouterr().err == (
        "mgte-rag: sources and --out are needed: the documents, and the folder for the pairs\n"
    )
    command = ["pairs", str(documents), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*command, "--blocked-words", str(tmp_path / "gone")]) == 1
    assert "gone cannot be read" in capsys.readouterr().err
    assert main([*command, "--near-duplicates", "2"]) == 1
    assert "near_duplicates=2.0: above 0 and up to 1" in capsys.readouterr().err
