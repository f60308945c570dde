"""Our models in mteb's own protocols, on tasks of all six groups of C-MTEB, offline."""

import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from datasets import Dataset
from mteb.models import CrossEncoderProtocol, EncoderProtocol, SearchProtocol
from mteb.types import PromptType
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer
from sklearn.metrics import average_precision_score

from mgte_rag import DataError, EmbeddingModel, InvalidOptionError, Reranker, UnsupportedOutputError
from mgte_training.evaluation.tasks import mteb_search
from mgte_training.evaluation.tasks.local_tasks import (
    local_classification,
    local_clustering,
    local_pair_classification,
    local_reranking,
    local_retrieval,
    local_sts,
)
from mgte_training.evaluation.tasks.mteb_models import MTEBEncoder, MTEBReranker
from mgte_training.evaluation.tasks.mteb_runs import run_mteb
from mgte_training.evaluation.tasks.mteb_search import MTEBSearch
from mgte_training.evaluation.tasks.rows import read_rows

ANIMALS = [f"a {word} is an animal" for word in ("cat", "dog", "horse", "cow", "sheep", "goat", "mouse", "wolf")]
FOODS = [f"people eat {word} for dinner" for word in ("soup", "rice", "bread", "pasta", "beans", "fish", "pie", "stew")]
CORPUS = {f"d{i}": text for i, text in enumerate(ANIMALS + FOODS)}
QUERIES = {"q0": "which animal is a cat?", "q1": "is there bread for dinner?", "q2": "the wolf"}
RELEVANT = {"q0": {"d0": 1}, "q1": {"d10": 1}, "q2": {"d7": 2, "d1": 1}}


@pytest.fixture
def files(write_rows: Any) -> dict[str, Path]:
    """A file for each kind of task."""
    labelled = [
        {"text": text, "label": label} for texts, label in ((ANIMALS, "animal"), (FOODS, "food")) for text in texts
    ]
    alike = [(first, second, 1) for texts in (ANIMALS, FOODS) for first, second in pairwise(texts)]
    unlike = [(first, second, 0) for first, second in zip(ANIMALS, FOODS, strict=True)]
    return {
        "sts": write_rows(
            "sts.jsonl",
            [{"sentence1": ANIMALS[0], "sentence2": text, "score": i / 4} for i, text in enumerate(FOODS + ANIMALS)],
        ),
        "train": write_rows("train.jsonl", labelled),
        "test": write_rows("test.jsonl", labelled[::2]),
        "pairs": write_rows(
            "pairs.jsonl", [{"sentence1": a, "sentence2": b, "label": label} for a, b, label in alike + unlike]
        ),
        "reranking": write_rows(
            "reranking.jsonl",
            [
                {"query": "which animal is a cat?", "positives": ANIMALS[:1], "negatives": FOODS},
                {"query": "bread for dinner", "positives": FOODS[2:4], "negatives": [*ANIMALS, *FOODS[:2]]},
            ],
        ),
    }


def tasks_of(files: dict[str, Path]) -> list[Any]:
    return [
        local_sts(files["sts"]),
        local_classification(files["train"], files["test"]),
        local_pair_classification(files["pairs"]),
        local_clustering(files["train"]),
        local_reranking(files["reranking"]),
        local_retrieval(CORPUS, QUERIES, RELEVANT, name="animals and food", language="fr"),
    ]


def test_the_classes_are_what_mteb_takes_for_encoder_search_model_and_cross_encoder(
    mini: EmbeddingModel, tiny_reranker: Path
) -> None:
    with Reranker.load(tiny_reranker) as reranker:
        models = [MTEBEncoder(mini), MTEBSearch(mini), MTEBReranker(reranker)]
        protocols = [EncoderProtocol, SearchProtocol, CrossEncoderProtocol]
        assert [[isinstance(model, each) for each in protocols] for model in models] == np.eye(3, dtype=bool).tolist()


def test_an_embedding_model_runs_all_six_groups(mini: EmbeddingModel, files: dict[str, Path]) -> None:
    scores = run_mteb(MTEBEncoder(mini), tasks_of(files))
    assert [(score.group, score.task, score.language, score.measure, score.examples) for score in scores] == [
        ("STS", "sts", "en", "cosine_spearman", 16),
        ("Classification", "test", "en", "accuracy", 8),
        ("PairClassification", "pairs", "en", "max_ap", 22),
        ("Clustering", "train", "en", "v_measure", 16),
        ("Reranking", "reranking", "en", "map_at_1000", 2),
        ("Retrieval", "animals and food", "fr", "ndcg_at_10", 3),
    ]
    assert all(score.low is None and score.high is None for score in scores)
    by_group = {score.group: score.value for score in scores}
    assert by_group["Classification"] > 0.9
    assert by_group["Clustering"] > 0.9
    assert by_group["Retrieval"] > 0.9

    dense = mini.encode_document
    cosines = dense(FOODS + ANIMALS).dense @ dense(ANIMALS[0]).dense[0]
    assert by_group["STS"] == pytest.approx(spearmanr(cosines, np.arange(16)).statistic, abs=1e-5)
    rows = [row.fields for row in read_rows(files["pairs"])]
    left, right = (dense([row[name] for row in rows]).dense for name in ("sentence1", "sentence2"))
    expected = average_precision_score([row["label"] for row in rows], (left * right).sum(1))
    assert by_group["PairClassification"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.filterwarnings("ignore")  # of mteb, about its own calls of sentence-transformers and scikit-learn
def test_scores_equal_those_of_sentence_transformers_in_mteb(
    mini_fp32: EmbeddingModel, files: dict[str, Path], tmp_path: Path
) -> None:
    mini_fp32.export(tmp_path / "mini")
    theirs = SentenceTransformer(str(tmp_path / "mini"), device="cpu")
    ours = {score.task: score.value for score in run_mteb(MTEBEncoder(mini_fp32), tasks_of(files))}
    results = mteb.evaluate(theirs, tasks_of(files), cache=None, co2_tracker=False, show_progress_bar=False)
    expected = {result.task_name: result.get_score() for result in results.task_results}
    assert ours == pytest.approx(expected, abs=1e-4)


class Spy:
    """An embedding model that says which role and prompt it was asked for."""

    def __init__(self, model: EmbeddingModel) -> None:
        self.model = model
        self.asked: set[tuple[str, str]] = set()

    def __getattr__(self, name: str) -> Any:
        if name not in ("encode_query", "encode_document"):
            return getattr(self.model, name)

        def encode(texts: list[str], **options: Any) -> Any:
            if len(texts):
                self.asked.add((name.removeprefix("encode_"), options["prompt"]))
            return getattr(self.model, name)(texts, **options)

        return encode


INSTRUCTION = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("folder", "alike", "query", "document"),
    [("bge-small-en-v1.5", "", INSTRUCTION, ""), ("multilingual-e5-small", "query: ", "query: ", "passage: ")],
)
def test_every_group_gets_the_models_own_prompts(
    named: Any, files: dict[str, Path], folder: str, alike: str, query: str, document: str
) -> None:
    with EmbeddingModel.load(named(folder)) as model:
        for task in tasks_of(files):
            spy = Spy(model)
            run_mteb(MTEBEncoder(spy), [task])
            roles = {("query", query), ("document", document)}
            searches = task.metadata.type in ("Retrieval", "Reranking")
            assert spy.asked == (roles if searches else {("document", alike)}), task.metadata.type
            if searches:
                spy.asked.clear()
                run_mteb(MTEBSearch(spy), [task])
                assert spy.asked == roles


def test_the_callers_prompts_come_first_by_mtebs_keys(tiny_model: EmbeddingModel, files: dict[str, Path]) -> None:
    prompts = {"STS": "the ", "query": "a ", "animals and food-document": "then "}
    sts, *_, retrieval = tasks_of(files)
    for task, expected in ((sts, {("document", "the ")}), (retrieval, {("query", "a "), ("document", "then ")})):
        spy = Spy(tiny_model)
        run_mteb(MTEBEncoder(spy, prompts=prompts), [task])
        assert spy.asked == expected


@pytest.mark.parametrize("outputs", [("dense",), ("sparse",), ("multi_vector",), ("dense", "sparse"), None])
def test_search_gives_what_similarity_gives_and_all_documents_are_looked_at(
    mini: EmbeddingModel, monkeypatch: pytest.MonkeyPatch, outputs: Any
) -> None:
    monkeypatch.setattr(mteb_search, "_CHUNK", 5)
    model = MTEBSearch(mini, outputs=outputs)
    task = local_retrieval(CORPUS, QUERIES, RELEVANT, name="both")
    data = task.dataset["default"]["test"]
    options = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default", "encode_kwargs": {}}
    chosen = mini.outputs if outputs is None else outputs
    queries = mini.encode_query(list(QUERIES.values()), outputs=chosen)
    expected = mini.similarity(queries, mini.encode_document(list(CORPUS.values()), outputs=chosen)).hybrid

    model.index(data["corpus"], num_proc=None, **options)
    found = model.search(data["queries"], top_k=4, num_proc=None, **options)
    candidates = {"q0": ["d15", "d0", "d3"], "q1": ["d9"]}
    model.index(data["corpus"], num_proc=None, **options)
    reranked = model.search(data["queries"], top_k=4, top_ranked=candidates, num_proc=None, **options)
    for row, query in enumerate(QUERIES):
        best = np.sort(expected[row])[::-1][:4]
        assert list(found[query].values()) == pytest.approx(best.tolist(), abs=5e-3)
        for document, score in found[query].items():
            assert score == pytest.approx(expected[row, int(document[1:])], abs=5e-3)
        assert reranked[query] == pytest.approx(
            {document: float(expected[row, int(document[1:])]) for document in candidates.get(query, [])}, abs=5e-3
        )
    with pytest.raises(InvalidOptionError, match=r"call index\(\) before"):
        model.search(data["queries"], top_k=4, **options)


def test_dense_search_scores_as_the_encoder_does(mini_fp32: EmbeddingModel, files: dict[str, Path]) -> None:
    searches = tasks_of(files)[4:]
    assert run_mteb(MTEBSearch(mini_fp32, outputs=("dense",)), searches) == run_mteb(MTEBEncoder(mini_fp32), searches)


def test_examples_are_counted_in_data_sets_that_have_them_all_in_one_row(
    tiny_model: EmbeddingModel, files: dict[str, Path]
) -> None:
    task = local_pair_classification(files["pairs"])
    (plain,) = run_mteb(MTEBEncoder(tiny_model), [task])
    rows = task.dataset["default"]["test"]
    task.dataset["default"]["test"] = Dataset.from_dict({name: [rows[name][:]] for name in rows.column_names})
    assert run_mteb(MTEBEncoder(tiny_model), [task]) == [plain]
    assert plain.examples == 22


def test_a_reranker_reranks_by_its_logits(tiny_reranker: Path, write_rows: Any) -> None:
    lines = [
        {"query": "the cat", "positives": ["a cat sat", "dog"], "negatives": ["tree", "the mat", "on mat", "dog ran"]},
        {"query": "dog", "positives": ["under the tree"], "negatives": ["and then", "a dog sat", "cat and dog"]},
    ]
    path = write_rows("tiny.jsonl", lines)
    with Reranker.load(tiny_reranker, dtype="float32") as reranker:
        (score,) = run_mteb(MTEBReranker(reranker), [local_reranking(path)])
        precisions = []
        for row in read_rows(path):
            texts = row.texts("positives") + row.texts("negatives")
            logits = reranker.score([(row.text("query"), text) for text in texts])
            precisions.append(average_precision_score([text in row.texts("positives") for text in texts], logits))
        assert score.value == pytest.approx(np.mean(precisions), abs=1e-4)
        assert (score.group, score.examples) == ("Reranking", 2)


def test_a_task_that_a_model_cannot_run_is_an_error_before_anything_runs(
    mini: EmbeddingModel, tiny_reranker: Path, files: dict[str, Path]
) -> None:
    sts, *_, retrieval = tasks_of(files)
    with pytest.raises(InvalidOptionError, match="'sts' is STS, which needs one vector per text: give MTEBEncoder"):
        run_mteb(MTEBSearch(mini), [retrieval, sts])
    with Reranker.load(tiny_reranker) as reranker:
        for task, message in ((sts, "is STS"), (retrieval, "a reranker runs reranking")):
            with pytest.raises(InvalidOptionError, match=message):
                run_mteb(MTEBReranker(reranker), [task])
        data = retrieval.dataset["default"]["test"]
        data["top_ranked"] = {query: list(CORPUS)[:3] for query in QUERIES}  # what mteb's convert_to_reranking does
        assert run_mteb(MTEBReranker(reranker), [retrieval])[0].group == "Retrieval"
    with pytest.raises(InvalidOptionError, match="has no task 'STSBenchmrk'"):
        run_mteb(MTEBEncoder(mini), ["STSBenchmrk"])


def test_data_of_mtebs_own_tasks_that_cannot_be_had_is_an_error_that_names_the_task(
    mini: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr("mteb.abstasks.abstask.load_dataset", unreachable)
    with pytest.raises(
        DataError, match="task 'BIOSSES' cannot be loaded from 'mteb/biosses-sts' on the hub: no network"
    ):
        run_mteb(MTEBEncoder(mini), ["BIOSSES"])


def test_options_that_the_model_does_not_allow_are_errors_at_once(mini: EmbeddingModel, tiny_model: Any) -> None:
    with pytest.raises(InvalidOptionError, match="dim"):
        MTEBEncoder(mini, dim=7)
    with pytest.raises(InvalidOptionError, match="token_dim"):
        MTEBSearch(mini, token_dim=7)
    with pytest.raises(InvalidOptionError, match="weights name sparse"):
        MTEBSearch(mini, outputs=("dense",), weights={"sparse": 1.0})
    with pytest.raises(UnsupportedOutputError, match="sparse"):
        MTEBSearch(tiny_model, outputs=("sparse",))


def test_results_are_kept_where_they_are_asked_for_and_told_apart_by_weights_settings_and_data(
    mini: EmbeddingModel, matryoshka: EmbeddingModel, tmp_path: Path, write_rows: Any
) -> None:
    cache = tmp_path / "kept"
    others = ["the cat", "a dog ran", "tree", "on the mat", "then a tree", "dog and cat", "under a mat"]
    rows = [{"sentence1": "the cat sat", "sentence2": other, "score": i} for i, other in enumerate(others)]
    pairs = write_rows("pairs.jsonl", rows)

    def run(model: Any, path: Path = pairs) -> float:
        (score,) = run_mteb(model, [local_sts(path, name="same name")], cache=cache)
        return score.value

    value = run(MTEBEncoder(mini))
    spy = Spy(mini)
    assert run(MTEBEncoder(spy)) == pytest.approx(value, abs=1e-5)
    assert spy.asked == set()  # taken from the folder
    whole, cut = run(MTEBEncoder(matryoshka)), run(MTEBEncoder(matryoshka, dim=16))
    assert len({value, whole, cut}) == 3
    rows[0]["score"] = 9
    run(MTEBEncoder(spy), write_rows("changed.jsonl", rows))
    assert spy.asked != set()
    assert len(list(cache.rglob("same name.json"))) == 3


def test_nothing_is_printed_and_no_bars_are_drawn_unless_asked_for(
    mini: EmbeddingModel, files: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    run_mteb(MTEBEncoder(mini), tasks_of(files)[3:])
    run_mteb(MTEBSearch(mini), tasks_of(files)[4:])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("make", "row", "message"),
    [
        (local_reranking, {"query": "q", "positives": [], "negatives": ["a"]}, "a positive and a negative at least"),
        (
            local_reranking,
            {"query": "q", "positives": ["a"], "negatives": ["a"]},
            "both a positive and a negative: 'a'",
        ),
        (local_reranking, {"query": "q", "positives": "a", "negatives": ["b"]}, "'positives' must be a list of texts"),
        (local_pair_classification, {"sentence1": "a", "sentence2": "b", "label": 2}, "must be 1 .* or 0, not '2'"),
        (local_pair_classification, {"text": "a", "label": 1}, 'needs {"sentence1", "sentence2", "label"}'),
        (local_clustering, {"text": "a", "score": 1}, 'needs {"text", "label"}'),
        (lambda path: local_classification(path, path), {"text": " ", "label": 1}, "'text' must be a text that is not"),
    ],
)
def test_data_that_cannot_be_used_is_named_with_file_and_line(
    write_rows: Any, make: Any, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl, line 1: .*{message}"):
        make(write_rows("rows.jsonl", [row]))


def test_labels_queries_and_documents_that_are_not_there_are_errors(files: dict[str, Path], write_rows: Any) -> None:
    other = write_rows("other.jsonl", [{"text": "a", "label": "plant"}])
    with pytest.raises(DataError, match=r"other.jsonl, line 1: the label 'plant' does not occur in .*train.jsonl"):
        local_classification(files["train"], other)
    for relevant, missing in (({"q0": {"d99": 1}}, "document 'd99'"), ({"q9": {"d0": 1}}, "query 'q9'")):
        with pytest.raises(DataError, match=missing):
            local_retrieval(CORPUS, QUERIES, relevant, name="wrong")
    with pytest.raises(InvalidOptionError, match="the language 'klingon'"):
        local_sts(files["sts"], language="klingon")
    assert local_sts(files["sts"], language="swe-Latn").metadata.languages == ["swe"]


def test_a_missing_mteb_is_an_error_with_the_exact_pip_line() -> None:
    script = """
import importlib, sys
sys.modules["mteb"] = None  # as if it were not installed
for module in ("mteb_models", "mteb_search", "mteb_runs", "local_tasks"):
    try:
        importlib.import_module(f"mgte_training.evaluation.tasks.{module}")
    except ImportError as error:
        print(type(error).__name__, error)
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(told) == 4
    for line in told:
        assert line.startswith("MissingExtraError")
        assert line.endswith("needs the package 'mteb': pip install 'mgte-rag[eval]'")


def test_a_late_interaction_encoder_says_which_kind_of_model_it_is(mini: EmbeddingModel) -> None:
    kinds = {
        ("dense",): "dense",
        ("sparse",): "sparse",
        ("multi_vector",): "late-interaction",
        ("dense", "sparse"): "hybrid",
    }
    for outputs, kind in kinds.items():
        meta = MTEBSearch(mini, outputs=outputs).mteb_model_meta
        assert meta.model_type == [kind]
        assert meta.revision == mini.identity.fingerprint
    assert PromptType.query == "query"


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="needs the data that MGTE_DATA names")
def test_real_data_of_three_groups_scores_as_the_embedded_default_should(mini: EmbeddingModel, write_rows: Any) -> None:
    data = Path(os.environ["MGTE_DATA"]) / "pairs"
    rows = read_rows(data / "clinc.jsonl.gz")
    intents = sorted({row.text("label") for row in rows})[:10]
    labelled = [{"text": row.text("query"), "label": row.text("label")} for row in rows if row.text("label") in intents]
    random.Random(0).shuffle(labelled)
    train, test = write_rows("train.jsonl", labelled[:300]), write_rows("test.jsonl", labelled[300:450])
    selqa = write_rows("selqa.jsonl", [row.fields for row in read_rows(data / "selqa-dev.jsonl.gz")[:20]])
    tasks = [local_classification(train, test), local_clustering(test, name="groups"), local_reranking(selqa)]
    scores = {score.group: score.value for score in run_mteb(MTEBEncoder(mini), tasks)}
    assert scores["Classification"] > 0.75
    assert scores["Clustering"] > 0.85
    assert scores["Reranking"] > 0.7
