"""Reading documents, queries and judgments: what is good is read, what is bad is named by file and line."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgte_rag import DataError, InvalidOptionError
from mgte_training.evaluation import read_folder, read_hub

DOCUMENT = {"_id": "d", "title": "Cats", "text": "Cats sleep."}
QUERY = {"_id": "q", "text": "who sleeps?"}
HEADING = "query-id\tcorpus-id\tscore"


def test_a_folder_is_read_with_titles_before_texts(write_set: Callable[..., Path]) -> None:
    data = read_folder(write_set())
    assert (data.name, data.documents, data.queries) == ("small", ("Cats Cats sleep.",), ("who sleeps?",))
    assert data.grades == {"q": {"d": 1}}


def test_compressed_files_a_judgments_folder_and_no_heading_are_read_as_well(docs_folder: Path) -> None:
    data = read_folder(docs_folder)
    assert (len(data.documents), len(data.queries), data.grades["q7"]) == (120, 60, {"d7": 1})


def test_documents_stand_in_descending_order_of_their_ids_bytes(write_set: Callable[..., Path]) -> None:
    ids = ["d", "d10", "d9", "é", "z", "水"]
    folder = write_set(corpus=[{"_id": key, "text": key} for key in ids])
    assert read_folder(folder).document_ids == ("水", "é", "z", "d9", "d10", "d")


def test_queries_without_a_relevant_document_are_left_out_and_counted(write_set: Callable[..., Path]) -> None:
    queries = [QUERY, {"_id": "unjudged", "text": "?"}, {"_id": "irrelevant", "text": "?"}]
    data = read_folder(write_set(queries=queries, qrels=[HEADING, "q\td\t1", "irrelevant\td\t0"]))
    assert data.query_ids == ("q",)
    assert data.without_judgment == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"corpus": [DOCUMENT, "{not json"]}, r"corpus\.jsonl:2: not a line of JSON"),
        ({"corpus": [DOCUMENT, "[1]"]}, r"corpus\.jsonl:2: must be an object .* not \[1\]"),
        ({"corpus": [DOCUMENT, {"text": "no id"}]}, r"corpus\.jsonl:2: '_id' is missing"),
        ({"corpus": [DOCUMENT, {"_id": 7, "text": "x"}]}, r"corpus\.jsonl:2: '_id' must be a string, not 7"),
        ({"corpus": [DOCUMENT, {"_id": "", "text": "x"}]}, r"corpus\.jsonl:2: '_id' is empty"),
        ({"corpus": [DOCUMENT, {"_id": "e", "text": None}]}, r"corpus\.jsonl:2: 'text' is missing"),
        ({"corpus": [DOCUMENT, {"_id": "e", "text": "x", "title": 3}]}, r"corpus\.jsonl:2: 'title' must be a string"),
        ({"corpus": [DOCUMENT, "", DOCUMENT]}, r"corpus\.jsonl:3: the document id 'd' is there twice, first at .*:1"),
        ({"corpus": [DOCUMENT, '{"_id": "e", "text": "\\ud800"}']}, r"corpus\.jsonl:2: half of a surrogate pair"),
        ({"queries": [QUERY, QUERY]}, r"queries\.jsonl:2: the query id 'q' is there twice"),
        ({"queries": [QUERY, {"_id": "p", "text": " \n"}]}, r"queries\.jsonl:2: the query 'p' is empty"),
        ({"qrels": [HEADING, "q\td\t1", "q\te\t1"]}, r"qrels\.tsv:3: judges the document 'e', which is not"),
        ({"qrels": [HEADING, "p\td\t1"]}, r"qrels\.tsv:2: judges the query 'p', which is not"),
        ({"qrels": [HEADING, "q d 1"]}, r"qrels\.tsv:2: must be query id, document id and grade with tabs"),
        ({"qrels": ["q\td\t1.0", "q\td\t1"]}, r"qrels\.tsv:1: the grade must be a whole number, not '1\.0'"),
        ({"corpus": []}, r"corpus\.jsonl:1: the file is empty"),
        ({"queries": ["", " "]}, r"queries\.jsonl:1: the file is empty"),
        ({"qrels": []}, r"qrels\.tsv:1: the file is empty"),
        ({"qrels": [HEADING, "q\td\tyes"]}, r"qrels\.tsv:2: the grade must be a whole number, not 'yes'"),
        ({"qrels": [HEADING, "q\td\t1", "q\td\t2"]}, r"qrels\.tsv:3: .* judged twice, 1 and 2"),
        ({"qrels": [HEADING, "q\td\t0"]}, r"no query has a relevant document"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_data_is_an_error_that_names_file_and_line(
    write_set: Callable[..., Path], files: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_folder(write_set(**files))


def test_another_encoding_is_named_with_its_line(write_set: Callable[..., Path]) -> None:
    folder = write_set()
    (folder / "corpus.jsonl").write_bytes(json.dumps(DOCUMENT).encode() + b'\n{"_id": "e", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl:2: not UTF-8"):
        read_folder(folder)


def test_a_damaged_compressed_file_is_named(docs_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "queries.jsonl").write_text(json.dumps(QUERY) + "\n")
    (folder / "qrels.tsv").write_text("q\td\t1\n")
    whole = gzip.compress((json.dumps(DOCUMENT) + "\n").encode() * 50)
    for damaged in (whole[:-12], b"no gzip at all", whole[:20] + b"\xff" * 30):
        (folder / "corpus.jsonl.gz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"corpus\.jsonl\.gz:\d+"):
            read_folder(folder)


def test_a_missing_file_or_folder_says_what_is_needed(tmp_path: Path, write_set: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="is no folder; give one with corpus"):
        read_folder(tmp_path / "nowhere")
    folder = write_set()
    (folder / "qrels.tsv").unlink()
    with pytest.raises(DataError, match=r"has no qrels/test\.tsv or qrels\.tsv"):
        read_folder(folder)
    with pytest.raises(DataError, match=r"has no qrels/dev\.tsv"):  # qrels.tsv is of no other split
        read_folder(write_set(name="other"), split="dev")


def test_a_sample_of_queries_is_the_same_every_time(docs_folder: Path) -> None:
    data = read_folder(docs_folder)
    few = data.sample_queries(7)
    assert few.query_ids == data.sample_queries(7).query_ids != data.sample_queries(7, seed=1).query_ids
    assert len(few.query_ids) == 7
    assert few.documents == data.documents
    assert data.sample_queries(10**6).query_ids == data.query_ids
    with pytest.raises(InvalidOptionError, match="queries=0"):
        data.sample_queries(0)


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A folder with configurations is to the library what a repository on the hub is."""
    folder = tmp_path / "hub"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json.dumps(DOCUMENT) + "\n")
    (folder / "queries.jsonl").write_text(json.dumps(QUERY) + "\n")
    row = {"query-id": "q", "corpus-id": "d", "score": 1}
    (folder / "qrels" / "test.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: default\n  data_files:\n  - split: test\n    path: qrels/test.jsonl\n"
        "- config_name: corpus\n  data_files:\n  - split: corpus\n    path: corpus.jsonl\n"
        "- config_name: queries\n  data_files:\n  - split: queries\n    path: queries.jsonl\n---\n"
    )
    return folder


def test_a_data_set_in_the_hubs_layout_is_read(hub_folder: Path) -> None:
    data = read_hub(str(hub_folder))
    assert (data.documents, data.queries, data.grades) == (("Cats Cats sleep.",), ("who sleeps?",), {"q": {"d": 1}})
    with pytest.raises(DataError, match="cannot read 'default', split 'dev'"):
        read_hub(str(hub_folder), split="dev")


def test_a_row_of_the_hub_that_cannot_be_used_is_named(hub_folder: Path) -> None:
    judged = hub_folder / "qrels" / "test.jsonl"
    judged.write_text(json.dumps({"query-id": "q", "corpus-id": "d", "score": 0.5}) + "\n")
    with pytest.raises(DataError, match=r"judgments row 0: needs query-id, corpus-id and a whole number as score"):
        read_hub(str(hub_folder))
    judged.write_text(json.dumps({"query-id": "q", "corpus-id": "d", "score": 1.0}) + "\n")
    assert read_hub(str(hub_folder)).grades == {"q": {"d": 1}}
    (hub_folder / "corpus.jsonl").write_text(json.dumps({"title": "Cats", "text": "Cats sleep."}) + "\n")
    with pytest.raises(DataError, match=r"corpus row 0: '_id' is missing"):
        read_hub(str(hub_folder))


def test_without_network_the_hub_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'nobody/nothing'.* needs the network or a copy in the cache"):
        read_hub("nobody/nothing")
