"""The command line as a user runs it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mgte_cli import doctor
from mgte_cli import stdlib_docs as stdlib_docs_module
from mgte_cli.main import main
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, __version__
from qdrant_mgte import HybridCollection


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mgte-rag {__version__}\n"


def test_without_a_command_it_says_which_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert "demo" in capsys.readouterr().err


def test_doctor_names_the_device_and_every_extra(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("device", "dtype", "threads", "attention", "qdrant-edge-py 0.9", "langchain-core", "llama-index"):
        assert word in out


def test_doctor_gives_the_pip_line_of_a_missing_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    main(["doctor"])
    assert "missing: pip install 'mgte-rag[llama-index]'" in capsys.readouterr().out


@pytest.fixture
def few_documents(stdlib_docs: list[DocEntry], monkeypatch: pytest.MonkeyPatch) -> list[DocEntry]:
    """The demo over three modules only."""
    some = [entry for entry in stdlib_docs if entry.module in ("csv", "glob", "difflib")]
    monkeypatch.setattr(stdlib_docs_module, "collect", lambda: some)
    return some


def test_the_demo_indexes_answers_and_names_the_next_commands(
    tmp_path: Path, few_documents: list[DocEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--index", str(tmp_path / "index")]) == 0
    out, err = capsys.readouterr()
    assert f"{len(few_documents)} documents, {len(few_documents)} of them indexed now" in out
    assert "? how do I read a csv file into dictionaries" in out
    assert "csv.reader" in out
    assert "tokens/s" in err
    assert 'mgte-rag demo "your question"' in out


def test_a_second_demo_finds_the_index_and_answers_ones_own_question(
    tmp_path: Path, few_documents: list[DocEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["demo", "--index", str(tmp_path / "index")])
    capsys.readouterr()
    assert main(["demo", "--index", str(tmp_path / "index"), "-k", "1", "paths", "matching", "a", "wildcard"]) == 0
    out = capsys.readouterr().out
    assert "0 of them indexed now" in out
    assert "? paths matching a wildcard" in out
    assert "1. " in out
    assert "glob" in out
    assert "2. " not in out


def test_an_error_of_this_project_is_one_line_and_exit_status_one(
    tmp_path: Path, mini: EmbeddingModel, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    assert main(["demo", "--index", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("mgte-rag: ")
    assert "has files (thesis.txt)" in err


def test_a_reader_that_stops_reading_is_no_error() -> None:
    script = f"{sys.executable} -m mgte_cli.main doctor | head -1"
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_fewer_than_one_answer_is_an_error_before_anything_is_indexed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "-k", "0"])
    assert "'0' is no whole number from 1 up" in capsys.readouterr().err


def test_the_default_index_is_in_the_users_cache_and_names_python_and_model(
    mini: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mgte_cli.demo import default_index

    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    folder = default_index(mini)
    assert folder.parent == Path("/cache/mgte-rag")
    assert mini.identity.fingerprint[:8] in folder.name


def test_ctrl_c_during_the_first_demo_keeps_what_was_indexed(tmp_path: Path, mini: EmbeddingModel) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "mgte_cli.main", "demo", "--index", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shown = ""
    while not re.search(r"\b([5-9][0-9]{2}|[1-9][0-9]{3})/[0-9]{4}", shown):  # five hundred are written
        shown += process.stderr.read(1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    with HybridCollection.open(tmp_path, model=mini) as collection:
        assert collection.outputs == ("dense", "sparse", "multi_vector")
        assert collection.count() >= 500


def test_the_documentation_collected_is_large_real_and_unique(stdlib_docs: list[DocEntry]) -> None:
    assert len(stdlib_docs) > 4_000
    assert len({entry.name for entry in stdlib_docs}) == len(stdlib_docs)
    assert {entry.kind for entry in stdlib_docs} == {"module", "class", "function", "method"}
    assert all(entry.text.strip() for entry in stdlib_docs)
    names = {entry.name for entry in stdlib_docs}
    assert {"csv", "csv.reader", "builtins.str.split", "os.getpid", "pathlib.Path.glob", "asyncio.gather"} <= names


def test_the_documentation_collected_is_the_same_in_every_process() -> None:
    script = "from mgte_cli.stdlib_docs import collect; print(hash(tuple(collect())), 'SECRET' in repr(collect()))"
    environment = {"PYTHONHASHSEED": "0", "PYTHONPATH": ":".join(sys.path)}
    printed = {
        subprocess.run(
            [sys.executable, "-c", first + script], capture_output=True, text=True, check=True, env=environment | more
        ).stdout
        for first, more in (("", {}), ("import setuptools, transformers.utils.logging\n", {"SECRET": "in a default"}))
    }
    assert len(printed) == 1
    assert printed.pop().endswith(" False\n")


def test_a_document_says_name_signature_kind_and_module(stdlib_docs: list[DocEntry]) -> None:
    entry = next(entry for entry in stdlib_docs if entry.name == "glob.escape")
    document = entry.to_document()
    assert document["text"].startswith("glob.escape(pathname)\n\n")
    assert document["metadata"] == {"name": "glob.escape", "kind": "function", "module": "glob"}
