"""The training of the embedded default's heads, on a few hundred real pairs."""

import gzip
import hashlib
import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import CheckpointError, EmbeddingModel, SparseVector, scoring
from mgte_rag.checkpoints import added_heads, find_model, load_checkpoint, source
from mgte_rag.nn.heads import SparseHead
from mgte_training import mini_heads
from mgte_training.mini_heads import Side


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory, stdlib_docs: list[DocEntry]) -> Path:
    """Pairs of a docstring's first line and the rest of it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "pairs").mkdir()
    halves = [entry.text.partition("\n\n") for entry in stdlib_docs if entry.kind == "class"]
    rows = [{"query": first, "positive": rest, "language": "en"} for first, _, rest in halves if len(rest) > 40]
    rows += [{"query": "une question", "positive": "une réponse", "language": "fr"}]
    with gzip.open(folder / "pairs" / "docs.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mini_heads, "SOURCES", {"docs": 240})
    monkeypatch.setattr(mini_heads, "BATCH", 32)
    monkeypatch.setattr(mini_heads, "LATE_BATCH", 16)
    monkeypatch.setattr(mini_heads, "EPOCHS", 3)
    monkeypatch.setattr(mini_heads, "HELD_OUT", 0.25)


def run(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path) -> dict[str, torch.Tensor]:
    monkeypatch.setattr("sys.argv", ["mini_heads", "--data", str(data), "--out", str(out)])
    mini_heads.main()
    return load_file(out / "heads.safetensors")


@pytest.mark.usefixtures("small_recipe")
def test_the_script_writes_heads_that_load_and_one_seed_gives_one_result(
    pairs_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (run(monkeypatch, pairs_folder, tmp_path / name) for name in ("a", "b"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], atol=1e-4, rtol=1e-3)
    figures = json.loads((tmp_path / "a" / "recipe.json").read_text())["held_out"]["docs"]
    assert figures["sparse"] > 0.3  # by chance below 0.1
    assert figures["multi_vector_128"] > 0.3
    monkeypatch.setattr("mgte_rag.checkpoints.source.MINI_HEADS", tmp_path / "a")
    with EmbeddingModel.load() as model:
        assert model.encode_query("a", outputs=model.outputs).sparse is not None


def test_only_english_pairs_are_read_and_the_choice_is_the_seeds(pairs_folder: Path) -> None:
    path = pairs_folder / "pairs" / "docs.jsonl.gz"
    everything = mini_heads.read_pairs(path, 10**6, 0, set())
    seen = everything[3][1]
    evaluated = set(mini_heads._passages(f"a document with {seen} in it"))
    assert all(document != seen for _, document in mini_heads.read_pairs(path, 10**6, 0, evaluated))
    assert ("une question", "une réponse") not in everything
    assert (
        mini_heads.read_pairs(path, 20, 1, set())
        == mini_heads.read_pairs(path, 20, 1, set())
        != mini_heads.read_pairs(path, 20, 2, set())
    )


def test_all_pairs_of_a_document_are_held_out_or_none() -> None:
    same = [hashlib.sha256(str(i // 4).encode()).digest() for i in range(4_000)]
    train_sets, held_out = mini_heads.split([3_000, 1_000], same)
    assert sorted(train_sets[0] + held_out[0]) == list(range(3_000))
    assert sorted(train_sets[1] + held_out[1]) == list(range(3_000, 4_000))
    assert not {same[i] for i in train_sets[0]} & {same[i] for i in held_out[0]}
    assert 0.03 < len(held_out[0]) / 3_000 < 0.07


def test_a_batch_holds_one_source_and_an_epoch_no_pair_twice() -> None:
    batches = list(mini_heads.plan([list(range(1_000)), list(range(1_000, 1_400))], seed=0))
    per_epoch = len(batches) // mini_heads.EPOCHS
    seen = [place for batch in batches[:per_epoch] for place in batch]
    assert len(seen) == len(set(seen))
    assert all(max(batch) < 1_000 or min(batch) >= 1_000 for batch in batches)


def test_sparse_scores_are_those_of_inference() -> None:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.tensor([5, 7, 5, 9]), torch.tensor([7, 8])]
    side = Side(
        hidden=[torch.randn(len(row), 4, generator=generator).bfloat16() for row in ids],
        ids=ids,
        terms=[torch.tensor([True, True, True, False]), torch.tensor([True, True])],
        vectors=[],
        dense=torch.zeros(2, 4),
    )
    head = SparseHead(hidden=4)
    torch.nn.init.constant_(head.projection.bias, 1.0)

    def sparse(i: int) -> SparseVector:
        strongest: dict[int, float] = {}
        for term, weight, kept in zip(
            ids[i].tolist(), head(side.hidden[i].float()).tolist(), side.terms[i], strict=True
        ):
            if kept and weight > 0:
                strongest[term] = max(weight, strongest.get(term, 0.0))
        keys = sorted(strongest)
        return SparseVector(np.array(keys, np.int32), np.array([strongest[k] for k in keys], np.float32))

    with torch.inference_mode():
        expected = scoring.sparse_dot(*[scoring.Terms.of([sparse(0), sparse(1)])] * 2)
        torch.testing.assert_close(mini_heads.sparse_scores(head, side, side, [0, 1], [0, 1]), expected)


def test_copies_of_the_right_document_are_no_negatives() -> None:
    scores = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    copies = mini_heads.find_copies([b"a", b"a"], [0, 1]) & torch.tensor([[True, True], [False, False]])
    alone = mini_heads.info_nce(scores, 1.0, copies)
    assert alone.item() == pytest.approx(np.log(1 + np.exp(-1)) / 2)


def test_a_tie_counts_against_the_right_document() -> None:
    scores = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert mini_heads._mrr(scores, mini_heads.find_copies([b"a", b"b"], [0, 1])) == pytest.approx((1 / 2 + 1) / 2)
    assert mini_heads._mrr(scores, mini_heads.find_copies([b"a", b"a"], [0, 1])) == 1.0


@pytest.mark.parametrize("file", [added_heads.CONFIG, added_heads.WEIGHTS])
def test_a_missing_file_of_the_heads_is_an_error(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = Path(copytree(source.MINI_HEADS, tmp_path / "heads"))
    (heads / file).unlink()
    monkeypatch.setattr(source, "MINI_HEADS", heads)
    with pytest.raises(CheckpointError, match=file):
        EmbeddingModel.load()


def test_the_shipped_heads_find_what_words_say(mini: EmbeddingModel, stdlib_docs: list[DocEntry]) -> None:
    entries = [entry for entry in stdlib_docs if entry.kind == "function" and "\n\n" in entry.text][:200]
    queries = mini.encode_query([entry.text.partition("\n\n")[0] for entry in entries], outputs=mini.outputs)
    rests = mini.encode_document([entry.text.partition("\n\n")[2] for entry in entries], outputs=mini.outputs)
    scores = mini.similarity(queries, rests)
    found = {
        output: np.mean(getattr(scores, output).argmax(1) == np.arange(len(entries)))
        for output in ("sparse", "multi_vector")
    }
    assert found["sparse"] > 0.25  # by chance 1 in 200
    assert found["multi_vector"] > 0.25


def test_the_dense_output_is_untouched_by_the_heads(mini_fp32: EmbeddingModel) -> None:
    plain = find_model(None).path
    with EmbeddingModel.load(plain, dtype="float32") as without_heads:
        assert without_heads.outputs == ("dense",)
        texts = ["Most birds can fly.", ""]
        alone = mini_fp32.encode_document(texts).dense
        together = mini_fp32.encode_document(texts, outputs=mini_fp32.outputs).dense
        np.testing.assert_array_equal(alone, together)
        np.testing.assert_allclose(alone, without_heads.encode_document(texts).dense, atol=1e-6)


def test_the_heads_revision_belongs_to_the_models_identity(
    mini: EmbeddingModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = Path(copytree(source.MINI_HEADS, tmp_path / "heads"))
    tensors = load_file(heads / "heads.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, heads / "heads.safetensors")
    monkeypatch.setattr(source, "MINI_HEADS", heads)
    assert load_checkpoint(find_model(None)).identity.fingerprint != mini.identity.fingerprint
