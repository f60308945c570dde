"""Each loss against a value computed by hand or by a naive loop."""

import math

import pytest
import torch

from mgte_rag import InvalidOptionError, scoring
from mgte_training.finetune.losses import improved_info_nce, info_nce, kl_divergence, soft_cross_entropy
from mgte_training.finetune.objective import (
    Distillation,
    HeadLoss,
    Objective,
    SelfDistillation,
    Targets,
    scores_of,
    total_loss,
)
from mgte_training.finetune.representations import Representations, joined


def exponentials(*values: float) -> float:
    return sum(math.exp(value) for value in values)


def test_info_nce_is_the_negative_log_of_the_positives_share() -> None:
    scores = torch.tensor([[0.8, 0.2, 0.4], [0.1, 0.3, 0.9]])
    first = -math.log(math.exp(8) / exponentials(8, 2, 4))
    second = -math.log(math.exp(9) / exponentials(1, 3, 9))
    loss = info_nce(scores, torch.tensor([0, 2]), temperature=0.1)
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_info_nce_of_equal_scores_is_the_log_of_the_candidates() -> None:
    assert info_nce(torch.ones(3, 8), torch.tensor([0, 1, 2]), temperature=0.02).item() == pytest.approx(math.log(8))


def test_an_excluded_document_is_no_negative() -> None:
    scores, excluded = torch.tensor([[1.0, 5.0, 0.0]]), torch.tensor([[False, True, False]])
    loss = info_nce(scores, torch.tensor([0]), temperature=1.0, excluded=excluded)
    assert loss.item() == pytest.approx(-math.log(math.exp(1) / exponentials(1, 0)), rel=1e-5)


def test_the_improved_denominator_holds_queries_and_positives_too() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    queries, positives = torch.tensor([[1.0, 0.3], [0.3, 1.0]]), torch.tensor([[1.0, 0.4], [0.4, 1.0]])
    loss = improved_info_nce(
        scores,
        torch.tensor([0, 1]),
        queries=queries,
        asking=scores.T,
        positives=positives,
        own=torch.tensor([0, 1]),
        temperature=1.0,
    )
    first = -math.log(math.exp(0.9) / exponentials(0.9, 0.1, 0.3, 0.2, 0.4))
    second = -math.log(math.exp(0.8) / exponentials(0.2, 0.8, 0.3, 0.1, 0.4))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_kl_divergence_sums_the_teachers_shares_times_the_log_ratio() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    p = [1 / (1 + math.exp(2)), math.exp(2) / (1 + math.exp(2))]
    q = [math.exp(1) / (1 + math.exp(1)), 1 / (1 + math.exp(1))]
    expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert kl_divergence(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_kl_divergence_is_zero_for_the_teachers_own_scores_whatever_their_scale_with_min_max() -> None:
    teacher = torch.tensor([[3.0, -1.0, 0.5]])
    assert kl_divergence(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert kl_divergence(10 * teacher + 4, teacher, min_max=True).item() == pytest.approx(0.0, abs=1e-6)


def test_min_max_scales_each_row_of_both_sides_to_0_and_1() -> None:
    student, teacher = torch.tensor([[7.0, 3.0], [-2.0, 8.0]]), torch.tensor([[10.0, 30.0], [0.1, 0.2]])
    p = 1 / (1 + math.e)
    apart = (1 - p) * math.log((1 - p) / p) + p * math.log(p / (1 - p))  # the second row is alike
    assert kl_divergence(student, teacher, min_max=True).item() == pytest.approx(apart / 2, rel=1e-5)
    assert kl_divergence(torch.ones(1, 2), teacher[:1], min_max=True).isfinite()


def test_a_temperature_divides_the_side_it_is_of() -> None:
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.0]])
    assert kl_divergence(student, teacher, temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)
    assert kl_divergence(teacher, student, teacher_temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)


def test_soft_cross_entropy_weighs_the_students_logs_with_the_teachers_shares_and_stops_its_gradient() -> None:
    student = torch.tensor([[0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[math.log(3.0), 0.0]], requires_grad=True)
    loss = soft_cross_entropy(student, teacher, temperature=1.0, excluded=None)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.tolist() == [pytest.approx([-0.25, 0.25])]


def test_soft_cross_entropy_with_an_excluded_column_is_a_number() -> None:
    scores, excluded = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[False, False, True]])
    loss = soft_cross_entropy(scores, scores, temperature=1.0, excluded=excluded)
    p = math.exp(1) / exponentials(1, 2)
    assert loss.item() == pytest.approx(-(p * math.log(p) + (1 - p) * math.log(1 - p)), rel=1e-5)


def representations(seed: int, texts: int) -> Representations:
    """Random vectors of texts with two terms and two token vectors each."""
    chance = torch.Generator().manual_seed(seed)
    return Representations(
        texts=texts,
        dense=torch.randn(texts, 8, generator=chance),
        weights=torch.rand(2 * texts, generator=chance) + 0.1,
        ids=torch.stack([torch.randperm(5, generator=chance)[:2].sort().values for _ in range(texts)]).flatten(),
        counts=torch.full((texts,), 2),
        vectors={4: torch.nn.functional.normalize(torch.randn(2 * texts, 4, generator=chance), dim=-1)},
        vector_counts=torch.full((texts,), 2),
    )


def test_every_head_scores_as_inference_does() -> None:
    queries, documents = representations(0, 2), representations(1, 3)
    assert queries.dense is not None
    assert documents.dense is not None
    dense = scores_of("dense", 4)(queries, documents)
    torch.testing.assert_close(dense, scoring.cosine(queries.dense[:, :4], documents.dense[:, :4]))
    weights, ids = documents.weights, documents.ids
    assert weights is not None
    assert ids is not None
    assert queries.weights is not None
    assert queries.ids is not None
    theirs = dict(zip(ids[:2].tolist(), weights[:2].tolist(), strict=True))
    own = zip(queries.ids[:2].tolist(), queries.weights[:2].tolist(), strict=True)
    expected = sum(weight * theirs.get(term, 0.0) for term, weight in own)
    assert scores_of("sparse", 0)(queries, documents)[0, 0].item() == pytest.approx(expected, rel=1e-5)
    tokens = queries.vectors[4][:2] @ documents.vectors[4][:2].T
    late = scores_of("multi_vector", 4)(queries, documents)
    assert late[0, 0].item() == pytest.approx(float(tokens.amax(1).mean()), rel=1e-5)


def test_the_whole_loss_is_the_weighted_sum_of_its_parts() -> None:
    queries, documents = representations(0, 3), representations(1, 6)
    objective = Objective(
        heads={
            "dense": HeadLoss(temperature=0.1, sizes={4: 2.0, 8: 1.0}),
            "sparse": HeadLoss(temperature=0.5, weight=0.3),
            "multi_vector": HeadLoss(temperature=0.2, weight=0.5),
        },
        self_distillation=SelfDistillation(
            shares={"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}, temperature=0.2, ensemble_weight=0.7, weight=0.9
        ),
    )
    targets = Targets(own=torch.arange(3), group=2)
    found = {k: v.item() for k, v in total_loss(objective, queries, queries, documents, targets).items()}
    heads = 2 * found["dense_4"] + found["dense_8"] + 0.3 * found["sparse"] + 0.5 * found["multi_vector"]
    learnt = 1.0 * found["dense_self_distillation"] + 0.3 * found["sparse_self_distillation"]
    learnt += 0.5 * found["multi_vector_self_distillation"]
    assert found["loss"] == pytest.approx(heads + 0.7 * found["ensemble"] + 0.9 * learnt / 3, rel=1e-5)


def test_self_distillation_is_that_of_bge_m3() -> None:
    """s_inter = s_dense + 0.3 s_lex + s_mul; its own InfoNCE; L'_* = -p(s_inter) log p(s_*)."""
    queries, documents = representations(0, 3), representations(1, 6)
    shares = {"dense": 1.0, "sparse": 0.3, "multi_vector": 1.0}
    objective = Objective(
        heads={output: HeadLoss(temperature=0.5) for output in ("dense", "sparse", "multi_vector")},
        self_distillation=SelfDistillation(shares=shares, temperature=0.2),  # type: ignore[arg-type]
    )
    found = total_loss(objective, queries, queries, documents, Targets(own=torch.arange(3), group=2))
    sizes = {"dense": 8, "sparse": 0, "multi_vector": 4}
    scores = {output: scores_of(output, size)(queries, documents) for output, size in sizes.items()}  # type: ignore[arg-type]
    ensemble, learnt = 0.0, dict.fromkeys(scores, 0.0)
    for row in range(3):
        together = [sum(shares[output] * each[row, column].item() for output, each in scores.items()) / 0.2
                    for column in range(6)]  # fmt: skip
        teacher = [math.exp(value) / exponentials(*together) for value in together]
        ensemble -= math.log(teacher[2 * row]) / 3
        for output, each in scores.items():
            own = [value / 0.2 for value in each[row].tolist()]
            logs = [value - math.log(exponentials(*own)) for value in own]
            learnt[output] -= sum(share * log for share, log in zip(teacher, logs, strict=True)) / 3
    assert found["ensemble"].item() == pytest.approx(ensemble, rel=1e-4)
    for output, value in learnt.items():
        assert found[f"{output}_self_distillation"].item() == pytest.approx(value, rel=1e-4)


def test_the_heads_learn_from_their_sum_from_the_given_step_on() -> None:
    queries, documents = representations(0, 2), representations(1, 2)
    objective = Objective(
        heads={"dense": HeadLoss(temperature=0.1)},
        self_distillation=SelfDistillation(shares={"dense": 1.0}, temperature=0.1, start=5),
    )
    targets = Targets(own=torch.arange(2), group=1)
    assert "dense_self_distillation" not in total_loss(objective, queries, queries, documents, targets, step=4)
    assert "dense_self_distillation" in total_loss(objective, queries, queries, documents, targets, step=5)


def test_without_in_batch_negatives_a_query_sees_its_own_candidates_only() -> None:
    queries, documents = representations(0, 2), representations(1, 4)
    objective = Objective(heads={"dense": HeadLoss(temperature=0.1)})
    targets = Targets(own=torch.arange(2), group=2, in_batch=False)
    scores = scores_of("dense", 8)(queries, documents) / 0.1
    own = [scores[0, 0] - torch.logsumexp(scores[0, :2], 0), scores[1, 2] - torch.logsumexp(scores[1, 2:], 0)]
    found = total_loss(objective, queries, queries, documents, targets)
    torch.testing.assert_close(found["loss"], -torch.stack(own).mean())


def test_both_directions_add_the_loss_from_positives_to_queries() -> None:
    queries, documents = representations(0, 3), representations(1, 6)
    one, both = (Objective(heads={"dense": HeadLoss(temperature=0.1)}, directions=d) for d in ("query", "both"))
    targets = Targets(own=torch.arange(3), group=2)
    back = scores_of("dense", 8)(documents.picked([0, 2, 4]), queries)
    expected = total_loss(one, queries, queries, documents, targets)["loss"] + info_nce(
        back, torch.arange(3), temperature=0.1
    )
    torch.testing.assert_close(total_loss(both, queries, queries, documents, targets)["loss"], expected)


def test_the_improved_loss_of_a_batch_is_that_of_a_naive_loop() -> None:
    """Every query and every positive beside the documents; what is marked as alike is nowhere in the denominator."""
    queries, documents = representations(0, 3), representations(1, 6)
    excluded = torch.zeros(3, 6, dtype=torch.bool)
    excluded[0, 2] = excluded[1, 0] = True  # the first two queries have positives that answer both
    objective = Objective(heads={"dense": HeadLoss(temperature=0.5)}, directions="improved")
    targets = Targets(own=torch.arange(3), group=2, excluded=excluded)
    found = total_loss(objective, queries, queries, documents, targets)["loss"].item()
    assert queries.dense is not None
    assert documents.dense is not None
    asked, texts = (torch.nn.functional.normalize(side, dim=-1) / 0.5**0.5 for side in (queries.dense, documents.dense))
    expected = 0.0
    for i in range(3):
        others = [j for j in range(3) if j != i and not excluded[i, 2 * j]]
        terms = [float(asked[i] @ texts[j]) for j in range(6) if not excluded[i, j]]
        for j in others:
            terms += [float(asked[i] @ asked[j]), float(asked[j] @ texts[2 * i]), float(texts[2 * i] @ texts[2 * j])]
        expected -= math.log(math.exp(float(asked[i] @ texts[2 * i])) / exponentials(*terms)) / 3
    assert found == pytest.approx(expected, rel=1e-4)


def test_distillation_looks_at_each_querys_own_candidates() -> None:
    queries, documents = representations(0, 2), representations(1, 6)
    teacher = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 1.0]])
    objective = Objective(
        heads={"dense": HeadLoss(temperature=1.0)}, contrastive_weight=0.0, distillation=Distillation(temperature=0.5)
    )
    scores = scores_of("dense", 8)(queries, documents)
    own = torch.stack([scores[0, :3], scores[1, 3:]])
    found = total_loss(objective, queries, queries, documents, Targets(torch.arange(2), 3, teacher=teacher))
    torch.testing.assert_close(found["loss"], kl_divergence(own, teacher, temperature=0.5))


def test_the_sparse_loss_never_makes_a_tensor_as_wide_as_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    spread = scoring._spread

    def watched(*arguments: object) -> torch.Tensor:
        wide = spread(*arguments)  # type: ignore[arg-type]
        made.append(wide.shape[1])
        return wide

    monkeypatch.setattr(scoring, "_spread", watched)
    queries, documents = representations(0, 2), representations(1, 4)
    assert documents.ids is not None
    documents.ids[:] = torch.arange(len(documents.ids)) * 31_000
    scores_of("sparse", 0)(queries, documents)
    assert max(made) <= 4  # the queries' terms


def test_token_similarities_that_are_computed_again_give_the_same_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for kept in (10**9, 8):
        monkeypatch.setattr("mgte_training.finetune.objective._KEPT_FLOATS", kept)
        queries, documents = representations(0, 2).leaves(), representations(1, 5).leaves()
        scores_of("multi_vector", 4)(queries, documents).square().sum().backward()
        gradients.append([side.vectors[4].grad for side in (queries, documents)])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_picked_texts_keep_their_own_terms_and_vectors() -> None:
    texts = joined([representations(0, 2), representations(1, 3)])
    some = texts.picked([4, 0])
    assert texts.dense is not None
    assert some.dense is not None
    assert torch.equal(some.dense, texts.dense[[4, 0]])
    assert torch.equal(some.vectors[4], texts.vectors[4][[8, 9, 0, 1]])
    assert texts.ids is not None
    assert some.ids is not None
    assert torch.equal(some.ids, texts.ids[[8, 9, 0, 1]])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: HeadLoss(temperature=0.0),
        lambda: Objective(heads={}),
        lambda: Objective(heads={"dense": HeadLoss(temperature=1.0)}, directions="sideways"),  # type: ignore[arg-type]
        lambda: Objective(heads={"dense": HeadLoss(temperature=1.0)}, contrastive_weight=0.0),
        lambda: Objective(
            heads={"dense": HeadLoss(temperature=1.0)},
            self_distillation=SelfDistillation(shares={"sparse": 1.0}, temperature=1.0),
        ),
    ],
)
def test_an_objective_that_makes_no_sense_is_refused(wrong: object) -> None:
    with pytest.raises(InvalidOptionError):
        wrong()  # type: ignore[operator]
