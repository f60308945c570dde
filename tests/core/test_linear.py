"""Projections prepared for inference give what plain ones give, and hold one copy of their weights."""

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mgte_rag import EmbeddingModel
from mgte_rag.nn import linear
from mgte_rag.nn.linear import GEGLULinear, GELULinear, Linear, can_prepare, prepare
from mgte_rag.sharing import POOL

DTYPES = [
    pytest.param(
        dtype,
        marks=pytest.mark.skipif(not can_prepare("cpu", dtype), reason=f"this machine prepares nothing in {dtype}"),
        id=str(dtype).removeprefix("torch."),
    )
    for dtype in (torch.float32, torch.bfloat16)
]
KINDS: dict[str, Callable[[bool], Linear]] = {
    "plain": lambda bias: Linear(48, 80, bias=bias),
    "GELU": lambda bias: GELULinear(48, 80, bias=bias),
    "GEGLU, first half": lambda bias: GEGLULinear(48, 40, bias=bias, activated="first"),
    "GEGLU, second half": lambda bias: GEGLULinear(48, 40, bias=bias, activated="second"),
}


def tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 0.02


def random_projection(kind: str, bias: bool, dtype: torch.dtype) -> Linear:
    torch.manual_seed(0)
    return KINDS[kind](bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 300])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prepared_projection_gives_what_the_plain_one_gives(
    dtype: torch.dtype, kind: str, bias: bool, rows: int
) -> None:
    projection = random_projection(kind, bias, dtype)
    given = torch.randn(rows, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    plain = projection(given)
    projection.prepare()
    prepared = projection(given)
    assert prepared.shape == plain.shape
    assert prepared.dtype == projection.dtype == dtype
    torch.testing.assert_close(prepared, plain, atol=tolerance(dtype), rtol=tolerance(dtype))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_lie_apart_in_memory_are_read_right(dtype: torch.dtype, kind: str) -> None:
    projection = random_projection(kind, True, dtype)
    wide = torch.randn(20, 96, generator=torch.Generator().manual_seed(1)).to(dtype)
    views = [wide[:, :48], wide[::2, 48:], wide.T[:48].T, wide.T.contiguous().T[:, 10:58]]
    plain = [projection(view) for view in views]
    projection.prepare()
    for view, expected in zip(views, plain, strict=True):
        torch.testing.assert_close(projection(view), expected, atol=tolerance(dtype), rtol=tolerance(dtype))


@pytest.mark.parametrize("kind", KINDS)
def test_the_rows_given_are_not_changed(kind: str) -> None:
    projection = random_projection(kind, True, torch.float32)
    if can_prepare("cpu", torch.float32):
        projection.prepare()
    given = torch.randn(5, 48)
    before = given.clone()
    projection(given)
    assert torch.equal(given, before)


def test_gated_projections_are_the_formula_of_the_paper() -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 4)
    for activated, order in (("first", (0, 1)), ("second", (1, 0))):
        projection = GEGLULinear(4, 2, bias=True, activated=activated)
        halves = (rows @ projection.weight.T + projection.bias).chunk(2, dim=-1)
        gate, other = (halves[half] for half in order)
        expected = gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * other
        torch.testing.assert_close(projection(rows), expected)


@pytest.mark.skipif(not can_prepare("cpu", torch.float32), reason="this machine prepares nothing")
@pytest.mark.parametrize("kind", KINDS)
def test_once_prepared_there_is_one_copy_of_the_weight(kind: str) -> None:
    projection = random_projection(kind, True, torch.float32)
    weight, size = weakref.ref(projection.weight), projection.weight.nbytes
    storage = weakref.ref(projection.weight.untyped_storage())
    prepare(projection)
    assert weight() is storage() is None
    assert dict(projection.named_parameters()).keys() == {"bias"}
    assert sum(part.numel() * part.element_size() for part in projection._prepared) == size


@pytest.mark.skipif(not can_prepare("cpu", torch.float32), reason="this machine prepares nothing")
def test_preparing_a_module_prepares_all_its_projections_and_nothing_else() -> None:
    module = torch.nn.Sequential(Linear(8, 8), torch.nn.Linear(8, 8), torch.nn.Sequential(GELULinear(8, 8)))
    prepare(module)
    assert [name for name, _ in module.named_parameters()] == ["0.bias", "1.weight", "1.bias", "2.0.bias"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_what_a_processor_has_no_instructions_for_stays_a_plain_projection(dtype: torch.dtype) -> None:
    assert not can_prepare("cpu", dtype)
    projection = Linear(4, 4).to(dtype)
    prepare(projection)
    assert projection.weight is not None
    assert projection(torch.randn(2, 4, dtype=dtype)).shape == (2, 4)


@pytest.mark.parametrize("device", ["cuda", "mps", "meta"])
def test_other_devices_than_the_cpu_keep_plain_projections(device: str) -> None:
    assert not can_prepare(device, torch.float32)
    assert not can_prepare(device, torch.bfloat16)


@pytest.mark.parametrize("there", ["_reorder_linear_weight", "_linear_pointwise"])
def test_a_torch_that_lacks_an_operator_keeps_plain_projections(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_ONEDNN", SimpleNamespace(**{there: None}))
    assert not can_prepare.__wrapped__("cpu", torch.float32)


def test_a_model_of_which_nothing_can_be_prepared_gives_the_same_vectors(
    mini_fp32: EmbeddingModel, real_texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = ("dense", "sparse", "multi_vector")
    some = real_texts[:24]
    expected = mini_fp32.encode_document(some, outputs=outputs)
    monkeypatch.setattr(linear, "can_prepare", lambda device_type, dtype: False)
    monkeypatch.setattr(POOL, "_engines", {})
    with EmbeddingModel.load(dtype="float32") as plain:
        assert plain._engine is not mini_fp32._engine
        assert plain._engine._replicas[0].model.encoder.layers[0].attention.qkv.weight is not None
        encoded = plain.encode_document(some, outputs=outputs)
    np.testing.assert_allclose(encoded.dense, expected.dense, atol=1e-5)
    for one, other in zip(encoded.multi_vector, expected.multi_vector, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    for one, other in zip(encoded.sparse, expected.sparse, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        np.testing.assert_allclose(one.values, other.values, atol=1e-4)


def test_for_training_projections_keep_their_weights_and_have_gradients() -> None:
    for kind in KINDS:
        projection = KINDS[kind](True)
        projection(torch.randn(3, 48)).sum().backward()
        assert projection.weight.grad is not None
        assert projection.weight.grad.abs().sum() > 0
