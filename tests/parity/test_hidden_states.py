"""Hidden states of every published layout against transformers, packed against padded, and planted errors."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.nn.packing import pack

CPU = torch.device("cpu")
ENCODERS = [
    "gte-multilingual-base",
    "gte-multilingual-reranker-base",
    "gte-multilingual-mlm-base",
    "gte-base-en-v1.5",
    "gte-large-en-v1.5",
    "arctic-embed-m-v2.0",
    "gte-saved-by-transformers",
    "bge-small-en-v1.5",
    "ms-marco-cross-encoder",
    "multilingual-e5-base",
    "bge-m3",
    "bge-reranker-v2-m3",
    "jina-colbert-v2",
    "jina-colbert-without-a-base",
    "jina-reranker-v2-base-multilingual",
    "gte-modernbert-base",
    "modernbert-saved-by-transformers-5",
    "GTE-ModernColBERT-v1",
    "gte-reranker-modernbert-base",
    "modernbert-reranker-with-mean-pooling",
]


def token_ids(folder: Any, *lengths: int) -> list[np.ndarray]:
    """Random sequences of words, no marker or padding among them."""
    vocabulary = load_checkpoint(find_model(str(folder))).tokenizer.vocabulary
    chance = np.random.default_rng(0)
    return [chance.integers(5, vocabulary, size=length).astype(np.int32) for length in lengths]


def largest_difference(case: Any, ids: list[np.ndarray], types: list[np.ndarray] | None = None) -> float:
    """Between our hidden states of a packed batch and the reference's of a padded one."""
    encoder = load_checkpoint(find_model(str(case.folder))).load_model(CPU, torch.float32).encoder
    with torch.inference_mode():
        ours = encoder(pack(ids, CPU, types=types))
    return float((ours - torch.cat(case.hidden(ids, types))).abs().max())


@pytest.mark.parametrize("name", ENCODERS)
def test_packed_hidden_states_equal_transformers_padded_ones(published: Callable[[str], Any], name: str) -> None:
    case = published(name)
    difference = largest_difference(case, token_ids(case.folder, 7, 40, 1, 7, 100))
    assert difference <= 1e-5


def test_rotary_positions_read_the_same_in_the_spelling_of_transformers_5(copy_of: Callable[..., Any]) -> None:
    case = copy_of("gte-multilingual-base")
    rope = {"rope_type": "ntk", "factor": 8.0, "rope_theta": 20_000.0}
    case.change_config(rope_theta=None, rope_scaling=None, rope_parameters=rope)
    assert largest_difference(case, token_ids(case.folder, 60)) <= 1e-5


def test_pairs_with_token_types_equal_transformers(published: Callable[[str], Any]) -> None:
    for name in ("gte-large-en-v1.5", "ms-marco-cross-encoder"):
        case = published(name)
        ids = token_ids(case.folder, 12, 5)
        types = [(np.arange(len(row)) > 3).astype(np.int32) for row in ids]
        assert largest_difference(case, ids, types) <= 1e-5


def test_a_text_longer_than_one_block_of_local_attention_equals_transformers(published: Callable[[str], Any]) -> None:
    case = published("gte-modernbert-base")
    case.reference.config.max_position_embeddings = 2000
    assert largest_difference(case, token_ids(case.folder, 1100, 513)) <= 1e-5


@pytest.mark.parametrize("name", ["gte-multilingual-base", "bge-m3", "jina-colbert-v2", "gte-modernbert-base"])
def test_a_text_alone_has_the_hidden_states_it_has_in_a_batch(published: Callable[[str], Any], name: str) -> None:
    case = published(name)
    ids = token_ids(case.folder, 9, 30, 9, 1)
    encoder = load_checkpoint(find_model(str(case.folder))).load_model(CPU, torch.float32).encoder
    with torch.inference_mode():
        alone = torch.cat([encoder(pack([row], CPU)) for row in ids])
        together = encoder(pack(ids, CPU))
        backwards = encoder(pack(ids[::-1], CPU)).split([1, 9, 30, 9])[::-1]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(backwards), alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gte-multilingual-base", {"rope_theta": 10_000.0}),
        ("gte-multilingual-base", {"rope_scaling": None}),
        ("gte-multilingual-base", {"rope_scaling": {"type": "ntk", "factor": 4.0}}),
        ("gte-multilingual-base", {"rope_scaling": {"type": "linear", "factor": 8.0}}),
        ("jina-colbert-v2", {"rotary_emb_base": 10_000.0}),
        ("gte-modernbert-base", {"global_rope_theta": 10_000.0}),
        ("gte-modernbert-base", {"local_rope_theta": 160_000.0}),
        ("gte-modernbert-base", {"global_attn_every_n_layers": 2}),
        ("gte-modernbert-base", {"local_attention": 16}),
        ("multilingual-e5-base", {"pad_token_id": 0}),
    ],
)
def test_a_wrong_switch_would_be_noticed(copy_of: Callable[..., Any], name: str, changes: dict) -> None:
    case = copy_of(name)
    case.change_config(**changes)
    assert largest_difference(case, token_ids(case.folder, 60)) > 1e-2


def test_ntk_scaling_without_its_last_factor_would_be_noticed(copy_of: Callable[..., Any]) -> None:
    case = copy_of("gte-multilingual-base")
    case.change_config(rope_theta=20_000.0 * 8, rope_scaling=None)
    assert largest_difference(case, token_ids(case.folder, 60)) > 1e-2


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("gte-multilingual-base", "new.encoder.layer.0.mlp.up_gate_proj.weight"),
        ("gte-modernbert-base", "layers.0.mlp.Wi.weight"),
    ],
)
def test_swapped_halves_of_the_gate_would_be_noticed(copy_of: Callable[..., Any], name: str, tensor: str) -> None:
    case = copy_of(name)
    tensors = load_file(case.folder / "model.safetensors")
    tensors[tensor] = torch.cat(tensors[tensor].chunk(2)[::-1])
    save_file(tensors, case.folder / "model.safetensors")
    assert largest_difference(case, token_ids(case.folder, 60)) > 1e-2


def test_language_model_logits_equal_transformers(published: Callable[[str], Any]) -> None:
    case = published("gte-multilingual-mlm-base")
    ids = token_ids(case.folder, 11, 4)
    model = load_checkpoint(find_model(str(case.folder))).load_model(CPU, torch.float32)
    with torch.inference_mode():
        ours = model.language(model.encoder(pack(ids, CPU)), model.encoder.embeddings.word.weight)
    theirs = torch.cat([row[: len(i)] for row, i in zip(case.logits(ids), ids, strict=True)])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
