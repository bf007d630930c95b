"""Refuses writes before the disk is full.

A PostgreSQL whose disk is full does not only fail: it panics, because it cannot write its own
journal. So the registry looks at the free space of the disk under an embedded database and sheds
writes while there is little, and takes them again by itself once there is more. A database
elsewhere says so itself, with an error; then writes are shed for a moment too.
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
"""Times the least free space from which on writes are taken again."""

TOLD_SECONDS = 3.0
"""How long writes are shed after the database said that its disk is full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """A disk."""

    free: int
    size: int


class StorageGuard:
    """Knows whether there is room for more rows.

    Args:
        folder: On the disk of the database; None when that is another machine's.
        least_free: Bytes below which writes are refused; 0 for none.
        clock: Seconds from any start; never goes back.
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
        self._told = float("-inf")

    @property
    def full(self) -> bool:
        """Whether writes are refused now."""
        return self._low or self._clock() < self._told + TOLD_SECONDS

    def check(self) -> None:
        """Lets a write pass, or not.

        Raises:
            ExhaustedError: The disk is full, or nearly.
        """
        if self.full:
            raise storage_full(self._where())

    def hear(self) -> ExhaustedError:
        """Notes that the database said its disk is full; returns what to tell those who wrote."""
        self._told = self._clock()
        return storage_full(self._where())

    def space(self) -> Space | None:
        """The disk as it is now; None if it cannot be seen from here."""
        if self._folder is None:
            return None
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return None
        return Space(free=disk.f_bavail * disk.f_frsize, size=disk.f_blocks * disk.f_frsize)

    def look(self) -> None:
        """Looks how much space there is."""
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
            logger.warning("there is space on the disk again; writes are taken")
        self._low = low

    async def run(self) -> None:
        """Keeps looking, for ever."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def _where(self) -> str:
        return f" of {self._folder}" if self._folder else " of the database"


def storage_full(where: str) -> ExhaustedError:
    """What is told to who wants to write."""
    return ExhaustedError(
        f"the disk{where} is full or nearly; nothing was written. Free some space: writes are "
        "taken again by themselves",
        reason="STORAGE_FULL",
    )
