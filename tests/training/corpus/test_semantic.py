"""Scores of pairs by a real model, and the threshold that a sample of them gives."""

import gzip
import itertools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.errors import DataError
from mgte_training.corpus import (
    MINI_MIN_SCORE,
    CorpusOptions,
    LabelledScores,
    build,
    build_pairs,
    is_labelled,
    score_labelled,
    score_shuffled,
)
from mgte_training.corpus.semantic import pair_scores
from mgte_training.corpus.shards import Shards


def test_a_threshold_lets_no_more_pass_than_its_rate_says() -> None:
    scores = LabelledScores(np.array([0.2, 0.5, 0.6, 0.9]), np.linspace(0.0, 0.99, 100))
    for rate in (0.0, 0.01, 0.05, 0.5, 1.0):
        assert scores.threshold(rate).mismatched <= rate
    found = scores.threshold(0.5)
    assert (found.mismatched, found.matched) == (0.5, 0.75)
    assert found.value == pytest.approx(0.49)
    assert scores.threshold(1.0).matched == 1.0
    both = LabelledScores.together([scores, scores])
    assert (len(both.matched), len(both.mismatched)) == (8, 200)
    assert str(both).startswith("8 pairs that match, 200 that do not; mean scores 0.550 and 0.495\n")


@pytest.mark.parametrize("count", [1, 3, 99])
def test_a_threshold_of_equal_scores_lets_none_of_them_pass(count: int) -> None:
    found = LabelledScores(np.full(count, 0.3), np.full(count, 0.3)).threshold(0.5)
    assert (found.mismatched, found.matched) == (0.0, 0.0)


def test_scores_are_the_cosines_of_the_model(mini_fp32: EmbeddingModel) -> None:
    pairs = [("What do cats eat?", "Cats eat meat."), ("What do cats eat?", "The bond market fell.")]
    scores = pair_scores(mini_fp32, pairs, max_tokens=64)
    similarity = mini_fp32.similarity(
        mini_fp32.encode_query([query for query, _ in pairs]), mini_fp32.encode_document([text for _, text in pairs])
    )
    np.testing.assert_allclose(scores, np.diag(similarity.dense), atol=1e-5)
    assert scores[0] > MINI_MIN_SCORE > scores[1]


def test_the_threshold_for_the_embedded_default_tells_names_with_their_docstrings_from_others(
    mini: EmbeddingModel, stdlib_docs: list[DocEntry], tmp_path: Path
) -> None:
    summaries = [entry for entry in stdlib_docs if len(entry.text.split()) > 12 and "\n\n" in entry.text]
    path = tmp_path / "pairs.jsonl"
    rows = []
    for entry in random.Random(0).sample(summaries, 60):
        summary, _, rest = entry.text.partition("\n\n")
        rows.append(json.dumps({"query": summary, "positive": rest}))
    path.write_text("\n".join(rows))
    found = score_shuffled(mini, path, sample=50)
    assert len(found.matched) == 50
    assert np.mean(found.mismatched >= MINI_MIN_SCORE) < 0.15
    assert np.mean(found.matched >= MINI_MIN_SCORE) > 0.75


def test_a_labelled_sample_is_scored_as_it_says(mini: EmbeddingModel, tmp_path: Path) -> None:
    path = tmp_path / "labelled.jsonl.gz"
    rows = [
        {"query": "What do cats eat?", "text": "Cats eat meat.", "matches": True},
        {"query": "What do cats eat?", "text": "The bond market fell.", "matches": False},
    ]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert is_labelled(path)
    found = score_labelled(mini, path)
    assert found.matched[0] > found.mismatched[0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"query": "a", "text": "b"}], "line 1: an object with query, text and matches, true or false"),
        ([{"query": "a", "text": "", "matches": True}], "line 1: query and text must be strings"),
        ([{"query": "a", "text": "b", "matches": True}], "1 pairs that match and 0 that do not; some of each"),
    ],
)
def test_a_sample_that_cannot_be_used_says_why(
    mini: EmbeddingModel, write: Callable[..., Path], rows: list[object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score_labelled(mini, write(rows))


def test_one_pair_has_no_other_to_exchange_with(mini: EmbeddingModel, write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="1 pairs that match and 0 that do not"):
        score_shuffled(mini, write([{"query": "a", "positive": "b"}]))
    with pytest.raises(DataError, match="no such file"):
        score_labelled(mini, "nowhere.jsonl")
    assert not is_labelled("nowhere.jsonl")


def test_pairs_under_the_score_are_left_out_and_other_languages_are_not_judged(
    mini: EmbeddingModel, write: Callable[..., Path], tmp_path: Path, rows_of: Callable[[Path], list[dict[str, str]]]
) -> None:
    path = write(
        [
            {"query": "What do cats eat?", "positive": "Cats eat meat and fish.", "language": "en"},
            {"query": "How do I sail a boat?", "positive": "The bond market fell in autumn.", "language": "en"},
            {"query": "猫吃什么？", "positive": "今天股市下跌。", "language": "zh"},
            {"query": "How do I sail a boat?", "positive": "Trim a boat's sail to the wind.", "language": "en"},
        ]
    )
    options = CorpusOptions(
        positive_words=(3, 99), min_score=MINI_MIN_SCORE, score_languages=("en",), near_duplicates=0.5
    )
    found = build_pairs([path], tmp_path / "out", options=options, model=mini)
    assert [row["positive"][:4] for row in rows_of(tmp_path / "out")] == ["Cats", "今天股市", "Trim"]
    assert (found.pairs, found.kept, found.dropped["semantic"], found.unscored) == (4, 3, 1, 1)
    assert sum(found.scores_kept.values()) == 2
    assert sum(found.scores_dropped.values()) == 1


def test_a_stopped_run_that_asks_a_model_goes_on_to_the_same_bytes(
    mini: EmbeddingModel, stdlib_docs: list[DocEntry], write: Callable[..., Path], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    entries = [entry for entry in stdlib_docs if len(entry.text.split()) > 12][:120:2]
    path = write([{"query": entry.name, "positive": entry.text, "language": "en"} for entry in entries])
    options = CorpusOptions(min_score=MINI_MIN_SCORE, score_tokens=32, shard_rows=7)
    monkeypatch.setattr(build, "_BLOCK", 20)
    found = build_pairs([path], tmp_path / "whole", options=options, model=mini)
    assert found.kept > 21
    assert found.dropped["semantic"] > 2
    add, rows = Shards.add, itertools.count()

    def stop_in_the_third_shard(self: Shards, row: Mapping[str, Any]) -> bool:
        if next(rows) == 17:
            raise KeyboardInterrupt
        return add(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Shards, "add", stop_in_the_third_shard)
        with pytest.raises(KeyboardInterrupt):
            build_pairs([path], tmp_path / "out", options=options, model=mini)
    assert len(list((tmp_path / "out").glob("pairs-*.gz"))) == 2
    assert build_pairs([path], tmp_path / "out", options=options, model=mini) == found
    files = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("out", "whole")]
    assert files[0] == files[1]


def test_a_score_needs_a_model_with_dense_vectors(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write([{"query": "a", "positive": "b"}])
    with pytest.raises(InvalidOptionError, match="give both or none"):
        build_pairs([path], tmp_path / "out", options=CorpusOptions(min_score=0.3))
