"""Runs of the trainer: they learn, they resume exactly, their parts add up."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from mgte_rag import EmbeddingModel, InvalidOptionError, Reranker, UnsupportedOutputError
from mgte_rag.types import Output
from mgte_training.finetune.lora import LoRA
from mgte_training.finetune.objective import Distillation, HeadLoss, Objective, SelfDistillation
from mgte_training.finetune.steps import Lengths, ModelSteps, PairSteps
from mgte_training.finetune.trainable import Trainable, TrainableReranker
from mgte_training.finetune.trainer import ModelTrainer, RerankerTrainer

Make = Callable[..., Any]

EVERY_HEAD = Objective(
    heads={
        "dense": HeadLoss(temperature=0.05, sizes={16: 1.0, 32: 0.5}),
        "sparse": HeadLoss(temperature=0.1, weight=0.5),
        "multi_vector": HeadLoss(temperature=0.05, sizes={4: 1.0, 8: 1.0}),
    }
)
OBJECTIVES = {
    "one direction": EVERY_HEAD,
    "both directions": Objective(heads=EVERY_HEAD.heads, directions="both"),
    "improved": Objective(heads={"dense": HeadLoss(temperature=0.1)}, directions="improved"),
    "self-distillation": Objective(
        heads=EVERY_HEAD.heads,
        self_distillation=SelfDistillation(shares={"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}, temperature=0.1),
    ),
}


def weights(model: Trainable) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_a_batch_in_parts_has_the_gradient_of_the_whole_batch(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, objective: Objective
) -> None:
    """GradCache, for every head: one step of plain gradient descent ends at the same weights."""
    ends = []
    for sub_batch in (64, 2):
        model = open_model()
        args = arguments(optim="sgd", learning_rate=0.1, max_grad_norm=0.0)
        ModelTrainer(model, args, plan(make_batch(6, 3, sub_batch=sub_batch)), objective).train()
        ends.append(weights(model))
    start = weights(open_model())
    assert largest_difference(start, ends[0]) > 1e-3, "nothing was learnt"
    assert largest_difference(*ends) < 1e-6


@pytest.mark.parametrize(
    "outputs", [some for count in (1, 2, 3) for some in itertools.combinations(EVERY_HEAD.heads, count)], ids="+".join
)
def test_any_subset_of_heads_is_trained_and_the_others_stay(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, outputs: tuple[Output, ...]
) -> None:
    model = open_model()
    before = weights(model)
    objective = Objective(heads={output: EVERY_HEAD.heads[output] for output in outputs})
    ModelTrainer(model, arguments(), plan(make_batch(4, 2, sub_batch=2)), objective).train()
    changed = {name.split(".")[1] for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {"encoder", *outputs} - {"dense"}


def test_late_interaction_heads_are_trained_together_and_each_on_its_own(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    """Not tied: what is asked of one size leaves the other's weights alone, and both learn where both are asked for."""

    def changed(*sizes: int) -> set[str]:
        model = open_model()
        before = weights(model)
        objective = Objective(heads={"multi_vector": HeadLoss(temperature=0.05, sizes=dict.fromkeys(sizes, 1.0))})
        ModelTrainer(model, arguments(), plan(make_batch(4, 2)), objective).train()
        return {name.split(".")[3] for name, value in weights(model).items()
                if "multi_vector" in name and not torch.equal(value, before[name])}  # fmt: skip

    assert (changed(4), changed(8), changed(4, 8)) == ({"4"}, {"8"}, {"4", "8"})


def test_a_sources_prompts_stand_before_what_is_trained_on(
    open_model: Make, open_reranker: Make, plan: Make, make_batch: Make
) -> None:
    batch = make_batch(2, 1, query_prompt="the cat ", document_prompt="")
    (first, *_) = batch.queries
    model, reranker = open_model(), open_reranker()
    document = batch.groups[0][0]
    ids = ModelSteps(plan(batch), model, Lengths())[0].parts[0].ids
    expected = [model.read([f"the cat {first}"], "query", prompt="", max_length=None).ids[0],
                model.read([document], "document", prompt="", max_length=None).ids[0]]  # fmt: skip
    pairs = PairSteps(plan(batch), reranker, Lengths())[0].pairs[0].ids
    expected.append(reranker.read([(f"the cat {first}", document)], max_length=None).ids[0])
    for found, wanted in zip((ids[0], ids[2], pairs[0]), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_dropout_drops_the_same_on_both_ways_of_a_batch_in_parts(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_model(dropout=0.3)
    seen = []
    model.model.encoder.register_forward_hook(lambda _module, _inputs, hidden: seen.append(hidden.detach()))
    ModelTrainer(model, arguments(), plan(make_batch(4, 2, sub_batch=2)), EVERY_HEAD).train()
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])


def test_training_lowers_every_part_of_the_loss(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_model()
    trainer = ModelTrainer(
        model, arguments(learning_rate=3e-3), plan(*[make_batch(8, 2, seed=i % 2) for i in range(16)]), EVERY_HEAD
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "dense_16" in entry]
    for part in ("dense_16", "dense_32", "sparse", "multi_vector_4", "multi_vector_8"):
        assert logs[-1][part] < 0.7 * logs[0][part], part


def test_gradient_checkpointing_changes_no_weight(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    ends = []
    for recompute in (False, True):
        model = open_model(recompute=recompute)
        ModelTrainer(model, arguments(), plan(make_batch(4, 2)), EVERY_HEAD).train()
        ends.append(weights(model))
    assert largest_difference(*ends) == 0.0


class _StopAfter(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_save = True
            control.should_training_stop = True


@pytest.mark.parametrize(
    "options",
    [{"dropout": 0.2}, {"dropout": 0.2, "lora": LoRA(rank=2)}, {"trained": "heads"}],
    ids=["all weights", "LoRA", "heads"],
)
def test_a_run_that_was_stopped_and_resumed_ends_at_the_very_weights_of_one_that_was_not(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, options: dict[str, Any]
) -> None:
    """With dropout, several sources, and batches in parts: bit by bit."""
    sources = {0: "a", 1: "b"}
    batches = [make_batch(4, 2 + i % 2, sub_batch=2 if i % 3 else 64, seed=i, source=sources[i % 2]) for i in range(7)]

    def trainer(folder: str, *callbacks: TrainerCallback) -> ModelTrainer:
        model = open_model(**options)
        args = arguments(save_strategy="steps", save_steps=100, output_dir=folder)
        return ModelTrainer(model, args, plan(*batches), EVERY_HEAD, callbacks=list(callbacks))

    run = arguments().output_dir
    straight = trainer(f"{run}-straight")
    straight.train()
    trainer(f"{run}-stopped", _StopAfter(3)).train()
    torch.manual_seed(999)  # whatever the new process had done before
    resumed = trainer(f"{run}-stopped")
    resumed.train(resume_from_checkpoint=f"{run}-stopped/checkpoint-3")
    assert resumed.state.global_step == 7
    assert largest_difference(weights(straight.model), weights(resumed.model)) == 0.0


def test_a_frozen_encoder_stays_bit_for_bit_and_the_heads_learn(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, tmp_path: Path, tiny_bert: Path
) -> None:
    model = open_model(trained="heads")
    before = weights(model)
    ModelTrainer(model, arguments(), plan(make_batch(4, 2, sub_batch=1)), EVERY_HEAD).train()
    changed = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if not name.startswith("model.encoder.")}
    model.save(tmp_path / "saved")
    with (
        EmbeddingModel.load(tmp_path / "saved", dtype="float32") as saved,
        EmbeddingModel.load(tiny_bert, dtype="float32") as original,
    ):
        np.testing.assert_array_equal(saved.encode_document("the cat").dense, original.encode_document("the cat").dense)
        assert saved.outputs == ("dense", "sparse", "multi_vector")


def test_low_rank_adapters_and_heads_are_merged_into_what_is_saved(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, tmp_path: Path
) -> None:
    model = open_model(lora=LoRA(rank=2))
    ModelTrainer(model, arguments(), plan(*[make_batch(4, 2, seed=i) for i in range(3)]), EVERY_HEAD).train()
    model.save(tmp_path / "merged")
    inputs = model.read(["the cat sat on the mat"], "document", prompt=None, max_length=None)
    with torch.no_grad():
        expected = model.eval()(inputs)
    with EmbeddingModel.load(tmp_path / "merged", dtype="float32") as saved:
        found = saved.encode_document("the cat sat on the mat", outputs=saved.outputs)
    np.testing.assert_allclose(found.dense, torch.nn.functional.normalize(expected.dense), atol=1e-6)
    terms = expected.terms()
    np.testing.assert_array_equal(found.sparse[0].indices, terms.ids[terms.weights > 0])
    np.testing.assert_allclose(found.sparse[0].values, terms.weights[terms.weights > 0], atol=1e-6)
    np.testing.assert_allclose(found.multi_vector[0], expected.vectors[8], atol=1e-6)


def test_adapters_and_heads_alone_restore_a_trained_model(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, tmp_path: Path
) -> None:
    model = open_model(lora=LoRA(rank=2))
    ModelTrainer(model, arguments(), plan(make_batch(4, 2)), EVERY_HEAD).train()
    model.save_trained(tmp_path / "adapters")
    again = open_model(lora=LoRA(rank=2))
    again.load_trained(tmp_path / "adapters")
    assert largest_difference(weights(model), weights(again)) == 0.0


def test_a_reranker_in_parts_has_the_gradient_of_the_whole_batch(
    open_reranker: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    scores = np.array([[3.0, 1.0, 0.5]] * 5, dtype=np.float32)
    ends = []
    for sub_batch in (64, 2):
        model = open_reranker()
        args = arguments(optim="sgd", learning_rate=0.1, max_grad_norm=0.0)
        batch = make_batch(5, 3, sub_batch=sub_batch, scores=scores)
        RerankerTrainer(model, args, plan(batch), distillation=Distillation(weight=0.5)).train()
        ends.append(weights(model))
    assert largest_difference(weights(open_reranker()), ends[0]) > 1e-3
    assert largest_difference(*ends) < 1e-6


def test_a_rerankers_loss_is_the_cross_entropy_of_each_list(
    open_reranker: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    """Beside a teacher's distribution over the same list; by hand, from the first step's logits."""
    model, chance = open_reranker(), np.random.default_rng(0)
    batch = make_batch(3, 4, scores=chance.normal(size=(3, 4)).astype(np.float32))
    expected = {"listwise": 0.0, "distillation": 0.0}
    for query, group, teacher in zip(batch.queries, batch.groups, batch.scores.tolist(), strict=True):
        with torch.no_grad():
            logits = model.eval()(model.read([(query, text) for text in group], max_length=None)).tolist()
        shares = [math.exp(value / 0.5) / sum(math.exp(each / 0.5) for each in logits) for value in logits]
        expected["listwise"] -= math.log(shares[0]) / 3
        plain = [math.exp(value) / sum(map(math.exp, logits)) for value in logits]
        wanted = [math.exp(value) / sum(map(math.exp, teacher)) for value in teacher]
        expected["distillation"] += sum(a * math.log(a / b) for a, b in zip(wanted, plain, strict=True)) / 3
    trainer = RerankerTrainer(
        model, arguments(), plan(batch), temperature=0.5, contrastive_weight=2.0, distillation=Distillation(weight=3.0)
    )
    trainer.train()
    logged = trainer.state.log_history[0]
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert logged["loss"] == pytest.approx(2 * expected["listwise"] + 3 * expected["distillation"], rel=1e-3)


def test_a_trained_reranker_prefers_what_it_was_taught(
    open_reranker: Make, arguments: Make, plan: Make, make_batch: Make, tmp_path: Path
) -> None:
    batch = make_batch(8, 4)
    model = open_reranker()
    trainer = RerankerTrainer(model, arguments(learning_rate=3e-3), plan(*[batch] * 30))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(4), abs=0.5)
    assert losses[-1] < 0.5 * losses[0]
    model.save(tmp_path / "reranker")
    with Reranker.load(tmp_path / "reranker") as reranker:
        best = [reranker.rank(query, group)[0].index for query, group in zip(batch.queries, batch.groups, strict=True)]
    assert best.count(0) >= 6


@pytest.mark.parametrize(
    ("lora", "recompute"), [(None, False), (LoRA(rank=4), True)], ids=["all weights", "adapters, recomputed"]
)
def test_mixed_precision_lowers_the_loss_as_full_precision_does(
    open_reranker: Make, open_model: Make, arguments: Make, plan: Make, make_batch: Make, lora: Any, recompute: bool
) -> None:
    """bf16 on the CPU; weights stay in full precision."""
    batch = make_batch(8, 4)
    ends: dict[str, list[float]] = {}
    for bf16 in (False, True):
        for make, trainer in ((open_reranker, RerankerTrainer), (open_model, ModelTrainer)):
            model = make(lora=lora, recompute=recompute)
            options = {"objective": EVERY_HEAD} if trainer is ModelTrainer else {}
            run = trainer(model, arguments(learning_rate=3e-3, bf16=bf16), plan(*[batch] * 8), **options)
            run.train()
            assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
            ends.setdefault(trainer.__name__, []).append(run.state.log_history[7]["loss"])
            assert ends[trainer.__name__][-1] < 0.95 * run.state.log_history[0]["loss"]
    for full, mixed in ends.values():
        assert mixed == pytest.approx(full, rel=0.1)
        assert mixed != full


def test_a_model_without_a_rerankers_head_is_no_reranker_and_lengths_leave_room_for_text(
    tiny_bert: Path, open_model: Make, open_reranker: Make
) -> None:
    with pytest.raises(UnsupportedOutputError, match="no reranker's head: begin one anew with new_heads"):
        TrainableReranker.open(tiny_bert)
    with pytest.raises(InvalidOptionError, match=r"lengths: 2 tokens; the model .* reads 3 to"):
        open_model().read(["cat"], "document", prompt=None, max_length=2)
    with pytest.raises(InvalidOptionError, match="lengths: 0 tokens"):
        open_reranker().read([("cat", "dog")], max_length=0)


def test_a_teacher_that_is_asked_for_and_not_there_is_an_error(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    objective = Objective(
        heads={"dense": HeadLoss(temperature=1.0)}, contrastive_weight=0.0, distillation=Distillation()
    )
    with pytest.raises(InvalidOptionError, match="distill-scores"):
        ModelTrainer(open_model(), arguments(), plan(make_batch()), objective).train()


def test_accumulation_is_refused_because_batches_have_parts(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    with pytest.raises(InvalidOptionError, match="sub_batch"):
        ModelTrainer(open_model(), arguments(gradient_accumulation_steps=2), plan(make_batch()), EVERY_HEAD)
