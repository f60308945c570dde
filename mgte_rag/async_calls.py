"""Blocking calls from coroutines."""

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

# Calls under way at once. The threads do not compute, they wait for their turn in a batch: with the event loop's own
# executor, of a few threads more than the machine has cores, only that many coroutines would be batched together.
_CALLS = 64


async def in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function in a worker thread, with the caller's context variables: the event loop goes on.

    Cancelling the coroutine lets the call finish unheard; calls of others in the same batch are not touched.
    """
    call = functools.partial(contextvars.copy_context().run, function, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_threads(os.getpid()), call)


@cache
def _threads(pid: int) -> ThreadPoolExecutor:
    """The process's threads; a forked child, which has none of its parent's, makes its own."""
    return ThreadPoolExecutor(_CALLS, thread_name_prefix="mgte-rag")
