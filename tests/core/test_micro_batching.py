"""Concurrent callers in one batch: who computes, who waits, and what becomes of them when something goes wrong."""

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from mgte_rag import micro_batching
from mgte_rag.micro_batching import MicroBatcher

SECONDS = 20
"""Longer than anything here takes: what waits longer waits forever."""


class Interrupt(BaseException):
    """What a caller is interrupted with, as by Ctrl-C."""


class Work:
    """A number to be doubled, or an error to be raised."""

    def __init__(self, number: int, error: BaseException | None = None) -> None:
        self.number = number
        self.error = error
        self.doubled: int | None = None
        self.caller = threading.current_thread()


class Computer:
    """Doubles numbers, and notes what was computed together and where; may be held up until told to go on."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[tuple[list[int], str]] = []
        self.inside = threading.Semaphore(0)
        self.go = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, works: list[Work], lane: str) -> None:
        self.batches.append(([work.number for work in works], lane))
        self.inside.release()
        assert self.go.wait(SECONDS)
        for work in works:
            if isinstance(work.error, Interrupt) and work.caller is not threading.current_thread():
                continue  # an interruption meets its caller in its own thread only
            if work.error is not None:
                raise work.error
            work.doubled = 2 * work.number

    @property
    def numbers(self) -> list[list[int]]:
        return [numbers for numbers, _ in self.batches]


def always(works: list[Work], work: Work) -> bool:
    return True


def batcher_of(computer: Computer, *lanes: str, joins: Callable[[list[Work], Work], bool] = always):
    return MicroBatcher(lanes or ("only",), computer, joins)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.001)


def run_as_caller(batcher: MicroBatcher, work: Work) -> None:
    work.caller = threading.current_thread()
    batcher.run(work)


def start_in_order(threads: ThreadPoolExecutor, batcher: MicroBatcher, works: list[Work]) -> "list[Future[None]]":
    """Each caller in a thread of its own, each waiting before the next comes."""
    running = []
    for work in works:
        waiting = len(batcher._waiting)
        running.append(threads.submit(run_as_caller, batcher, work))
        wait_until(lambda: len(batcher._waiting) == waiting + 1)  # noqa: B023
    return running


@pytest.fixture
def threads():
    with ThreadPoolExecutor(64) as pool:
        yield pool


@pytest.fixture
def busy(threads: ThreadPoolExecutor):
    """A batcher whose only lane is held up by a caller with the number 0, its computer, and that caller."""
    computer = Computer(held=True)
    batcher = batcher_of(computer)
    first = threads.submit(batcher.run, Work(0))
    assert computer.inside.acquire(timeout=SECONDS)
    yield batcher, computer, first
    computer.go.set()


def test_a_lone_caller_computes_at_once_in_its_own_thread() -> None:
    thread = None

    def compute(works: list[Work], lane: str) -> None:
        nonlocal thread
        thread = threading.current_thread()

    MicroBatcher(["only"], compute, always).run(Work(1))
    assert thread is threading.current_thread()


def test_callers_who_come_while_a_batch_computes_share_the_next_one(busy, threads: ThreadPoolExecutor) -> None:
    batcher, computer, first = busy
    works = [Work(number) for number in range(1, 6)]
    running = start_in_order(threads, batcher, works)
    computer.go.set()
    for future in [first, *running]:
        future.result(SECONDS)
    assert computer.numbers == [[0], [1, 2, 3, 4, 5]]
    assert [work.doubled for work in works] == [2, 4, 6, 8, 10]


def test_works_that_do_not_join_wait_for_their_turn_in_the_order_they_came(threads: ThreadPoolExecutor) -> None:
    computer = Computer(held=True)
    batcher = batcher_of(computer, joins=lambda works, work: works[0].number % 2 == work.number % 2 and len(works) < 2)
    running = [threads.submit(batcher.run, Work(0))]
    assert computer.inside.acquire(timeout=SECONDS)
    running += start_in_order(threads, batcher, [Work(number) for number in (1, 2, 3, 4, 5, 6)])
    computer.go.set()
    for future in running:
        future.result(SECONDS)
    assert computer.numbers == [[0], [1, 3], [2, 4], [5], [6]]


def test_an_error_reaches_the_caller_whose_work_it_is_and_nobody_else(busy, threads: ThreadPoolExecutor) -> None:
    batcher, computer, first = busy
    error = ValueError("this work is bad")
    works = [Work(1), Work(2, error), Work(3)]
    running = start_in_order(threads, batcher, works)
    computer.go.set()
    assert first.exception(SECONDS) is None
    assert [future.exception(SECONDS) for future in running] == [None, error, None]
    assert [work.doubled for work in works] == [2, None, 6]


def test_an_error_does_not_say_that_it_came_of_handling_the_batchs_failure(busy, threads: ThreadPoolExecutor) -> None:
    batcher, computer, _ = busy
    errors = [ValueError("the first is bad"), KeyError("the second too")]
    running = start_in_order(threads, batcher, [Work(number, error) for number, error in enumerate(errors)])
    computer.go.set()
    for future, error in zip(running, errors, strict=True):
        assert future.exception(SECONDS) is error
        assert error.__context__ is None


def test_what_a_failed_batch_held_is_gone_when_its_works_are_computed_one_by_one(threads: ThreadPoolExecutor) -> None:
    class Activations:
        """Stands for what a forward pass holds when memory runs out."""

    held: list[weakref.ref[Activations]] = []
    alive: list[bool] = []
    inside, go = threading.Event(), threading.Event()

    def compute(works: list[Work], lane: str) -> None:
        if works[0].number == 0:
            inside.set()
            assert go.wait(SECONDS)
            return
        alive.extend(each() is not None for each in held)
        activations = Activations()
        if len(works) > 1:
            held.append(weakref.ref(activations))
            raise MemoryError("too many at once")

    batcher = MicroBatcher(["only"], compute, always)
    first = threads.submit(batcher.run, Work(0))
    assert inside.wait(SECONDS)
    running = [first, *start_in_order(threads, batcher, [Work(1), Work(2)])]
    go.set()
    for future in running:
        future.result(SECONDS)
    assert alive == [False, False]


def test_an_error_let_go_frees_what_it_held_without_the_garbage_collector() -> None:
    class Activations:
        pass

    held: list[weakref.ref[Activations]] = []

    def compute(works: list[Work], lane: str) -> None:
        activations = Activations()
        held.append(weakref.ref(activations))
        raise MemoryError("too much")

    gc.disable()
    try:
        try:
            MicroBatcher(["only"], compute, always).run(Work(1))
        except MemoryError:
            pass
        assert held[0]() is None
    finally:
        gc.enable()


def test_an_interrupted_caller_who_computes_leaves_the_others_unharmed(threads: ThreadPoolExecutor) -> None:
    computer = Computer(held=True)
    batcher = batcher_of(computer)
    works = [Work(1, Interrupt()), Work(2), Work(3)]
    first = threads.submit(run_as_caller, batcher, works[0])
    assert computer.inside.acquire(timeout=SECONDS)
    running = start_in_order(threads, batcher, works[1:])
    computer.go.set()
    assert isinstance(first.exception(SECONDS), Interrupt)
    for future in running:
        future.result(SECONDS)
    assert [work.doubled for work in works] == [None, 4, 6]
    assert computer.numbers == [[1], [2, 3]]


def test_those_who_wait_are_served_by_one_thread_that_is_none_of_theirs(threads: ThreadPoolExecutor) -> None:
    serving: list[tuple[int, str]] = []

    def compute(works: list[Work], lane: str) -> None:
        time.sleep(0.001)
        serving.append((len(works), threading.current_thread().name))

    batcher = MicroBatcher(["only"], compute, always)
    for future in [threads.submit(batcher.run, Work(number)) for number in range(300)]:
        future.result(SECONDS)
    assert {name for works, name in serving if works > 1} == {"mgte-rag-lane_0"}


def test_without_the_threads_of_the_lanes_those_who_wait_compute_in_turns(busy, threads: ThreadPoolExecutor) -> None:
    batcher, computer, first = busy
    batcher._threads.shutdown()  # as at the end of the main thread
    works = [Work(1), Work(2), Work(3)]
    running = start_in_order(threads, batcher, works)
    computer.go.set()
    for future in [first, *running]:
        future.result(SECONDS)
    assert [work.doubled for work in works] == [2, 4, 6]
    assert computer.numbers == [[0], [1], [2], [3]]
    wait_until(lambda: batcher._idle == ["only"])


def test_when_the_process_ends_the_lanes_thread_serves_no_longer(
    busy, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher, computer, first = busy
    batcher._joins = lambda works, work: len(works) < 2
    running = start_in_order(threads, batcher, [Work(number) for number in range(1, 6)])

    def compute(works: list[Work], lane: str) -> None:
        if len(works) > 1:
            batcher._threads.shutdown(wait=False)  # while the lane's thread computes
        computer(works, lane)

    monkeypatch.setattr(batcher, "_compute", compute)
    computer.go.set()
    for future in [first, *running]:
        future.result(SECONDS)
    assert computer.numbers == [[0], [1, 2], [3], [4], [5]]


def test_an_error_that_is_no_exception_does_not_take_the_lane_along(busy, threads: ThreadPoolExecutor) -> None:
    batcher, computer, first = busy
    error = SystemExit("a library wants to leave")
    works = [Work(1), Work(2, error), Work(3)]
    running = start_in_order(threads, batcher, works)
    computer.go.set()
    assert [future.exception(SECONDS) for future in [first, *running]] == [None, None, error, None]
    assert [work.doubled for work in works] == [2, None, 6]
    wait_until(lambda: batcher._idle == ["only"])


def test_after_an_interruption_the_lane_is_free(busy) -> None:
    batcher, computer, first = busy
    computer.go.set()
    first.result(SECONDS)
    with pytest.raises(Interrupt):
        batcher.run(Work(1, Interrupt()))
    work = Work(2)
    batcher.run(work)
    assert work.doubled == 4


class InterruptedWait(threading.Event):
    """A caller's event whose wait is interrupted, as Ctrl-C does in the main thread."""

    def __init__(self, before: Callable[["InterruptedWait"], object]) -> None:
        super().__init__()
        self._before = before

    def wait(self, timeout: float | None = None) -> bool:
        self._before(self)
        raise Interrupt


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch):
    """Lets the caller with that number be interrupted in its wait, after what is done before."""

    def arrange(number: int, before: Callable[[InterruptedWait], object]) -> None:
        ticket = micro_batching._Ticket

        def make(work: Work):
            return ticket(work, done=InterruptedWait(before)) if work.number == number else ticket(work)

        monkeypatch.setattr(micro_batching, "_Ticket", make)

    return arrange


def test_an_interrupted_follower_is_gone_without_harm(busy, threads: ThreadPoolExecutor, interrupt) -> None:
    batcher, computer, first = busy
    with_others = threading.Event()
    interrupt(2, lambda turn: with_others.wait(SECONDS))
    works = [Work(1), Work(2), Work(3)]
    running = start_in_order(threads, batcher, works)
    with_others.set()
    assert isinstance(running[1].exception(SECONDS), Interrupt)
    computer.go.set()
    for future in (first, running[0], running[2]):
        future.result(SECONDS)
    assert computer.numbers == [[0], [1, 3]]
    assert [work.doubled for work in works] == [2, None, 6]


def test_a_follower_interrupted_while_its_work_is_computed_does_not_stop_the_batch(
    threads: ThreadPoolExecutor, interrupt
) -> None:
    computer = Computer(held=True)
    batcher = batcher_of(computer)
    computing = threading.Event()
    interrupt(2, lambda turn: computing.wait(SECONDS))
    works = [Work(0), Work(1, ValueError("bad")), Work(2), Work(3)]
    first = threads.submit(batcher.run, works[0])
    assert computer.inside.acquire(timeout=SECONDS)
    running = start_in_order(threads, batcher, works[1:])
    computer.go.set()
    wait_until(lambda: len(computer.batches) > 1)
    computing.set()
    assert isinstance(running[1].exception(SECONDS), Interrupt)
    assert isinstance(running[0].exception(SECONDS), ValueError)
    first.result(SECONDS)
    running[2].result(SECONDS)
    assert works[3].doubled == 6


def test_two_lanes_compute_at_once(threads: ThreadPoolExecutor) -> None:
    both_inside = threading.Barrier(2)
    lanes = set()

    def compute(works: list[Work], lane: str) -> None:
        both_inside.wait(SECONDS)
        lanes.add(lane)

    batcher = MicroBatcher(["one", "other"], compute, always)
    for future in [threads.submit(batcher.run, Work(number)) for number in range(2)]:
        future.result(SECONDS)
    assert lanes == {"one", "other"}


def test_a_lane_computes_one_batch_at_a_time(threads: ThreadPoolExecutor) -> None:
    in_use: set[str] = set()

    def compute(works: list[Work], lane: str) -> None:
        assert lane not in in_use
        in_use.add(lane)
        time.sleep(0.0005)
        in_use.remove(lane)

    batcher = MicroBatcher(["one", "other"], compute, lambda works, work: len(works) < 3)
    for future in [threads.submit(batcher.run, Work(number)) for number in range(200)]:
        future.result(SECONDS)


@pytest.mark.parametrize("lanes", [("only",), ("one", "other", "third")])
def test_hundreds_of_callers_with_failures_and_interruptions_all_return_what_is_theirs(
    threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, lanes
) -> None:
    ticket = micro_batching._Ticket

    def make(work: Work):
        hurried = InterruptedWait(lambda turn: threading.Event.wait(turn, work.number % 7 / 1_000))
        return ticket(work, done=hurried) if work.number % 10 == 9 else ticket(work)

    monkeypatch.setattr(micro_batching, "_Ticket", make)
    computer = Computer()
    batcher = batcher_of(computer, *lanes, joins=lambda works, work: len(works) < 1 + work.number % 5)
    chance = random.Random(0)

    def call(number: int) -> None:
        error = chance.choice([None, None, None, ValueError(number), Interrupt(number)])
        work = Work(number, error)
        time.sleep(chance.random() / 1_000)
        raised: BaseException | None = None
        try:
            batcher.run(work)
        except (Interrupt, ValueError) as caught:
            raised = caught
        if isinstance(raised, Interrupt):
            assert raised is error or number % 10 == 9
        elif not isinstance(error, Interrupt):  # an interruption comes too late for work that others did
            assert raised is error
        if raised is None:
            assert work.doubled == (2 * number if error is None else None)

    calls = 20_000 if request.config.getoption("--run-slow") else 600
    for future in [threads.submit(call, number) for number in range(calls)]:
        future.result(SECONDS)
    assert sorted(batcher._idle) == sorted(lanes)
    assert batcher._waiting == []
