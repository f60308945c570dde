"""Our encoder against the implementations it replaces: transformers' BERT and sentence-transformers."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, BertModel

from mgte_rag import EmbeddingModel
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.nn.packing import pack

TEXTS = ["the cat sat on the mat", "dogs", "", "a cat ran under the tree and then sat !", "the " * 60, "猫 é unknown"]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "changes",
    [{}, {"type_vocab_size": 1}, {"layer_norm_eps": 0.1}, {"num_attention_heads": 1}, {"num_hidden_layers": 1}],
)
def test_hidden_states_equal_transformers(make_tiny_bert: Callable[..., Path], changes: dict) -> None:
    folder = make_tiny_bert(**changes)
    checkpoint = load_checkpoint(find_model(str(folder)))
    encoder = checkpoint.load_model(CPU, torch.float32).encoder
    ids = checkpoint.tokenizer.tokenize(TEXTS, prompt="", max_length=32).ids
    with torch.inference_mode():
        ours = encoder(pack(ids, CPU))
        reference = BertModel.from_pretrained(folder).eval()
        theirs = torch.cat([reference(torch.from_numpy(row).long()[None]).last_hidden_state[0] for row in ids])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_swapped_query_and_key_weights_would_be_noticed(make_tiny_bert: Callable[..., Path]) -> None:
    folder = make_tiny_bert()
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    tensors = load_file(folder / "model.safetensors")
    value, out = (f"encoder.layer.0.attention.{part}.weight" for part in ("self.value", "output.dense"))
    tensors[value], tensors[out] = tensors[out], tensors[value]
    save_file(tensors, folder / "model.safetensors")
    with EmbeddingModel.load(str(folder), dtype="float32") as model:
        assert np.abs(model.encode_document(TEXTS).dense - expected).max() > 0.05


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_dense_vectors_equal_sentence_transformers(make_tiny_bert: Callable[..., Path], pooling: str) -> None:
    folder = make_tiny_bert(pooling=pooling)
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    with EmbeddingModel.load(str(folder), dtype="float32") as model:
        np.testing.assert_allclose(model.encode_document(TEXTS).dense, expected, atol=1e-5)


def test_token_ids_equal_transformers_on_real_texts(real_texts: list[str]) -> None:
    folder = find_model(None)
    theirs = AutoTokenizer.from_pretrained(folder.path)(real_texts, truncation=True, max_length=256)["input_ids"]
    ours = load_checkpoint(folder).tokenizer.tokenize(real_texts, prompt="", max_length=256)
    assert [row.tolist() for row in ours.ids] == theirs


@pytest.mark.skipif("MGTE_DATA" not in os.environ, reason="MGTE_DATA does not name a folder of open data")
@pytest.mark.parametrize("language", ["ar", "de", "el", "hi", "ru", "th", "tr", "vi", "zh"])
def test_token_ids_equal_transformers_in_many_scripts(language: str) -> None:
    corpus = Path(os.environ["MGTE_DATA"]) / "retrieval" / f"xquad-{language}" / "corpus.jsonl.gz"
    with gzip.open(corpus, "rt", encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    texts += ["\n".join(texts)]  # long enough for only its head to be looked at
    folder = find_model(None)
    theirs = AutoTokenizer.from_pretrained(folder.path)(texts, truncation=True, max_length=64)["input_ids"]
    ours = load_checkpoint(folder).tokenizer.tokenize(texts, prompt="", max_length=64)
    assert [row.tolist() for row in ours.ids] == theirs
    assert ours.truncated[-1]


def test_the_embedded_default_equals_sentence_transformers_on_real_texts(real_texts: list[str]) -> None:
    real_texts = real_texts[::2]
    assert len(real_texts) >= 250
    theirs = SentenceTransformer(str(find_model(None).path), device="cpu").encode(real_texts)
    for dtype, lowest_cosine in (("float32", 0.99999), ("bfloat16", 0.9995)):
        with EmbeddingModel.load(dtype=dtype) as model:
            ours = model.encode_document(real_texts).dense
        assert (ours * theirs).sum(1).min() >= lowest_cosine, dtype
