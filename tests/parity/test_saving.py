"""What is saved loads again without loss, and what is exported loads in the libraries it is for."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer

from mgte_rag import CheckpointError, EmbeddingModel, InvalidOptionError, Reranker, UnsupportedOutputError

TEXTS = ["the cat sat on the mat.", "a dog", "", "the tree and then the dog ran"]
PAIRS = [("the cat", "a dog ran under the tree"), ("dog", "cat"), ("a mat", "")]
EMBEDDING_MODELS = [
    "gte-multilingual-base",
    "gte-base-en-v1.5",
    "gte-large-en-v1.5",
    "bge-small-en-v1.5",
    "multilingual-e5-base",
    "bge-m3",
    "jina-colbert-v2",
    "GTE-ModernColBERT-v1",
    "gte-modernbert-base",
]
RERANKERS = [
    "gte-multilingual-reranker-base",
    "ms-marco-cross-encoder",
    "bge-reranker-v2-m3",
    "jina-reranker-v2-base-multilingual",
    "gte-reranker-modernbert-base",
    "modernbert-reranker-with-mean-pooling",
]


@pytest.mark.parametrize("name", EMBEDDING_MODELS)
def test_a_saved_model_gives_the_same_outputs(published: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    with EmbeddingModel.load(str(published(name).folder), dtype="float32") as model:
        model.save(tmp_path / "saved")
        with EmbeddingModel.load(str(tmp_path / "saved"), dtype="float32") as again:
            assert again._config == model._config
            for encode, encode_again in (
                (model.encode_query, again.encode_query),
                (model.encode_document, again.encode_document),
            ):
                a, b = encode(TEXTS, outputs=model.outputs), encode_again(TEXTS, outputs=model.outputs)
                for rows, rows_again in ((a.dense, b.dense), (a.multi_vector, b.multi_vector)):
                    assert (rows is None) == (rows_again is None)
                    for row, row_again in zip(*(() if rows is None else (rows, rows_again)), strict=True):
                        np.testing.assert_array_equal(row, row_again)
                assert a.sparse == b.sparse
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


@pytest.mark.parametrize("name", RERANKERS)
def test_a_saved_reranker_gives_the_same_scores(published: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    with Reranker.load(str(published(name).folder), dtype="float32") as model:
        model.save(tmp_path / "saved")
        with Reranker.load(str(tmp_path / "saved"), dtype="float32") as again:
            # pairs that are batched with others may differ in their last bit
            np.testing.assert_allclose(again.score(PAIRS), model.score(PAIRS), rtol=1e-6)


def test_a_model_that_computes_in_bf16_is_saved_in_full(published: Callable[[str], Any], tmp_path: Path) -> None:
    folder = str(published("bge-m3").folder)
    with EmbeddingModel.load(folder, dtype="bfloat16") as model:
        model.save(tmp_path / "saved")
    with (
        EmbeddingModel.load(folder, dtype="float32") as exact,
        EmbeddingModel.load(str(tmp_path / "saved"), dtype="float32") as again,
    ):
        np.testing.assert_array_equal(exact.encode_query("cat").dense, again.encode_query("cat").dense)


def test_the_embedded_default_can_be_saved_and_loaded(tmp_path: Path) -> None:
    with EmbeddingModel.load(dtype="float32") as model:
        model.save(tmp_path / "saved")
        with EmbeddingModel.load(str(tmp_path / "saved"), dtype="float32") as again:
            np.testing.assert_array_equal(model.encode_query("a cat").dense, again.encode_query("a cat").dense)


def test_a_folder_with_something_in_it_is_never_written_to(published: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with EmbeddingModel.load(str(published("bge-m3").folder)) as model:
        with pytest.raises(InvalidOptionError, match="not empty"):
            model.save(tmp_path)
        with pytest.raises(InvalidOptionError, match="not empty"):
            model.export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(extra=1), "has the unknown field 'extra' of ModelConfig"),
        (lambda config: config["encoder"].update(extra=1), "has the unknown field 'extra' of EncoderConfig"),
        (lambda config: config["encoder"].pop("rotary"), "lacks the field 'rotary' of EncoderConfig"),
        (lambda config: config.update(format=2), "has format 2; this version reads format 1"),
        (lambda config: config["encoder"].update(gate="third"), "gate = 'third'"),
    ],
)
def test_a_saved_config_is_read_strictly(
    published: Callable[[str], Any], tmp_path: Path, change: Callable[[dict], Any], message: str
) -> None:
    with EmbeddingModel.load(str(published("gte-multilingual-base").folder)) as model:
        model.save(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        EmbeddingModel.load(str(tmp_path / "saved"))


DENSE = [name for name in EMBEDDING_MODELS if "olbert" not in name.lower()]


@pytest.mark.parametrize("name", DENSE)
def test_an_export_loads_in_sentence_transformers(published: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    with EmbeddingModel.load(str(published(name).folder), dtype="float32") as model:
        model.export(tmp_path / "exported")
        queries, documents = model.encode_query(TEXTS).dense, model.encode_document(TEXTS).dense
    peer = SentenceTransformer(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(peer.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(peer.encode_document(TEXTS), documents, atol=1e-5)


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_export_loads_in_sentence_transformers(
    published: Callable[[str], Any], tmp_path: Path, name: str
) -> None:
    with Reranker.load(str(published(name).folder), dtype="float32") as model:
        model.export(tmp_path / "exported")
        scores = model.score(PAIRS)
    peer = CrossEncoder(str(tmp_path / "exported"), device="cpu")
    np.testing.assert_allclose(peer.predict(PAIRS), scores, atol=1e-5)


@pytest.mark.parametrize("name", DENSE)
def test_an_export_loads_here_again(published: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    with EmbeddingModel.load(str(published(name).folder), dtype="float32") as model:
        model.export(tmp_path / "exported")
        with EmbeddingModel.load(str(tmp_path / "exported"), dtype="float32") as again:
            assert again.prompts == model.prompts
            assert again.max_length == model.max_length
            ours, theirs = model.encode_query(TEXTS).dense, again.encode_query(TEXTS).dense
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_export_loads_here_again(published: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    with Reranker.load(str(published(name).folder), dtype="float32") as model:
        model.export(tmp_path / "exported")
        with Reranker.load(str(tmp_path / "exported"), dtype="float32") as again:
            np.testing.assert_allclose(again.score(PAIRS), model.score(PAIRS), atol=1e-6)


@pytest.mark.parametrize("name", EMBEDDING_MODELS)
def test_an_exported_encoder_loads_in_transformers(published: Callable[[str], Any], tmp_path: Path, name: str) -> None:
    case = published(name)
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        model.export(tmp_path / "exported", format="transformers")
    peer, report = AutoModel.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not [key for key in report["missing_keys"] if "pooler" not in key]
    assert name == "gte-multilingual-base" or not report["unexpected_keys"]  # its token classifier
    inputs = AutoTokenizer.from_pretrained(tmp_path / "exported")(TEXTS, padding=True, return_tensors="pt")
    ids = [row[mask.bool()].numpy() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]
    with torch.inference_mode():
        states = peer.eval()(**inputs).last_hidden_state
    for state, expected in zip(states, case.hidden(ids), strict=True):
        torch.testing.assert_close(state[: len(expected)], expected, atol=1e-5, rtol=0)


def test_transformers_own_layout_of_jinas_encoder_loads(published: Callable[[str], Any], tmp_path: Path) -> None:
    with EmbeddingModel.load(str(published("jina-colbert-v2").folder), dtype="float32") as model:
        model.export(tmp_path / "encoder", format="transformers")
    peer = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")  # adds mean pooling
    peer.save(str(tmp_path / "dense"))
    with EmbeddingModel.load(str(tmp_path / "dense"), dtype="float32") as ours:
        expected = peer.encode(TEXTS, normalize_embeddings=True)
        np.testing.assert_allclose(ours.encode_document(TEXTS).dense, expected, atol=1e-5)


def test_mgtes_sparse_head_is_exported_as_a_token_classifier(published: Callable[[str], Any], tmp_path: Path) -> None:
    case = published("gte-multilingual-base")
    with EmbeddingModel.load(str(case.folder), dtype="float32") as model:
        model.export(tmp_path / "exported", format="transformers")
    peer = AutoModelForTokenClassification.from_pretrained(tmp_path / "exported").eval()
    ids = [np.array([0, 7, 9, 2]), np.array([0, 5, 2])]
    with torch.inference_mode():
        logits = peer(**case.padded(ids, None)).logits
    torch.testing.assert_close(logits, case.logits(ids), atol=1e-5, rtol=0)


def test_what_a_format_cannot_hold_is_an_error(published: Callable[[str], Any], tmp_path: Path) -> None:
    with EmbeddingModel.load(str(published("jina-colbert-v2").folder)) as model:
        with pytest.raises(UnsupportedOutputError, match="neither dense vectors nor a reranker"):
            model.export(tmp_path / "exported")
        with pytest.raises(InvalidOptionError, match="choose one of sentence-transformers, transformers"):
            model.export(tmp_path / "exported", format="onnx")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
