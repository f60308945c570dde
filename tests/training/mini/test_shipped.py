"""The heads and the reranker that ship with the package."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import CheckpointError, EmbeddingModel, Reranker
from mgte_rag.checkpoints import added_heads, find_model, load_checkpoint, source


def first_lines_and_rests(entries: list[DocEntry]) -> tuple[list[str], list[str]]:
    halves = [entry.text.partition("\n\n") for entry in entries if entry.kind == "function" and "\n\n" in entry.text]
    return [first for first, _, _ in halves[:200]], [rest for _, _, rest in halves[:200]]


def test_the_heads_find_what_words_say(mini: EmbeddingModel, stdlib_docs: list[DocEntry]) -> None:
    firsts, rests = first_lines_and_rests(stdlib_docs)
    queries = mini.encode_query(firsts, outputs=mini.outputs)
    scores = mini.similarity(queries, mini.encode_document(rests, outputs=mini.outputs))
    for output in ("sparse", "multi_vector"):
        assert np.mean(getattr(scores, output).argmax(1) == np.arange(len(firsts))) > 0.25  # by chance 1 in 200


def test_inflected_forms_are_one_term_and_common_words_none(mini: EmbeddingModel) -> None:
    one, other = mini.encode_document(["The wings of a bird.", "A wing of the birds."], outputs=("sparse",)).sparse
    assert set(mini.tokens(one)) == {(token, pytest.approx(weight, rel=1)) for token, weight in mini.tokens(other)}
    assert {token for token, _ in mini.tokens(one)} == {"wing", "bird"}


def test_the_dense_output_is_untouched_by_the_heads(mini_fp32: EmbeddingModel) -> None:
    with EmbeddingModel.load(find_model(None).path, dtype="float32") as without_heads:
        assert without_heads.outputs == ("dense",)
        texts = ["Most birds can fly.", ""]
        alone = mini_fp32.encode_document(texts).dense
        together = mini_fp32.encode_document(texts, outputs=mini_fp32.outputs).dense
        np.testing.assert_array_equal(alone, together)
        np.testing.assert_allclose(alone, without_heads.encode_document(texts).dense, atol=1e-6)


def test_the_reranker_finds_the_answer_among_others(stdlib_docs: list[DocEntry]) -> None:
    firsts, rests = first_lines_and_rests(stdlib_docs)
    with Reranker.load() as reranker:
        best = [reranker.rank(first, rests[:20], top_k=1)[0].index for first in firsts[:10]]
    assert np.mean(np.array(best) == np.arange(10)) >= 0.5  # by chance 1 in 20


def test_mini_is_the_rerankers_name_too_and_its_pickles_are_small() -> None:
    with Reranker.load() as nameless, Reranker.load("mini") as named, Reranker.load("mini-reranker") as itself:
        assert nameless.identity == named.identity == itself.identity
        assert nameless.identity.name == "mini-reranker"


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


def spoiled(tensors: dict, how: str) -> None:
    name = "encoder.layers.0.attention.out.weight"
    if how == "a factor is missing":
        del tensors[f"{name}{added_heads.UP}"]
    elif how == "of another rank":
        tensors[f"{name}{added_heads.UP}"] = tensors[f"{name}{added_heads.UP}"][:, 1:].contiguous()
    elif how == "for no weight":
        for end in (added_heads.DOWN, added_heads.UP):
            tensors[f"encoder.layers.9.attention.out.weight{end}"] = tensors[f"{name}{end}"].clone()
    elif how == "of another weight":
        tensors[f"{name}{added_heads.DOWN}"] = tensors[f"{name}{added_heads.DOWN}"][:, 1:].contiguous()
    else:
        tensors[f"{name}{added_heads.DOWN}"][0, 0] = float("nan")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("a factor is missing", r"adapter of encoder\.layers\.0\.attention\.out\.weight has factors of the shapes"),
        ("of another rank", "has factors of the shapes"),
        ("for no weight", r"adapter for 'encoder\.layers\.9\.attention\.out\.weight'"),
        ("of another weight", "does not fit a weight of"),
        ("not a number", "NaN"),
    ],
)
def test_an_adapter_that_does_not_fit_is_an_error(
    how: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = Path(copytree(source.MINI_HEADS, tmp_path / "heads"))
    path = heads / "reranker" / added_heads.WEIGHTS
    tensors = load_file(path)
    spoiled(tensors, how)
    save_file(tensors, path)
    monkeypatch.setattr(source, "MINI_HEADS", heads)
    with pytest.raises(CheckpointError, match=message):
        Reranker.load()


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
