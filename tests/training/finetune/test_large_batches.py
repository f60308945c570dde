"""Batches as large as the papers': exact gradients by parts and by slices, and positions that change with the stage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mgte_rag import EmbeddingModel, InvalidOptionError
from mgte_rag.config import Rotary
from mgte_rag.nn.rotary import inverse_frequencies
from mgte_training.finetune import objective as objectives
from mgte_training.finetune import rows
from mgte_training.finetune.objective import Distillation, HeadLoss, Objective, SelfDistillation, Targets
from mgte_training.finetune.positions import Positions
from mgte_training.finetune.representations import Representations
from mgte_training.finetune.rows import loss_in_rows
from mgte_training.finetune.trainable import TrainableModel
from mgte_training.finetune.trainer import ModelTrainer

Make = Callable[..., Any]
DENSE = Objective(heads={"dense": HeadLoss(temperature=0.05)})
HEADS = {
    "dense": HeadLoss(temperature=0.05, sizes={4: 1.0, 8: 0.5}),
    "sparse": HeadLoss(temperature=0.1, weight=0.5),
    "multi_vector": HeadLoss(temperature=0.05),
}
OBJECTIVES = {
    "one direction": Objective(heads=HEADS, distillation=Distillation()),
    "both": Objective(heads=HEADS, directions="both"),
    "improved": Objective(heads=HEADS, directions="improved"),
    "self-distillation": Objective(
        heads=HEADS,
        self_distillation=SelfDistillation(shares={"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}, temperature=0.1),
    ),
}


def representations(texts: int, seed: int) -> Representations:
    torch.manual_seed(seed)
    counts = torch.randint(1, 5, (texts,))
    tokens = int(counts.sum())
    return Representations(
        texts=texts,
        dense=torch.randn(texts, 8),
        weights=torch.rand(tokens),
        ids=torch.randint(0, 9, (tokens,)),
        counts=counts,
        vectors={4: torch.nn.functional.normalize(torch.randn(tokens, 4), dim=-1)},
        vector_counts=counts,
    ).leaves()


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_loss_in_slices_of_queries_is_the_loss_of_all(monkeypatch: pytest.MonkeyPatch, objective: Objective) -> None:
    """Every part of it and every gradient; the last slice is smaller; some documents do not count."""
    excluded = torch.zeros(7, 14, dtype=torch.bool)
    excluded[1, 6], excluded[5, 0] = True, True
    targets = Targets(own=torch.arange(7), group=2, excluded=excluded, teacher=torch.randn(7, 2))
    found = []
    for kept in (10**6, 3 * 14):
        monkeypatch.setattr(rows, "_KEPT_SCORES", kept)
        monkeypatch.setattr(objectives, "_KEPT_FLOATS", kept)  # token similarities have slices of their own
        queries, documents = representations(7, 0), representations(14, 1)
        parts = loss_in_rows(objective, queries, queries, documents, targets)
        parts["loss"].backward()
        found.append((parts, [tensor.grad for side in (queries, documents) for tensor in side.tensors]))
    assert found[0][0].keys() == found[1][0].keys()
    for name, value in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], value)
    for ours, theirs in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_4096_pairs_in_parts_have_the_gradient_of_the_batch_at_once(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GradCache and slices of queries together, where both ways fit: one step of plain gradient descent."""
    ends = []
    for sub_batch, kept in ((4096, 10**9), (512, 1024 * 4096)):
        monkeypatch.setattr(rows, "_KEPT_SCORES", kept)
        model = open_model()
        args = arguments(optim="sgd", learning_rate=1.0, max_grad_norm=0.0)
        ModelTrainer(model, args, plan(make_batch(4096, 1, sub_batch=sub_batch)), DENSE).train()
        ends.append({name: value.detach().clone() for name, value in model.named_parameters()})
    start = {name: value.detach() for name, value in open_model().named_parameters()}
    moved = max(float((start[name] - ends[0][name]).abs().max()) for name in start)
    apart = max(float((ends[0][name] - ends[1][name]).abs().max()) for name in start)
    assert moved > 1e-3, "nothing was learnt"
    assert apart < 1e-5 * max(1.0, moved)


def test_reversed_ntk_trains_with_the_lower_base_and_writes_the_scaled_one(
    rotary_model: Path, arguments: Make, plan: Make, make_batch: Make, tmp_path: Path
) -> None:
    """mGTE: 160,000 / 8 = 20,000 in training; the model that is written has factor 8 and the old limit."""
    positions = Positions(theta=20_000.0, ntk_factor=8.0)
    model = TrainableModel.open(rotary_model, positions=positions)
    assert model.model.encoder.config.rotary == Rotary(theta=20_000.0)
    ModelTrainer(model, arguments(), plan(make_batch(8, 1)), DENSE).train()
    model.save(tmp_path / "saved")
    written = TrainableModel.open(tmp_path / "saved")
    assert written.settings.encoder.rotary == Rotary(theta=20_000.0, scaling="ntk", factor=8.0)
    with EmbeddingModel.load(tmp_path / "saved") as saved, EmbeddingModel.load(rotary_model) as before:
        assert saved.max_length == before.max_length
    scaled = inverse_frequencies(Rotary(theta=20_000.0, scaling="ntk", factor=8.0), 64)
    plain = inverse_frequencies(Rotary(theta=160_000.0), 64)
    torch.testing.assert_close(scaled, plain / 8 ** (2 / 64))


def test_positions_that_cannot_be_are_refused(tiny_bert: Path) -> None:
    with pytest.raises(InvalidOptionError, match="rotary"):
        TrainableModel.open(tiny_bert, positions=Positions(theta=10_000.0))
    for wrong in ({"theta": 1.0}, {"theta": 10.0, "ntk_factor": 0.5}, {"ntk_factor": 8.0}, {"max_length": 0}):
        with pytest.raises(InvalidOptionError):
            Positions(**wrong)  # type: ignore[arg-type]
