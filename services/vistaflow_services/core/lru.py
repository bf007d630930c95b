"""A mapping of bounded size: what was used longest ago leaves first.

Entries may weigh different amounts, for example bytes. A weight is an argument of `put` and not
a function of the value, because some users know the weight of a changed value from the weight
before, and would have to count a whole kit otherwise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, ItemsView, Iterator, ValuesView
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """A mapping whose total weight is bounded.

    Iteration goes from the entry used longest ago to the entry used last.

    Args:
        most: Upper bound of the total weight; of the number of entries if each weighs 1.
        least: Number of entries that stay, however much they weigh.
        spared: Whether an entry must stay for now. If all other entries have left, the total
            weight may exceed the bound.
        on_evict: Called after an entry left because of the bound; not for `pop` and `clear`.
    """

    __slots__ = ("_least", "_on_evict", "_spared", "_values", "_weights", "most", "peek", "weight")

    def __init__(
        self,
        most: int,
        *,
        least: int = 0,
        spared: Callable[[V], bool] | None = None,
        on_evict: Callable[[K, V], None] | None = None,
    ) -> None:
        self.most = most
        self.weight = 0
        """Total weight of the entries."""
        self._least = least
        self._spared = spared
        self._on_evict = on_evict
        self._values: OrderedDict[K, V] = OrderedDict()
        self._weights: dict[K, int] = {}
        # An attribute, because a method would add a call to look-ups made once a row.
        self.peek: Callable[[K], V | None] = self._values.get
        """The value of a key, without counting as a use; None if there is no entry."""

    def __len__(self) -> int:
        """Number of entries."""
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        """Whether there is an entry; this does not count as a use."""
        return key in self._values

    def __iter__(self) -> Iterator[K]:
        """The keys."""
        return iter(self._values)

    def items(self) -> ItemsView[K, V]:
        """Keys and values."""
        return self._values.items()

    def values(self) -> ValuesView[V]:
        """The values."""
        return self._values.values()

    def get(self, key: K) -> V | None:
        """The value of a key, which counts as used now; None if there is no entry."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V, weight: int = 1, *, trim: bool = True) -> None:
        """Sets the value of a key, which counts as used now.

        Args:
            key: The key.
            value: The value.
            weight: Weight of the entry, in place of the weight that it had.
            trim: Whether others leave at once if there is too much; otherwise the caller calls
                `trim` when none of the entries is needed any more.
        """
        self._values[key] = value
        self._values.move_to_end(key)
        self.reweigh(key, weight)
        if trim and self.weight > self.most:
            self.trim()

    def weight_of(self, key: K) -> int:
        """Weight of an entry; 0 if there is none."""
        return self._weights.get(key, 0)

    def reweigh(self, key: K, weight: int) -> None:
        """Sets the weight of an entry that exists; no entry leaves before the next trim."""
        self.weight += weight - self._weights.get(key, 0)
        self._weights[key] = weight

    def pop(self, key: K) -> V | None:
        """Removes an entry and returns its value; None if there is no entry."""
        self.weight -= self._weights.pop(key, 0)
        return self._values.pop(key, None)

    def clear(self) -> None:
        """Removes every entry."""
        self._values.clear()
        self._weights.clear()
        self.weight = 0

    def trim(self) -> None:
        """Removes the entries used longest ago until the total weight is within the bound."""
        while self.weight > self.most and len(self._values) > self._least:
            key = self._first_to_leave()
            if key is None:
                return
            value = self._values.pop(key)
            self.weight -= self._weights.pop(key)
            if self._on_evict is not None:
                self._on_evict(key, value)

    def _first_to_leave(self) -> K | None:
        """The key used longest ago whose entry is not spared."""
        spared = self._spared
        if spared is None:
            return next(iter(self._values))
        return next((key for key, value in self._values.items() if not spared(value)), None)
