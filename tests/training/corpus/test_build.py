"""Files to shards: counts that add up, bytes that a stop does not change, and errors that name what is wrong."""

import errno
import gzip
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag.errors import DataError
from mgte_training.corpus import CorpusOptions, Statistics, build, build_pairs, shards
from mgte_training.data import Source, SourceData

Words = Callable[..., str]
Write = Callable[..., Path]
RowsOf = Callable[[Path], list[dict[str, Any]]]

OPTIONS = CorpusOptions(shard_rows=100, positive_words=(3, 999))


def corpus(words: Words, count: int = 200) -> list[dict[str, object]]:
    """Documents of three sections; some are repeated, short, or broken."""
    rows: list[dict[str, object]] = []
    for number in range(count):
        sections = [f"## {words(f'h{number}.{i}', 3)}\n\n{words((number, i))}" for i in range(3)]
        rows.append({"title": words(f"t{number}", 2), "text": "\n\n".join(sections), "language": "en"})
        if number % 10 == 0:
            rows.append(dict(rows[-1]))
        if number % 25 == 0:
            rows.append({"query": words(f"q{number}", 3), "positive": "two words", "language": "en"})
            rows.append(
                {"question": words(f"x{number}", 3), "answer": "\ufffd\ufffd " + words(number), "language": "de"}
            )
    return rows


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def documents(words: Words, write: Write) -> Path:
    """A folder of two files."""
    rows = corpus(words)
    write(rows[:150], "a.jsonl.gz")
    return write(rows[150:], "b.jsonl").parent


@pytest.fixture
def whole(documents: Path, tmp_path: Path) -> dict[str, bytes]:
    """The output of a run that nothing stopped."""
    build_pairs([documents], tmp_path / "whole", options=OPTIONS)
    return files_of(tmp_path / "whole")


def test_every_pair_is_kept_or_counted_under_what_spoke_against_it(
    documents: Path, tmp_path: Path, rows_of: RowsOf
) -> None:
    found = build_pairs([documents], tmp_path / "out", options=OPTIONS)
    rows = rows_of(tmp_path / "out")
    assert (found.files, found.records, found.with_pairs) == (2, 200 + 20 + 8 + 8, 236)
    assert found.pairs == 4 * 220 + 8 + 8
    assert {reason: count for reason, count in found.dropped.items() if count} == {
        "length": 8, "broken characters": 8, "exact duplicate": 4 * 20}  # fmt: skip
    assert found.kept == len(rows) == 4 * 200
    assert found.tasks == {"heading-section": [660, 600], "pair": [8, 0], "question-answer": [8, 0],
                           "title-body": [220, 200]}  # fmt: skip
    assert found.languages == {"de": [8, 0], "en": [888, 800]}
    sizes = [len(gzip.open(path).readlines()) for path in sorted((tmp_path / "out").glob("*.gz"))]
    assert sizes == [100] * 8
    assert [sample.detail for sample in found.samples["length"]] == ["positive of 2 words, fewest 3"] * 5


def test_kept_pairs_stand_in_the_order_of_the_documents(documents: Path, tmp_path: Path, rows_of: RowsOf) -> None:
    build_pairs([documents], tmp_path / "out", options=OPTIONS)
    places = [
        (name, int(number)) for name, _, number in (r["source"].partition("#") for r in rows_of(tmp_path / "out"))
    ]
    assert places == sorted(places)
    first = rows_of(tmp_path / "out")[0]
    assert (first["task"], first["language"], first["source"]) == ("title-body", "en", "a.jsonl.gz#1")


def test_training_reads_the_shards(documents: Path, tmp_path: Path) -> None:
    build_pairs([documents], tmp_path / "out", options=OPTIONS)
    data = SourceData.read(Source("pairs", str(tmp_path / "out" / "pairs-00000.jsonl.gz")))
    assert len(data) == 100
    assert data[1].positives[0] in data[0].positives[0]


RECORDS = st.one_of(
    st.fixed_dictionaries(
        {"query": st.sampled_from("ab"), "positive": st.text("xy \ufffd\n-", min_size=1, max_size=9)}
    ),
    st.fixed_dictionaries({"title": st.sampled_from(["", "t"]), "text": st.text("# x\n\ufffd", max_size=20)}),
    st.fixed_dictionaries({"question": st.text("ab?", min_size=1, max_size=2), "answer": st.just("x y")}),
    st.fixed_dictionaries({"other": st.just(1)}),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(RECORDS, min_size=1, max_size=12), shard_rows=st.integers(1, 4))
def test_counts_add_up_whatever_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows_of: RowsOf, rows: list[dict[str, object]], shard_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "a.jsonl").write_text("\n".join(json.dumps({**row, "language": "en"}) for row in rows))
    options = CorpusOptions(shard_rows=shard_rows, positive_words=(1, 9), max_repeats=2, skip_unreadable=True)
    try:
        found = build_pairs([folder], folder / "out", options=options)
    except DataError as error:
        assert "no pair is left" in str(error)  # noqa: PT017  # either of two outcomes is right
        return
    kept = rows_of(folder / "out")
    assert found.records == len(rows) == found.with_pairs + sum(found.without.values())
    assert found.pairs == len(kept) + sum(found.dropped.values())
    assert len({(row["query"], row["positive"]) for row in kept}) == len(kept)


def test_lost_or_twice_counted_pairs_are_noticed(pair: Callable[..., Any]) -> None:
    found = Statistics()
    found.add_record(2, 0)
    found.add_kept(pair())
    found.check()
    found.pairs += 1
    with pytest.raises(AssertionError, match="pairs do not add up"):
        found.check()


KILLED = """
import os, signal, sys
from mgte_training.corpus import CorpusOptions, build_pairs
from mgte_training.corpus.shards import Shards
rows, moment = 0, sys.argv[3]
add, write = Shards.add, Shards.write

def add_or_die(self, row):
    global rows
    rows += 1
    if moment == "within" and rows == 350:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(self, row)

def write_or_die(self, name, text):  # the third shard has its name, and what goes with it is not written yet
    if moment == "between" and self.count == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, name, text)

Shards.add, Shards.write = add_or_die, write_or_die
build_pairs([sys.argv[1]], sys.argv[2], options=CorpusOptions(shard_rows=100, positive_words=(3, 999)))
"""


@pytest.mark.parametrize(("moment", "named", "known"), [("within", 3, 3), ("between", 3, 2)])
def test_a_killed_run_goes_on_to_the_same_bytes(
    documents: Path, tmp_path: Path, whole: dict[str, bytes], moment: str, named: int, known: int
) -> None:
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(documents), str(out), moment], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(out.glob("pairs-*.gz"))) == named
    assert json.loads((out / "progress.json").read_text())["shards"] == known
    build_pairs([documents], out, options=OPTIONS)
    assert files_of(out) == whole


def test_a_run_stopped_after_any_shard_goes_on_to_the_same_bytes(
    documents: Path, tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = shards.Shards.finish_shard
    stops = 0

    def finish_and_stop(self: shards.Shards, state: Any, *, is_last: bool = False) -> None:
        finish(self, state, is_last=is_last)
        if not is_last:
            raise KeyboardInterrupt

    monkeypatch.setattr(shards.Shards, "finish_shard", finish_and_stop)
    while True:  # one shard a run
        try:
            found = build_pairs([documents], tmp_path / "out", options=OPTIONS)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 8
    assert files_of(tmp_path / "out") == whole
    assert build_pairs([documents], tmp_path / "out", options=OPTIONS) == found  # all is done: nothing is made anew


def test_shards_of_any_size_hold_the_same_rows(
    documents: Path, tmp_path: Path, whole: dict[str, bytes], rows_of: RowsOf
) -> None:
    build_pairs([documents], tmp_path / "out", options=CorpusOptions(shard_rows=7, positive_words=(3, 999)))
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "whole")


def test_other_options_or_files_that_changed_are_refused(documents: Path, tmp_path: Path, words: Words) -> None:
    out = tmp_path / "out"
    build_pairs([documents], out, options=OPTIONS)
    with pytest.raises(DataError, match="begun with other files, options or another model"):
        build_pairs([documents], out, options=CorpusOptions(shard_rows=100))
    with (documents / "b.jsonl").open("a") as file:
        file.write(json.dumps({"query": "more", "positive": words(1)}) + "\n")
    with pytest.raises(DataError, match="files that were read before have changed"):
        build_pairs([documents], out, options=OPTIONS)
    with pytest.raises(DataError, match="has files of something else"):
        build_pairs([documents], documents, options=OPTIONS)
    (out / "pairs-00001.jsonl.gz").unlink()
    with pytest.raises(DataError, match=r"pairs-00001.jsonl.gz is missing"):
        build_pairs([documents], out, options=OPTIONS)


def test_files_that_are_new_when_all_was_done_are_not_passed_over_in_silence(
    documents: Path, tmp_path: Path, words: Words
) -> None:
    build_pairs([documents], tmp_path / "out", options=OPTIONS)
    assert build_pairs([documents], tmp_path / "out", options=OPTIONS).kept == 800
    (documents / "c.md").write_text(f"# {words(1, 3)}\n\n{words(2)}")
    with pytest.raises(DataError, match="the pairs of 2 files are there already, and there are 3 files now"):
        build_pairs([documents], tmp_path / "out", options=OPTIONS)


def test_the_output_may_be_in_the_folder_of_the_documents(
    documents: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shards and its report are no documents, neither when a run goes on nor when it is done."""
    out = documents / "a-pairs"  # before the documents by name
    with monkeypatch.context() as patch:
        patch.setattr(shards.Shards, "remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_pairs([documents], out, options=OPTIONS)
    (out / "shared-headings.json").unlink()
    assert build_pairs([documents], out, options=OPTIONS).files == 2
    assert {name: files_of(out)[name] for name in whole if name.startswith("pairs")} == {
        name: content for name, content in whole.items() if name.startswith("pairs")
    }


def test_headings_of_rows_without_a_title_are_shared_too(write: Write, words: Words, tmp_path: Path) -> None:
    texts = [f"# {words(f't{i}', 3)}\n\n{words(i)}\n\n## Getting started\n\n{words(('s', i))}" for i in range(2)]
    path = write([{"text": text, "language": "en"} for text in texts])
    build_pairs([path], tmp_path / "out")
    rows = SourceData.read(Source("pairs", str(tmp_path / "out" / "pairs-00000.jsonl.gz")))
    asked = [rows[i].query for i in range(len(rows))]
    assert f"{words('t0', 3)}: Getting started" in asked
    assert "Getting started" not in asked


def test_a_line_that_cannot_be_read_is_named_and_the_run_goes_on_when_it_is_mended(
    documents: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    lines = (documents / "b.jsonl").read_bytes().splitlines(keepends=True)
    (documents / "b.jsonl").write_bytes(b"".join([*lines[:60], b'{"title": "\xff"}\n', *lines[61:]]))
    message = r"b.jsonl#61: not UTF-8 at byte 11.*\. 4 finished shards are kept; mend or remove it"
    with pytest.raises(DataError, match=message):
        build_pairs([documents], tmp_path / "out", options=OPTIONS)
    kept = files_of(tmp_path / "out")
    assert sorted(kept) == [*(f"pairs-0000{i}.jsonl.gz" for i in range(4)), "progress.json", "shared-headings.json"]
    (documents / "b.jsonl").write_bytes(b"".join(lines))
    build_pairs([documents], tmp_path / "out", options=OPTIONS)
    assert files_of(tmp_path / "out") == whole


def test_what_cannot_be_read_is_counted_where_that_is_wished(documents: Path, tmp_path: Path) -> None:
    (documents / "c.md").write_bytes("# Käse".encode("latin-1"))
    (documents / "d.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"c\.md: not UTF-8 at byte 3; save it as UTF-8"):
        build_pairs([documents], tmp_path / "out", options=OPTIONS)
    options = CorpusOptions(shard_rows=100, positive_words=(3, 999), skip_unreadable=True)
    found = build_pairs([documents], tmp_path / "out", options=options)  # goes on: that option decides no row
    assert (found.without["unreadable"], found.others, found.kept) == (1, 1, 800)
    assert found.samples["unreadable"][0].source == "c.md"
    assert "c.md" in (tmp_path / "out" / "report.html").read_text()


def test_a_corpus_without_documents_or_pairs_says_so(tmp_path: Path, write: Write) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.docx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"empty: no document; files that end in \.md, .* are read, 1 others are there"):
        build_pairs([tmp_path / "empty"], tmp_path / "out")
    with pytest.raises(DataError, match="there is no such folder or file"):
        build_pairs([tmp_path / "nowhere"], tmp_path / "out")
    path = write([{"query": "a", "positive": "too short", "language": "en"}])
    for _ in range(2):  # the same again when the same call is made again
        with pytest.raises(DataError, match=r"no pair is left(.|\n)*1 100\.0 %  length"):
            build_pairs([path], tmp_path / "out")
    (tmp_path / "blank.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"no pair is left(.|\n)*0 records of 1 files"):
        build_pairs([tmp_path / "blank.jsonl"], tmp_path / "blank")


FULL_DISK = """
import resource, signal, sys
from mgte_rag.errors import DataError
from mgte_training.corpus import CorpusOptions, build_pairs
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
options = CorpusOptions(shard_rows=100, positive_words=(3, 999))
try:
    build_pairs([sys.argv[1]], sys.argv[2], options=options)
except DataError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_that_names_the_shard_and_the_run_goes_on_when_there_is_room(
    documents: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    sizes = [len(content) for name, content in sorted(whole.items()) if name.startswith("pairs")]
    largest = max(range(1, len(sizes)), key=lambda number: sizes[number])
    limit = max(sizes[:largest])  # every shard before the largest fits
    code = [sys.executable, "-c", FULL_DISK, str(documents), str(out), str(limit)]
    said = subprocess.run(code, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert f"pairs-{largest:05}.jsonl.gz: cannot be written: File too large. {largest} finished shards are kept" in said
    assert sorted(path.name for path in out.glob("pairs-*")) == [f"pairs-{i:05}.jsonl.gz" for i in range(largest)]
    build_pairs([documents], out, options=OPTIONS)
    assert files_of(out) == whole


def test_a_disk_that_is_full_at_once_names_the_file(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"cannot be written: No space left on device\. 0 finished shards are kept"):
        build_pairs([documents], tmp_path / "out", options=OPTIONS)
    monkeypatch.undo()
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot be written: .*; choose another folder"):
        build_pairs([documents], tmp_path / "file", options=OPTIONS)


@pytest.mark.parametrize(("limit", "value"), [("_BLOCK", 40), ("_BLOCK_CHARACTERS", 5_000)])
def test_rows_are_written_while_records_are_read(
    documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    records: list[object] = []
    written_after: list[int] = []
    read, add = build.read_records, shards.Shards.add

    def counted(*args: Any, **options: Any) -> Iterator[Any]:
        for record in read(*args, **options):
            records.append(record)
            yield record

    def add_and_note(self: shards.Shards, row: Any) -> bool:
        written_after.append(len(records) - 236)  # all are read once before, for their headings
        return add(self, row)

    monkeypatch.setattr(build, limit, value)
    monkeypatch.setattr(build, "read_records", counted)
    monkeypatch.setattr(shards.Shards, "add", add_and_note)
    build_pairs([documents], tmp_path / "out", options=OPTIONS)
    rows_ahead = [4 * read - number for number, read in enumerate(written_after)]
    assert written_after[0] <= 12  # at most four pairs a record
    assert max(rows_ahead) < 4 * 36 + 60  # those left out, and a block


def without_markup(text: str) -> str:
    """Without the marks of headings, "#" and a line of "-" below."""
    return " ".join(re.sub(r"#|^-+$", "", text, flags=re.MULTILINE).split())


def test_real_documents_give_pairs_that_read_as_they_should(
    stdlib_docs: list[DocEntry], tmp_path: Path, rows_of: RowsOf
) -> None:
    modules: dict[str, list[str]] = {}
    for entry in random.Random(0).sample(stdlib_docs, 600):
        modules.setdefault(entry.module, []).append(f"## {entry.name}\n\n{entry.text}")
    rows = [{"title": name, "text": "\n\n".join(texts)} for name, texts in modules.items()]
    (tmp_path / "docs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = build_pairs([tmp_path / "docs.jsonl"], tmp_path / "out")
    assert found.kept > 200
    assert found.languages["en"][1] > 0.9 * found.kept
    for row in rows_of(tmp_path / "out"):
        document = rows[int(row["source"].partition("#")[2]) - 1]
        text = without_markup(document["text"])
        assert row["query"] == document["title"] or row["query"].rpartition(": ")[2] in text
        assert without_markup(row["positive"]) in text


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA names no folder of larger data sets")
@pytest.mark.parametrize(("name", "language"), [("peps", "en"), ("rust_rfcs", "en"), ("pingcap_docs_cn", "zh")])
def test_a_slice_of_larger_real_corpora_is_kept_for_the_most_part(
    tmp_path: Path, rows_of: RowsOf, name: str, language: str
) -> None:
    path = tmp_path / f"{name}.jsonl"
    with gzip.open(Path(os.environ["MGTE_DATA"]) / "documents" / f"{name}.jsonl.gz") as lines:
        path.write_bytes(b"".join(line for number, line in enumerate(lines) if number % 40 == 7))
    found = build_pairs([path], tmp_path / "out")
    assert found.records >= 15
    assert found.languages[language][0] > 0.9 * found.pairs
    assert 0.6 < found.kept / found.pairs < 0.98
    assert found.tasks["heading-section"][1] > 5 * found.records
    headings = {row["query"].rpartition(": ")[2].casefold() for row in rows_of(tmp_path / "out")}
    assert not headings & {"references", "copyright", "see also", "另请参阅"}
