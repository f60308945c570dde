"""The whole of it: a folder in, a better model out, interrupted and gone on with, and what is refused."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mgte_cli.main import main
from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, Reranker
from mgte_rag.errors import DataError, InvalidOptionError
from mgte_training.domain import Judged, TuningOptions, make_pairs, read_beir, read_documents, tune
from mgte_training.domain.pairs import Asked
from mgte_training.domain.reranking import ALONE, BESIDE, Candidates
from mgte_training.domain.tuning import CHOSEN_ON, HELD_OUT, NOT_CHOSEN_ON, RERANKED, TUNED
from mgte_training.finetune.lora import LoRA

WORDS = ["the", "cat", "dog", "sat", "ran", "on", "mat", "under", "tree", "and", "then", "a"]


def write_random_documents(folder: Path, count: int = 8) -> Path:
    """Documents of random words with three sections each; a heading's words stand in its section."""
    chance = random.Random(0)
    folder.mkdir()
    for number in range(count):
        parts = [f"# {' '.join(chance.choices(WORDS, k=3))} {number}\n"]
        for _ in range(3):
            heading = " ".join(chance.choices(WORDS, k=4))
            parts.append(f"## {heading}\n{heading} {' '.join(chance.choices(WORDS, k=12))}\n")
        (folder / f"{number}.md").write_text("\n".join(parts))
    return folder


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    return write_random_documents(tmp_path / "documents")


@pytest.fixture
def options(tiny_bert: Path) -> Callable[..., TuningOptions]:
    def made(**changes: Any) -> TuningOptions:
        values = {"model": str(tiny_bert), "batch": 4, "max_length": 32, "query_length": 16, "learning_rate": 1e-3}
        return TuningOptions(**(values | changes))

    return made


def write_beir(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    folder.mkdir()
    rows = {"queries": [query for query, _ in pairs], "corpus": [document for _, document in pairs]}
    for name, texts in rows.items():
        lines = (json.dumps({"_id": str(number), "text": text}) for number, text in enumerate(texts))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    judged = "".join(f"{number}\t{number}\t1\n" for number in range(len(pairs)))
    (folder / "qrels.tsv").write_text("query\tdocument\tscore\n" + judged + "0\t1\t0\n")
    return folder


def test_a_folder_becomes_a_model_from_the_command_line(
    tmp_path: Path, stdlib_docs: list[DocEntry], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for module in ("json", "csv", "glob", "shelve", "sched", "zlib", "textwrap", "heapq"):
        entries = [entry for entry in stdlib_docs if entry.module == module]
        parts = [f"# The module {module}", *(f"## {entry.name}{entry.signature}\n{entry.text}" for entry in entries)]
        (folder / f"{module}.md").write_text("\n\n".join(parts))
    (folder / "broken.md").write_bytes(b"\xff")
    other = write_beir(tmp_path / "other", [(e.name, e.text) for e in stdlib_docs if e.module == "random"][:12])
    out = tmp_path / "tuned"
    command = ["tune", str(folder), "--out", str(out), "--other", str(other), "--max-pairs", "24", "--batch", "8",
               "--max-length", "48", "--forgetting", "1", "--quiet"]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "not read: broken.md: not UTF-8" in printed
    for title in (HELD_OUT, CHOSEN_ON, NOT_CHOSEN_ON):
        assert title in printed
    for way in ("dense", "sparse", "hybrid", "late interaction"):
        assert printed.count(f"\n{way} ") == 6  # two figures in three tables
    assert (out / "comparison.svg").read_text().startswith("<?xml")
    with EmbeddingModel.load(str(out / "model")) as tuned, EmbeddingModel.load() as base:
        assert tuned.outputs == base.outputs
        assert tuned.token_dims == base.token_dims
    assert main(command) == 1
    assert "has a finished run" in capsys.readouterr().err


def test_no_negative_is_a_section_of_a_held_out_document(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions]
) -> None:
    tuned = tune(documents, tmp_path / "out", options=options())
    assert list(tuned.comparisons) == [HELD_OUT]
    assert tuned.share == 1.0
    rows = [json.loads(line) for line in (tmp_path / "out" / "mined.jsonl").read_text().splitlines()]
    trained = {text for row in rows for text in (*row["positives"], *row["negatives"])}
    files = {path.name: path.read_text() for path in documents.iterdir()}
    seen = {name for name, text in files.items() if any(each in text for each in trained)}
    assert len(seen) == 6  # 20 % of 8 documents are 2
    assert tuned.comparisons[HELD_OUT].queries == 6
    assert tuned.comparisons[HELD_OUT].groups == 2
    assert tuned.comparisons[HELD_OUT].documents == 24


def test_only_so_many_queries_are_trained_on_and_measured(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions]
) -> None:
    tuned = tune(documents, tmp_path / "out", options=options(max_pairs=5, max_queries=2, max_sections=10))
    rows = [json.loads(line) for line in (tmp_path / "out" / "mined.jsonl").read_text().splitlines()]
    assert len(rows) == 5
    assert tuned.comparisons[HELD_OUT].queries == 2
    assert tuned.comparisons[HELD_OUT].documents == 10


def test_a_limited_choice_keeps_every_answer() -> None:
    whole = Judged(tuple("abcd"), tuple("stuvwxyz"), tuple(map(frozenset, ({1, 2}, {3}, {4}, {7}))), tuple("abcd"))
    few = whole.limited(2, 4, seed=0)
    assert len(few.queries) == len(few.groups) == 2
    assert len(few.documents) == 4
    for query, relevant in zip(few.queries, few.relevant, strict=True):
        answers = whole.relevant[whole.queries.index(query)]
        assert {few.documents[place] for place in relevant} == {whole.documents[place] for place in answers}
    assert few == whole.limited(2, 4, seed=0)
    assert whole.limited(9, 9, seed=0) == whole
    assert len(whole.limited(4, 1, seed=0).documents) == 5  # all of them answer


def test_an_interrupted_tuning_goes_on_to_the_same_model(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions]
) -> None:
    other = Judged.of_pairs([(f"{word} {number}", f"the {word} {number}") for number, word in enumerate(WORDS)])
    straight = tune(documents, tmp_path / "straight", other=other, options=options())
    moments = ("queries to train on", "negatives mined", "steps,", "points forgotten")
    out = tmp_path / "stopped"
    for moment in moments:

        def say(text: str, moment: str = moment) -> None:
            if moment in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tune(documents, out, other=other, options=options(), say=say)
    tuned = tune(documents, out, other=other, options=options())
    assert (tuned.share, tuned.comparisons) == (straight.share, straight.comparisons)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (tmp_path / "straight", out)]
    assert weights[0] == weights[1]


def test_a_reranker_is_tuned_where_one_is_asked_for(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions]
) -> None:
    tuned = tune(documents, tmp_path / "out", options=options(reranker="new"))
    assert tuned.reranker is not None
    with Reranker.load(str(tuned.reranker)) as reranker, EmbeddingModel.load(str(tuned.folder)) as model:
        assert len(reranker.score([("cat", "the cat sat"), ("cat", "a dog")])) == 2
        held_out = Judged.of_sections(*_held_out(documents))
        candidates = Candidates.find(model, held_out)
        scores = candidates.score(reranker)
    assert tuned.comparisons[RERANKED].queries == 6
    ways = {row.way: row for row in tuned.comparisons[RERANKED].rows if row.figure == "nDCG@10"}
    assert list(ways) == [ALONE, BESIDE]
    for way, (ndcg, _) in candidates.measure(scores).items():
        assert ways[way].before == candidates.measure(None)[way][0].mean()
        assert ways[way].after == ndcg.mean()
    assert tuned.rerank_weight == candidates.weight(scores)
    assert f"{RERANKED}\n6 queries of 2 documents" in tuned.report

    again = tune(documents, tmp_path / "again", options=options(reranker=str(tuned.reranker)))
    ways = {row.way: row for row in again.comparisons[RERANKED].rows if row.figure == "nDCG@10"}
    for way, (ndcg, _) in candidates.measure(scores).items():  # what the given reranker makes of the same candidates
        assert ways[TUNED[way]].before == pytest.approx(ndcg.mean())
        assert ways[TUNED[way]].after == ways[way].after


def test_the_command_shows_what_the_reranker_does(
    documents: Path, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_beir(
        tmp_path / "other", [(f"{word} {number}", f"the {word} {number}") for number, word in enumerate(WORDS)]
    )
    command = ["tune", str(documents), "--out", str(tmp_path / "out"), "--other", str(other), "--model", str(tiny_bert)]
    assert main([*command, "--reranker", "--batch", "4", "--max-length", "32", "--forgetting", "1", "--quiet"]) == 0
    table = capsys.readouterr().out.split(RERANKED)[1].splitlines()
    assert table[1] == "6 queries of 2 documents against 24 texts"
    assert table[3].startswith("reranker alone     nDCG@10")
    assert any(line.startswith("weight of the reranker's scores beside the others: ") for line in table)
    with Reranker.load(tmp_path / "out" / "reranker" / "model") as reranker:
        assert reranker.rank("cat", ["the cat sat", "a dog"])


def _held_out(documents: Path) -> tuple[list[Asked], tuple[str, ...]]:
    pairs = make_pairs(read_documents(documents).documents)
    return pairs.split(0.2, 0)[1], pairs.sections


def test_low_rank_adapters_leave_the_embeddings_alone(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions]
) -> None:
    from safetensors.torch import load_file

    tuned = tune(documents, tmp_path / "out", options=options(lora=LoRA(rank=2, alpha=4)))
    base = options().model
    assert base is not None
    with EmbeddingModel.load(base) as model:
        model.save(tmp_path / "base")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", tuned.folder))
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all("attention" in name or "feed_forward" in name for name in changed)


def test_a_folder_of_another_tuning_is_refused(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions]
) -> None:
    out = tmp_path / "out"

    def stop(text: str) -> None:
        if "queries to train on" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(documents, out, options=options(), say=stop)
    with pytest.raises(InvalidOptionError, match="other documents, options or another model"):
        tune(documents, out, options=options(seed=1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InvalidOptionError, match="is not empty and no tuning"):
        tune(documents, tmp_path / "mine", options=options())
    with pytest.raises(InvalidOptionError, match="results would become documents"):
        tune(documents, documents / "tuned", options=options())


def test_bad_input_is_an_error_that_says_what_to_do(
    documents: Path, tmp_path: Path, options: Callable[..., TuningOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["tune", str(tmp_path / "empty"), "--out", str(tmp_path / "out")]) == 1
    assert "no document; files that end in .md" in capsys.readouterr().err
    (tmp_path / "empty" / "a.md").write_text("## \n" + "word " * 20)
    (tmp_path / "empty" / "b.md").write_text("# Only a heading")
    with pytest.raises(DataError, match="at least two are needed"):
        tune(tmp_path / "empty", tmp_path / "out", options=options())
    (tmp_path / "file").write_text("no folder")
    for command, said in (
        (["--reranker", "./no"], "no model './no'"),  # before anything is trained
        (["--reranker", "mini", "--learning-rate", "0"], "learning_rate=0.0; it is a number above 0"),
        (["--model", str(tmp_path / "empty")], "config.json is missing"),
        (["--other", str(tmp_path / "no")], "neither qrels.tsv"),
    ):
        assert main(["tune", str(documents), "--out", str(tmp_path / "out"), "--quiet", *command]) == 1
        assert said in capsys.readouterr().err
    assert main(["tune", str(documents), "--out", str(tmp_path / "file"), "--quiet"]) == 1
    assert "File exists" in capsys.readouterr().err
    for wrong in ({"held_out": 1.0}, {"batch": 1}, {"epochs": 0}, {"forgetting": -0.1}, {"temperatures": {}}):
        with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
            options(**wrong)


def test_a_set_in_the_beir_layout_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set", [("a", "one"), ("b", "two"), ("c", "three")])
    judged = read_beir(folder)
    assert judged.queries == ("a", "b", "c")
    assert [judged.documents[place] for (place,) in judged.relevant] == ["one", "two", "three"]
    few = read_beir(folder, max_queries=1, max_documents=1)
    assert len(few.queries) == len(few.documents) == 1
    (folder / "corpus.jsonl").write_text('{"_id": "0", "text": "one"}\n{"_id": "1"}')
    with pytest.raises(DataError, match=r"corpus\.jsonl, line 2: an object with _id and text"):
        read_beir(folder)
    (folder / "qrels.tsv").write_text("head\n0 0 1\n")
    with pytest.raises(DataError, match=r"qrels\.tsv:2"):
        read_beir(folder)
    (folder / "qrels.tsv").write_bytes(b"head\n\xff")
    with pytest.raises(DataError, match=r"qrels\.tsv: not UTF-8"):
        read_beir(folder)
    (folder / "qrels.tsv").unlink()
    with pytest.raises(DataError, match=r"neither qrels\.tsv"):
        read_beir(folder)
