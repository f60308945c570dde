"""Encodings on disk: the same as computed, never computed twice, never lost to a kill."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mgte_rag import DataError, EmbeddingModel, InvalidOptionError
from mgte_training.evaluation import Options, RetrievalSet, evaluate
from mgte_training.evaluation import cached_model as caching
from mgte_training.evaluation.cached_model import CachedModel

TEXTS = ["Cats sleep.", "", "Most birds can fly.", "Cats sleep.", "word " * 400]


def test_kept_encodings_are_the_models(mini_fp32: EmbeddingModel, tmp_path: Path) -> None:
    expected = mini_fp32.encode_document(TEXTS, outputs=mini_fp32.outputs)
    for _ in range(2):  # computed, and read by another handle
        found = CachedModel(mini_fp32, tmp_path).encode_document(TEXTS, outputs=mini_fp32.outputs)
        assert found.dense is not None
        assert found.sparse is not None
        assert found.multi_vector is not None
        np.testing.assert_allclose(found.dense, expected.dense, atol=1e-5)
        for one, other in zip(found.sparse, expected.sparse or (), strict=True):
            assert one.indices.tolist() == other.indices.tolist()
            np.testing.assert_allclose(one.values, other.values, atol=1e-4)
        for rows, others in zip(found.multi_vector, expected.multi_vector or (), strict=True):
            assert rows.dtype == np.float32
            np.testing.assert_allclose(rows, others, atol=1e-3)  # kept in float16
        assert found.truncated.tolist() == expected.truncated.tolist()
        assert found.token_counts.tolist() == expected.token_counts.tolist()


def test_nothing_is_computed_twice(mini_fp32: EmbeddingModel, tmp_path: Path) -> None:
    model = CachedModel(mini_fp32, tmp_path)
    model.encode_document(TEXTS, outputs=("dense", "sparse"))
    before = mini_fp32.forwards
    model.encode_document([*TEXTS[::-1], TEXTS[0]], outputs=("sparse",))
    CachedModel(mini_fp32, tmp_path).encode_document(TEXTS, outputs=("dense",), dim=384)
    assert mini_fp32.forwards == before


def test_whatever_changes_a_vector_is_computed_anew(mini_fp32: EmbeddingModel, tmp_path: Path, tiny_bert: Path) -> None:
    model = CachedModel(mini_fp32, tmp_path)
    model.encode_document(["a text of words"], outputs=("multi_vector",))

    def computes(encode: object, **options: object) -> bool:
        before = mini_fp32.forwards
        encode(["a text of words"], **options)  # type: ignore[operator]
        return mini_fp32.forwards > before

    assert not computes(model.encode_document, outputs=("multi_vector",), max_length=256)  # what None means
    assert computes(model.encode_query, outputs=("multi_vector",))
    assert computes(model.encode_document, outputs=("multi_vector",), max_length=5)
    assert computes(model.encode_document, outputs=("multi_vector",), token_dim=32)
    assert computes(model.encode_document, outputs=("dense",))
    with EmbeddingModel.load(tiny_bert) as other:
        found = CachedModel(other, tmp_path).encode_document(["a text of words"])
        assert found.dense is not None
        assert found.dense.shape == (1, 32)


def test_no_text_has_no_vectors_of_the_right_width(mini_fp32: EmbeddingModel, tmp_path: Path) -> None:
    found = CachedModel(mini_fp32, tmp_path).encode_query([], outputs=mini_fp32.outputs)
    assert found.dense is not None
    assert found.dense.shape == (0, 384)
    assert (list(found.sparse or ()), list(found.multi_vector or ())) == ([], [])


def test_work_that_failed_half_way_is_kept_and_goes_on(
    mini_fp32: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "_AT_ONCE", 2)
    texts = [f"text number {i}" for i in range(10)]
    calls = []
    whole = EmbeddingModel.encode_document

    def interrupted(self: EmbeddingModel, given: list[str], **options: object) -> object:
        calls.append(len(given))
        if sum(calls) > 6:
            raise KeyboardInterrupt
        return whole(self, given, **options)  # type: ignore[arg-type]

    def counted(self: EmbeddingModel, given: list[str], **options: object) -> object:
        calls.append(len(given))
        return whole(self, given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(EmbeddingModel, "encode_document", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CachedModel(mini_fp32, tmp_path).encode_document(texts)
    calls.clear()
    monkeypatch.setattr(EmbeddingModel, "encode_document", counted)
    found = CachedModel(mini_fp32, tmp_path).encode_document(texts)
    assert calls == [0, 2, 2]  # of ten texts, six were kept; none at all checks the options
    expected = whole(mini_fp32, texts)
    np.testing.assert_allclose(found.dense, expected.dense, atol=1e-5)


def test_a_killed_evaluation_leaves_a_cache_that_goes_on(tmp_path: Path, mini: EmbeddingModel) -> None:
    script = f"""
from mgte_rag import EmbeddingModel
from mgte_training.evaluation import cached_model
from mgte_training.evaluation.cached_model import CachedModel
from pathlib import Path
cached_model._AT_ONCE, cached_model._SECONDS = 1, 0.0
CachedModel(EmbeddingModel.load(), Path({str(tmp_path)!r})).encode_document([f"text {{i}}" for i in range(10**6)])
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("*/[0-9a-f]*"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = mini.forwards
    kept = CachedModel(mini, tmp_path).encode_document([f"text {i}" for i in range(4)])
    assert mini.forwards == before
    np.testing.assert_allclose(kept.dense, mini.encode_document([f"text {i}" for i in range(4)]).dense, atol=0.02)


def test_a_second_evaluation_encodes_nothing_and_finds_the_same(
    docs_set: RetrievalSet, mini_fp32: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = docs_set.sample_queries(10)
    judged = {key for grades in few.grades.values() for key in grades}
    few = few.keep_documents({*judged, *docs_set.document_ids[:30]}, "few")
    options = Options(systems=("bm25", "dense", "sparse", "fusion", "late_interaction"), cache=tmp_path)
    first = evaluate(mini_fp32, [few], options=options).sets[0]
    before = mini_fp32.forwards
    second = evaluate(mini_fp32, [few], options=options).sets[0]
    assert mini_fp32.forwards - before == 10  # the queries whose time is taken, one by one
    for one, other in zip(first.systems, second.systems, strict=True):
        assert one.measures == other.measures
    assert first.significance == second.significance


def test_a_damaged_cache_says_what_to_delete(mini_fp32: EmbeddingModel, tmp_path: Path) -> None:
    CachedModel(mini_fp32, tmp_path).encode_document(["a text"])
    (damaged,) = tmp_path.glob("*/*/vector.npy")
    damaged.write_bytes(damaged.read_bytes()[:60])
    with pytest.raises(DataError, match=r"damaged .* delete that folder"):
        CachedModel(mini_fp32, tmp_path).encode_document(["a text"])


def test_a_cache_that_cannot_be_made_says_so(mini_fp32: EmbeddingModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InvalidOptionError, match="cannot be made"):
        CachedModel(mini_fp32, tmp_path / "file" / "cache").encode_document(["a text"])
