"""Mined negatives against a brute-force search, and what mining promises."""

import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import DataError, EmbeddingModel, InputTypeError, InvalidOptionError, Reranker, UnsupportedOutputError
from mgte_rag.types import Floats
from mgte_training.data import Bucket, Example, Source, SourceData, read_corpus, read_examples
from mgte_training.finetune.objective import HeadLoss, Objective
from mgte_training.finetune.recipe import Batches, ModelChoice, Recipe
from mgte_training.finetune.run import run_recipe
from mgte_training.negatives import MiningOptions, MiningReport, mine, mining, search

TOP = MiningOptions(rank_range=(2, 30), count=5, sampling="top")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_QUERIES", 7)
    monkeypatch.setattr(search, "_DENSE_DOCUMENTS", 41)
    monkeypatch.setattr(search, "_OTHER_DOCUMENTS", 23)
    monkeypatch.setattr(mining, "_EXAMPLES", 6)


@pytest.fixture(scope="session")
def real_examples(stdlib_docs: list[DocEntry]) -> list[Example]:
    """Names of real functions with what their documentation says."""
    entries = [entry for entry in stdlib_docs if 80 < len(entry.text) < 240][::7][:160]
    texts = {entry.text.partition("\n")[0]: entry.text.partition("\n")[2].strip() for entry in entries}
    return [Example(query, (text,)) for query, text in texts.items() if query.strip() and len(text) > 20]


def read(path: Path) -> list[Example]:
    return list(SourceData.read(Source("mined", str(path))))


def brute_force(
    examples: Sequence[Example],
    corpus: Sequence[str],
    score: Callable[[Sequence[str], Sequence[str]], Floats],
    options: MiningOptions,
    reranker: Reranker | None = None,
) -> list[tuple[str, ...]]:
    """Negatives by sorting everything, with loops."""
    corpus = list(dict.fromkeys(corpus))
    scores = score([example.query for example in examples], corpus)
    found = []
    for number, example in enumerate(examples):
        own = {text for other in examples if other.query == example.query for text in other.positives}
        order = [i for i in np.argsort(-scores[number]) if corpus[i] not in own | {example.query}]
        lowest = score([example.query], example.positives).min()
        passing = []
        for i in order[slice(*options.rank_range)]:
            labels = {other.label for other in examples if corpus[i] in other.positives}
            if example.label is not None and example.label in labels:
                continue
            if options.margin is not None and scores[number, i] > lowest - options.margin:
                continue
            if options.relative_margin is not None and scores[number, i] > lowest * (1 - options.relative_margin):
                continue
            passing.append(corpus[i])
        if options.sampling == "random":
            chance = np.random.default_rng([options.seed, number])
            passing = [passing[i] for i in chance.permutation(len(passing))]
        if reranker is not None:
            limit = reranker.score([(example.query, text) for text in example.positives]).min()
            logits = reranker.score([(example.query, text) for text in passing])
            kept = np.ones(len(passing), dtype=bool)
            if options.reranker_margin is not None:
                kept &= logits <= limit - options.reranker_margin
            if options.max_relevance is not None:
                kept &= 1 / (1 + np.exp(-logits)) <= options.max_relevance
            passing = [text for text, keep in zip(passing, kept, strict=True) if keep]
        found.append(tuple(passing[: options.count]))
    return found


def dense(model: EmbeddingModel, max_length: int | None = None) -> Callable[[Sequence[str], Sequence[str]], Floats]:
    def score(queries: Sequence[str], documents: Sequence[str]) -> Floats:
        one, two = model.encode_query(queries).dense, model.encode_document(documents, max_length=max_length).dense
        assert one is not None
        assert two is not None
        return one @ two.T

    return score


def assert_adds_up(report: MiningReport) -> None:
    assert report.looked_at == report.taken + report.not_needed + sum(report.dropped.values())


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "options",
    [
        TOP,
        replace(TOP, sampling="random", seed=3),
        replace(TOP, margin=0.1),
        replace(TOP, relative_margin=0.2, sampling="random"),
        replace(TOP, rank_range=(0, 1_000), margin=0.3, relative_margin=0.01, count=50),
    ],
)
def test_negatives_from_real_texts_equal_a_brute_force_search(
    mini_fp32: EmbeddingModel, real_examples: list[Example], tmp_path: Path, options: MiningOptions
) -> None:
    corpus = [example.positives[0] for example in real_examples]
    some = real_examples[::8]
    report = mine(mini_fp32, some, [*corpus, corpus[0]], tmp_path / "mined.jsonl", options=options)
    found = read(tmp_path / "mined.jsonl")
    assert [(each.query, each.positives) for each in found] == [(each.query, each.positives) for each in some]
    assert [each.negatives for each in found] == brute_force(some, corpus, dense(mini_fp32), options)
    assert_adds_up(report)
    assert report.documents == len(set(corpus))
    assert report.taken == sum(len(each.negatives) for each in found)
    assert report.without == sum(not each.negatives for each in found)
    assert report.fewer == sum(0 < len(each.negatives) < options.count for each in found)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    "options",
    [
        replace(TOP, rank_range=(1, 60), reranker_margin=0.0),
        replace(TOP, rank_range=(1, 60), max_relevance=0.5, sampling="random"),
        replace(TOP, rank_range=(0, 140), max_relevance=0.6, reranker_margin=0.2, margin=0.05),
    ],
)
def test_labels_several_positives_and_a_reranker_equal_a_brute_force_search(
    tiny_model: EmbeddingModel,
    tiny_reranker: Reranker,
    sentences: list[str],
    sentence_examples: list[Example],
    tmp_path: Path,
    options: MiningOptions,
) -> None:
    report = mine(
        tiny_model, sentence_examples, sentences, tmp_path / "mined.jsonl", options=options, reranker=tiny_reranker
    )
    found = read(tmp_path / "mined.jsonl")
    expected = brute_force(sentence_examples, sentences, dense(tiny_model), options, tiny_reranker)
    assert [each.negatives for each in found] == expected
    assert [each.label for each in found] == [each.label for each in sentence_examples]
    assert_adds_up(report)
    assert report.dropped["positive of an example with the same label"] > 0
    assert sum(count > 0 for count in report.dropped.values()) >= 2
    for reason, kept in report.samples.items():
        assert 0 < len(kept) <= 3
        assert len({sample.query for sample in kept}) == len(kept)
        assert reason == "taken" or report.dropped[reason] > 0


def test_a_second_round_replaces_the_negatives_with_those_of_the_model_that_the_first_has_trained(
    tiny_model: EmbeddingModel, tiny_bert: Path, sentences: list[str], sentence_examples: list[Example], tmp_path: Path
) -> None:
    """Mine, train on what was mined, mine again with what came of it."""
    mine(tiny_model, sentence_examples, sentences, tmp_path / "first.jsonl", options=TOP)
    recipe = Recipe(
        model=ModelChoice(name=str(tiny_bert)),
        sources=(Source("first", str(tmp_path / "first.jsonl"), negatives=3),),
        batches=Batches(buckets=(Bucket(99, 8, 8),), epochs=3),
        objective=Objective(heads={"dense": HeadLoss(temperature=0.05)}),
        training={"learning_rate": 5e-3, "use_cpu": True, "save_strategy": "no"},
    )
    trained = run_recipe(recipe, tmp_path / "run").folder
    first = SourceData.read(Source("first", str(tmp_path / "first.jsonl")))
    with EmbeddingModel.load(trained, dtype="float32") as model:
        report = mine(model, first, sentences, tmp_path / "second.jsonl", options=TOP)
        expected = brute_force(sentence_examples, sentences, dense(model), TOP)
    second = read(tmp_path / "second.jsonl")
    assert [each.negatives for each in second] == expected
    assert [replace(each, negatives=()) for each in second] == [replace(each, negatives=()) for each in first]
    assert [each.negatives for each in second] != [each.negatives for each in first]
    assert_adds_up(report)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("outputs", [("dense", "sparse"), ("multi_vector",), ("dense", "sparse", "multi_vector")])
def test_hybrid_mining_ranks_by_the_models_own_similarity(
    mini_fp32: EmbeddingModel, real_examples: list[Example], tmp_path: Path, outputs: Any
) -> None:
    some, corpus = real_examples[:12], [example.positives[0] for example in real_examples[:60]]
    weights = {name: 0.5 for name in outputs}
    options = replace(TOP, outputs=outputs, weights=weights)

    def hybrid(queries: Sequence[str], documents: Sequence[str]) -> Floats:
        one = mini_fp32.encode_query(queries, outputs=outputs)
        return mini_fp32.similarity(one, mini_fp32.encode_document(documents, outputs=outputs), weights=weights).hybrid

    mine(mini_fp32, some, corpus, tmp_path / "mined.jsonl", options=options)
    assert [each.negatives for each in read(tmp_path / "mined.jsonl")] == brute_force(some, corpus, hybrid, options)


def test_the_models_own_scores_are_written_where_they_are_asked_for(
    mini_fp32: EmbeddingModel, real_examples: list[Example], tmp_path: Path
) -> None:
    """So that a reranker can learn from them what the model knows already."""
    outputs = ("dense", "sparse", "multi_vector")
    some = [replace(example, positives=(*example.positives, example.query.upper())) for example in real_examples[:8]]
    mine(mini_fp32, some, None, tmp_path / "mined.jsonl", options=replace(TOP, outputs=outputs, scored=True))
    for example in read(tmp_path / "mined.jsonl"):
        texts = [*example.positives, *example.negatives]
        query = mini_fp32.encode_query([example.query], outputs=outputs)
        expected = mini_fp32.similarity(query, mini_fp32.encode_document(texts, outputs=outputs)).hybrid[0]
        found = [*(example.positive_scores or ()), *(example.negative_scores or ())]
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_no_positive_of_the_same_query_and_no_identical_text_is_a_negative(
    tiny_model: EmbeddingModel, sentences: list[str], tmp_path: Path
) -> None:
    examples = [Example(sentences[0], (sentences[n],)) for n in range(1, 6)]
    options = MiningOptions(rank_range=(0, 1_000), count=1_000, sampling="top")
    report = mine(tiny_model, examples, sentences, tmp_path / "mined.jsonl", options=options)
    for each in read(tmp_path / "mined.jsonl"):
        assert sorted(each.negatives) == sorted(sentences[6:])
    assert report.excluded == 6  # five positives of the one query, and its own text
    assert report.looked_at == 5 * 144


def test_without_a_corpus_the_positives_are_it_and_positives_beside_a_corpus_are_no_candidates(
    tiny_model: EmbeddingModel, sentences: list[str], sentence_examples: list[Example], tmp_path: Path
) -> None:
    options = MiningOptions(rank_range=(0, 500), count=500)
    positives = {text for example in sentence_examples for text in example.positives}
    mine(tiny_model, sentence_examples, None, tmp_path / "a.jsonl", options=options)
    assert {text for each in read(tmp_path / "a.jsonl") for text in each.negatives} == positives
    corpus = [text for text in sentences if text not in positives]
    mine(tiny_model, sentence_examples, corpus, tmp_path / "b.jsonl", options=replace(options, margin=0.0))
    assert {text for each in read(tmp_path / "b.jsonl") for text in each.negatives} <= set(corpus)


def test_the_seed_alone_decides_what_is_drawn(
    tiny_model: EmbeddingModel, sentences: list[str], sentence_examples: list[Example], tmp_path: Path
) -> None:
    options = replace(TOP, sampling="random")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mine(tiny_model, sentence_examples, sentences, tmp_path / f"{name}.jsonl", options=replace(options, seed=seed))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes() != (tmp_path / "c.jsonl").read_bytes()


def test_memory_does_not_hold_scores_of_the_whole_corpus(
    tiny_model: EmbeddingModel, sentences: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shapes = []
    monkeypatch.setattr(search, "_QUERIES", 8)
    monkeypatch.setattr(search, "_DENSE_DOCUMENTS", 16)
    original = search._merge
    monkeypatch.setattr(search, "_merge", lambda *a: (shapes.append(tuple(a[1].shape)), original(*a)))
    examples = [Example(f"the cat {'!' * n}", (sentences[n],)) for n in range(20)]
    mine(tiny_model, examples, sentences, tmp_path / "mined.jsonl", options=TOP)
    assert max(shapes) == (8, 16)
    assert len(shapes) == 3 * 10


def test_texts_in_any_script_and_lone_surrogates_are_written_as_they_are(
    tiny_model: EmbeddingModel, tmp_path: Path
) -> None:
    examples = [Example("猫?", ("猫 sat",)), Example("dog \ud800?", ("dog \ud800 ran",))]
    mine(tiny_model, examples, None, tmp_path / "mined.jsonl", options=MiningOptions(rank_range=(0, 5), count=1))
    assert read(tmp_path / "mined.jsonl") == [
        replace(examples[0], negatives=("dog \ud800 ran",)),
        replace(examples[1], negatives=("猫 sat",)),
    ]


class StopError(Exception):
    """A stand-in for the end of a process."""


def stop_after(calls: int, function: Callable[..., Any]) -> Callable[..., Any]:
    left = [calls]

    def stopping(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise StopError
        return function(*arguments, **options)

    return stopping


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize(
    ("place", "calls"), [("search", 2), ("search", 4), ("select", 0), ("select", 1), ("select", 3)]
)
def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same(
    tiny_model: EmbeddingModel,
    tiny_reranker: Reranker,
    sentences: list[str],
    sentence_examples: list[Example],
    tmp_path: Path,
    place: str,
    calls: int,
    torn: bool,
) -> None:
    options = replace(TOP, sampling="random", max_relevance=0.6, margin=0.01)

    def run(name: str) -> MiningReport:
        output = tmp_path / name / "mined.jsonl"
        return mine(tiny_model, sentence_examples, sentences, output, options=options, reranker=tiny_reranker)

    straight = run("straight")
    owner, function = (search, "_documents") if place == "search" else (mining, "check_with_reranker")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SAVE_SECONDS", -1.0)
        patch.setattr(owner, function, stop_after(calls, getattr(owner, function)))
        with pytest.raises(StopError):
            run("stopped")
    part = tmp_path / "stopped" / "mined.jsonl.part"
    assert not (tmp_path / "stopped" / "mined.jsonl").exists()
    if torn:
        part.write_bytes(part.read_bytes() + b'{"query": "to')
    assert run("stopped") == straight
    for file in ("mined.jsonl", "mined.jsonl.report.json"):
        assert (tmp_path / "stopped" / file).read_bytes() == (tmp_path / "straight" / file).read_bytes()
        assert len(list((tmp_path / "stopped").iterdir())) == 2


@pytest.mark.usefixtures("small_blocks")
def test_going_on_does_not_search_again(
    tiny_model: EmbeddingModel, sentences: list[str], sentence_examples: list[Example], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "take", stop_after(8, mining.take))
        with pytest.raises(StopError):
            mine(tiny_model, sentence_examples, sentences, tmp_path / "mined.jsonl", options=TOP)
    before = tiny_model.forwards
    mine(tiny_model, sentence_examples, sentences, tmp_path / "mined.jsonl", options=TOP)
    assert tiny_model.forwards == before


def test_another_call_never_writes_over_or_into_what_is_there(
    tiny_model: EmbeddingModel, sentences: list[str], sentence_examples: list[Example], tmp_path: Path
) -> None:
    output = tmp_path / "mined.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "take", stop_after(8, mining.take))
        with pytest.raises(StopError):
            mine(tiny_model, sentence_examples, sentences, output, options=TOP)
    for changed in (
        {"options": replace(TOP, seed=1)},
        {"examples": sentence_examples[:-1]},
        {"corpus": sentences[:-1]},
    ):
        arguments = {"examples": sentence_examples, "corpus": sentences, "options": TOP, **changed}
        with pytest.raises(DataError, match=r"is under way with another model.*Delete mined\.jsonl\.part and"):
            mine(tiny_model, arguments["examples"], arguments["corpus"], output, options=arguments["options"])
    (tmp_path / "mined.jsonl.part").write_bytes(b"")
    (tmp_path / "mined.jsonl.progress.json").write_text('{"fingerprint": ')
    with pytest.raises(DataError, match=r"progress\.json cannot be read"):
        mine(tiny_model, sentence_examples, sentences, output, options=TOP)
    output.write_text("mine")
    with pytest.raises(DataError, match="exists; it is never overwritten"):
        mine(tiny_model, sentence_examples, sentences, output, options=TOP)
    assert output.read_text() == "mine"


def test_what_makes_no_sense_is_an_error_and_leaves_no_file(
    tiny_model: EmbeddingModel,
    tiny_reranker: Reranker,
    sentences: list[str],
    sentence_examples: list[Example],
    tmp_path: Path,
) -> None:
    output = tmp_path / "mined.jsonl"

    def attempt(*, corpus: Any = sentences, examples: Any = sentence_examples, to: Path = output, **options: Any):
        reranker = options.pop("reranker", None)
        mine(tiny_model, examples, corpus, to, options=MiningOptions(**options), reranker=reranker)

    for error, said, arguments in (
        (InvalidOptionError, "give reranker=", {"max_relevance": 0.5}),
        (InvalidOptionError, "a reranker was given that checks nothing", {"reranker": tiny_reranker}),
        (InvalidOptionError, "the corpus has 3 documents, none of such a rank", {"corpus": sentences[:3]}),
        (InvalidOptionError, "lines are written to a file that ends in .jsonl", {"to": tmp_path / "mined.json"}),
        (InvalidOptionError, "max_length=1", {"max_length": 1}),
        (InvalidOptionError, "weights name sparse", {"weights": {"sparse": 1.0}}),
        (UnsupportedOutputError, "has dense", {"outputs": ("sparse",)}),
        (InputTypeError, r"texts\[1\] must be a string", {"corpus": ["a", 1]}),
        (DataError, "the corpus has an empty text", {"corpus": [*sentences, " "]}),
        (DataError, "no example to mine negatives for", {"examples": []}),
        (InvalidOptionError, "rank_range", {"rank_range": (5, 5)}),
        (InvalidOptionError, "count=0", {"count": 0}),
        (InvalidOptionError, "sampling='best'", {"sampling": "best"}),
        (InvalidOptionError, "relative_margin=1.5: a number from 0 up to 1", {"relative_margin": 1.5}),
        (InvalidOptionError, "margin=nan", {"margin": float("nan")}),
    ):
        with pytest.raises(error, match=said):
            attempt(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_report_reads_as_text_with_samples(
    tiny_model: EmbeddingModel, sentences: list[str], sentence_examples: list[Example], tmp_path: Path
) -> None:
    report = mine(
        tiny_model, sentence_examples, sentences, tmp_path / "mined.jsonl", options=replace(TOP, relative_margin=0.02)
    )
    said = str(report)
    assert said.startswith(f"20 examples, 150 documents, {report.taken:,} negatives taken")
    assert "score above the share of the positive's:" in said
    written = json.loads((tmp_path / "mined.jsonl.report.json").read_text())
    assert MiningReport.from_json(written) == report


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
def test_real_pairs_get_negatives_that_are_closer_than_chance_and_farther_than_the_positive(
    mini_fp32: EmbeddingModel, tmp_path: Path
) -> None:
    folder = Path(os.environ["MGTE_DATA"]) / "pairs"
    examples = list(itertools.islice(read_examples(Source("tldr", str(folder / "tldr.jsonl.gz"))), 100))
    options = MiningOptions(rank_range=(2, 16), count=3, relative_margin=0.05, max_length=64)
    report = mine(mini_fp32, examples, None, tmp_path / "mined.jsonl", options=options)
    assert_adds_up(report)
    assert report.without < 10
    mined = [each for each in read(tmp_path / "mined.jsonl") if each.negatives]
    score = dense(mini_fp32, 64)
    queries = [each.query for each in mined]
    positive = np.diag(score(queries, [each.positives[0] for each in mined])).mean()
    negatives = score(queries, [each.negatives[0] for each in mined])
    chance = (negatives.sum() - np.trace(negatives)) / (negatives.size - len(mined))
    assert chance + 0.1 < np.diag(negatives).mean() < positive - 0.1


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
def test_a_real_corpus_is_read() -> None:
    corpus = read_corpus(Path(os.environ["MGTE_DATA"]) / "documents" / "peps.jsonl.gz")
    assert len(corpus) == 703
