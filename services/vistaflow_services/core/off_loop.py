"""Runs work that would block the event loop in a thread beside it.

Two threads of one Python process do not run at the same time, but they alternate, so the event loop
continues to serve calls. Each `Desk` is one thread, which does its work in sequence: concurrent
calls add no further threads that compete with the loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


TURN_SECONDS = 0.0005
"""How long a thread runs while another waits. A call that is served meanwhile waits for twenty
switches or more: with Python's default of 5 ms that would be 100 ms."""


class Desk:
    """One thread that runs functions in sequence.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix=name,
            initializer=sys.setswitchinterval,
            initargs=(TURN_SECONDS,),
        )

    async def do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function in the thread, with the context variables of the caller."""
        context = contextvars.copy_context()
        call = self._thread.submit(lambda: context.run(work, *args, **kwargs))
        return await asyncio.wrap_future(call)


reading = Desk("requests")
"""Parses and checks large requests, and makes large answers."""

writing = Desk("commits")
"""Makes large commits, which must not wait for requests being read."""
