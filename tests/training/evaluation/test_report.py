"""The page, the table and the figures: whole, safe, and asking nobody for anything."""

import html.parser
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from mgte_cli.main import main
from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_training import languages
from mgte_training.evaluation import (
    Evaluation,
    Options,
    TaskScore,
    evaluate,
    read_folder,
    write_html,
    write_json,
    write_markdown,
)
from mgte_training.evaluation.breakdown import bucket_of, in_order
from mgte_training.evaluation.measures import Estimate
from mgte_training.evaluation.report.charts import Point, line_chart, scatter_chart
from mgte_training.evaluation.report.page import page
from mgte_training.evaluation.report.text import safe

EVIL = """<script src="https://evil.example/x.js">alert('1')</script> <img src=x onerror=alert(1)> & "so" \x00 | `"""
VOID = {"meta"}


class Structure(html.parser.HTMLParser):
    """Tags as a browser sees them; they must close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_every_part_and_is_well_formed(evaluated: Evaluation) -> None:
    found = Structure(page(evaluated))
    assert not found.open
    for words in (
        "mini", "stdlib", "BM25", "dense 64", "dense + sparse, rrf", "late interaction", "Elastic dimension",
        "Quality against latency", "Quality against index size", "Cut and whole, dense", "In a collection",
        "On a sampled corpus", "Kendall's tau", "Worst queries", "really better?", "Snowball stemmer 'english'",
        f"{evaluated.sets[0].truncated:.0%} of the documents are longer than the 256 tokens",
    ):  # fmt: skip
        assert words in found.text, words
    best = evaluated.sets[0].best
    assert f"{best.measures['nDCG@10'].value:.3f}" in found.text


def test_the_page_asks_nobody_for_anything(evaluated: Evaluation) -> None:
    text = page(evaluated)
    found = Structure(text)
    assert found.tags.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base", "a", "form"})
    assert {name for name, _ in found.attributes}.isdisjoint({"src", "href", "action", "srcset", "xlink:href"})
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    assert "default-src 'none'" in next(value for _, value in found.attributes if value and "default-src" in value)


def test_texts_and_names_are_shown_and_never_run(mini_fp32: EmbeddingModel, tmp_path: Path) -> None:
    folder = tmp_path / "<b>set"
    folder.mkdir()
    corpus = [{"_id": "<i>1", "text": EVIL}, {"_id": "2", "text": EVIL * 3}]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "<u>q", "text": EVIL}) + "\n")
    (folder / "qrels.tsv").write_text("<u>q\t<i>1\t1\n")
    options = Options(systems=("bm25", "dense"), language="en", cache=tmp_path)
    found = evaluate(mini_fp32, [read_folder(folder)], options=options)
    found = replace(found, tasks=(TaskScore("<s>task", "STS", "en|de", "Spearman", 0.8, None, None, 9),))
    text = page(found)
    structure = Structure(text)
    assert structure.tags.isdisjoint({"script", "img", "u", "s"})
    for shown in ("<b>set", "<i>1", "<u>q", "<s>task"):
        assert shown in structure.text
        assert shown not in text
    assert "evil.example" in structure.text  # shown as text
    assert "\x00" not in text
    assert "onerror" not in {name for name, _ in structure.attributes}
    write_markdown(found, tmp_path / "out.md")
    markdown = (tmp_path / "out.md").read_text()
    assert "<s>" not in markdown
    assert "en\\|de" in markdown


def test_direction_and_control_characters_are_shown_as_replaced() -> None:
    assert safe("a\u202eb\x07c\n") == "a\ufffdb\ufffdc\n"
    assert safe("<&\"'") == "&lt;&amp;&quot;&#x27;"


def test_markdown_has_a_row_for_every_system(evaluated: Evaluation, tmp_path: Path) -> None:
    tasks = (TaskScore("stsb", "STS", "en", "Spearman", 0.82, 0.8, 0.84, 1500),)
    write_markdown(replace(evaluated, tasks=tasks), tmp_path / "out.md")
    lines = (tmp_path / "out.md").read_text().splitlines()
    tables = [line for line in lines if line.startswith("|")]
    systems = evaluated.sets[0].systems
    assert len(tables) == 2 + len(systems) + 3
    assert len({line.count("|") for line in tables[: len(systems) + 2]}) == 1
    assert "| stsb | STS | en | Spearman | 0.820 (0.800–0.840) | 1,500 |" in tables
    assert sum(line.startswith("| **") for line in tables) == 1


def test_json_has_everything_and_every_querys_value(evaluated: Evaluation, tmp_path: Path) -> None:
    write_json(evaluated, tmp_path / "out.json")
    read = json.loads((tmp_path / "out.json").read_text())
    (found,) = read["sets"]
    assert read["model"] == "mini"
    assert [each["name"] for each in found["systems"]] == [each.name for each in evaluated.sets[0].systems]
    for each in found["systems"]:
        assert len(each["per_query"]["nDCG@10"]) == 60
        assert each["measures"]["nDCG@10"]["value"] == pytest.approx(np.mean(each["per_query"]["nDCG@10"]), abs=1e-5)
    assert len(found["significance"]) == len(found["systems"]) * (len(found["systems"]) - 1) // 2
    assert found["collection"]["modes"]
    assert found["variants"]
    assert len(found["worst"]) == 10
    assert found["query_ids"] == [f"q{i}" for i in range(60)]  # whose values they are


def test_the_worst_queries_come_first_with_what_was_returned(evaluated: Evaluation) -> None:
    found = evaluated.sets[0]
    kinds = {each.kind: each for each in sorted(found.systems, key=lambda each: each.measures["nDCG@10"].value)}
    mean = np.mean([each.per_query["nDCG@10"] for each in kinds.values()], axis=0)
    assert [each.ndcg for each in found.worst] == pytest.approx(sorted(mean)[:10])
    worst = found.worst[0]
    assert set(worst.returned) == set(worst.ranks) == {each.name for each in kinds.values()}
    assert all(len(each) <= 3 for each in worst.returned.values())
    for name, documents in worst.returned.items():
        assert [each.score for each in documents] == sorted((each.score for each in documents), reverse=True)
        for rank, each in enumerate(documents, start=1):
            assert each.relevant == (worst.ranks[name] == rank)


def test_breakdowns_add_up_to_the_whole(evaluated: Evaluation) -> None:
    found = evaluated.sets[0]
    assert sum(found.query_lengths.values()) == sum(found.query_languages.values()) == found.queries
    assert len(found.query_lengths) > 1
    for each in found.systems:
        for parts, counts in ((each.by_length, found.query_lengths), (each.by_language, found.query_languages)):
            assert set(parts) == set(counts)
            total = sum(parts[name].value * count for name, count in counts.items())
            assert total / found.queries == pytest.approx(each.measures["nDCG@10"].value)


def test_figures_by_language_and_length_stand_with_the_queries_behind_them(
    mini: EmbeddingModel, tmp_path: Path, write_set: Callable[..., Path]
) -> None:
    corpus = [{"_id": "long", "text": "cats sleep " * 60}, {"_id": "short", "text": "Hunde schlafen"}]
    asked = {"q0": ("cats", "en", "long"), "q1": ("Hunde", "de", "short"), "q2": ("schlafen", "de", "short")}
    queries = [{"_id": key, "text": text, "language": language} for key, (text, language, _) in asked.items()]
    data = read_folder(write_set(corpus, queries, [f"{key}\t{relevant}\t1" for key, (_, _, relevant) in asked.items()]))
    found = evaluate(mini, [data], options=Options(systems=("bm25",), cache=tmp_path))
    (bm25,) = found.sets[0].systems
    assert {name: each.value for name, each in bm25.by_language.items()} == {"de": 1.0, "en": 1.0}
    assert found.sets[0].query_lengths == {"1-64": 2, "65-128": 1}
    text = Structure(page(found)).text
    assert "nDCG@10 by language of the query" in text
    assert "de, 2" in text
    assert "Queries: 1-64: 2, 65-128: 1." in text


def test_charts_draw_every_point_inside_and_labels_apart() -> None:
    series = {
        "a": {"x": Estimate(0.5, 0.4, 0.6), "y": Estimate(0.7, 0.6, 0.8)},
        "b": {"y": Estimate(0.0, 0.0, 0.0), "<z>": Estimate(1, 1, 1)},
    }
    drawing = line_chart(series, x_label="x & y", y_label="nDCG@10")
    assert drawing.count("<circle") == 4
    assert "&lt;z&gt;" in drawing
    points = [Point(str(i), f"system {i}", 10.0, 0.5 + 0.001 * i, i) for i in range(6)]
    drawing = scatter_chart(points, x_label="ms", y_label="nDCG@10")
    places = re.findall(r'class="label" x="([-\d.]+)" y="([-\d.]+)"', drawing)
    assert len(set(places)) == 6
    for text in (drawing, line_chart(series, x_label="x", y_label="y")):
        for x, y in re.findall(r'c[x]="([-\d.]+)" cy="([-\d.]+)"', text):
            assert 0 <= float(x) <= 360
            assert 0 <= float(y) <= 240


def test_names_under_an_axis_stand_apart_and_lines_of_one_colour_differ() -> None:
    steps = {name: Estimate(0.5, 0.4, 0.6) for name in in_order({bucket_of(2**i + 1): 0 for i in range(5, 14)})}
    assert len(steps) == 9
    drawing = line_chart({f"set {i}": steps for i in range(9)}, x_label="tokens", y_label="nDCG@10")
    placed = re.findall(r'<text x="([\d.]+)" y="(\d+)" text-anchor="middle">([^<]+)<', drawing)
    for height in {y for _, y, _ in placed}:
        ends = [(float(x) - 3 * len(name), float(x) + 3 * len(name)) for x, y, name in placed if y == height]
        assert all(right < left for (_, right), (left, _) in pairwise(sorted(ends))), placed
    colours = re.findall(r'<polyline [^>]*stroke="([^"]+)"[^>]*?(stroke-dasharray="[^"]+")?/>', drawing)
    assert len(set(colours)) == 9
    assert drawing.count("class=again") == 1


def test_a_report_that_cannot_be_written_says_so(evaluated: Evaluation, tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match=r"cannot write .* kept in the cache"):
        write_html(evaluated, tmp_path / "nowhere" / "out.html")


@pytest.mark.parametrize("package", ["bm25s", "ir_measures", "py3langid.langid", "Stemmer"])
def test_a_missing_extra_is_an_error_with_the_pip_line(
    package: str, docs_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    languages._identifier.cache_clear()
    assert main(["evaluate", "--data", str(docs_folder), "--systems", "bm25", "--queries", "2"]) == 1
    assert "pip install 'mgte-rag[eval]'" in capsys.readouterr().err
