"""Every alarm on a collapse that was planted, none on a run that is well; figures; a checkpoint on SIGTERM."""

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from mgte_rag import DataError, TrainingError
from mgte_training.data.examples import Example
from mgte_training.finetune.held_out import HeldOut, ModelFigures, RerankerFigures, mean_ndcg
from mgte_training.finetune.objective import HeadLoss, Objective
from mgte_training.finetune.representations import Representations
from mgte_training.finetune.steps import Lengths
from mgte_training.finetune.trainable import Trainable
from mgte_training.finetune.trainer import ModelTrainer, RerankerTrainer
from mgte_training.finetune.watching import Alarms, Watch, effective_rank

Make = Callable[..., Any]
SOON = Alarms(patience=3)
DENSE = Objective(heads={"dense": HeadLoss(temperature=0.05)})
SPARSE = Objective(heads={"sparse": HeadLoss(temperature=0.1)})


def test_a_loss_that_is_no_number_stops_the_run_at_once(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_model()
    with torch.no_grad():
        model.model.encoder.embeddings.word.weight.fill_(float("nan"))
    with pytest.raises(TrainingError, match="nan"):
        ModelTrainer(model, arguments(), plan(make_batch()), DENSE).train()


def test_sparse_vectors_that_stay_empty_stop_the_run(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_model()
    with torch.no_grad():
        model.model.sparse.projection.bias.fill_(-100.0)
    with pytest.raises(TrainingError, match="no sparse weight above 0 for 3 steps"):
        ModelTrainer(model, arguments(), plan(*[make_batch()] * 4), SPARSE, alarms=SOON).train()


def test_sparse_vectors_that_are_not_sparse_stop_the_run(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_model()
    with torch.no_grad():
        model.model.sparse.projection.bias.fill_(100.0)
    args = arguments(learning_rate=1e-9)
    with pytest.raises(TrainingError, match="no sparse weight at 0"):
        ModelTrainer(model, args, plan(*[make_batch()] * 4), SPARSE, alarms=SOON).train()


def test_dense_vectors_that_all_look_alike_stop_the_run(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_model()
    with torch.no_grad():
        model.model.encoder.layers[-1].feed_forward_norm.weight.fill_(0.0)
        model.model.encoder.layers[-1].feed_forward_norm.bias.fill_(1.0)
    args = arguments(learning_rate=1e-9)
    with pytest.raises(TrainingError, match=r"effective rank of 1\.00"):
        ModelTrainer(model, args, plan(*[make_batch(8)] * 4), DENSE, alarms=SOON).train()


def test_a_loss_that_stays_that_of_equal_scores_stops_the_run() -> None:
    watch = Watch(SOON)
    stuck = {"dense": torch.tensor(math.log(8))}
    watch.losses(stuck, {"dense": 8})
    watch.losses(stuck, {"dense": 8})
    with pytest.raises(TrainingError, match=r"ln\(8\)"):
        watch.losses(stuck, {"dense": 8})


@pytest.mark.parametrize(
    ("changes", "equal"),
    [
        ({}, "dense.*ln\\(24\\)"),
        ({"directions": "both"}, "dense.*ln\\(192\\)"),  # 24 documents and 8 queries
        ({"directions": "improved"}, "dense.*ln\\(45\\)"),  # 24 documents, and 7 others three times
        ({"in_batch_negatives": False, "directions": "both"}, "dense.*ln\\(3\\)"),
    ],
)
def test_a_model_whose_scores_are_all_equal_is_stopped_in_every_direction(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make, changes: dict[str, Any], equal: str
) -> None:
    model = open_model()
    with torch.no_grad():
        model.model.encoder.layers[-1].feed_forward_norm.weight.fill_(0.0)
        model.model.encoder.layers[-1].feed_forward_norm.bias.fill_(1.0)
    objective = Objective(heads=DENSE.heads, directions=changes.pop("directions", "query"))
    alarms = Alarms(patience=3, least_rank=0.0)
    with pytest.raises(TrainingError, match=f"{equal}, that of equal scores"):
        ModelTrainer(
            model, arguments(learning_rate=1e-9), plan(*[make_batch(8, 3, **changes)] * 4), objective, alarms=alarms
        ).train()


def test_a_rerankers_loss_that_stays_that_of_equal_scores_stops_the_run(
    open_reranker: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_reranker()
    with torch.no_grad():
        model.model.classifier.out.weight.zero_()
    args, alarms = arguments(learning_rate=1e-9), Alarms(patience=3, least_spread=0.0)
    with pytest.raises(TrainingError, match=r"'listwise' has stayed at ln\(3\)"):
        RerankerTrainer(model, args, plan(*[make_batch(4, 3)] * 4), alarms=alarms).train()


def test_a_loss_that_falls_below_chance_raises_no_alarm() -> None:
    watch = Watch(SOON)
    for step in range(50):
        watch.losses({"dense": torch.tensor(math.log(8) * 0.97**step)}, {"dense": 8})


def test_a_reranker_whose_scores_are_all_equal_is_stopped(
    open_reranker: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    model = open_reranker()
    with torch.no_grad():
        model.model.classifier.out.weight.zero_()
    args = arguments(learning_rate=1e-9)
    alarms = Alarms(patience=3, stuck=0.0)
    with pytest.raises(TrainingError, match="equal scores for 3 steps"):
        RerankerTrainer(model, args, plan(*[make_batch(4, 3)] * 4), alarms=alarms).train()


def test_an_alarm_counts_steps_in_a_row_only() -> None:
    watch = Watch(SOON)
    empty, full = (
        Representations(texts=1, weights=torch.tensor(values), ids=torch.tensor([1, 2]), counts=torch.tensor([2]))
        for values in ([0.0, 0.0], [0.0, 1.0])
    )
    for _ in range(5):
        watch.representations(empty)
        watch.representations(empty)
        watch.representations(full)


def test_the_effective_rank_of_orthogonal_vectors_is_their_number_and_of_parallel_ones_1() -> None:
    assert effective_rank(torch.eye(6)) == pytest.approx(6.0, rel=1e-4)
    assert effective_rank(torch.ones(6, 4)) == pytest.approx(1.0, rel=1e-2)


def test_ndcg_discounts_by_the_logarithm_of_the_rank() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.1, 0.9, 0.2, 0.3]])
    first = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3))
    assert mean_ndcg(scores, [frozenset({1, 2}), frozenset({1})]) == pytest.approx((first + 1.0) / 2, rel=1e-5)


def test_equal_scores_count_against_the_relevant_document() -> None:
    assert mean_ndcg(torch.zeros(1, 3), [frozenset({0})]) == pytest.approx(1 / math.log2(4))


def test_a_relevant_document_below_the_tenth_rank_counts_nothing() -> None:
    assert mean_ndcg(-torch.arange(12.0)[None], [frozenset({11})]) == 0.0


EXAMPLES = [
    Example("cat sat", ("the cat sat on the mat",), ("a dog ran under the tree",)),
    Example("dog ran", ("a dog ran under the tree", "the dog ran"), ("the cat sat on the mat",)),
]


def test_a_held_out_sets_corpus_has_every_document_once() -> None:
    held_out = HeldOut.of(EXAMPLES)
    assert held_out.documents == ("the cat sat on the mat", "a dog ran under the tree", "the dog ran")
    assert held_out.relevant == (frozenset({0}), frozenset({1, 2}))
    assert held_out.candidates == ((0, 1), (1, 2, 0))
    with pytest.raises(DataError, match="no example"):
        HeldOut.of([])


def test_the_best_checkpoint_by_the_held_out_figures_is_what_a_run_ends_with(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    """The figures get worse after the second evaluation here, so the weights of the second are kept."""
    model = open_model()
    wanted = iter([0.1, 0.9, 0.5, 0.4])
    seen: list[torch.Tensor] = []

    def figures(trained: Trainable) -> dict[str, float]:
        assert not trained.training
        seen.append(trained.model.encoder.embeddings.word.weight.detach().clone())
        return {"ndcg@10": next(wanted)}

    args = arguments(
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="ndcg@10",
        greater_is_better=True,
    )
    ModelTrainer(model, args, plan(*[make_batch(seed=i) for i in range(4)]), DENSE, evaluate=figures).train()
    assert torch.equal(model.model.encoder.embeddings.word.weight, seen[1])


def test_figures_are_those_of_every_head_and_size(open_model: Make) -> None:
    objective = Objective(
        heads={
            "dense": HeadLoss(temperature=1.0, sizes={16: 1.0, 32: 1.0}),
            "sparse": HeadLoss(temperature=1.0),
            "multi_vector": HeadLoss(temperature=1.0, sizes={4: 1.0, 8: 1.0}),
        }
    )
    with torch.no_grad():
        figures = ModelFigures(HeldOut.of(EXAMPLES), objective, Lengths())(open_model().eval())
    assert list(figures) == [
        "ndcg@10",
        "dense_16_ndcg@10",
        "dense_32_ndcg@10",
        "sparse_ndcg@10",
        "multi_vector_4_ndcg@10",
        "multi_vector_8_ndcg@10",
    ]
    largest = [figures[f"{name}_ndcg@10"] for name in ("dense_32", "sparse", "multi_vector_8")]
    assert figures["ndcg@10"] == pytest.approx(sum(largest) / 3)
    assert all(0 < value <= 1 for value in figures.values())


def test_a_rerankers_figures_look_at_each_querys_own_candidates(open_reranker: Make) -> None:
    model = open_reranker().eval()
    with torch.no_grad():
        found = RerankerFigures(HeldOut.of(EXAMPLES), Lengths())(model)["ndcg@10"]
        expected = []
        for example in EXAMPLES:
            pairs = [(example.query, text) for text in (*example.positives, *example.negatives)]
            scores = model(model.read(pairs, max_length=None))
            expected.append(mean_ndcg(scores[None], [frozenset(range(len(example.positives)))]))
    assert found == pytest.approx(sum(expected) / 2)
    with pytest.raises(DataError, match="negative"):
        RerankerFigures(HeldOut.of([Example("q", ("d",))]), Lengths())


class _Terminate(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_the_run_after_its_step_with_a_checkpoint_and_gives_the_signal_back(
    open_model: Make, arguments: Make, plan: Make, make_batch: Make
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    args = arguments(save_strategy="steps", save_steps=100)
    trainer = ModelTrainer(open_model(), args, plan(*[make_batch()] * 5), DENSE, callbacks=[_Terminate()])
    trainer.train()
    assert trainer.state.global_step == 2
    assert [path.name for path in Path(args.output_dir).glob("checkpoint-*")] == ["checkpoint-2"]
    assert signal.getsignal(signal.SIGTERM) == before
