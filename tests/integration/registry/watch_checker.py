"""Judges what a watcher was sent against what was acknowledged to the writers.

One function for every test that records a history: live, replayed, resumed, after a crash, and
for the deliberately broken log that shows what the function can see.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Seen:
    """A row, as a writer or a watcher knows it."""

    revision: int
    key: Hashable
    """What the row is, whatever its place: its job, attempt and seq."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a watch."""

    kind: str
    """delta, bookmark, synced, snapshot, end; or resume, where the watcher connected again."""
    revision: int
    rows: tuple[Seen, ...] = ()
    at: float = 0.0


@dataclass
class Faults:
    """What is wrong with a history, by the guarantee it breaks."""

    ordered: list[str] = field(default_factory=list)
    unique: list[str] = field(default_factory=list)
    complete: list[str] = field(default_factory=list)
    atomic: list[str] = field(default_factory=list)
    resumable: list[str] = field(default_factory=list)
    bookmarked: list[str] = field(default_factory=list)
    invented: list[str] = field(default_factory=list)
    """Rows that nobody appended."""

    def told(self) -> dict[str, list[str]]:
        """The guarantees broken, with up to five examples each."""
        return {name: found[:5] for name, found in vars(self).items() if found}


def judge(
    messages: Sequence[Message],
    appends: Iterable[Sequence[Seen]],
    *,
    after: int = 0,
    wanted: Callable[[Seen], bool] = lambda row: True,
    silence: float | None = None,
    only_acked: bool = True,
) -> Faults:
    """Finds every break of the promises of WatchStates.

    Args:
        messages: What one watcher received, in order.
        appends: The rows acknowledged, one sequence an append.
        after: Where the watcher began.
        wanted: Its filter.
        silence: Longest time in seconds between two messages; None: not judged.
        only_acked: Whether rows beside the acknowledged ones are a fault. After a crash a row may
            be on disk whose acknowledgement was lost.
    """
    faults = Faults()
    acked: dict[int, Hashable] = {}
    append_of: dict[int, int] = {}
    for number, append in enumerate(appends):
        for row in append:
            acked[row.revision] = row.key
            append_of[row.revision] = number

    last = place = after
    keys: dict[Hashable, int] = {}
    delivered: dict[int, int] = {}
    for number, message in enumerate(messages):
        if message.kind == "resume":
            if message.revision != place:
                faults.resumable.append(f"resumed after {message.revision}, was at {place}")
            last = message.revision
            continue
        for row in message.rows:
            if row.revision <= last:
                told = "again" if row.revision in delivered else f"after {last}"
                faults.ordered.append(f"{row.revision} came {told}")
            if row.revision in delivered:
                faults.unique.append(f"{row.revision} came twice")
            if row.key in keys:
                faults.unique.append(f"{row.key} came at {keys[row.key]} and at {row.revision}")
            if acked.get(row.revision, row.key) != row.key:
                faults.invented.append(f"{row.revision} is {row.key}, not {acked[row.revision]}")
            if only_acked and row.revision not in acked:
                faults.invented.append(f"{row.revision} was never appended")
            if message.revision and row.revision > message.revision:
                faults.bookmarked.append(f"{row.revision} is past its message {message.revision}")
            keys[row.key] = row.revision
            delivered[row.revision] = number
            last = max(last, row.revision)
        if message.revision < place:
            faults.bookmarked.append(f"went back from {place} to {message.revision}")
        place = max(place, message.revision)

    _complete(faults, messages, acked, delivered, after, place, wanted)
    for revision, number in append_of.items():
        mates = [r for r in (revision - 1, revision + 1) if append_of.get(r) == number]
        came = delivered.get(revision)
        if came is not None and any(delivered.get(mate, came) != came for mate in mates):
            faults.atomic.append(f"{revision} came apart from its append")
    if silence is not None:
        for before, now in itertools.pairwise(messages):
            pause = now.at - before.at
            if now.kind != "resume" and pause > silence:
                faults.bookmarked.append(f"nothing for {pause:.2f} s at {now.revision}")
    return faults


def _complete(
    faults: Faults,
    messages: Sequence[Message],
    acked: dict[int, Hashable],
    delivered: dict[int, int],
    after: int,
    place: int,
    wanted: Callable[[Seen], bool],
) -> None:
    """Every wanted row is there, and before any message that claims it was delivered."""
    claimed_by = iter(enumerate(messages))
    number, claim = next(claimed_by, (0, Message(kind="delta", revision=0)))
    for revision in sorted(acked):
        if not after < revision <= place or not wanted(Seen(revision, acked[revision])):
            continue
        if revision not in delivered:
            faults.complete.append(f"{revision} was lost")
            continue
        while claim.revision < revision or claim.kind == "resume":
            number, claim = next(claimed_by)
        if number < delivered[revision]:
            faults.bookmarked.append(
                f"{claim.kind} {claim.revision} came before row {revision} was delivered"
            )
