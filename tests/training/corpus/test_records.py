"""What each kind of file and row gives."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from mgte_rag.errors import DataError
from mgte_training.corpus import Document, Row, Unreadable, corpus_files, make_pairs_of, read_records
from mgte_training.corpus.documents import CorpusFile
from mgte_training.corpus.structure import Section, outline_markdown, outline_marked_up
from mgte_training.corpus.words import key_of, tokens, word_count

READERS = {
    "a.txt": ("Feeding cats\n\nTwice a day.", "Feeding cats", Section("", "Twice a day.")),
    "a.md": ("# Cats\n## Food\nMeat", "Cats", Section("Food", "Meat")),
    "a.rst": ("Cats\n====\n\nFood\n----\n\nMeat", "Cats", Section("Food", "Meat")),
    "a.html": (
        "<h1>Cats</h1><h2>Their<br>food</h2><p>Meat</p><script>x</script>",
        "Cats",
        Section("Their food", "Meat"),
    ),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_file_of_each_format_is_a_document(tmp_path: Path, name: str, end: str) -> None:
    text, title, section = READERS[name]
    content = text.encode("utf-8-sig")
    (tmp_path / f"{name}{end}").write_bytes(gzip.compress(content) if end else content)
    (file,) = corpus_files(tmp_path)
    assert list(read_records(file)) == [Document(f"{name}{end}", title, (section,))]
    assert list(read_records(file, skip=1)) == []


def test_lines_of_json_are_rows_read_from_any_place(write: Callable[..., Path]) -> None:
    path = write([{"title": "a", "text": "b"}, {"x": 1}, {"x": 2}], "rows.jsonl.gz")
    (file,) = corpus_files(path)
    assert list(read_records(file, skip=1)) == [Row("rows.jsonl.gz#2", {"x": 1}), Row("rows.jsonl.gz#3", {"x": 2})]


def test_what_cannot_be_read_says_why_and_the_lines_after_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(b'{"x": 1}\n\n{broken\n[1]\n{"x": "\xff"}\n{"x": 2}\n')
    (tmp_path / "latin.md").write_bytes("# Käse".encode("latin-1"))
    damaged = gzip.compress(b'{"x": 1}\n' * 9000)
    (tmp_path / "short.jsonl.gz").write_bytes(damaged[:-30])
    (tmp_path / "zip.md.gz").write_bytes(b"no gzip")
    found = {file.name: list(read_records(file)) for file in corpus_files(tmp_path)}
    names = [record.name for record in found["b.jsonl"]]
    assert names == ["b.jsonl#1", "b.jsonl#3", "b.jsonl#4", "b.jsonl#5", "b.jsonl#6"]
    assert [type(record) for record in found["b.jsonl"]] == [Row, Unreadable, Unreadable, Unreadable, Row]
    assert found["latin.md"] == [Unreadable("latin.md", "not UTF-8 at byte 3; save it as UTF-8")]
    assert isinstance(found["short.jsonl.gz"][-1], Unreadable)
    assert isinstance(found["zip.md.gz"][0], Unreadable)


def test_a_folder_that_cannot_be_opened_for_reading_is_named(tmp_path: Path) -> None:
    assert next(iter(read_records(CorpusFile(tmp_path / "gone.md", "gone.md")))) == Unreadable(
        "gone.md", "No such file or directory"
    )
    with pytest.raises(DataError, match="gone: there is no such folder or file"):
        corpus_files(tmp_path / "gone")


def test_underlines_that_markdown_lacks_make_restructuredtext() -> None:
    text = "Food\n----\nMeat\n\nFish\n~~~~\nRaw\n\nWater\n~~~~~\nFresh"
    assert [section.heading for section in outline_marked_up(text, "Cats").sections] == ["Food", "Fish", "Water"]
    fenced = "# Cats\ntext\n\n~~~~\ncode\n~~~~\n"
    assert outline_marked_up(fenced) == outline_markdown(fenced)


def test_words_are_counted_in_scripts_with_and_without_spaces() -> None:
    assert word_count("Cats don't sleep.") == 4
    assert word_count("猫は眠る") == 2
    assert word_count("TiDB 数据库 7") == 2 + 2
    assert tokens("हिन्दी में लिखा") == ["हिन्दी", "में", "लिखा"]


def section_pairs(document: Document, *shared: str, body_words: int = 100) -> list[tuple[str, str, str]]:
    made = make_pairs_of(document, {key_of(heading) for heading in shared}, body_words=body_words)
    return [(pair.task, pair.query, pair.positive) for pair in made.pairs]


def test_a_document_gives_its_body_its_sections_and_its_questions() -> None:
    sections = (
        Section("", "Intro"),
        Section("Feeding them", "Meat"),
        Section("Do they sleep?", "Long"),
        Section("Water", "Fresh"),
        Section("Further  reading", "Books"),
        Section("Empty heading", ""),
    )
    assert section_pairs(Document("a.md", "Cats", sections), "further reading") == [
        (
            "title-body",
            "Cats",
            "Intro\n\nFeeding them\n\nMeat\n\nDo they sleep?\n\nLong\n\nWater\n\nFresh\n\nFurther  reading\n\nBooks"
            "\n\nEmpty heading",
        ),
        ("heading-section", "Feeding them", "Meat"),
        ("question-answer", "Do they sleep?", "Long"),
        ("heading-section", "Cats: Water", "Fresh"),
        ("heading-section", "Cats: Further  reading", "Books"),
    ]


def test_headings_ask_in_many_scripts_and_a_semicolon_asks_in_greek_alone() -> None:
    headings = ("Where from?", "在哪里？", "أين؟", "Πού είναι;", "Πού είναι\u037e", "int main;")
    pairs = section_pairs(Document("a", "C", tuple(Section(heading, "x") for heading in headings)))
    assert [task for task, *_ in pairs[1:]] == ["question-answer"] * 5 + ["heading-section"]


def test_without_a_title_only_headings_that_say_enough_ask() -> None:
    sections = (Section("Feeding them", "Meat"), Section("Water", "Fresh"), Section("More on that", "Books"))
    assert section_pairs(Document("a", "", sections), "more on that") == [("heading-section", "Feeding them", "Meat")]


def test_a_long_body_ends_at_a_paragraph_and_is_counted() -> None:
    document = Document("a", "Cats", (Section("", "one two three\n\nfour five\n\nsix"),))
    made = make_pairs_of(document, set(), body_words=5)
    assert (made.pairs[0].positive, made.cut) == ("one two three\n\nfour five", 1)
    assert make_pairs_of(document, set(), body_words=1).pairs[0].positive == "one two three"
    assert make_pairs_of(document, set(), body_words=6).cut == 0


def row_pairs(**fields: object) -> list[tuple[str, str, str, str]]:
    made = make_pairs_of(Row("a#1", fields), set(), body_words=100)
    return [(pair.task, pair.query, pair.positive, pair.language) for pair in made.pairs]


def test_rows_of_pairs_questions_translations_and_citations() -> None:
    assert row_pairs(query="a", positive="b", language="en") == [("pair", "a", "b", "en")]
    assert row_pairs(query="a", positive="b", task="title-abstract") == [("title-abstract", "a", "b", "")]
    assert row_pairs(question="a?", answer="b", url="u") == [("question-answer", "a?", "b", "")]
    assert row_pairs(translations={"en": "cat", "de": "Katze", "fr": "chat"}) == [
        ("translation", "cat", "Katze", "en-de"),
        ("translation", "cat", "chat", "en-fr"),
        ("translation", "Katze", "chat", "de-fr"),
    ]
    cited = [{"title": "On dogs", "abstract": "They bark."}, {"title": "On birds", "text": "They fly."}]
    assert row_pairs(title="On cats", text="They meow.", citations=cited, language="en") == [
        ("title-body", "On cats", "They meow.", "en"),
        ("citation", "On cats", "On dogs\n\nThey bark.", "en"),
        ("citation", "On cats", "On birds\n\nThey fly.", "en"),
    ]
    assert [task for task, *_ in row_pairs(title="On cats", citations=cited)] == ["citation", "citation"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"query": "a"}, "positive must be a string that is not empty, not None"),
        ({"query": "a", "positive": "b", "negatives": ["c"]}, "negatives would be lost"),
        ({"query": "a", "positive": "b", "task": 1}, "task must be a string"),
        ({"query": "a", "positive": "b", "label": [1]}, "label must be"),
        ({"query": "a", "positive": "b", "language": 1}, "language must be a string"),
        ({"question": "a", "answer": " "}, "answer must be a string that is not empty"),
        ({"translations": {"en": "a"}}, "two languages or more"),
        ({"translations": {"en": "a", "de": 1}}, "de must be a string"),
        ({"title": "a", "text": 1}, "text must be a string"),
        ({"title": 1, "text": "a"}, "title must be a string"),
        ({"title": "a", "citations": "b"}, "citations must be a list"),
        ({"title": "a", "citations": ["b"]}, "citations must be objects"),
        ({"title": "a", "citations": [{"title": "b"}]}, "text must be a string"),
        ({"body": "a"}, "fields body; a row has query and positive; question and answer"),
    ],
)
def test_a_malformed_row_says_what_is_allowed(fields: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        row_pairs(**fields)
