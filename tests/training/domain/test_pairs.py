"""Queries from structure: what is asked how, what is left out, and a split that never leaks."""

import json
from pathlib import Path

import pytest

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag.errors import DataError
from mgte_training.domain import Document, Pairs, Section, make_pairs


def words(start: str, count: int = 12) -> str:
    return " ".join(f"{start}{number}" for number in range(count))


def documents() -> list[Document]:
    boilerplate = words("licence")
    return [
        Document("cats.md", "Cats", (
            Section("", words("intro")),
            Section("Food", words("meat")),
            Section("How to groom them", words("brush")),
            Section("Further reading", words("books")),
            Section("Terms of use", boilerplate),
        )),
        Document("dogs.md", "Dogs", (
            Section("Further  Reading", words("shelves")),
            Section("Where to walk", "too short"),
            Section("Terms of use", boilerplate.upper()),
            Section("When to walk", words("morning")),
        )),
        Document("notes.txt", "??", (Section("", words("loose")),)),
    ]  # fmt: skip


def asked(pairs: Pairs) -> dict[str, list[str]]:
    return {each.query: [pairs.sections[place].split()[0] for place in each.sections] for each in pairs.asked}


def test_a_heading_that_says_little_is_asked_with_its_title() -> None:
    pairs = make_pairs(documents())
    assert asked(pairs) == {
        "Cats": ["intro0"],
        "Cats: Food": ["meat0"],
        "How to groom them": ["brush0"],
        "Cats: Further reading": ["books0"],
        "Dogs: Further  Reading": ["shelves0"],
        "When to walk": ["morning0"],
    }


def test_every_section_is_counted_once() -> None:
    counts = make_pairs(documents()).counts
    assert counts["sections left out: fewer than 12 words"] == 1
    assert counts["sections left out: the same text in several places"] == 2
    assert counts["sections without a query"] == 1
    assert counts["sections"] == 10 == sum(
        count for reason, count in counts.items() if reason.startswith("sections ")
    )  # fmt: skip


def test_a_query_that_two_documents_answer_is_left_out_and_the_sections_stay() -> None:
    twins = [Document(name, "Cats", (Section("", words(name)), Section("Food", words(name + "f")))) for name in "ab"]
    single = Document("c", "Dogs", (Section("", words("c")),))
    pairs = make_pairs([*twins, single])
    assert asked(pairs) == {"Dogs": ["c0"]}
    assert len(pairs.sections) == 5
    assert pairs.counts["queries left out: several documents answer them"] == 2


def test_a_split_by_document_never_leaks(stdlib_docs: list[DocEntry]) -> None:
    modules: dict[str, list[Section]] = {}
    for entry in stdlib_docs:
        modules.setdefault(entry.module, []).append(Section(entry.name.rpartition(".")[2], entry.text))
    pairs = make_pairs([Document(name, name, tuple(sections)) for name, sections in modules.items()])
    for seed in range(5):
        train, held_out = pairs.split(0.2, seed)
        assert len(train) + len(held_out) == len(pairs.asked)
        for name in ("document", "query"):
            assert not {getattr(each, name) for each in train} & {getattr(each, name) for each in held_out}
        places = [{place for each in side for place in each.sections} for side in (train, held_out)]
        assert not places[0] & places[1]
        texts = [{" ".join(pairs.sections[place].split()).casefold() for place in side} for side in places]
        assert not texts[0] & texts[1]
        share = len({each.document for each in held_out}) / len({each.document for each in pairs.asked})
        assert share == pytest.approx(0.2, abs=0.01)
    assert pairs.split(0.2, 0) == pairs.split(0.2, 0) != pairs.split(0.2, 1)


def write_questions(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_questions_find_their_sections_by_text_and_by_document(tmp_path: Path) -> None:
    path = write_questions(
        tmp_path / "q.jsonl",
        {"question": "what do cats eat?", "text": "MEAT3  meat4"},
        {"question": "all about dogs", "document": "dogs.md"},
        {"question": "gone", "text": "nowhere to be found"},
    )
    pairs = make_pairs(documents(), questions=path)
    assert asked(pairs)["what do cats eat?"] == ["meat0"]
    assert asked(pairs)["all about dogs"] == ["shelves0", "morning0"]
    assert pairs.counts["questions"] == 2
    assert pairs.counts["questions left out: no section that was kept has that text or document"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "text": "b", "document": "c"}, "one of text and document"),
        ({"question": "a"}, "one of text and document"),
        ({"query": "a", "text": "b"}, "one of text and document"),
        ({"question": " ", "text": "b"}, "question must be a string that is not empty"),
        ({"question": "a", "text": ["b"]}, "text must be a string"),
        (["a"], "an object"),
    ],
)
def test_a_malformed_question_is_named_by_file_and_line(tmp_path: Path, row: object, message: str) -> None:
    path = write_questions(tmp_path / "q.jsonl", {"question": "fine", "document": "dogs.md"}, row)
    with pytest.raises(DataError, match=f"q.jsonl:2: .*{message}"):
        make_pairs(documents(), questions=path)


def test_questions_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"q\.jsonl:1: no JSON"):
        make_pairs(documents(), questions=tmp_path / "q.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        make_pairs(documents(), questions=tmp_path / "missing.jsonl")


def test_documents_without_headings_or_with_short_sections_say_why_nothing_is_left() -> None:
    with pytest.raises(DataError, match=r"no section of 3 documents(.|\n)*10  sections left out: fewer than 100 words"):
        make_pairs(documents(), min_words=100)
    with pytest.raises(DataError, match="at least two are needed"):
        make_pairs(documents()[:1]).split(0.2, 0)
