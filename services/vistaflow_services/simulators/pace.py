"""How long the runs that are left take, at the pace of those that were made."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """The pace since it was made.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()

    def left(self, run_count: int, remaining: int) -> float:
        """Seconds that the rest takes; 0 before the first run, when that is not known.

        Args:
            run_count: Runs that took time; those from the store did not.
            remaining: Runs still to make.
        """
        return (self._clock() - self._start) / run_count * remaining if run_count > 0 else 0.0
