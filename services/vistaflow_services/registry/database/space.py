"""Refuses writes before the disk is full.

A PostgreSQL whose disk is full stops with a panic, because it cannot write its own journal. So
the registry checks the free space under an embedded database: it refuses writes while there is
little, and accepts them again once there is more. A database on another machine reports a full
disk with an error; then writes are refused for a moment, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vistaflow_services.core.errors import ExhaustedError

logger = logging.getLogger(__name__)

MEBIBYTE = 1024 * 1024
LOOK_SECONDS = 0.5
RECOVERED = 1.25
"""Multiple of the least free space at which writes are accepted again."""

REPORTED_SECONDS = 3.0
"""Seconds for which writes are refused after the database reported a full disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Free and total bytes of a disk."""

    free: int
    size: int


class StorageGuard:
    """Knows whether there is room for more rows.

    Args:
        folder: A folder on the disk of the database; None if it is on another machine.
        least_free: Bytes below which writes are refused; 0 to refuse none.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self,
        folder: Path | None,
        least_free: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._least_free = least_free
        self._clock = clock
        self._low = False
        self._reported_at = float("-inf")

    @property
    def full(self) -> bool:
        """Whether writes are refused now."""
        return self._low or self._clock() < self._reported_at + REPORTED_SECONDS

    def check(self) -> None:
        """Refuses a write if there is no room for it.

        Raises:
            ExhaustedError: The disk is full, or nearly.
        """
        if self.full:
            raise storage_full(self._where())

    def hear(self) -> ExhaustedError:
        """Notes that the database reported a full disk; returns the error for the writers."""
        self._reported_at = self._clock()
        return storage_full(self._where())

    def space(self) -> Space | None:
        """The disk as it is now; None if it is not on this machine."""
        if self._folder is None:
            return None
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return None
        return Space(free=disk.f_bavail * disk.f_frsize, size=disk.f_blocks * disk.f_frsize)

    def look(self) -> None:
        """Checks how much space there is."""
        space = self.space()
        if space is None or not self._least_free:
            self._low = False
            return
        least = self._least_free * (RECOVERED if self._low else 1.0)
        low = space.free < least
        if low and not self._low:
            logger.critical(
                "%d MiB are free on the disk of the database, less than %d: writes are refused "
                "until there is more; free some or drop old partitions",
                space.free // MEBIBYTE,
                self._least_free // MEBIBYTE,
            )
        elif self._low and not low:
            logger.warning("there is space on the disk again; writes are accepted")
        self._low = low

    async def run(self) -> None:
        """Checks the space again and again, until canceled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def _where(self) -> str:
        return f" of {self._folder}" if self._folder else " of the database"


def storage_full(where: str) -> ExhaustedError:
    """The error for a write that is refused."""
    return ExhaustedError(
        f"the disk{where} is full or nearly; nothing was written. Free some space: writes are "
        "taken again by themselves",
        reason="STORAGE_FULL",
    )
