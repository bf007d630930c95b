"""Whose turn it is to be told of new rows.

A message costs the registry about as much time as half an append, so a thousand followers of
everything could keep the writers from getting anywhere. Therefore those who follow everything are
woken for so many deliveries a second together and no more, a few at a time, with everyone else's
work in between; and so are those who follow certain kits. Whoever waits for a turn finds what has
gathered meanwhile as one message: that delays, and loses nothing. Up to the budget everyone is
told at once.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

MOST_DELIVERIES_A_SECOND = 8_000
MOST_PAUSE = 0.5
"""Seconds until everyone of a queue has had a turn, however many they are."""
SAVED_SECONDS = 0.125
"""Deliveries of so much quiet time are saved up for a burst."""
FEW = 16
"""Followers woken before the event loop looks at its other work again."""


class Follower(Protocol):
    """Someone who waits for rows."""

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
        """How many there are."""

    @abstractmethod
    def waits(self) -> bool:
        """Whether anyone's turn is still to come."""

    @abstractmethod
    def take(self) -> F:
        """The one whose turn it is."""

    def serve(self) -> None:
        """Begins to wake those who wait for a turn."""
        if not self._armed and self.waits():
            self._armed = True
            # Not here and now: the writers of these rows are answered first.
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Wakes the next few, and comes back for the others."""
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
            loop.call_soon(self._go_on)
        else:
            loop.call_later(FEW / rate, self._go_on)


class Everything(_Queue[F]):
    """Those who follow everything; first whoever had the last turn longest ago."""

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self._told: OrderedDict[F, int] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._told)

    def followers(self) -> Iterable[F]:
        """All of them."""
        return self._told

    def enter(self, follower: F) -> None:
        """Begins to wake a follower, who knows what there is now."""
        self._told[follower] = self.head

    def leave(self, follower: F) -> None:
        """Forgets a follower."""
        self._told.pop(follower, None)

    def waits(self) -> bool:
        """Whether anyone has not been told of all there is."""
        return bool(self._told) and next(iter(self._told.values())) < self.head

    def take(self) -> F:
        """The one whose turn it is."""
        follower = next(iter(self._told))
        self._told[follower] = self.head
        self._told.move_to_end(follower)
        return follower


class Concerned(_Queue[F]):
    """Those who follow certain kits and for whom something has gathered."""

    def __init__(self, head: int) -> None:
        super().__init__(head)
        self._due: OrderedDict[F, None] = OrderedDict()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._due)

    def enter(self, follower: F) -> None:
        """Something has gathered for a follower."""
        self._due[follower] = None

    def leave(self, follower: F) -> None:
        """Forgets a follower."""
        self._due.pop(follower, None)

    def waits(self) -> bool:
        """Whether there are any."""
        return bool(self._due)

    def take(self) -> F:
        """The one whose turn it is."""
        return self._due.popitem(last=False)[0]
