"""Judges what a watcher was sent against what was acknowledged to the writers.

One function for every test that records a history: live, replayed, resumed, after a crash, and
for the deliberately broken log that shows what the function can see.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Seen:
    """A row, as a writer or a watcher knows it."""

    revision: int
    key: Hashable
    """What the row is, whatever its place: its job, attempt and seq."""
    task: Hashable = field(default=None, compare=False)
    """The job or task it is of; for LATEST_PER_TASK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a watch."""

    kind: str
    """delta, bookmark, synced, snapshot, end; or resume, where the watcher connected again."""
    revision: int
    rows: tuple[Seen, ...] = ()
    at: float = 0.0
    left: tuple[Seen, ...] = ()
    """Rows by which something left the filter."""
    folded: int = 0


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
    filtered: list[str] = field(default_factory=list)
    """Rows that were not wanted, or told as leaving and did not."""
    folded: list[str] = field(default_factory=list)
    """Messages with more than one row a task, or a wrong count of what was folded."""

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
    latest: bool = False,
    leaving: Collection[int] = (),
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
        latest: Whether rows may be folded into later ones of the same task and the same message.
        leaving: Revisions of the rows by which a job or task leaves the filter; told as such.
    """
    faults = Faults()
    appends = list(appends)
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
        _filtered(faults, message, wanted, leaving)
        for row in _merged(message):
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

    concerned = {
        row.revision: row
        for append in appends
        for row in append
        if row.revision > after and (row.revision in leaving or wanted(row))
    }
    folded = _folded(faults, messages, concerned, after) if latest else set()
    _complete(
        faults,
        messages,
        delivered,
        [each for each in sorted(concerned) if each <= place and each not in folded],
    )
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


def _merged(message: Message) -> Sequence[Seen]:
    """All rows of a message in revision order, if each of its lists is."""
    lists = (message.rows, message.left)
    together = [row for rows in lists for row in rows]
    if all(list(rows) == sorted(rows, key=lambda row: row.revision) for rows in lists):
        together.sort(key=lambda row: row.revision)
    return together


def _filtered(
    faults: Faults, message: Message, wanted: Callable[[Seen], bool], leaving: Collection[int]
) -> None:
    for row in message.rows:
        if not wanted(row):
            faults.filtered.append(f"{row.revision} was not wanted")
    for row in message.left:
        if row.revision not in leaving:
            faults.filtered.append(f"{row.revision} was told to leave and did not")


def _folded(
    faults: Faults, messages: Sequence[Message], concerned: dict[int, Seen], after: int
) -> set[int]:
    """The rows that were folded, after a look whether they may be and were counted."""
    folded: set[int] = set()
    revisions = sorted(concerned)
    start = after
    for message in messages:
        if message.kind != "delta":
            continue
        rows = _merged(message)
        last = {row.task: row.revision for row in rows}
        if len(last) != len(rows):
            faults.folded.append(f"message {message.revision} has two rows of one task")
        first, beyond = bisect_right(revisions, start), bisect_right(revisions, message.revision)
        covered = revisions[first:beyond]
        start = max(start, message.revision)
        if len(covered) != len(rows) + message.folded:
            faults.folded.append(
                f"message {message.revision} stands for {len(covered)} rows; it has {len(rows)} "
                f"and says {message.folded} were folded"
            )
        here = {row.revision for row in rows}
        folded |= {
            each
            for each in covered
            if each not in here and last.get(concerned[each].task, 0) > each
        }
    return folded


def _complete(
    faults: Faults, messages: Sequence[Message], delivered: dict[int, int], expected: list[int]
) -> None:
    """Every expected row is there, and before any message that claims it was delivered."""
    claimed_by = iter(enumerate(messages))
    number, claim = next(claimed_by, (0, Message(kind="delta", revision=0)))
    for revision in expected:
        if revision not in delivered:
            faults.complete.append(f"{revision} was lost")
            continue
        while claim.revision < revision or claim.kind == "resume":
            number, claim = next(claimed_by)
        if number < delivered[revision]:
            faults.bookmarked.append(
                f"{claim.kind} {claim.revision} came before row {revision} was delivered"
            )
