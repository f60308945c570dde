"""Pre-training on transformers' ``Trainer``: masked language modelling and RetroMAE."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from mgte_rag.batching import plan_batches
from mgte_rag.errors import InvalidOptionError
from mgte_training.finetune.trainer import PlannedTrainer
from mgte_training.finetune.watching import Alarms
from mgte_training.pretrain.language_model import TrainableLanguageModel
from mgte_training.pretrain.masking import MaskedText, Masker, Masking, RetroMAE
from mgte_training.pretrain.text_plan import MASKS, TextPlan


@dataclass(frozen=True, slots=True)
class MaskedStep:
    """A device's share of a step.

    Attributes:
        parts: masked texts, longest first, in parts that are computed at once.
    """

    parts: list[list[MaskedText]]

    @property
    def predicted(self) -> dict[str, int]:
        """How many tokens are predicted, by the encoder's head and by the decoder."""
        texts = [text for part in self.parts for text in part]
        decoded = sum(len(text.visible) for text in texts if text.visible is not None)
        return {"mlm": sum(int(text.chosen.sum()) for text in texts), "decoder": decoded}


class MaskedSteps(Dataset[MaskedStep]):
    """The steps of a plan, masked: each text by its own random numbers, which plan, step and its place decide.

    Args:
        plan: which texts.
        masker: hides tokens.
        rank: this process.
        world: how many there are.

    Raises:
        InvalidOptionError: a batch has fewer texts than there are processes.
    """

    def __init__(self, plan: TextPlan, masker: Masker, *, rank: int = 0, world: int = 1) -> None:
        if plan.batches.batch < world:
            raise InvalidOptionError(f"batch={plan.batches.batch}: {world} processes need at least one text each")
        self._plan, self._masker, self._rank, self._world = plan, masker, rank, world

    def __len__(self) -> int:
        return self._plan.steps

    def __getitem__(self, number: int) -> MaskedStep:
        seed = self._plan.seed
        masked = [
            self._masker.mask(ids, np.random.default_rng([seed, MASKS, number, place]))
            for place, ids in self._plan.texts(number, self._rank, self._world)
        ]
        budget = self._plan.batches.token_budget
        parts = plan_batches([len(text.ids) for text in masked], lambda: budget)
        return MaskedStep([[masked[place] for place in part] for part in parts])


class PretrainTrainer(PlannedTrainer):
    """Trains an encoder to say hidden tokens; the loss is a mean over all predicted tokens of a step, on all devices.

    Args:
        model: what is trained.
        args: ``transformers.TrainingArguments``.
        plan: which texts each step reads.
        objective: what is hidden.
        alarms: when to stop a run that cannot succeed.
        callbacks: of transformers.
    """

    def __init__(
        self,
        model: TrainableLanguageModel,
        args: TrainingArguments,
        plan: TextPlan,
        objective: Masking | RetroMAE,
        *,
        alarms: Alarms | None = None,
        callbacks: list[Any] | None = None,
    ) -> None:
        model.learning(objective, seed=plan.seed)
        masker = Masker(model.checkpoint.tokenizer, objective)
        steps = MaskedSteps(plan, masker, rank=args.process_index, world=args.world_size)
        super().__init__(model, args, steps, alarms=alarms, callbacks=callbacks)

    def _step(self, model: nn.Module, inputs: MaskedStep) -> dict[str, Tensor]:
        counts = self._counted(inputs)
        sums: dict[str, Tensor] = {}
        for number, part in enumerate(inputs.parts):
            with nullcontext() if number == len(inputs.parts) - 1 else self.accelerator.no_sync(model):
                found = {name: value / counts[name] for name, value in model(part).items()}
                loss = torch.stack([value for name, value in found.items() if name != "right"]).sum()
                self.accelerator.backward(loss)
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros_like(value.detach())) + value.detach()
        total = torch.stack([value for name, value in sums.items() if name != "right"]).sum()
        losses = {"loss": total, **{name: value for name, value in sums.items() if name != "right"}}
        self._watch.losses(losses, candidates={})
        return {**losses, "accuracy": sums["right"]}

    def _counted(self, inputs: MaskedStep) -> dict[str, Tensor]:
        """What sums are divided by so that the mean over the processes is the mean over all predicted tokens."""
        predicted = inputs.predicted
        own = torch.tensor([predicted["mlm"], predicted["decoder"]], device=self.args.device, dtype=torch.float32)
        mlm, decoder = (self.accelerator.reduce(own, "sum").clamp(min=1) / self.args.world_size).unbind()
        return {"mlm": mlm, "right": mlm, "decoder": decoder}
