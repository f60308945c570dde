"""Losses on matrices of scores. Each is a function of fp32 tensors; what the scores are of is the caller's matter."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(scores: Tensor, targets: Tensor, *, temperature: float, excluded: Tensor | None = None) -> Tensor:
    """Cross-entropy of each row's target among all columns, averaged over the rows.

    Args:
        scores: fp32 [queries, documents].
        targets: int64 [queries], the column of each row's positive.
        temperature: scores are divided by it.
        excluded: bool [queries, documents], True at columns that are no negatives of that row; never at a target.

    Returns:
        fp32 scalar; ln(columns that count) where all scores are equal.

    Source: van den Oord et al. 2018, arXiv 1807.03748; mGTE, arXiv 2407.19669, and C-Pack, arXiv 2309.07597.
    """
    logits = scores / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    return F.cross_entropy(logits, targets)


def improved_info_nce(
    scores: Tensor,
    targets: Tensor,
    *,
    queries: Tensor,
    asking: Tensor,
    positives: Tensor,
    own: Tensor,
    temperature: float,
    excluded: Tensor | None = None,
) -> Tensor:
    """InfoNCE whose denominator also holds the other queries, and what these and other positives score with its own.

        Z_i = sum_j e^s(q_i, d_j) + sum_{j != i} (e^s(q_i, q_j) + e^s(q_j, p_i) + e^s(p_j, p_i))

    Args:
        scores: fp32 [rows, documents].
        targets: int64 [rows], the column of each row's positive.
        queries: fp32 [rows, queries], each row's query with all queries.
        asking: fp32 [rows, queries], each row's positive with all queries.
        positives: fp32 [rows, queries], each row's positive with all positives.
        own: int64 [rows], each row's place among the queries.
        temperature: scores are divided by it.
        excluded: bool [rows, documents], True at columns that are no negatives of that row.

    Source: Li et al. 2023 (GTE), arXiv 2308.03281, section 3.3; known from a secondary source, which has one joint
    denominator.
    """
    logits = scores / temperature
    if excluded is not None:
        logits = logits.masked_fill(excluded, -torch.inf)
    itself = F.one_hot(own, queries.shape[1]).bool()
    more = [(each / temperature).masked_fill(itself, -torch.inf) for each in (queries, asking, positives)]
    return F.cross_entropy(torch.cat([logits, *more], dim=1), targets)


def kl_divergence(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    min_max: bool = False,
) -> Tensor:
    """How far the student's distribution over each row's candidates is from the teacher's, KL(teacher || student).

    Args:
        student: fp32 [queries, candidates].
        teacher: fp32 [queries, candidates].
        temperature: of the student's scores.
        teacher_temperature: of the teacher's.
        min_max: scale the scores of every row to 0..1 first, on both sides.

    Returns:
        fp32 scalar, the mean over the rows; 0 where the distributions are equal.

    Source: Jina-ColBERT-v2, arXiv 2408.16672, section 3.3 (without min_max, which was inconclusive there).
    """
    if min_max:
        student, teacher = _scaled(student), _scaled(teacher)
    target = F.log_softmax(teacher / teacher_temperature, dim=-1)
    return F.kl_div(F.log_softmax(student / temperature, dim=-1), target, reduction="batchmean", log_target=True)


def _scaled(scores: Tensor) -> Tensor:
    low, high = scores.amin(-1, keepdim=True), scores.amax(-1, keepdim=True)
    return (scores - low) / (high - low).clamp(min=1e-6)


def soft_cross_entropy(student: Tensor, teacher: Tensor, *, temperature: float, excluded: Tensor | None) -> Tensor:
    """Cross-entropy of the student's distribution over all columns against the teacher's, whose gradient is stopped.

    Args:
        student: fp32 [queries, documents].
        teacher: fp32 [queries, documents].
        temperature: of both.
        excluded: bool [queries, documents], True at columns that do not count.

    Source: BGE-M3, arXiv 2402.03216, section 3.3, L'_* = -p(s_inter) log p(s_*).
    """
    logits, target = student / temperature, teacher.detach() / temperature
    if excluded is not None:
        logits, target = (each.masked_fill(excluded, -torch.inf) for each in (logits, target))
    logs = F.log_softmax(logits, dim=-1)
    if excluded is not None:
        logs = logs.masked_fill(excluded, 0.0)  # 0 times -inf is no number
    return -(F.softmax(target, dim=-1) * logs).sum(-1).mean()
