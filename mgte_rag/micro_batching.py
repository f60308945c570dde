"""Callers that come while a batch computes go into the next batch together."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

W = TypeVar("W")
L = TypeVar("L")


@dataclass(slots=True, eq=False)
class _Ticket(Generic[W]):
    """One caller's work, and what became of it.

    Attributes:
        work: what is to be computed.
        done: set when it was computed by another thread, or failed there.
        finished: computed, or failed with ``error``.
        error: what its own work raised.
        left: the caller is gone, interrupted.
    """

    work: W
    done: threading.Event = field(default_factory=threading.Event)
    finished: bool = False
    error: Exception | None = None
    left: bool = False


class MicroBatcher(Generic[W, L]):
    """Joins the works of concurrent callers, without waiting for company.

    A caller who finds a lane idle computes at once, in its own thread. Those who come meanwhile wait, and a thread of
    the lane's computes for all of them whose works join, up to what ``joins`` allows, until nobody waits any more: if
    the callers did it in turns, each would bring up torch's threads anew, and these would get into each other's way
    (measured: half the speed with 32 callers). A batch that fails is computed again work by work, so that an error
    reaches the caller whose work it is and nobody else; a caller who is interrupted harms nobody.

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
        self._waiting: list[_Ticket[W]] = []
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(len(lanes), thread_name_prefix="mgte-rag-lane")  # started when needed

    def run(self, work: W) -> None:
        """Compute a work, alone or with others; returns when it is done.

        Raises:
            Exception: whatever computing this work raised.
        """
        ticket: _Ticket[W] = _Ticket(work)
        lane: L | None = None
        try:
            with self._lock:
                if self._idle and not self._waiting:
                    lane = self._idle.pop()
                else:
                    self._waiting.append(ticket)
            if lane is None:
                ticket.done.wait()
            else:
                self._compute_all([ticket], lane)
        finally:
            with self._lock:
                ticket.left = True
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                stays = lane is not None and not self._hand_on(lane)
            if lane is not None and stays:
                self._serve(lane)
        # Let go of everywhere but in its own traceback, which holds what was being computed: as long as the caller
        # keeps it and no longer.
        error, ticket.error = ticket.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def _hand_on(self, lane: L) -> bool:
        """A lane is free: to those who wait, if any. False: nobody else can serve them. The lock is held."""
        if not self._waiting:
            self._idle.append(lane)
            return True
        try:
            self._threads.submit(self._serve, lane)
        except RuntimeError:  # the main thread has ended: callers go on, but pools take no new work
            return False
        return True

    def _serve(self, lane: L) -> None:
        """Compute for those who wait until nobody does."""
        while True:
            with self._lock:
                batch = self._next_batch()
                if not batch:
                    self._idle.append(lane)
                    return
            self._compute_all(batch, lane)
            for ticket in batch:
                ticket.done.set()

    def _next_batch(self) -> "list[_Ticket[W]]":
        """Whoever waits longest, and the others whose works join. The lock is held."""
        batch: list[_Ticket[W]] = []
        later: list[_Ticket[W]] = []
        for ticket in self._waiting:
            joins = not batch or self._joins([other.work for other in batch], ticket.work)
            (batch if joins else later).append(ticket)
        self._waiting = later
        return batch

    def _compute_all(self, batch: "list[_Ticket[W]]", lane: L) -> None:
        try:
            self._compute([ticket.work for ticket in batch], lane)
        except Exception as error:
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
