"""The loss of a large batch, some queries at a time: scores of all with all at once would not fit."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mgte_training.finetune.objective import Objective, Targets, total_loss
from mgte_training.finetune.representations import Representations

# Scores of one slice, 256 MB in fp32 for each of the few matrices that a loss makes of them.
_KEPT_SCORES = 64 * 1024 * 1024


def loss_in_rows(
    objective: Objective,
    queries: Representations,
    all_queries: Representations,
    documents: Representations,
    targets: Targets,
    *,
    step: int = 0,
) -> dict[str, Tensor]:
    """``total_loss`` of a batch of any size: every part of it is a mean over queries, so slices of these add up.

    Where there is more than one slice, its scores are computed again on the way back instead of being kept. 16,384
    queries and as many documents are 4 slices; the arguments are those of ``total_loss``.
    """
    rows = max(1, _KEPT_SCORES // max(1, documents.texts))
    if queries.texts <= rows:
        return total_loss(objective, queries, all_queries, documents, targets, step=step)
    found: dict[str, Tensor] = {}
    for start in range(0, queries.texts, rows):
        places = list(range(start, min(start + rows, queries.texts)))
        loss = partial(_slice_loss, objective, queries, all_queries, documents, targets, places, step)
        part = checkpoint(loss, use_reentrant=False) if torch.is_grad_enabled() else loss()
        for name, value in part.items():
            share = value * (len(places) / queries.texts)
            found[name] = found[name] + share if name in found else share
    return found


def _slice_loss(
    objective: Objective,
    queries: Representations,
    all_queries: Representations,
    documents: Representations,
    targets: Targets,
    places: list[int],
    step: int,
) -> dict[str, Tensor]:
    here = slice(places[0], places[-1] + 1)
    own = replace(
        targets,
        own=targets.own[here],
        excluded=None if targets.excluded is None else targets.excluded[here],
        teacher=None if targets.teacher is None else targets.teacher[here],
    )
    return total_loss(objective, queries.picked(places), all_queries, documents, own, step=step)
