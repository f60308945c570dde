"""Training runs on transformers' ``Trainer``: processes, precision, checkpoints, resuming and logging come from it."""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments

from mgte_rag.devices import choose_attention
from mgte_rag.errors import InvalidOptionError
from mgte_rag.nn.attention import use_attention
from mgte_training.finetune.callbacks import SaveOnTermination
from mgte_training.finetune.grad_cache import backward_in_parts
from mgte_training.finetune.losses import info_nce, kl_divergence
from mgte_training.finetune.objective import NO_TEACHER, Distillation, Objective, candidates_of
from mgte_training.finetune.representations import Representations, gathered, joined
from mgte_training.finetune.rows import loss_in_rows
from mgte_training.finetune.steps import Lengths, ModelSteps, PairStep, PairSteps, Plan, Step
from mgte_training.finetune.trainable import Trainable, TrainableModel, TrainableReranker
from mgte_training.finetune.watching import Alarms, Watch

Evaluate = Callable[[Trainable], Mapping[str, float]]
"""Figures of a model in evaluation mode, by name: ``mgte_training.finetune.held_out`` makes such functions."""


class _From(Sampler[int]):
    """The steps from the one that the run has come to: a resumed run goes on where it stopped, nothing is replayed."""

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self._trainer, self._steps = trainer, steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._trainer.state.global_step, self._steps))

    def __len__(self) -> int:
        return self._steps


class PlannedTrainer(Trainer):
    """A ``Trainer`` whose steps are those of a plan: one optimizer step for every batch of the plan.

    Every batch is a function of plan and step, so a run that was stopped and resumed trains on the same batches with
    the same random numbers as one that was not.

    Args:
        model: what is trained.
        args: ``transformers.TrainingArguments``; the plan decides the number of steps, and accumulation is what parts
            of a batch are for.
        steps: the plan's steps, tokenised.
        evaluate: figures of the held-out set; None trains without.
        alarms: when to stop a run that cannot succeed.
        callbacks: of transformers, besides the one that writes a checkpoint on SIGTERM.

    Raises:
        InvalidOptionError: arguments that contradict the plan.
    """

    def __init__(
        self,
        model: Trainable,
        args: TrainingArguments,
        steps: Dataset[Any],
        *,
        evaluate: Evaluate | None = None,
        alarms: Alarms | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        if args.gradient_accumulation_steps != 1:
            raise InvalidOptionError(
                "gradient_accumulation_steps is not 1; a batch is computed in parts of the plan's sub_batch instead"
            )
        assert isinstance(steps, Sized), "the steps of a plan are counted"
        args.max_steps = len(steps)
        args.ignore_data_skip = True  # batches are functions of the step: there is nothing to skip
        args.remove_unused_columns = False
        self._figures = evaluate
        self._termination = SaveOnTermination()
        self._watch = Watch(alarms or Alarms())
        self._parts: dict[str, list[Tensor]] = {}
        if args.bf16 and args.device.type == "cuda" and not model.is_frozen:
            use_attention(model, choose_attention(None, [args.device], torch.bfloat16))
        super().__init__(
            model=model,
            args=args,
            train_dataset=steps,
            eval_dataset=steps if evaluate else None,
            callbacks=[self._termination, *(callbacks or [])],
        )

    @property
    def terminated(self) -> bool:
        """Whether SIGTERM has ended the run before its last step."""
        return self._termination.asked and self.state.global_step < self.state.max_steps

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The plan's steps from where the run is, tokenised by worker processes where there are any."""
        steps: Any = self.train_dataset
        return DataLoader(
            steps,
            sampler=_From(self, len(steps)),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=self.args.dataloader_num_workers,
            generator=torch.Generator(),  # its own: a resumed run must not draw from the random numbers it restored
        )

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """One batch of the plan: its loss, and its gradients in the parameters."""
        model.train()
        found = self._step(model, inputs)
        for name, value in found.items():
            if name != "loss":
                self._parts.setdefault(name, []).append(value)
        return found["loss"]

    def _step(self, model: nn.Module, inputs: Any) -> dict[str, Tensor]:
        raise NotImplementedError

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the mean of every part of the loss since the last time; "epoch" is the share of the plan done."""
        self.state.epoch = self.state.global_step / max(1, self.state.max_steps)
        logs.pop("train_samples_per_second", None)  # counts batches of per_device_train_batch_size, which no plan has
        if "loss" in logs:
            logs |= {name: float(torch.stack(values).mean()) for name, values in self._parts.items()}
            self._parts = {}
        super().log(logs, start_time)

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The held-out set's figures, logged under ``eval_...``."""
        if self._figures is None:
            return {}
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, Trainable), "a trainer of something else"
        model.eval()
        with torch.no_grad():
            figures = {f"{metric_key_prefix}_{name}": value for name, value in self._figures(model).items()}
        self.log(dict(figures))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures


class ModelTrainer(PlannedTrainer):
    """Trains any of a model's dense, sparse and late-interaction outputs.

    Args:
        model: what is trained; the heads that the objective does not name stay as they are.
        args: ``transformers.TrainingArguments``.
        plan: which examples each step trains on.
        objective: what is minimised.
        lengths: tokens kept of each text.
        evaluate: figures of a held-out set.
        alarms: when to stop a run that cannot succeed.
        callbacks: of transformers.
    """

    def __init__(
        self,
        model: TrainableModel,
        args: TrainingArguments,
        plan: Plan,
        objective: Objective,
        *,
        lengths: Lengths | None = None,
        evaluate: Evaluate | None = None,
        alarms: Alarms | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        self._objective = objective
        late, dense = objective.heads.get("multi_vector"), objective.heads.get("dense")
        model.wanting(
            tuple(objective.heads),
            () if late is None else tuple(late.sizes) or model.token_sizes[-1:],
            () if dense is None else tuple(dense.sizes),
        )
        steps = ModelSteps(
            plan,
            model,
            lengths or Lengths(),
            rank=args.process_index,
            world=args.world_size,
            whole=model.is_frozen,
        )
        super().__init__(model, args, steps, evaluate=evaluate, alarms=alarms, callbacks=callbacks)

    def _step(self, model: nn.Module, inputs: Step) -> dict[str, Tensor]:
        targets = inputs.targets(self.args.device)

        def loss(parts: list[Representations]) -> dict[str, Tensor]:
            both = [_apart(part, count) for part, count in zip(parts, inputs.queries, strict=True)]
            queries = joined([queries for queries, _ in both])
            documents = gathered(joined([documents for _, documents in both]))
            self._watch.representations(documents)
            everyone = queries if self._objective.directions == "query" else gathered(queries)
            found = loss_in_rows(self._objective, queries, everyone, documents, targets, step=self.state.global_step)
            counts = {"queries": documents.texts // targets.group, "documents": documents.texts}
            self._watch.losses(found, candidates_of(self._objective, targets, **counts))
            return found

        if len(inputs.parts) == 1:
            found = loss([model(inputs.parts[0])])
            self.accelerator.backward(found["loss"])
            return {name: value.detach() for name, value in found.items()}
        return backward_in_parts(
            inputs.parts,
            model,
            loss,
            self.accelerator.backward,
            device=self.args.device,
            unsynchronised=lambda: self.accelerator.no_sync(model),
        )


class RerankerTrainer(PlannedTrainer):
    """Trains a cross-encoder: cross-entropy over each query's own candidates, a teacher's distribution, or both.

    A query's loss looks at its own candidates only, so the parts of a batch need no cache.

    Args:
        model: the reranker.
        args: ``transformers.TrainingArguments``.
        plan: which examples each step trains on.
        temperature: logits are divided by it.
        contrastive_weight: what the cross-entropy counts.
        distillation: learning from a teacher's scores; the data must have them.
        lengths: tokens kept of a pair.
        evaluate: figures of a held-out set.
        alarms: when to stop a run that cannot succeed.
        callbacks: of transformers.

    Source: mGTE, arXiv 2407.19669 (InfoNCE over the group); C-Pack's rerankers, FlagEmbedding.
    """

    def __init__(
        self,
        model: TrainableReranker,
        args: TrainingArguments,
        plan: Plan,
        *,
        temperature: float = 1.0,
        contrastive_weight: float = 1.0,
        distillation: Distillation | None = None,
        lengths: Lengths | None = None,
        evaluate: Evaluate | None = None,
        alarms: Alarms | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        if not temperature > 0 or (contrastive_weight == 0 and distillation is None):
            raise InvalidOptionError(
                f"temperature={temperature!r}, contrastive_weight={contrastive_weight!r}: a temperature above 0 and "
                f"something to learn from are needed"
            )
        self._temperature, self._contrastive_weight, self._distillation = temperature, contrastive_weight, distillation
        steps = PairSteps(plan, model, lengths or Lengths(), rank=args.process_index, world=args.world_size)
        super().__init__(model, args, steps, evaluate=evaluate, alarms=alarms, callbacks=callbacks)

    def _step(self, model: nn.Module, inputs: PairStep) -> dict[str, Tensor]:
        total = sum(len(part.ids) for part in inputs.pairs)
        sums: dict[str, Tensor] = {}
        seen: list[Tensor] = []
        first = 0
        for number, part in enumerate(inputs.pairs):
            with nullcontext() if number == len(inputs.pairs) - 1 else self.accelerator.no_sync(model):
                logits = model(part).view(-1, inputs.group)  # [queries, group]
                teacher = None if inputs.teacher is None else inputs.teacher[first : first + len(logits)]
                first += len(logits)
                found = self._loss(logits, teacher)
                seen.append(logits.detach())
                share = len(part.ids) / total
                self.accelerator.backward(found["loss"] * share)
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros_like(value.detach())) + share * value.detach()
        self._watch.losses(sums, {"listwise": inputs.group})
        self._watch.scores(torch.cat(seen))
        return sums

    def _loss(self, logits: Tensor, teacher: Tensor | None) -> dict[str, Tensor]:
        parts: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        if self._contrastive_weight:
            targets = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            parts["listwise"] = info_nce(logits, targets, temperature=self._temperature)
            weights["listwise"] = self._contrastive_weight
        if self._distillation is not None:
            if teacher is None:
                raise InvalidOptionError(NO_TEACHER)
            parts["distillation"] = kl_divergence(
                logits,
                teacher.to(logits.device),
                temperature=self._distillation.temperature,
                teacher_temperature=self._distillation.teacher_temperature,
                min_max=self._distillation.min_max,
            )
            weights["distillation"] = self._distillation.weight
        return {"loss": torch.stack([weights[name] * value for name, value in parts.items()]).sum(), **parts}


def _as_it_is(step: Any) -> Any:
    """What the steps give is a batch already."""
    return step


def _apart(part: Representations, queries: int) -> tuple[Representations, Representations]:
    """A part's queries and its documents."""
    places = list(range(part.texts))
    return part.picked(places[:queries]), part.picked(places[queries:])
