"""STS figures are those of sentence-transformers on the same weights and pairs."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

from mgte_cli.stdlib_docs import DocEntry
from mgte_rag import DataError, EmbeddingModel
from mgte_training.evaluation.tasks.prompts import symmetric_prompt
from mgte_training.evaluation.tasks.rows import read_rows
from mgte_training.evaluation.tasks.sts import evaluate_sts


def reference(model: SentenceTransformer, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    columns = [[row[name] for row in rows] for name in ("sentence1", "sentence2", "score")]
    found = EmbeddingSimilarityEvaluator(*columns, main_similarity="cosine")(model)
    return {name: found[f"{name}_cosine"] for name in ("spearman", "pearson")}


@pytest.fixture(scope="module")
def same_mini(mini_fp32: EmbeddingModel, tmp_path_factory: pytest.TempPathFactory) -> SentenceTransformer:
    """The embedded default's dense part in sentence-transformers."""
    folder = tmp_path_factory.mktemp("exported") / "mini"
    mini_fp32.export(folder)
    return SentenceTransformer(str(folder), device="cpu")


def test_sts_figures_equal_those_of_sentence_transformers(
    mini_fp32: EmbeddingModel, same_mini: SentenceTransformer, stdlib_docs: list[DocEntry], write_rows: Any
) -> None:
    chance = np.random.default_rng(0)
    texts = [entry.text.partition("\n")[0] for entry in stdlib_docs[:80] if entry.text.strip()]
    rows = [
        {
            "sentence1": texts[i],
            "sentence2": texts[(i + 1 + int(chance.integers(3))) % len(texts)],
            "score": float(chance.integers(11)) / 2,
            "language": ("en", "de")[i % 2],
        }
        for i in range(len(texts))
    ]
    scores = evaluate_sts(mini_fp32, write_rows("pairs.jsonl", rows))
    assert [(score.language, score.measure) for score in scores] == [
        ("de", "spearman"),
        ("de", "pearson"),
        ("en", "spearman"),
        ("en", "pearson"),
    ]
    for language in ("de", "en"):
        expected = reference(same_mini, [row for row in rows if row["language"] == language])
        found = {score.measure: score for score in scores if score.language == language}
        for measure in ("spearman", "pearson"):
            assert found[measure].value == pytest.approx(expected[measure], abs=1e-4)
            assert found[measure].low < found[measure].value < found[measure].high
            assert (found[measure].task, found[measure].group) == ("pairs", "STS")
        assert found["spearman"].examples == sum(row["language"] == language for row in rows)


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="needs the data that MGTE_DATA names")
def test_real_sts_figures_equal_those_of_sentence_transformers(
    mini_fp32: EmbeddingModel, same_mini: SentenceTransformer, write_rows: Any
) -> None:
    path = Path(os.environ["MGTE_DATA"]) / "sts" / "stsb.jsonl.gz"
    rows = [dict(row.fields) for row in read_rows(path, split="dev") if row.language == "en"][:200]
    expected = reference(same_mini, rows)
    scores = evaluate_sts(mini_fp32, write_rows("english.jsonl", rows), split="dev", task="STS-B")
    assert {score.measure: score.value for score in scores} == pytest.approx(expected, abs=1e-4)
    assert expected["spearman"] > 0.8
    assert scores[0].examples == len(rows) == 200


def test_scores_that_are_all_the_same_are_an_error(tiny_model: EmbeddingModel, write_rows: Any) -> None:
    rows = [{"sentence1": "the cat", "sentence2": word, "score": 2} for word in ("dog", "mat")]
    with pytest.raises(DataError, match=r"same.jsonl: all 2 scores of language 'und' are the same"):
        evaluate_sts(tiny_model, write_rows("same.jsonl", rows))


def test_a_smaller_dim_gives_the_figures_of_the_first_components(matryoshka: EmbeddingModel, write_rows: Any) -> None:
    others = ["the cat", "a dog ran", "tree", "on the mat", "then a tree"]
    rows = [{"sentence1": "the cat sat", "sentence2": other, "score": i} for i, other in enumerate(others)]
    score = evaluate_sts(matryoshka, write_rows("pairs.jsonl", rows), dim=16)[1]
    first, *cut = matryoshka.encode_document(["the cat sat", *others]).dense[:, :16]
    cosines = [np.dot(first, each) / np.linalg.norm(first) / np.linalg.norm(each) for each in cut]
    assert score.value == pytest.approx(np.corrcoef(cosines, range(5))[0, 1], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "prompts", "expected"),
    [
        ("bge-small-en-v1.5", None, ""),  # an instruction for queries alone
        ("multilingual-e5-small", None, "query: "),  # a prompt always
        ("of-ones-own", {"query": "the ", "document": ""}, ""),
        ("of-ones-own", {"query": "the ", "document": "a "}, "the "),
    ],
)
def test_sentence_pairs_get_the_prompt_that_the_model_wants_for_them(
    named: Any, write_rows: Any, name: str, prompts: dict[str, str] | None, expected: str
) -> None:
    others = ["the cat", "a dog ran", "tree", "on the mat"]
    rows = [{"sentence1": "the cat sat", "sentence2": other, "score": i} for i, other in enumerate(others)]
    with EmbeddingModel.load(named(name, prompts), dtype="float32") as model:
        assert symmetric_prompt(model) == expected
        first, *rest = model.encode_document(["the cat sat", *others], prompt=expected).dense
        score = evaluate_sts(model, write_rows("pairs.jsonl", rows))[1]
        assert score.value == pytest.approx(np.corrcoef([first @ each for each in rest], range(4))[0, 1], abs=1e-5)
