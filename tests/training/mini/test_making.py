"""How the embedded default's heads and reranker are made, from pairs to the files that ship."""

import gzip
import json
import random
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import CheckpointError, EmbeddingModel, Reranker
from mgte_rag.checkpoints import added_heads
from mgte_rag.config import HybridWeights
from mgte_training.data import Source, SourceData
from mgte_training.finetune.recipe import find_recipe, read_recipe
from mgte_training.mini import __main__ as making
from mgte_training.mini import fusion, package, pairs
from mgte_training.mini.fusion import Judged

QUICK = ("batches.steps=2", "batches.drop_last=false",
         "batches.buckets=[{max_tokens=1000000, batch=6, sub_batch=6}]")  # fmt: skip


def write_lines(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, stdlib_docs: list[DocEntry]) -> Path:
    """Every source with some docstrings: first line to the rest; the first of them has one in French, too."""
    folder = tmp_path_factory.mktemp("data")
    halves = [entry.text.partition("\n\n") for entry in stdlib_docs]
    rows = [{"query": first, "positive": rest[:300], "language": "en"} for first, _, rest in halves if len(rest) > 200]
    unique = list({row["positive"]: row for row in rows}.values())
    sources = [source for source in pairs.PAIRS if source != pairs.SENTENCES]
    for number, source in enumerate([*sources, *fusion.UNSEEN]):
        own = unique[number * 24 : number * 24 + 24]
        write_lines(folder / "pairs" / f"{source}.jsonl.gz", own)
    sentences = [" ".join(f"Sentence {chance} number {i} of it." for i in range(5)) for chance in range(24)]
    rows = [{"query": "a title", "positive": text, "language": "en"} for text in sentences]
    rows.append({"query": "une question", "positive": "une réponse", "language": "fr"})
    write_lines(folder / "pairs" / "arxiv.jsonl.gz", unique[-24:] + rows)
    return folder


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps of everything."""
    out = tmp_path_factory.mktemp("made")
    settings = [part for each in QUICK for part in ("--set", each)]
    few = dict.fromkeys(pairs.PAIRS, 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "PAIRS", few)
        patch.setattr(making, "RERANKED", few)
        patch.setattr(fusion, "_RERANKED", 5)
        patch.setattr(fusion, "_DEPTH", 3)
        patch.setattr("sys.argv", ["mini", "--data", str(data), "--out", str(out), *settings])
        making.main()
    return out


def test_the_run_makes_heads_and_a_reranker_that_load_as_the_embedded_default(
    made: Path, mini_fp32: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["Return a list of the files in a folder.", "Birds fly."]
    before = mini_fp32.encode_document(texts).dense
    monkeypatch.setattr("mgte_rag.checkpoints.source.MINI_HEADS", made / "package")
    with (
        EmbeddingModel.load(dtype="float32") as model,
        EmbeddingModel.load(made / "heads/model", dtype="float32") as run,
    ):
        shipped, trained = (each.encode_document(texts, outputs=model.outputs) for each in (model, run))
        np.testing.assert_array_equal(shipped.dense, before)
        for own, other in zip(shipped.multi_vector, trained.multi_vector, strict=True):
            np.testing.assert_allclose(own, other, atol=2e-3)  # half precision
        weights = json.loads((made / "package/recipe.json").read_text())["weights"]
        assert model.hybrid_weights == {name: weights[name] for name in ("dense", "sparse", "multi_vector")}
    with Reranker.load("mini") as named, Reranker.load("mini-reranker") as itself:
        assert named.identity == itself.identity
        assert itself.identity.name == "mini-reranker"
    with Reranker.load(dtype="float32") as reranker, Reranker.load(made / "reranker/model", dtype="float32") as run:
        asked = [("list files", text) for text in texts]
        np.testing.assert_allclose(reranker.score(asked), run.score(asked), atol=1e-2)


def test_what_ships_is_small(made: Path) -> None:
    assert sum(path.stat().st_size for path in (made / "package").rglob("*") if path.is_file()) < 8e6


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
    made: Path, how: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = Path(copytree(made / "package", tmp_path / "heads"))
    path = heads / "reranker" / added_heads.WEIGHTS
    tensors = load_file(path)
    spoiled(tensors, how)
    save_file(tensors, path)
    monkeypatch.setattr("mgte_rag.checkpoints.source.MINI_HEADS", heads)
    with pytest.raises(CheckpointError, match=message):
        Reranker.load()


def test_the_reranker_learns_from_candidates_that_the_new_heads_rank(made: Path) -> None:
    """Each with the hybrid's score, by the weights that ship."""
    weights = json.loads((made / "package/recipe.json").read_text())["weights"]
    own = {output: weights[output] for output in ("dense", "sparse", "multi_vector")}
    examples = SourceData.read(Source("qamr", str(made / "candidates/qamr.scored.jsonl")))
    with EmbeddingModel.load(made / "heads/model") as model:
        for example in examples:
            texts = [*example.positives, *example.negatives]
            query = model.encode_query([example.query], outputs=model.outputs)
            documents = model.encode_document(texts, outputs=model.outputs)
            expected = model.similarity(query, documents, weights=own).hybrid[0]
            found = [*(example.positive_scores or ()), *(example.negative_scores or ())]
            np.testing.assert_allclose(found, expected, atol=0.02)  # other batches round otherwise in bf16


def test_a_second_call_does_nothing_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "run_recipe", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(making, "mine", lambda *_, **__: pytest.fail("mined again"))
    making.mine_all(EmbeddingModel.load(), made, pairs.PAIRS, "mined", making._NEGATIVES)
    assert making._trained(read_recipe(find_recipe("mini-heads")), made / "heads", made) == made / "heads/model"


def test_pairs_are_english_and_share_no_passage_with_what_is_evaluated(data: Path) -> None:
    options = {"seed": 0, "evaluated": set(), "taken": set()}
    everything = pairs.choose_pairs(data / "pairs", "arxiv", 10**6, **options)
    assert ("une question", "une réponse") not in everything
    seen = everything[3][1]
    evaluated = set(pairs.passages(f"a document with {seen} in it"))
    kept = pairs.choose_pairs(data / "pairs", "arxiv", 10**6, seed=0, evaluated=evaluated, taken=set())
    assert all(document != seen for _, document in kept)


def test_no_document_is_taken_from_two_sources(data: Path) -> None:
    taken: set[str] = set()
    whole = pairs.choose_pairs(data / "pairs", "arxiv", 20, seed=0, evaluated=set(), taken=taken)
    assert taken == {document for _, document in whole}
    before = set(taken)
    apart = pairs.choose_pairs(data / "pairs", pairs.SENTENCES, 10**6, seed=0, evaluated=set(), taken=taken)
    assert apart
    assert not before & (taken - before)


def test_all_pairs_of_a_document_are_held_out_or_none_and_a_twentieth_is() -> None:
    documents = [f"document {i}" for i in range(4_000)]
    held_out = [pairs.is_held_out(document) for document in documents]
    assert 0.04 < np.mean(held_out) < 0.06
    assert held_out == [pairs.is_held_out(document) for document in documents]


def test_sentences_taken_out_are_not_in_the_rest() -> None:
    text = "One is here. Two is there. Three is gone. Four is left. Five is right."
    for seed in range(20):
        query, rest = pairs.sentences_apart(text, random.Random(seed)) or ("", "")
        assert query
        assert sorted(f"{query} {rest}".split()) == sorted(text.split())
        assert query not in rest
    assert pairs.sentences_apart("One. Two.", random.Random(0)) is None


def test_the_measure_that_weights_are_chosen_by_counts_ties_against_the_answer() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 0.0]], dtype=np.float32)
    judged = Judged({"dense": scores}, own=[0, 1])
    assert judged.ndcg({"dense": 1.0}) == pytest.approx((1 / np.log2(3) + 1) / 2)


def test_the_chosen_weights_are_the_best_of_those_tried() -> None:
    dense = np.array([[0.5, 0.6], [0.5, 0.1]], dtype=np.float32)
    sparse = np.array([[1.0, 0.0], [1.0, 0.9]], dtype=np.float32)  # helps the first question, alone it fails the second
    late = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)  # of no help
    judged = {"one": Judged({"dense": dense, "sparse": sparse, "multi_vector": late}, own=[0, 0])}
    weights, figures = fusion.choose_weights(judged)
    assert weights == HybridWeights(dense=1.0, sparse=0.15, multi_vector=0.0)
    assert figures["one"]["dense + sparse"] == 1.0
    assert figures["one"]["dense"] < 1.0


class Words:
    """A reranker that scores by the number of a text's words."""

    def score(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        return np.array([len(document.split()) for _, document in pairs], dtype=np.float32)


def test_what_a_reranker_counts_beside_the_hybrid_is_tried_on_its_best_documents() -> None:
    pairs = [("one", "a b c"), ("two", "a"), ("three", "a b")]
    dense = np.array([[0.9, 1.0, 0.0], [0.0, 1.0, 0.9], [0.0, 0.0, 0.2]], dtype=np.float32)
    judged = Judged({"dense": dense}, own=[0, 1, 2])
    found = fusion.judge_reranked(judged, HybridWeights(dense=1.0, sparse=0.0, multi_vector=0.0), Words(), pairs)
    second = 1 / np.log2(3)
    assert found[0.0] == pytest.approx((second + 1 + 1) / 3)
    assert found[0.07] == pytest.approx(1.0)  # 0.9 + 0.21 after 1.0 + 0.07; the others stay
    assert found[2.0] == pytest.approx((1 + 0.5 + second) / 3)
    assert fusion.best_factor({"one": found, "other": found}) == 0.07


def test_two_factors_of_its_rank_give_a_matrix_back() -> None:
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(12, 3, generator=generator) @ torch.randn(3, 8, generator=generator)
    down, up = package.factors(change, 3)
    assert (down.shape, up.shape) == ((3, 8), (12, 3))
    torch.testing.assert_close(up @ down, change, atol=1e-5, rtol=1e-4)
