"""Counts calls: how work grows with its input shows in them, however busy the machine is."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self


class CountedCalls:
    """Counts the Python and C functions that are called in this thread while the block lasts."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Self:
        self._before = sys.getprofile()
        sys.setprofile(self._see)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        sys.setprofile(self._before)
        self.count -= 2  # this method, and setprofile

    def _see(self, frame: object, event: str, argument: object) -> None:
        self.count += event in ("call", "c_call")
