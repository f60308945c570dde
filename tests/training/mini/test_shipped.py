"""The heads and the reranker that ship with the package."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import CheckpointError, EmbeddingModel, Reranker
from mgte_rag.checkpoints import added_heads, find_model, load_checkpoint, source
from mgte_training.finetune.trainable import TrainableReranker


def first_lines_and_rests(entries: list[DocEntry]) -> tuple[list[str], list[str]]:
    halves = [entry.text.partition("\n\n") for entry in entries if entry.kind == "function" and "\n\n" in entry.text]
    return [first for first, _, _ in halves[:200]], [rest for _, _, rest in halves[:200]]


def test_the_heads_find_what_words_say(mini: EmbeddingModel, stdlib_docs: list[DocEntry]) -> None:
    firsts, rests = first_lines_and_rests(stdlib_docs)
    queries = mini.encode_query(firsts, outputs=mini.outputs)
    scores = mini.similarity(queries, mini.encode_document(rests, outputs=mini.outputs))
    for output in ("sparse", "multi_vector"):
        assert np.mean(getattr(scores, output).argmax(1) == np.arange(len(firsts))) > 0.25  # by chance 1 in 200


def test_inflected_forms_are_one_term_and_common_words_count_little(mini: EmbeddingModel) -> None:
    for vector in mini.encode_document(["The wings of a bird.", "A wing of the birds."], outputs=("sparse",)).sparse:
        weights = dict(mini.tokens(vector))
        assert set(weights) >= {"wing", "bird"}
        assert not {"wings", "birds"} & set(weights)
        assert max(weight for token, weight in weights.items() if token not in ("wing", "bird")) < 0.5
        assert min(weights["wing"], weights["bird"]) > 1.0


def test_the_dense_output_is_untouched_by_the_heads(mini_fp32: EmbeddingModel) -> None:
    with EmbeddingModel.load(find_model(None).path, dtype="float32") as without_heads:
        assert without_heads.outputs == ("dense",)
        texts = ["Most birds can fly.", ""]
        alone = mini_fp32.encode_document(texts).dense
        together = mini_fp32.encode_document(texts, outputs=mini_fp32.outputs).dense
        np.testing.assert_array_equal(alone, together)
        np.testing.assert_allclose(alone, without_heads.encode_document(texts).dense, atol=1e-6)


def test_the_reranker_finds_the_answer_among_others(stdlib_docs: list[DocEntry]) -> None:
    firsts, rests = (each[::10] for each in first_lines_and_rests(stdlib_docs))  # of different modules
    with Reranker.load() as reranker:
        best = [reranker.rank(first, rests, top_k=1)[0].index for first in firsts]
    assert np.mean(np.array(best) == np.arange(20)) >= 0.5  # by chance 1 in 20


def test_mini_is_the_rerankers_name_too() -> None:
    with Reranker.load() as nameless, Reranker.load("mini") as named, Reranker.load("mini-reranker") as itself:
        assert nameless.identity == named.identity == itself.identity
        assert nameless.identity.name == "mini-reranker"


def test_the_reranker_can_be_tuned_further(tmp_path: Path) -> None:
    pairs = [("what birds do", "Most birds can fly."), ("what birds do", "Rain falls.")]
    TrainableReranker.open("mini").save(tmp_path / "same")
    with Reranker.load(dtype="float32") as shipped, Reranker.load(tmp_path / "same", dtype="float32") as same:
        np.testing.assert_allclose(same.score(pairs), shipped.score(pairs), atol=1e-4)


def test_everything_that_ships_is_under_8_mb() -> None:
    assert sum(path.stat().st_size for path in source.MINI_HEADS.rglob("*") if path.is_file()) < 8e6


@pytest.mark.parametrize("file", [added_heads.CONFIG, added_heads.WEIGHTS])
def test_a_missing_file_of_the_heads_is_an_error(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Path(copytree(source.MINI_HEADS, tmp_path / "heads"))
    (heads / file).unlink()
    monkeypatch.setattr(source, "MINI_HEADS", heads)
    with pytest.raises(CheckpointError, match=file):
        EmbeddingModel.load()


def test_the_heads_revision_belongs_to_the_models_identity(
    mini: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = Path(copytree(source.MINI_HEADS, tmp_path / "heads"))
    tensors = load_file(heads / added_heads.WEIGHTS)
    tensors["sparse.projection.bias"] += 1
    save_file(tensors, heads / added_heads.WEIGHTS)
    monkeypatch.setattr(source, "MINI_HEADS", heads)
    assert load_checkpoint(find_model(None)).identity.fingerprint != mini.identity.fingerprint


@pytest.mark.parametrize("term", [-1, 10**6])
def test_a_lexicon_with_a_term_that_is_none_is_an_error(
    term: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = Path(copytree(source.MINI_HEADS, tmp_path / "heads"))
    tensors = load_file(heads / added_heads.WEIGHTS)
    tensors["sparse.lexicon.term"][7] = term
    save_file(tensors, heads / added_heads.WEIGHTS)
    monkeypatch.setattr(source, "MINI_HEADS", heads)
    with pytest.raises(CheckpointError, match=r"lexicon\.term"):
        EmbeddingModel.load()
