"""The order in which followers are woken for new rows.

A message costs the registry about as much as half an append, so a thousand followers could take
all the time of the writers. Therefore followers are woken for a limited number of deliveries a
second, a few at a time, and the event loop does its other work in between. Followers of everything
and followers of certain kits have one such queue each. The rows that gather while a follower waits
for its turn become one message: it comes later, and nothing is lost. Below the limit every
follower is woken at once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

MOST_DELIVERIES_A_SECOND = 8_000
MOST_PAUSE = 0.5
"""Seconds in which every follower of a queue has had a turn, however many there are."""
SAVED_SECONDS = 0.125
"""Seconds without deliveries whose budget may be saved for a burst."""
FEW = 16
"""Followers woken before the event loop does other work."""


class Follower(Protocol):
    """A reader that waits for rows."""

    def wake_up_to(self, head: int) -> None:
        """Wakes the follower; what comes after `head` is for its next turn."""


F = TypeVar("F", bound=Follower)


class _Queue(ABC, Generic[F]):
    """Followers who take turns."""

    def __init__(self, head: int) -> None:
        self.head = head
        self._saved = 0.0
        self._looked = float("-inf")
        self._armed = False

    @abstractmethod
    def __len__(self) -> int:
        """Number of followers."""

    @abstractmethod
    def waits(self) -> bool:
        """Whether a follower waits for its turn."""

    @abstractmethod
    def take(self) -> F:
        """The follower whose turn it is."""

    def serve(self) -> None:
        """Begins to wake the followers that wait for a turn."""
        if not self._armed and self.waits():
            self._armed = True
            # Not at once: the writers of these rows are answered first.
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _wake_some(self) -> None:
        """Wakes the next few followers, and schedules itself for the others.

        The budget grows with time, up to a bound; each follower that is woken costs 1.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        rate = max(MOST_DELIVERIES_A_SECOND, len(self) / MOST_PAUSE)
        saved = self._saved + (now - self._looked) * rate
        self._looked, self._saved = now, min(saved, max(FEW, SAVED_SECONDS * rate))
        for _ in range(min(FEW, int(self._saved))):
            if not self.waits():
                break
            self.take().wake_up_to(self.head)
            self._saved -= 1
        if not self.waits():
            self._armed = False
        elif self._saved >= 1:
            loop.call_soon(self._wake_some)
        else:
            loop.call_later(FEW / rate, self._wake_some)


class Everything(_Queue[F]):
    """Followers of everything, the one whose last turn is longest ago first."""

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self._woken: OrderedDict[F, int] = OrderedDict()
        """The head up to which each was woken last, in the order of these turns."""

    def __len__(self) -> int:
        """Number of followers."""
        return len(self._woken)

    def followers(self) -> Iterable[F]:
        """All followers of everything."""
        return self._woken

    def enter(self, follower: F) -> None:
        """Adds a follower, which has seen every row up to the head."""
        self._woken[follower] = self.head

    def leave(self, follower: F) -> None:
        """Forgets a follower."""
        self._woken.pop(follower, None)

    def waits(self) -> bool:
        """Whether a follower has not been woken for the newest rows."""
        return bool(self._woken) and next(iter(self._woken.values())) < self.head

    def take(self) -> F:
        """The follower whose turn it is."""
        follower = next(iter(self._woken))
        self._woken[follower] = self.head
        self._woken.move_to_end(follower)
        return follower


class Concerned(_Queue[F]):
    """Followers of certain kits for which rows have gathered."""

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self._due: OrderedDict[F, None] = OrderedDict()

    def __len__(self) -> int:
        """Number of followers."""
        return len(self._due)

    def enter(self, follower: F) -> None:
        """Adds a follower for which rows have gathered."""
        self._due[follower] = None

    def leave(self, follower: F) -> None:
        """Forgets a follower."""
        self._due.pop(follower, None)

    def waits(self) -> bool:
        """Whether there is a follower."""
        return bool(self._due)

    def take(self) -> F:
        """The follower whose turn it is."""
        return self._due.popitem(last=False)[0]
