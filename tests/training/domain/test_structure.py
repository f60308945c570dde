"""Sections of each format, and folders with files that cannot be read."""

import gzip
import json
from pathlib import Path

import pytest

from mgte_rag.errors import DataError
from mgte_training.corpus.structure import Outline, outline_html, outline_markdown, outline_rst
from mgte_training.domain import Section, read_documents


def test_markdown_sections_end_at_the_next_heading_of_any_level() -> None:
    text = "# Cats\nAll about them.\n\n## How to *feed* them ##\nTwice.\n### [Water](a.md)\nAlways.\n## Sleep\nA lot.\n"
    assert outline_markdown(text) == Outline(
        "Cats",
        (
            Section("", "All about them."),
            Section("How to feed them", "Twice."),
            Section("Water", "Always."),
            Section("Sleep", "A lot."),
        ),
    )


def test_underlined_markdown_headings_count_and_rules_lists_and_tables_do_not() -> None:
    text = "Cats\n====\nIntro\n\nFood\n----\nMeat\n\n---\n\n- a list\n---\n\na line\nof text\n---\nend"
    assert outline_markdown(text) == Outline(
        "Cats",
        (Section("", "Intro"), Section("Food", "Meat\n\n---\n\n- a list\n---\n\na line\nof text\n---\nend")),
    )


def test_a_hash_in_a_code_block_is_no_heading_even_where_the_block_is_never_closed() -> None:
    text = "# T\n```python\n# comment\n```\n## Real\n~~~\n# inside\n```\n# still inside"
    assert [section.heading for section in outline_markdown(text).sections] == ["", "Real"]


def test_a_title_in_the_front_matter_wins_and_is_no_section_twice() -> None:
    text = '---\nlayout: page\ntitle: "Feeding cats"\n---\n# Feeding cats\nIntro\n# Other\nMore'
    assert outline_markdown(text) == Outline("Feeding cats", (Section("", "Intro"), Section("Other", "More")))


def test_a_text_with_several_headings_of_the_highest_level_has_no_title() -> None:
    assert outline_markdown("# A\na\n# B\nb") == Outline("", (Section("A", "a"), Section("B", "b")))


def test_rst_levels_follow_the_order_in_which_underlines_appear() -> None:
    text = (
        "=====\nTitle\n=====\n\nIntro\n\nPart one\n--------\nText\n\nDetail\n~~~~~~\nMore\n\nPart two\n--------\nEnd\n"
    )
    sections = (
        Section("", "Intro"),
        Section("Part one", "Text"),
        Section("Detail", "More"),
        Section("Part two", "End"),
    )
    assert outline_rst(text) == Outline("Title", sections)


def test_an_underline_that_is_too_short_or_indented_makes_no_heading() -> None:
    text = "Title\n=====\nA longer line\n---\ntext::\n\n    Code\n    ----\n"
    assert outline_rst(text).sections == (Section("", "A longer line\n---\ntext::\n\n    Code\n    ----"),)


def test_plain_text_has_a_short_first_line_as_its_title() -> None:
    assert outline_rst("Feeding cats\n\nTwice a day.\n") == Outline("Feeding cats", (Section("", "Twice a day."),))
    assert outline_rst("Cats eat\ntwice a day.") == Outline("", (Section("", "Cats eat\ntwice a day."),))


def test_html_headings_are_read_and_scripts_and_navigation_are_not() -> None:
    text = """<html><head><title>Site: cats</title><style>h1 {}</style></head><body><nav><h2>Menu</h2>home</nav>
    <h1>Cats &amp; dogs</h1><p>They <b>eat</b>.<h2>Food</h2><script>if (a < b) {}</script><ul><li>Meat<li>Fish</ul>
    <h2>Sleep</h2>Long<footer>imprint</footer></body>"""
    assert outline_html(text) == Outline(
        "Cats & dogs",
        (Section("", "They eat."), Section("Food", "Meat\nFish"), Section("Sleep", "Long")),
    )


def test_a_page_that_is_a_form_keeps_its_text_and_loses_its_controls() -> None:
    text = """<form action="/"><h1>Cats</h1><select><option>Dogs<option>Birds</select><p>They eat.
    <textarea>your text</textarea><input value="x"><h2><button>Food</button></h2>Meat</form>"""
    assert outline_html(text) == Outline("Cats", (Section("", "They eat."), Section("Food", "Meat")))


def test_broken_html_loses_no_text() -> None:
    outline = outline_html("<h2>Never closed<p>text</h2></div><h3>Next</h3>more <unknown>words")
    assert "text" in outline.title + "".join(section.heading + section.text for section in outline.sections)
    assert outline_html("<p>a<select><option>x</p><h2>H</h2>kept") == Outline(
        "H", (Section("", "a"), Section("", "kept"))
    )
    assert outline.sections[-1] == Section("Next", "more\nwords")


def test_html_without_headings_takes_its_title_element() -> None:
    assert outline_html("<title>Cats</title><p>Eat.") == Outline("Cats", (Section("", "Eat."),))


def write_folder(root: Path) -> Path:
    (root / "deep").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "hidden.md").write_text("# hidden\nno")
    (root / "a.md").write_text("# Cats\n## Food for cats\nMeat")
    (root / "deep" / "how-to_sleep.TXT").write_text("a long\ntext", encoding="utf-8-sig")
    (root / "latin.md").write_bytes("# K\xe4se\ntext".encode("latin-1"))
    (root / "picture.png").write_bytes(b"\x89PNG")
    lines = [{"title": "Dogs", "text": "## Walks\nDaily"}, {"title": "no text"}, {"title": "", "text": "no heading"}]
    (root / "b.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{broken\n[1]\n\n")
    return root


def test_a_folder_is_read_whole_and_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    found = read_documents(write_folder(tmp_path / "docs"))
    assert [(document.name, document.title) for document in found.documents] == [
        ("a.md", "Cats"),
        ("b.jsonl#1", "Dogs"),
        ("deep/how-to_sleep.TXT", "how to sleep"),
    ]
    assert found.documents[1].sections == (Section("Walks", "Daily"),)
    assert found.others == 1
    assert [problem.split(":")[0] for problem in found.problems] == [
        "b.jsonl#2", "b.jsonl#3", "b.jsonl#4", "b.jsonl#5", "latin.md"]  # fmt: skip
    assert "text must be a string" in found.problems[0]
    assert "neither a title nor a heading" in found.problems[1]
    assert "not UTF-8 at byte 3" in found.problems[-1]


def test_one_compressed_file_of_documents_is_a_folder_of_them(tmp_path: Path) -> None:
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"_id": 1, "title": "Cats", "text": "Meow"}\n'))
    assert read_documents(path).documents[0].sections == (Section("", "Meow"),)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"no document.*\n  docs.jsonl.gz: "):
        read_documents(path)


def test_a_folder_without_documents_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no document; files that end in \.md, .*, 1 others are there"):
        read_documents(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        read_documents(tmp_path / "missing")
