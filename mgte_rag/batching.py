"""Which texts go through the encoder together."""

from collections.abc import Iterator, Sequence


def plan_batches(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Group texts into batches of at most ``token_budget`` tokens, longest first.

    Sorting by length makes runs of equally long texts, which attention handles in one call, and starting with the
    longest meets a lack of memory at once rather than at the end.

    Args:
        lengths: tokens of each text.
        token_budget: tokens of a batch; a text longer than that is a batch of its own.

    Yields:
        Positions of the texts of one batch. Every position occurs once; equal lengths keep their order.
    """
    batch: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and tokens + lengths[index] > token_budget:
            yield batch
            batch, tokens = [], 0
        batch.append(index)
        tokens += lengths[index]
    if batch:
        yield batch
