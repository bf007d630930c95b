"""Uses a client, forks, and prints what becomes of it: `python forking.py ADDRESS`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

import vistaflow
from vistaflow import aio


def fork(name: str, act: Callable[[], object]) -> None:
    """Prints what an act raises in a forked process, which then ends as any other."""
    child = os.fork()
    if child == 0:
        try:
            act()
            print(f"{name}: fine", flush=True)
        except vistaflow.ForkedError as error:
            named = all(word in str(error) for word in ("'spawn'", "'forkserver'"))
            print(f"{name}: {'says what to do' if named else error}", flush=True)
        sys.exit(7)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 7:
        print(f"{name}: ends with {code}", flush=True)


def connect_anew(address: str) -> None:
    with vistaflow.connect(address) as client:
        client.server_info()


async def ask_async(address: str) -> None:
    async with aio.connect(address) as client:
        await client.server_info()


def use_blocking(address: str) -> None:
    with vistaflow.connect(address) as client:
        kit = client.create_kit("forked", ["DOE"])
        watch = client.watch(kit_ids=[kit.kit_id])
        next(watch)
        fork("the client", lambda: client.kit(kit.kit_id))
        fork("its watch", lambda: next(watch))
        fork("a new client", lambda: connect_anew(address))
        fork("a new asynchronous client", lambda: asyncio.run(ask_async(address)))
        fork("closing it", client.close)
        fork("nothing", lambda: None)
        client.append(kit.jobs[0].job_id, "RUNNING")
        print("the parent:", client.kit(kit.kit_id).jobs[0].status, flush=True)
    fork("a new client after it was closed", lambda: connect_anew(address))


async def use_async(address: str) -> None:
    client = aio.connect(address)
    await client.server_info()

    def leave_the_loop() -> None:
        asyncio.events._set_running_loop(None)
        asyncio.run(client.server_info())

    fork("the asynchronous client", leave_the_loop)
    await client.server_info()
    await client.close()


if __name__ == "__main__":
    use_blocking(sys.argv[1])
    asyncio.run(use_async(sys.argv[1]))
