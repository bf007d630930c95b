"""When events are looked for: at once while there is more of the log, and not while it is idle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry.outbox import recorder as module
from vistaflow_services.registry.outbox.recorder import Recorder

pytestmark = pytest.mark.asyncio


class Looks(Recorder):
    """A recorder whose looks have prepared outcomes; its log grows before the last one."""

    def __init__(self, outcomes: list[bool | Exception]) -> None:
        unused: Any = None
        super().__init__(unused, unused, lambda: self.revision)
        self.revision = 5
        self.idle_count = 0
        self.done = asyncio.Event()
        self._outcomes = outcomes

    async def record(self) -> bool:
        outcome = self._outcomes.pop(0)
        if not self._outcomes:
            self.done.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


async def test_a_look_follows_while_there_is_more_after_a_failure_and_when_the_log_has_grown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = Looks([True, True, UnavailableError("away"), False, False])
    sleep = asyncio.sleep

    async def short(seconds: float) -> None:
        looks.idle_count += len(looks._outcomes) == 1
        if looks.idle_count == 3:
            looks.revision += 1
        await sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", short)
    running = asyncio.create_task(looks.run())
    await asyncio.wait_for(looks.done.wait(), 120)
    await ended([running])

    # Between the last two looks it was asked three times whether the log had grown.
    assert looks.idle_count == 3
