"""Judges what watchers were sent against what is on disk."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.history import Record
from tests.faults.log import Found, Log, key_of_row
from tests.faults.reuse import Message, Seen, judge


def check_watch(found: Found, log: Log, name: str, records: list[Record]) -> None:
    """A watcher got everything that it wanted, once, whole, in order, and nothing else."""
    asked = records[0]
    latest = asked.get("latest", False)
    if latest and log.restored:
        return  # What was folded into rows that are lost nobody can tell.
    wanted = log.wanted(asked["filter"])
    leaving = log.leaving(asked["filter"]) if asked.get("include_left") else set()
    matching = {row["revision"] for row in log.rows if wanted(row)}
    messages = [
        Message(
            kind=record["kind"],
            revision=record["revision"],
            rows=_seen(log, record["rows"]),
            left=_seen(log, record.get("left", ())),
            folded=record.get("folded", 0),
            at=record["end"],
        )
        for record in records
        if record["op"] == "message"
    ]
    appends = [
        [
            Seen(row["revision"], key_of_row(row), (row["job"], row["task"]))
            for row in rows
            if row["revision"] in matching or row["revision"] in leaving
        ]
        for rows in log.batches.values()
    ]
    faults = judge(
        messages,
        [append for append in appends if append],
        after=asked["after"],
        # What is not on disk at all is told as invented.
        wanted=lambda row: row.revision in matching or row.revision not in log.at,
        latest=latest,
        leaving=leaving,
    )
    for promise, examples in faults.told().items():
        found[promise].extend(f"{name}: {example}" for example in examples)
    if messages and records[-1]["op"] == "left_behind":
        found["complete"].append(f"{name}: never got past {records[-1]['revision']} of {log.head}")


def _seen(log: Log, rows: Sequence[list[object]]) -> tuple[Seen, ...]:
    made = []
    for revision, key in rows:
        assert isinstance(revision, int)
        assert isinstance(key, list)
        if not log.lost(revision):
            made.append(Seen(revision, tuple(key), (key[0], key[3])))
    return tuple(made)


def check_promptness(
    found: Found, name: str, records: list[Record], acked: Sequence[tuple[float, int]], most: float
) -> None:
    """What was acked comes soon."""
    if any(records[0]["filter"].values()) or records[0].get("latest"):
        return
    came = {
        revision: record["end"]
        for record in records
        if record["op"] == "message"
        for revision, _ in record["rows"]
    }
    for at, revision in acked:
        if came.get(revision, at) > at + most:
            found["prompt"].append(f"{name}: {revision} came {came[revision] - at:.1f} s late")


def check_hops(
    found: Found,
    log: Log,
    name: str,
    records: list[Record],
    acked: Sequence[tuple[float, int]],
) -> None:
    """From wherever a watch begins, it gets what is stored after that, and all of it."""
    at = 0
    highest = []
    top = 0
    for time, revision in acked:
        top = max(top, revision)
        highest.append((time, top))
    passed = 0
    for record in records:
        match record["op"]:
            case "hop":
                at = record["after"]
            case "hopped":
                _check_hop(found, log, name, record, at)
                at = max(at, record["revision"])
            case "unhopped" if record["code"] == "OUT_OF_RANGE":
                while passed < len(highest) and highest[passed][0] < record["start"]:
                    passed += 1
                if passed and highest[passed - 1][1] >= record["after"]:
                    found["complete"].append(
                        f"{name}: {record['after']} was refused; {highest[passed - 1][1]} was acked"
                    )


def _check_hop(found: Found, log: Log, name: str, record: Record, at: int) -> None:
    got = [revision for revision, _ in record["rows"] if not log.lost(revision)]
    through = record["revision"]
    if got != sorted(set(got)):
        found["ordered"].append(f"{name}: {got[:20]} after {at}")
    if through < at:
        found["bookmarked"].append(f"{name}: went back from {at} to {through}")
    missing = [each for each in log.within(at, through) if each not in set(got)]
    if missing:
        found["complete"].append(f"{name}: {missing[:5]} were lost after {at}")
    for revision, key in record["rows"]:
        if log.lost(revision):
            continue
        row = log.at.get(revision)
        if row is None or key_of_row(row) != tuple(key):
            found["invented"].append(f"{name}: {revision} is not {key}")
        elif revision <= at:
            found["unique"].append(f"{name}: {revision} came after {at}")
    if got and (last := log.at.get(got[-1])) and log.batches[last["batch"]][-1] is not last:
        found["atomic"].append(f"{name}: the append at {last['batch']} was split at {got[-1]}")
