"""Which texts are tokenised, and which go through the encoder, together."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from mgte_rag.token_rules import Inputs

# Texts tokenised and sorted together: enough for long runs of equal length, few enough to bound memory. The first
# windows are smaller, so that computing starts soon.
_FIRST_WINDOW = 1_024
_WINDOW = 8_192


def read_ahead(texts: int, read: Callable[[slice], Inputs]) -> Iterator[tuple[slice, Inputs]]:
    """Tokenise texts window by window, each while the caller computes with the one before.

    Args:
        texts: how many there are.
        read: tokenises the texts of a slice.

    Yields:
        The slice and its inputs, in order.
    """
    windows = list(_windows(texts))
    if len(windows) == 1:  # a thread would only cost
        yield windows[0], read(windows[0])
        return
    with ThreadPoolExecutor(1) as thread:
        coming = [thread.submit(read, window) for window in windows[:1]]
        for number, window in enumerate(windows):
            inputs = coming.pop().result()
            coming += [thread.submit(read, following) for following in windows[number + 1 : number + 2]]
            yield window, inputs


def _windows(texts: int) -> Iterator[slice]:
    start, size = 0, _FIRST_WINDOW
    while start < texts:
        yield slice(start, min(start + size, texts))
        start, size = start + size, min(2 * size, _WINDOW)


def plan_batches(lengths: Sequence[int], token_budget: Callable[[], int]) -> Iterator[list[int]]:
    """Group texts into batches of at most ``token_budget()`` tokens, longest first.

    Sorting by length makes runs of equally long texts, which attention handles in one call, and starting with the
    longest meets a lack of memory at once rather than at the end.

    Args:
        lengths: tokens of each text.
        token_budget: tokens of a batch, asked anew for each, since it shrinks where memory runs out; a text longer
            than that is a batch of its own.

    Yields:
        Positions of the texts of one batch. Every position occurs once; equal lengths keep their order.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and tokens + lengths[index] > token_budget():
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
