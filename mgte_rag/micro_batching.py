"""Callers that come while a batch computes go into the next batch together."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

W = TypeVar("W")
L = TypeVar("L")


@dataclass(slots=True, eq=False)
class _Ticket(Generic[W, L]):
    """One caller's work, and what became of it.

    Attributes:
        work: what is to be computed.
        turn: set when it is this caller's turn to lead a batch, or when its work is finished.
        lane: where to compute, for the leader of a batch.
        batch: the tickets that the leader computes, its own first.
        finished: computed, or failed with ``error``.
        error: what its own work raised.
        left: the caller is gone, interrupted.
    """

    work: W
    turn: threading.Event = field(default_factory=threading.Event)
    lane: L | None = None
    batch: "list[_Ticket[W, L]]" = field(default_factory=list)
    finished: bool = False
    error: Exception | None = None
    left: bool = False


class MicroBatcher(Generic[W, L]):
    """Joins the works of concurrent callers, without a thread of its own and without waiting for company.

    A caller who finds a lane idle computes at once. Those who come meanwhile wait, and the first of them computes for
    all whose works join, up to what ``joins`` allows. A batch that fails is computed again work by work, so that an
    error reaches the caller whose work it is and nobody else; a caller who is interrupted leaves the others' work to
    the next.

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

    def run(self, work: W) -> None:
        """Compute a work, alone or with others; returns when it is done.

        Raises:
            Exception: whatever computing this work raised.
        """
        ticket: _Ticket[W, L] = _Ticket(work)
        try:
            with self._lock:
                self._waiting.append(ticket)
                self._assign()
            ticket.turn.wait()
            if ticket.lane is not None:
                self._lead(ticket.batch, ticket.lane)
        finally:
            with self._lock:
                self._leave(ticket)
        if ticket.error is not None:
            raise ticket.error

    def _assign(self) -> None:
        """Give idle lanes to those who wait longest, each with the others whose works join. The lock is held."""
        while self._idle and self._waiting:
            leader = self._waiting[0]
            works: list[W] = []
            for ticket in self._waiting:
                if not works or self._joins(works, ticket.work):
                    works.append(ticket.work)
                    leader.batch.append(ticket)
            self._waiting = [ticket for ticket in self._waiting if ticket not in leader.batch]
            leader.lane = self._idle.pop()
            leader.turn.set()

    def _lead(self, batch: "list[_Ticket[W, L]]", lane: L) -> None:
        try:
            self._compute([ticket.work for ticket in batch], lane)
        except Exception as error:
            if len(batch) == 1:
                batch[0].error = error
            else:
                for ticket in batch:
                    self._lead([ticket], lane)
                return
        for ticket in batch:
            ticket.finished = True

    def _leave(self, ticket: "_Ticket[W, L]") -> None:
        """Hand on what this caller holds: its lane, and the works that it did not finish. The lock is held."""
        ticket.left = True
        if ticket in self._waiting:
            self._waiting.remove(ticket)
        if ticket.lane is None:
            return
        self._idle.append(ticket.lane)
        ticket.lane = None
        self._waiting[:0] = [other for other in ticket.batch if not other.finished and not other.left]
        for other in ticket.batch:
            if other.finished:
                other.turn.set()
        ticket.batch = []
        self._assign()
