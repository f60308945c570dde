"""Switches that no class of transformers has, against naive loops in fp64."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mgte_rag import CheckpointError
from mgte_rag.checkpoints import find_model, load_checkpoint
from mgte_rag.config import EncoderConfig, Rotary
from mgte_rag.nn import heads
from mgte_rag.nn.attention import attend
from mgte_rag.nn.packing import Run, pack
from mgte_rag.nn.rotary import inverse_frequencies, rotate, rotation

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("rotary", "theta", "factor"),
    [
        (Rotary(theta=20_000, scaling="ntk", factor=8), 160_000, 1.0671404006768237),
        (Rotary(theta=500_000, scaling="ntk", factor=2), 1_000_000, 1.0218971486541166),
        (Rotary(theta=160_000, scaling="ntk", factor=2), 320_000, 1.0218971486541166),
        (Rotary(theta=160_000), 160_000, 1.0),
        (Rotary(theta=10_000, scaling="linear", factor=4), 10_000, 4.0),
    ],
)
def test_frequencies_equal_the_published_equivalents(rotary: Rotary, theta: float, factor: float) -> None:
    expected = [theta ** (-2 * i / 64) / factor for i in range(32)]
    torch.testing.assert_close(inverse_frequencies(rotary, 64), torch.tensor(expected), rtol=2e-7, atol=0)


def test_mixed_ntk_divides_each_frequency_by_its_own_factor() -> None:
    found = inverse_frequencies(Rotary(theta=10_000, scaling="ntk", factor=8, mixed_b=0.625), 64)
    a = math.log(8) / 32**0.625
    expected = [10_000 ** (-2 * (m - 1) / 64) / math.exp(a * m**0.625) for m in range(1, 33)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=2e-7, atol=0)


def test_rotation_keeps_lengths_and_makes_scores_depend_on_distance_alone() -> None:
    rotary = Rotary(theta=100)
    vector = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def score(first: int, second: int) -> float:
        turn = rotation(rotary, 8, torch.tensor([first, second]))
        q, k = rotate(vector[:, None, None, :], turn).flatten(1)
        return float(q @ k)

    turned = rotate(vector[:, None, None, :], rotation(rotary, 8, torch.tensor([5, 9])))
    torch.testing.assert_close(turned.norm(dim=-1).flatten(), vector.norm(dim=-1))
    assert score(0, 3) == pytest.approx(score(11, 14), abs=1e-5)
    assert score(0, 3) != pytest.approx(score(0, 4), abs=1e-3)


@settings(deadline=None, max_examples=40)
@given(
    texts=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 5),
    block=st.sampled_from([2, 3, 512]),
)
def test_attention_with_window_and_unattended_tokens_equals_a_loop(
    texts: list[tuple[int, int]], window: int | None, block: int
) -> None:
    lengths = [max(pair) for pair in texts]
    attended = [min(pair) for pair in texts]
    batch = pack([np.zeros(length, dtype=np.int32) for length in lengths], CPU, attended=attended)
    qkv = torch.randn(sum(lengths), 3, 2, 4, generator=torch.Generator().manual_seed(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mgte_rag.nn.attention._LOCAL_BLOCK", block)
        ours = attend(qkv, batch, window)
    expected, start = [], 0
    for length, limit in zip(lengths, attended, strict=True):
        for i in range(length):
            seen = [j for j in range(limit) if window is None or length <= window + 1 or abs(i - j) <= window]
            q, k, v = qkv[start + i, 0], qkv[[start + j for j in seen], 1], qkv[[start + j for j in seen], 2]
            weights = torch.einsum("hd,jhd->hj", q, k).div(2.0).softmax(-1)
            expected.append(torch.einsum("hj,jhd->hd", weights, v).flatten())
        start += length
    torch.testing.assert_close(ours, torch.stack(expected), atol=1e-5, rtol=0)


def test_texts_that_attend_to_different_lengths_are_different_runs() -> None:
    batch = pack([np.zeros(4, dtype=np.int32)] * 3, CPU, attended=[4, 2, 2])
    assert batch.runs == (Run(0, 1, 4), Run(4, 2, 4, 2))


@pytest.mark.parametrize("asked", [False, True], ids=["documents", "queries"])
def test_a_term_counts_as_its_strongest_token_in_queries_and_documents(asked: bool) -> None:
    """However often it is there, unless the head has a lexicon."""
    head = heads.SparseHead(hidden=1)
    with torch.no_grad():
        head.projection.weight.fill_(1.0)
        head.projection.bias.zero_()
        states = torch.tensor([0.5, 0.2, 0.9, -4.0, 0.1, 0.3])[:, None]
        ids, texts = torch.tensor([7, 3, 7, 5, 7, 3]), torch.tensor([0, 0, 0, 0, 1, 1])
        found = [tensor.tolist() for tensor in head(states, ids, texts, torch.tensor([asked] * 2))]
    assert found == [[0, 0, 0, 1, 1], [3, 5, 7, 3, 7], pytest.approx([0.2, 0.0, 0.9, 0.3, 0.1])]


@pytest.mark.parametrize("sliced", [True, False])
def test_smaller_token_vectors_are_slices_or_have_projections_of_their_own(sliced: bool) -> None:
    head = heads.MultiVectorHead(hidden=8, dims=(2, 4), sliced=sliced, bias=True)
    hidden = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    for size in (2, 4):
        projection = head.projections["4" if sliced else str(size)]
        expected = F.normalize((hidden @ projection.weight.T + projection.bias)[:, :size], dim=-1)
        torch.testing.assert_close(head(hidden, size), expected)
    assert list(head.projections) == (["4"] if sliced else ["2", "4"])


def test_the_exponent_of_mixed_ntk_scaling_is_read_from_the_config(copy_of: Callable[..., Any]) -> None:
    case = copy_of("gte-multilingual-base")
    case.change_config(rope_scaling={"type": "ntk", "factor": 8.0, "mixed_b": 0.625})
    rotary = load_checkpoint(find_model(str(case.folder))).config.encoder.rotary
    assert rotary == Rotary(theta=20_000.0, scaling="ntk", factor=8.0, mixed_b=0.625)


def naive_gte(folder: Path, ids: list[int]) -> torch.Tensor:
    """The encoder of the ``new`` implementation for one text in fp64, from the file's own names."""
    config = json.loads((folder / "config.json").read_text())
    t = {name.removeprefix("new."): w.double() for name, w in load_file(folder / "model.safetensors").items()}
    size, n_heads = config["hidden_size"], config["num_attention_heads"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        if config["layer_norm_type"] == "rms_norm":
            return x / (x.pow(2).mean(-1, keepdim=True) + config["layer_norm_eps"]).sqrt() * t[f"{name}.weight"]
        return F.layer_norm(x, (size,), t[f"{name}.weight"], t[f"{name}.bias"], config["layer_norm_eps"])

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.token_type_embeddings.weight"][0]
    x = norm(x + t["embeddings.position_embeddings.weight"][: len(ids)], "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        qkv = F.linear(x, t[f"{layer}.attention.qkv_proj.weight"], t[f"{layer}.attention.qkv_proj.bias"])
        q, k, v = (part.unflatten(-1, (n_heads, -1)).transpose(0, 1) for part in qkv.split(size, dim=-1))
        mixed = (q @ k.mT / math.sqrt(size / n_heads)).softmax(-1) @ v
        out = F.linear(
            mixed.transpose(0, 1).flatten(1), t[f"{layer}.attention.o_proj.weight"], t[f"{layer}.attention.o_proj.bias"]
        )
        x = norm(x + out, f"{layer}.attn_ln")
        up, gate = F.linear(x, t[f"{layer}.mlp.up_gate_proj.weight"]).chunk(2, dim=-1)
        down = F.linear(F.gelu(gate) * up, t[f"{layer}.mlp.down_proj.weight"], t[f"{layer}.mlp.down_proj.bias"])
        x = norm(x + down, f"{layer}.mlp_ln")
    return x


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_mgte_with_absolute_positions_and_either_norm_equals_a_naive_loop(
    copy_of: Callable[..., Any], norm: str
) -> None:
    case = copy_of("gte-multilingual-base")
    case.change_config(position_embedding_type="absolute", layer_norm_type=norm, rope_theta=None)
    tensors = load_file(case.folder / "model.safetensors")
    chance = torch.Generator().manual_seed(5)
    tensors["new.embeddings.position_embeddings.weight"] = torch.randn(512, 64, generator=chance)
    if norm == "rms_norm":
        tensors = {k: v for k, v in tensors.items() if not k.endswith(("_ln.bias", "LayerNorm.bias"))}
    save_file(tensors, case.folder / "model.safetensors")
    encoder = load_checkpoint(find_model(str(case.folder))).load_model(CPU, torch.float32).encoder
    ids = [0, 7, 9, 11, 7, 2]
    with torch.inference_mode():
        ours = encoder(pack([np.array(ids, dtype=np.int32)], CPU))
    torch.testing.assert_close(ours.double(), naive_gte(case.folder, ids), atol=1e-5, rtol=0)


def test_hidden_states_are_the_same_with_and_without_gradients(published: Callable[[str], Any]) -> None:
    encoder = (
        load_checkpoint(find_model(str(published("gte-modernbert-base").folder))).load_model(CPU, torch.float32).encoder
    )
    batch = pack([np.arange(5, 25, dtype=np.int32) % 20], CPU)
    with torch.inference_mode():
        without = encoder(batch)
    encoder.requires_grad_(True)
    torch.testing.assert_close(encoder(batch).detach(), without, atol=1e-6, rtol=0)


def test_gradients_reach_every_parameter_after_inference_has_filled_the_caches(
    published: Callable[[str], Any],
) -> None:
    checkpoint = load_checkpoint(find_model(str(published("gte-modernbert-base").folder)))
    encoder = checkpoint.load_model(CPU, torch.float32).encoder
    batch = pack([np.arange(5, 25, dtype=np.int32) % 20], CPU)
    with torch.inference_mode():
        encoder(batch)
    encoder.requires_grad_(True)
    encoder(batch).square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


SIZES = {"vocabulary": 8, "hidden": 8, "layers": 1, "heads": 2, "intermediate": 8, "positions": 8, "token_types": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "third"}, "gate = 'third'; supported are none, first, second"),
        ({"norm": "batch"}, "norm = 'batch'; supported are layer, rms"),
        ({"position_offset": -1}, "position_offset = -1; a whole number from 0 on"),
        ({"heads": 8, "rotary": Rotary(theta=100)}, "even head size, not 1"),
    ],
)
def test_an_encoder_switch_with_an_unknown_value_is_an_error_giving_the_known_ones(changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        EncoderConfig(**{**SIZES, "norm_eps": 1e-5, **changes})


def test_rotary_positions_of_an_unknown_kind_are_an_error() -> None:
    with pytest.raises(CheckpointError, match="scaling = 'yarn'; supported are none, linear, ntk"):
        Rotary(theta=10_000, scaling="yarn")  # type: ignore[arg-type]
