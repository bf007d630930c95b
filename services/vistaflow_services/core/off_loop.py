"""Work that would hold the event loop up, done in a thread beside it.

Two threads of one Python process do not run at the same time, but they take turns, so the event
loop goes on serving. Each `Desk` is one thread: what is given to it is
done one after another, and what several calls need at once does not make them wait on each other's
turns.
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
"""How long a thread goes on while another waits for its turn. A call that is served meanwhile waits
for twenty turns or more: of Python's 5 ms that would be 100 ms."""


class Desk:
    """One thread that does what is given to it.

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
        """Does some work; it sees the context variables of whoever awaits it."""
        context = contextvars.copy_context()
        call = self._thread.submit(lambda: context.run(work, *args, **kwargs))
        return await asyncio.wrap_future(call)


reading = Desk("requests")
"""Parses and checks large requests, and makes large answers."""

writing = Desk("commits")
"""Makes large commits, which must not wait for requests being read."""
