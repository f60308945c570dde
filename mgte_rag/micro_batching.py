"""Callers that come while a batch computes go into the next batch together."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

W = TypeVar("W")
L = TypeVar("L")


@dataclass(slots=True, eq=False)
class _Ticket(Generic[W, L]):
    """One caller's work, and what became of it.

    Attributes:
        work: what is to be computed.
        done: set when it was computed by another thread, or failed there, or when it has a lane.
        lane: where its own caller is to compute it.
        finished: computed, or failed with ``error``.
        error: what its own work raised.
        left: the caller is gone, interrupted.
    """

    work: W
    done: threading.Event = field(default_factory=threading.Event)
    lane: L | None = None
    finished: bool = False
    error: BaseException | None = None
    left: bool = False


class MicroBatcher(Generic[W, L]):
    """Joins the works of concurrent callers, without waiting for company.

    A caller who finds a lane idle computes at once, in its own thread. Those who come meanwhile wait, and a thread of
    the lane's computes for all of them whose works join, up to what ``joins`` allows, until nobody waits any more: if
    the callers did it in turns, each would bring up torch's threads anew, and these would get into each other's
    way. A batch that fails is computed again work by work, so that an error
    reaches the caller whose work it is and nobody else; a caller who is interrupted harms nobody. While the process
    ends, those who still call compute in turns.

    Args:
        lanes: where to compute, devices say; each computes one batch at a time.
        compute: computes a list of works in a lane and leaves the results in them.
        joins: whether a work may be added to those already in a batch.
    """

    def __init__(
        self, lanes: Sequence[L], compute: Callable[[list[W], L], None], joins: Callable[[list[W], W], bool]
    ) -> None:
        self._idle = list(lanes)
        self._compute = compute
        self._joins = joins
        self._waiting: list[_Ticket[W, L]] = []
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="mgte-rag-lane")  # started when needed

    def run(self, work: W) -> None:
        """Compute a work, alone or with others; returns when it is done.

        Raises:
            Exception: whatever computing this work raised.
        """
        ticket: _Ticket[W, L] = _Ticket(work)
        try:
            with self._lock:
                if self._idle and not self._waiting:
                    ticket.lane = self._idle.pop()
                else:
                    self._waiting.append(ticket)
            if ticket.lane is None:
                ticket.done.wait()
            if ticket.lane is not None:
                self._compute_all([ticket], ticket.lane)
        finally:
            with self._lock:
                ticket.left = True
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                if ticket.lane is not None:
                    self._hand_on(ticket.lane)
        # Let go of everywhere but in its own traceback, which holds what was being computed: as long as the caller
        # keeps it and no longer.
        error, ticket.error = ticket.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _hand_on(self, lane: L) -> None:
        """A lane is free: for those who wait, if any. The lock is held."""
        if not self._waiting:
            self._idle.append(lane)
            return
        try:
            self._threads.submit(self._serve, lane)
        except RuntimeError:  # the process ends, which waits for the lanes' threads, and they take no new work
            first = self._waiting.pop(0)
            first.lane = lane
            first.done.set()

    def _serve(self, lane: L) -> None:
        """Compute one batch for those who wait."""
        with self._lock:
            batch = self._next_batch()
        if batch:
            self._compute_all(batch, lane)
        for ticket in batch:
            ticket.done.set()
        with self._lock:
            self._hand_on(lane)

    def _next_batch(self) -> "list[_Ticket[W, L]]":
        """Whoever waits longest, and the others whose works join. The lock is held."""
        batch: list[_Ticket[W, L]] = []
        later: list[_Ticket[W, L]] = []
        for ticket in self._waiting:
            joins = not batch or self._joins([other.work for other in batch], ticket.work)
            (batch if joins else later).append(ticket)
        self._waiting = later
        return batch

    def _compute_all(self, batch: "list[_Ticket[W, L]]", lane: L) -> None:
        try:
            self._compute([ticket.work for ticket in batch], lane)
        except BaseException as error:  # whatever it is, it is that caller's: the others and the lane go on
            if len(batch) == 1:
                batch[0].error = error
                batch[0].finished = True
        else:
            for ticket in batch:
                ticket.finished = True
        if not batch[0].finished:  # out of the except block, so that what the failed attempt held is gone
            for ticket in batch:
                if not ticket.left:
                    self._compute_all([ticket], lane)
                    ticket.finished = True
