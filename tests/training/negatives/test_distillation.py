"""A teacher's scores of training examples."""

from pathlib import Path

import numpy as np
import pytest

from mgte_rag import DataError, InvalidOptionError, Reranker
from mgte_training.data import Bucket, Example, Source, SourceData, make_plan
from mgte_training.negatives import distill_scores, distillation


@pytest.fixture(scope="module")
def mined(sentences: list[str]) -> list[Example]:
    return [
        Example(f"the cat {'!' * (n % 5)}", tuple(sentences[n : n + 1 + n % 2]), tuple(sentences[60 + n : 63 + n]))
        for n in range(0, 40, 2)
    ]


def test_every_document_gets_the_rerankers_own_score_and_training_reads_it(
    tiny_reranker: Reranker, mined: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "_EXAMPLES", 6)
    report = distill_scores(tiny_reranker, mined, tmp_path / "scored.jsonl")
    data = SourceData.read(Source("scored", str(tmp_path / "scored.jsonl")))
    agreeing = above = 0
    for before, after in zip(mined, data, strict=True):
        assert (after.query, after.positives, after.negatives) == (before.query, before.positives, before.negatives)
        pairs = [(before.query, text) for text in (*before.positives, *before.negatives)]
        assert after.positive_scores is not None
        assert after.negative_scores is not None
        scores = (*after.positive_scores, *after.negative_scores)
        np.testing.assert_allclose(scores, tiny_reranker.score(pairs), atol=1e-5)
        over = sum(score > min(after.positive_scores) for score in after.negative_scores)
        above += over
        agreeing += over == 0
    assert (report.examples, report.pairs) == (20, sum(len(e.positives) + 3 for e in mined))
    assert (report.agreeing, report.negatives_above) == (agreeing, above)
    assert 0 < agreeing < 20
    assert f"{above} negatives score above a positive" in str(report)
    plan = make_plan([data], lengths=None, buckets=(Bucket(99, 4, 2),), epochs=1)
    batch = plan.batch(0)
    assert batch.scores is not None
    assert batch.scores.shape == (4, 4)


def test_a_stopped_run_goes_on_where_it_was_and_gives_the_same(
    tiny_reranker: Reranker, mined: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "_EXAMPLES", 6)
    straight = distill_scores(tiny_reranker, mined, tmp_path / "straight.jsonl")
    original, calls = distillation._scored, []

    def stopping(*arguments: object) -> list[Example]:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(distillation, "_scored", stopping)
    with pytest.raises(KeyboardInterrupt):
        distill_scores(tiny_reranker, mined, tmp_path / "stopped.jsonl")
    assert distill_scores(tiny_reranker, mined, tmp_path / "stopped.jsonl") == straight
    assert len(calls) == 3 + 2
    assert (tmp_path / "stopped.jsonl").read_bytes() == (tmp_path / "straight.jsonl").read_bytes()


def test_faults_are_named_and_leave_no_file(tiny_reranker: Reranker, mined: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="max_length=3"):
        distill_scores(tiny_reranker, mined, tmp_path / "a.jsonl", max_length=3)
    with pytest.raises(DataError, match="no example to score"):
        distill_scores(tiny_reranker, [], tmp_path / "a.jsonl")
    assert list(tmp_path.iterdir()) == []
