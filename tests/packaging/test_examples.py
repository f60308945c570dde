"""Every example runs as it stands, offline, and prints what it promises."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from mgte_cli.stdlib_docs import collect

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_every_example_is_run_here() -> None:
    assert [path.name for path in sorted(EXAMPLES.glob("*.py"))] == [
        "01_langchain_rag.py",
        "02_llama_index_rag.py",
        "03_qdrant_hybrid.py",
        "04_long_documents.py",
        "05_late_interaction.py",
        "06_domain_finetuning.py",
        "07_from_scratch.py",
    ]


def test_a_rag_chain_in_langchain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "01_langchain_rag.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    expected = {"read a csv file": "csv", "temporary directory": "tempfile", "shuffle a list": "shuffle"}
    for question, name in expected.items():
        answer = printed.split(question)[1].split("\n")[1]
        assert answer.startswith("  The documentation says: [")
        assert name in answer
    assert "glob" in printed.split("reranked by late interaction")[1].splitlines()[1]
    assert re.search(r"1 added, \d+ skipped, 1 deleted", printed)


def test_long_documents_in_pieces_under_their_parents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "04_long_documents.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    assert "mini reads 256 tokens" in printed
    assert "nothing is cut off: True" in printed
    assert "comes back as it was: True" in printed
    for question, name in {"lists of lines": "difflib", "given times": "sched", "last suffix": "pathlib"}.items():
        found = printed.split(question)[1].splitlines()
        assert name in (found[1].split(",")[0].strip(), found[3].split(",")[0].strip())


def test_long_documents_are_read_whole_by_a_model_that_can(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make_tiny_bert: Callable[..., Path]
) -> None:
    folder = make_tiny_bert(max_position_embeddings=20_000)
    settings = {"max_seq_length": 8192, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    runpy.run_path(str(EXAMPLES / "04_long_documents.py"))["main"](tmp_path, str(folder))
    printed = capsys.readouterr().out
    assert "reads 8,192 tokens" in printed
    assert "comes back as it was: True" in printed


def test_hybrid_search_in_qdrant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "03_qdrant_hybrid.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    for mode in ("dense", "sparse", "hybrid", "late_interaction"):
        assert f"\n{mode}: find all files" in printed
    best = printed.split("\nlate_interaction: ")[1].splitlines()[1]
    assert "glob" in best or "walk" in best
    assert "argparse" in printed.split("documents, not pieces")[1].splitlines()[1]
    assert "1 with new metadata, 0 tokens encoded" in printed
    assert "the copy answers the same" in printed


def test_retrieval_in_llama_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "02_llama_index_rag.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    assert "dense, sparse, multi_vector vectors from" in printed
    for mode in ("default", "sparse", "hybrid", "semantic_hybrid", "mmr"):
        assert f"\n{mode}: find all files" in printed
    assert "glob" in printed.split("\nsemantic_hybrid: ")[1].splitlines()[1]
    assert "again, with one document changed: 1 node embedded" in printed


def test_late_interaction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "05_late_interaction.py"))["main"](tmp_path)
    printed = capsys.readouterr().out
    assert "glob" in printed.split("without a store: find all files that match a pattern")[1].splitlines()[1]
    assert "sample" in printed.split("without a store: pick several random elements")[1].splitlines()[1]
    assert "pattern ~ pattern" in printed
    assert printed.count("MaxSim") == 2
    assert "glob" in printed.split("in a collection, every document compared")[1].splitlines()[1]


def test_domain_fine_tuning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "06_domain_finetuning.py"))["main"](None, tmp_path)
    printed = capsys.readouterr().out
    assert "8 documents" in printed
    assert "held-out documents" in printed
    assert "late interaction   nDCG@10" in printed
    assert (tmp_path / "tuned" / "comparison.svg").is_file()
    assert printed.split("\n? ")[1].count("The module ") == 3


def test_from_raw_texts_to_a_retriever(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In far fewer steps than as it stands, which its first stages need to be worth anything, and of half the texts."""
    example = runpy.run_path(str(EXAMPLES / "07_from_scratch.py"))
    example["main"].__globals__["collect"] = lambda: collect()[::2]
    figures = example["main"](tmp_path, example["Steps"](mlm=15, retromae=15, contrastive=35, fine_tuning=25))
    assert figures["chance"] < 0.01
    assert figures["fine-tuning"] > 1.5 * figures["untrained"] > 10 * figures["chance"]
    assert figures["fine-tuning"] > figures["contrastive"] > 2 * max(figures["mlm"], figures["retromae"])
    printed = capsys.readouterr().out
    assert printed.count("\n? ") == 4
    assert printed.split("\n? ")[1].count("  1. ") == 1
