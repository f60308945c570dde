"""How far a long call has come."""

import time
from types import TracebackType
from typing import Any, Self

from huggingface_hub import utils


class Progress:
    """A progress bar on standard error with items and tokens per second.

    Args:
        what: a word for the work, "encoding".
        unit: what is counted, "texts".
        total: how many there are, None if not known.
        show: draw it.
    """

    def __init__(self, what: str, *, unit: str, total: int | None, show: bool) -> None:
        bar_class: Any = utils.tqdm  # type: ignore[attr-defined]  # obeys the hub's environment variable for no bars
        # Made only to be shown: making one takes a tenth of a millisecond, of the three that a query takes.
        self._bar = bar_class(desc=what, unit=f" {unit}", total=total) if show else None
        self._started = time.perf_counter()
        self._tokens = 0

    def advance(self, items: int, tokens: int) -> None:
        """Count work that is done."""
        if self._bar is None:
            return
        self._tokens += tokens
        if self._tokens:
            rate = self._tokens / (time.perf_counter() - self._started)
            self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        self._bar.update(items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
