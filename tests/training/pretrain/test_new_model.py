"""New models: any size, their tokenizers, and other encoders' weights in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from mgte_cli.main import main
from mgte_rag import DataError, EmbeddingModel, InvalidOptionError
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.nn.packing import pack
from mgte_training.data.readers import corpus_texts
from mgte_training.pretrain.new_model import NewEncoder, NewModel, make_model
from mgte_training.pretrain.new_tokenizer import TokenizerChoice, find_tokenizer, learn_tokenizer

RECIPE = """
[encoder]
layers = 2
hidden = 32
heads = 4
intermediate = 64
max_length = 128
rope_base = 20000.0
vocabulary = 512
[tokenizer]
texts = ["many.jsonl", "few.jsonl"]
size = 400
"""


def encoder(**changes: Any) -> NewEncoder:
    return NewEncoder(**({"layers": 2, "hidden": 32, "heads": 4, "intermediate": 64, "max_length": 64} | changes))


def test_a_recipe_makes_a_model_that_loads(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    assert main(["init", str(recipe), "--out", str(tmp_path / "model"), "--data", str(corpus)]) == 0
    assert "parameters" in capsys.readouterr().out
    checkpoint = load_checkpoint(find_model(str(tmp_path / "model")))
    config = checkpoint.config
    assert config.language_model
    assert config.encoder.rotary is not None
    assert config.encoder.rotary.theta == 20_000
    assert config.encoder.vocabulary == 512
    assert checkpoint.tokenizer.vocabulary <= 400
    assert [checkpoint.tokenizer.token(index) for index in range(5)] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    with EmbeddingModel.load(tmp_path / "model") as model:
        assert model.max_length == 128
        assert model.encode_document(["a text", "another"]).dense.shape == (2, 32)


@pytest.mark.parametrize("kind", ["unigram", "wordpiece"])
def test_a_learnt_tokenizer_reads_texts_and_pairs(corpus: Path, kind: Any) -> None:
    tokenizer = learn_tokenizer(corpus_texts(corpus), TokenizerChoice(texts=("its",), size=300, kind=kind))
    assert 250 < tokenizer.vocabulary <= 300
    assert tokenizer.mask_id is not None
    text = "Return the number of items."
    ids = tokenizer.tokenize([text], prompt="", max_length=64).ids[0]
    pair = tokenizer.tokenize_pairs([(text, text)], max_length=128, query_max_length=64)
    assert len(pair.ids[0]) == 2 * len(ids) - (0 if kind == "unigram" else 1)


def test_another_encoders_weights_are_taken_by_token_and_by_layer(
    new_model: Path, corpus: Path, tmp_path: Path
) -> None:
    """Fewer layers, other tokens: what both have is equal, the rest is new, and it is said how much of each."""
    said: list[str] = []
    choice = TokenizerChoice(texts=(str(corpus / "few.jsonl"),), size=300, kind="wordpiece", lower_case=True)
    recipe = NewModel(encoder=encoder(layers=1, intermediate=48), tokenizer=choice, start=str(new_model), seed=7)
    make_model(recipe, tmp_path / "model", say=said.append)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", new_model))
    own, other = (find_tokenizer(str(folder)) for folder in (tmp_path / "model", new_model))
    words = "encoder.embeddings.word.weight"
    shared = 0
    for index in range(own.vocabulary):
        there = other.token_id(own.token(index))
        is_equal = there is not None and bool((ours[words][index] == theirs[words][there]).all())
        assert is_equal == (there is not None)
        shared += is_equal
    assert shared > 100
    assert f"{shared} of {own.vocabulary} tokens" in said[1]
    qkv = "encoder.layers.0.attention.qkv.weight"
    assert (ours[qkv] == theirs[qkv]).all()
    assert said[1].endswith("begun anew: encoder.layers.0.feed_forward.down, encoder.layers.0.feed_forward.up")


def test_feed_forward_blocks_of_another_kind_are_not_taken(new_model: Path, tmp_path: Path) -> None:
    """Gated by the other half they have the same shapes."""
    said: list[str] = []
    choice = TokenizerChoice(path=str(new_model))
    make_model(
        NewModel(encoder=encoder(layers=1, gate="first"), tokenizer=choice, start=str(new_model), seed=7),
        tmp_path / "model", say=said.append,
    )  # fmt: skip
    assert said[1].endswith("begun anew: encoder.layers.0.feed_forward.down, encoder.layers.0.feed_forward.up")


def test_a_model_with_a_table_of_positions_gives_all_else(tiny_bert: Path, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = NewModel(
        encoder=encoder(layers=3, gate="none", up_bias=True),
        tokenizer=TokenizerChoice(path=str(tiny_bert)),
        start=str(tiny_bert),
    )
    make_model(recipe, tmp_path / "model", say=said.append)
    assert said[1].endswith("begun anew: language.dense, language.norm"), "which a plain BERT lacks"
    with EmbeddingModel.load(tmp_path / "model") as model:
        assert np.isfinite(model.encode_query("the cat").dense).all()


def test_xlm_roberta_gives_its_language_head_too(corpus: Path, tmp_path: Path) -> None:
    """What Jina's backbone starts from: its logits are transformers', and its tensors come over by name."""
    tokenizer = learn_tokenizer(corpus_texts(corpus), TokenizerChoice(texts=("its",), size=300))
    torch.manual_seed(0)
    reference = XLMRobertaForMaskedLM(
        XLMRobertaConfig(
            vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5, initializer_range=0.3,
        )
    ).eval()  # fmt: skip
    reference.save_pretrained(tmp_path / "xlm-r")
    tokenizer.save(tmp_path / "xlm-r" / "tokenizer.json")
    checkpoint = load_checkpoint(find_model(str(tmp_path / "xlm-r")))
    model = checkpoint.load_model(torch.device("cpu"), torch.float32)
    ids = tokenizer.tokenize(["Return the number of items."], prompt="", max_length=64).ids[0]
    assert model.language is not None
    with torch.no_grad():
        ours = model.language(model.encoder(pack([ids], torch.device("cpu"))), model.encoder.embeddings.word.weight)
        theirs = reference(torch.from_numpy(ids)[None].long()).logits[0]
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    said: list[str] = []
    recipe = NewModel(
        encoder=encoder(gate="none", up_bias=True, norm_eps=1e-5, pooling="mean"),
        tokenizer=TokenizerChoice(path=str(tmp_path / "xlm-r")),
        start=str(tmp_path / "xlm-r"),
    )
    make_model(recipe, tmp_path / "model", say=said.append)
    assert said[1].endswith("begun anew: nothing")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": encoder(hidden=30)}, "not a multiple of the 4"),
        ({"encoder": encoder(vocabulary=10)}, "the tokenizer has"),
        ({"encoder": encoder(layers=0)}, "layers = 0"),
        ({"encoder": encoder(hidden=64), "start": "mini"}, "has hidden 384"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    new_model: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    recipe = {"encoder": encoder(), "tokenizer": TokenizerChoice(path=str(new_model))} | changes
    with pytest.raises(InvalidOptionError, match=message):
        make_model(NewModel(**recipe), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_not_empty_is_refused_before_any_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidOptionError, match="not empty"):
        make_model(NewModel(encoder=encoder(), tokenizer=TokenizerChoice(texts=("nowhere",))), tmp_path)


def test_a_tokenizer_needs_one_origin_and_enough_texts(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="give one of them"):
        TokenizerChoice()
    with pytest.raises(InvalidOptionError, match="unigram, wordpiece"):
        TokenizerChoice(texts=("a",), kind="bpe")  # type: ignore[arg-type]
    (tmp_path / "text.txt").write_text("a a a")
    choice = TokenizerChoice(texts=(str(tmp_path / "text.txt"),), kind="wordpiece")
    with pytest.raises(DataError, match="give more texts"):
        make_model(NewModel(encoder=encoder(), tokenizer=choice), tmp_path / "model")
    with pytest.raises(DataError, match="no such file"):
        make_model(
            NewModel(encoder=encoder(), tokenizer=TokenizerChoice(texts=(str(tmp_path / "b.jsonl"),))), tmp_path / "m"
        )
