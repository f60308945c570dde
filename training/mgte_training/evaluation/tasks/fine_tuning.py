"""An encoder trained further with a new head, in plain torch: seeded, packed, fp32."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mgte_rag import InvalidOptionError, TrainingError
from mgte_rag.batching import plan_batches
from mgte_rag.checkpoints import Checkpoint, find_model, load_checkpoint
from mgte_rag.devices import choose_device, token_budget
from mgte_rag.nn.encoder import Encoder
from mgte_rag.nn.packing import PackedBatch, pack
from mgte_rag.progress import Progress
from mgte_rag.tokenization import TokenizedTexts

ModelName = str | os.PathLike[str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuning:
    """How an encoder is fine-tuned: AdamW, linear warm-up and decay, gradients clipped.

    Attributes:
        epochs: times every example is seen.
        batch_size: examples of a step.
        learning_rate: at its peak.
        weight_decay: of matrices; biases and norms have none.
        warmup: share of the steps in which the rate rises.
        clip: largest norm of the gradient.
        max_length: tokens read of a text or pair; None is the model's own limit.
        seed: of the head's first weights and of the order of the examples; the same seed gives the same model.
        device: "cpu", "cuda", ...; None takes the best one there is.

    Raises:
        InvalidOptionError: a value out of its range.

    Source: Devlin et al. 2019, arXiv 1810.04805, appendix A.3, for what GLUE is usually fine-tuned with.
    """

    epochs: int = 3
    batch_size: int = 32
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    max_length: int | None = None
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidOptionError(f"{name}={value!r}: a whole number from 1 on")
        for name, highest in (("learning_rate", math.inf), ("clip", math.inf)):
            value = getattr(self, name)
            if not 0 < value < highest:
                raise InvalidOptionError(f"{name}={value!r}: a number above 0")
        for name in ("weight_decay", "warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidOptionError(f"{name}={getattr(self, name)!r}: a number from 0 to 1")


class EncoderWithHead(nn.Module):
    """A published encoder, its weights in fp32 and free to change, and a new linear head.

    Args:
        model: a hub id, a folder, or None for the embedded default.
        outputs: width of the head.
        options: where it computes, how much it reads and what the head starts from.

    Raises:
        UnknownModelError: no such model.
        CheckpointError: the model cannot be loaded exactly.
        InvalidOptionError: more tokens than the model reads, or no such device.
    """

    def __init__(self, model: ModelName, outputs: int, options: FineTuning) -> None:
        super().__init__()
        self.checkpoint: Checkpoint = load_checkpoint(find_model(None if model is None else os.fspath(model)))
        self.device = choose_device(options.device)
        self.max_length = _checked_length(self.checkpoint, options.max_length)
        # A fresh copy that no engine shares, in fp32 and not prepared for inference.
        self.encoder: Encoder = self.checkpoint.load_model(self.device, torch.float32).encoder
        for parameter in self.encoder.parameters():
            parameter.data = parameter.data.clone()  # out of the file that it may be mapped from
            parameter.requires_grad_(True)
        width = self.checkpoint.config.encoder.hidden
        weight = torch.randn(outputs, width, generator=torch.Generator().manual_seed(options.seed)) * 0.02
        self.head = nn.Linear(width, outputs)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.zero_()
        self.head.to(self.device)

    def hidden(self, tokens: TokenizedTexts, places: Sequence[int]) -> tuple[Tensor, PackedBatch]:
        """Hidden states of the texts at these places, fp32 [tokens, hidden], and where they are."""
        typed = tokens.types if self.checkpoint.config.encoder.token_types > 1 else None
        batch = pack(
            [tokens.ids[place] for place in places],
            self.device,
            types=None if typed is None else [typed[place] for place in places],
        )
        return self.encoder(batch), batch

    def batches(self, tokens: TokenizedTexts) -> Iterator[list[int]]:
        """The places of the texts of each batch that inference computes together."""
        budget = token_budget(self.device, self.checkpoint.config.encoder, torch.float32)
        return plan_batches([len(ids) for ids in tokens.ids], lambda: budget)


def _checked_length(checkpoint: Checkpoint, max_length: int | None) -> int:
    longest = checkpoint.config.max_length
    if max_length is None:
        return longest
    shortest = checkpoint.tokenizer.min_pair_length + 2
    if isinstance(max_length, bool) or not isinstance(max_length, int) or not shortest <= max_length <= longest:
        raise InvalidOptionError(
            f"max_length={max_length!r}: the model {checkpoint.identity.name!r} reads {shortest} to {longest} tokens"
        )
    return max_length


def fine_tune(
    model: EncoderWithHead,
    lengths: Sequence[int],
    loss_of: Callable[[list[int]], Tensor],
    options: FineTuning,
    *,
    show_progress: bool = False,
) -> None:
    """Train the encoder and its head; a seed and a machine give one result.

    Args:
        model: what is trained, in place.
        lengths: tokens of each example.
        loss_of: the mean loss of the examples at these places, with its graph.
        options: epochs, rates and seed.
        show_progress: draw a progress bar on standard error.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    examples = len(lengths)
    steps = options.epochs * math.ceil(examples / options.batch_size)
    optimizer = torch.optim.AdamW(_groups(model, options.weight_decay), lr=options.learning_rate)
    rising = max(1, round(options.warmup * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rising, (steps - step) / max(1, steps - rising))
    )
    model.train()
    chance = torch.Generator().manual_seed(options.seed)
    with torch.enable_grad(), Progress("fine-tuning", unit="examples", total=None, show=show_progress) as progress:
        for _ in range(options.epochs):
            order = torch.randperm(examples, generator=chance).tolist()
            for start in range(0, examples, options.batch_size):
                # Sorted by length: equally long neighbours are one call of attention.
                places = sorted(order[start : start + options.batch_size], key=lambda place: -lengths[place])
                loss = loss_of(places)
                if not torch.isfinite(loss):
                    raise TrainingError(
                        f"the loss became {loss.item()} at a learning rate of {options.learning_rate}; try a tenth"
                    )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), options.clip)
                optimizer.step()
                schedule.step()
                progress.advance(len(places), sum(lengths[place] for place in places))
    model.eval()


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
