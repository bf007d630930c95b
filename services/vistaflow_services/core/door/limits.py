"""How often callers may call and how many may stay: by their token, or else by their machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum

from vistaflow_services.core.door.buckets import Buckets, machine
from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.errors import ExhaustedError

logger = logging.getLogger(__name__)

STREAM_RETRY_SECONDS = 5.0

BURST_OF_REFUSALS = 10
"""Seconds' worth of refusals that a machine may have at once: many clients may begin together."""

WARN_SECONDS = 10.0
"""Time between two lines in the log about machines that are over their limit."""


class Limits:
    """What each caller has left of its limits.

    Args:
        rate: Calls a second that one caller may make, twice as many in a burst; 0 for any number.
        streams: Streams that one caller may have open; 0 for any number.
    """

    def __init__(self, rate: float, streams: int) -> None:
        self._calls = Buckets(rate, max(1.0, 2 * rate))
        self._most_streams = streams
        self._streams: Counter[str] = Counter()

    @contextlib.contextmanager
    def counted(self, caller: Caller, peer: str, *, streams: bool) -> Iterator[None]:
        """Counts a call for as long as the block runs.

        Raises:
            ExhaustedError: The caller is over a limit.
        """
        # Without tokens a caller is a machine.
        who = caller.token_id or machine(peer)
        if wait := self._calls.take(who):
            raise ExhaustedError(
                f"more than {self._calls.rate:g} calls a second, which is as many as one caller "
                "may make",
                reason="RATE_LIMITED",
                retry_after=wait,
            )
        if not streams or not self._most_streams:
            yield
            return
        if self._streams[who] >= self._most_streams:
            raise ExhaustedError(
                f"{self._most_streams} streams are open already, which is as many as one caller "
                "may have",
                reason="TOO_MANY_STREAMS",
                retry_after=STREAM_RETRY_SECONDS,
            )
        self._streams[who] += 1
        try:
            yield
        finally:
            self._streams[who] -= 1
            if not self._streams[who]:
                del self._streams[who]


class Place(StrEnum):
    """The kinds of calls that may stay open."""

    STREAM = "STREAM"
    """A watch, a writer, or any other stream."""

    WORKER = "WORKER"
    """A worker that leases jobs."""

    OPEN = "OPEN"
    """A stream of a service without authentication: health, reflection."""

    CHECK = "CHECK"
    """A single call of such a service, whose request may arrive late."""


SHARES = {Place.STREAM: 0.75, Place.WORKER: 0.85, Place.OPEN: 0.06, Place.CHECK: 0.04}
"""Shares of the concurrent calls of a server. Workers share theirs with the streams."""


class Places:
    """Counts the open calls of a server by kind, so that no kind takes all of its capacity.

    Each kind has a share. One token, or one machine for open services, gets at most half of it. The
    rest is reserved for short calls, which therefore never wait for a stream to end.

    Args:
        count: Calls that the server serves at once.
    """

    def __init__(self, count: int) -> None:
        self._most = {place: max(2, int(count * share)) for place, share in SHARES.items()}
        self._held: Counter[Place] = Counter()
        self._of: Counter[tuple[Place, str]] = Counter()

    @contextlib.contextmanager
    def held(self, place: Place, caller: Caller, peer: str) -> Iterator[None]:
        """Holds a place for as long as the block runs.

        Raises:
            ExhaustedError: There is none left.
        """
        is_open = place in (Place.OPEN, Place.CHECK)
        # Where no tokens are required, all of a machine may be one caller: `Limits` counts those.
        who = machine(peer) if is_open else caller.token_id if place is Place.STREAM else ""
        taken = self._held[place]
        if not is_open:
            taken = self._held[Place.STREAM] + self._held[Place.WORKER]
        most = self._most[place]
        if taken >= most or (who and self._of[place, who] >= most // 2):
            raise ExhaustedError(
                "the limit of open streams is reached; close some, or try again",
                reason="TOO_MANY_STREAMS",
                retry_after=STREAM_RETRY_SECONDS,
            )
        self._held[place] += 1
        self._of[place, who] += 1
        try:
            yield
        finally:
            self._held[place] -= 1
            self._of[place, who] -= 1
            if not self._of[place, who]:
                del self._of[place, who]


class Strangers:
    """How many refused calls each machine may still make: calls without a valid token.

    Args:
        rate: Calls a second from one machine that may fail for want of a valid token; 0 for any
            number.
    """

    def __init__(self, rate: float) -> None:
        self._calls = Buckets(rate, max(1.0, BURST_OF_REFUSALS * rate))
        self._warned_at = -WARN_SECONDS
        self._untold = 0

    def look(self, peer: str, reason: str) -> str:
        """Takes one of a machine's refusals, to be given back to whom is known after all.

        Args:
            peer: Who calls.
            reason: Why it is refused; empty while it may turn out to be welcome. What is refused
                without a look takes nothing from what may be looked at.

        Returns:
            Whom to give it back.

        Raises:
            ExhaustedError: There is none left.
        """
        who = f"{machine(peer)} {reason}"
        if wait := self._calls.take(who):
            self._warn(peer)
            raise ExhaustedError(
                "too many calls without a valid token from where this one comes from; wait",
                reason="TOO_MANY_REFUSALS",
                retry_after=wait,
            )
        return who

    def welcome(self, who: str) -> None:
        """Gives back what was taken for a caller who is known after all."""
        self._calls.give_back(who)

    def _warn(self, peer: str) -> None:
        """Tells the log now and then; a line a call would be a flood of its own."""
        self._untold += 1
        now = asyncio.get_running_loop().time()
        if now - self._warned_at >= WARN_SECONDS:
            logger.warning(
                "more calls without a valid token than are looked at, the last one from %s; "
                "%d refused since this was last said",
                machine(peer),
                self._untold,
            )
            self._warned_at, self._untold = now, 0
