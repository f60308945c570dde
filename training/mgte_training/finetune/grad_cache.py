"""A large batch's exact gradient in the memory of a small one.

Source: Gao et al. 2021, arXiv 2101.06983 (GradCache).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from mgte_rag.token_rules import Inputs
from mgte_training.finetune.representations import Representations

Represent = Callable[[Inputs], Representations]
Loss = Callable[[list[Representations]], dict[str, Tensor]]


class _Chance:
    """The state of the random numbers, so that dropout drops the same on the second way."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(each) for each in self._devices]

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same random numbers once more; afterwards the present ones go on."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def backward_in_parts(
    parts: Sequence[Inputs],
    represent: Represent,
    loss: Loss,
    backward: Callable[[Tensor], None],
    *,
    device: torch.device,
    unsynchronised: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, Tensor]:
    """Gradients of a loss over all parts, with the encoder's activations of one part at a time.

    All parts are represented without gradients; the loss is computed on these and sends its gradients to them; then
    part after part is represented again and passes them on. The gradients are those of the loss over everything at
    once, up to rounding; the encoder works once more than in a plain step.

    Args:
        parts: token ids.
        represent: the model.
        loss: of the parts' representations to "loss" and whatever it is made of.
        backward: called with a scalar for every part; the gradients of all of them add up.
        device: where the model computes, for its random numbers.
        unsynchronised: entered for all parts but the last, so that processes exchange gradients once.

    Returns:
        What ``loss`` returned, detached.
    """
    states, leaves = [], []
    with torch.no_grad():
        for part in parts:
            states.append(_Chance(device))
            leaves.append(represent(part))
    leaves = [each.leaves() for each in leaves]
    found = loss(leaves)
    found["loss"].backward()
    for number, (part, state, leaf) in enumerate(zip(parts, states, leaves, strict=True)):
        with nullcontext() if number == len(parts) - 1 else unsynchronised():
            with state.again():
                tensors = represent(part).tensors
            backward(_surrogate(tensors, leaf.tensors))
    return {name: value.detach() for name, value in found.items()}


def _surrogate(tensors: Sequence[Tensor], leaves: Sequence[Tensor]) -> Tensor:
    """A scalar whose gradient by the tensors is what the leaves collected."""
    products = [
        (tensor * leaf.grad).sum()
        for tensor, leaf in zip(tensors, leaves, strict=True)
        if leaf.grad is not None  # a head that this loss does not look at
    ]
    return torch.stack(products).sum()
