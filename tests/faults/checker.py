"""Judges a run by its histories alone, after it is over.

What is on disk at the end (`stored.jsonl`, `kits.jsonl`) is held against what every client was
told, and what every watcher was sent against what is on disk. Nothing here knows which faults
there were, except for how long they lasted.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.faults.check_reads import check_reads
from tests.faults.check_watches import check_hops, check_promptness, check_watch
from tests.faults.history import Record, clients
from tests.faults.log import Found, Key, Log, key_of_row

TERMINAL = ("FINISHED", "FAILED", "CANCELED")
TAKEN = ("ACCEPTED", "DUPLICATE")


def check(
    folder: Path,
    *,
    recovery_seconds: float | None = None,
    past_seconds: float | None = None,
    lag_seconds: float | None = None,
) -> dict[str, list[str]]:
    """Finds every broken promise in the histories of a run.

    Args:
        folder: Where they lie.
        recovery_seconds: Longest time from the end of a fault to the next success of each writer
            and reader; None: not judged.
        past_seconds: Longest time of a read that needs the database; None: not judged.
        lag_seconds: Longest time from the answer to an append to its arrival at a watcher without
            a filter; None: not judged. Both are of an idle machine: the most processes a core that
            were recorded as waiting to run stretch them.

    Returns:
        What is wrong, by the promise it breaks; empty if nothing is.
    """
    told = clients(folder)
    stored = told.pop("stored", [])
    kits = told.pop("kits", [])
    found: Found = defaultdict(list)
    everything = [record for records in told.values() for record in records]
    of: defaultdict[str, list[Record]] = defaultdict(list)
    for record in everything:
        of[record["op"]].append(record)
    log = Log(stored, kits, of["restored"])
    stretch = max((record["a_core"] for record in of["load"]), default=1.0)
    log.check(found)
    acked = _check_appends(found, log, of["append"])
    _check_requests(found, log, of["create"], of["append"])
    _check_workers(found, log, everything)
    check_reads(found, log, of["get"], of["list"])
    for name, records in told.items():
        kind = records[0]["op"] if records else ""
        if kind == "watch":
            check_watch(found, log, name, records)
            if lag_seconds is not None:
                check_promptness(found, name, records, acked, lag_seconds * stretch)
        elif kind == "hop":
            check_hops(found, log, name, records, acked)
    if recovery_seconds is not None:
        _check_recovery(found, everything, recovery_seconds * stretch)
    if past_seconds is not None:
        _check_past_reads(found, everything, past_seconds * stretch)
    return dict(found)


def _check_appends(found: Found, log: Log, appends: list[Record]) -> list[tuple[float, int]]:
    """Acked is stored, as told; refused is not stored; and time goes one way.

    Returns:
        When each row was acked, and its revision, in order of time.
    """
    acked: list[tuple[float, float, int]] = []
    for record in appends:
        if record["outcome"] != "answered":
            continue
        for asked, (verdict, revision) in zip(record["rows"], record["results"], strict=True):
            key = tuple(asked)
            row = log.at.get(revision)
            if verdict in TAKEN:
                if log.lost(revision):
                    continue
                if row is None:
                    found["durable"].append(f"{key} was acked at {revision}, which is not stored")
                elif key_of_row(row) != key:
                    found["durable"].append(
                        f"{key} was acked at {revision}, where {key_of_row(row)} is stored"
                    )
                if verdict == "ACCEPTED":
                    acked.append((record["start"], record["end"], revision))
            elif key[2] and key[:3] in log.by_seq:
                held = log.by_seq[key[:3]]["revision"]
                found["verdicts"].append(f"{key} was told {verdict} and is stored at {held}")
            elif verdict == "REJECTED" and not record.get("expects") and not log.restored:
                found["verdicts"].append(f"{key} was refused, though it follows the rules")
            if record.get("expects") and verdict != record["expects"]:
                found["verdicts"].append(f"{key} was told {verdict}, not {record['expects']}")
    ends = sorted((end, revision) for _, end, revision in acked)
    highest, at = 0, 0
    for start, _, revision in sorted(acked):
        while at < len(ends) and ends[at][0] < start:
            highest = max(highest, ends[at][1])
            at += 1
        if revision < highest:
            found["ordered"].append(f"{revision} began after {highest} was acked")
    return ends


def _check_requests(found: Found, log: Log, creates: list[Record], appends: list[Record]) -> None:
    """However often a request is made it happens once, and is answered the same."""
    answers: dict[str, tuple[int, int]] = {}
    held = {kit["kit_id"]: kit["name"] for kit in log.kits}
    for record in creates:
        if record["outcome"] != "answered" or log.lost(record["revision"]):
            continue
        name, answer = record["name"], (record["kit_id"], record["revision"])
        if answers.setdefault(name, answer) != answer:
            found["unique"].append(f"{name} was answered {answers[name]} and {answer}")
        if held.get(record["kit_id"]) != name:
            found["durable"].append(f"kit {record['kit_id']}, {name}, was acked and is not stored")
    results: dict[str, list[list[object]]] = {}
    times = Counter(key_of_row(row) for row in log.rows if row["task"] and not row["seq"])
    for record in appends:
        request = record.get("request")
        if request is None:
            continue
        for key in map(tuple, record["rows"]):
            if times[key] > 1:
                found["unique"].append(f"{key} of one request is stored {times[key]} times")
        if record["outcome"] == "answered" and not any(log.lost(r) for _, r in record["results"]):
            told = record["results"]
            if results.setdefault(request, told) != told:
                found["unique"].append(
                    f"request {request} was answered {results[request]} and {told}"
                )


def _check_workers(found: Found, log: Log, everything: list[Record]) -> None:
    """An attempt is one worker's; what an earlier one says after it is lost is refused."""
    owner: dict[Key, str] = {}
    for record in everything:
        if record["op"] == "grant":
            key = (record["job"], record["attempt"])
            if owner.setdefault(key, record["client"]) != record["client"]:
                found["fenced"].append(f"{key} was given to two workers")
    for record in everything:
        if record["op"] != "ended":
            continue
        if record["status"] not in TERMINAL:
            found["ends"].append(f"job {record['job']} is still {record['status']}")
        elif record["expected"] and record["status"] != record["expected"]:
            found["ends"].append(f"{record['job']} is {record['status']}: {record['expected']}?")


def _check_recovery(found: Found, everything: list[Record], seconds: float) -> None:
    """After a fault, writers and readers are served again in time."""
    faults = sorted((r["start"], r["end"]) for r in everything if r["op"] == "fault")
    served: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in everything:
        if record["op"] in ("append", "get"):
            served[record["client"], record["op"]].append(record)
    for (client, op), records in served.items():
        over = max(record["end"] for record in records)
        good = sorted(r["end"] for r in records if r["outcome"] == "answered")
        for number, (_, end) in enumerate(faults):
            until = faults[number + 1][0] if number + 1 < len(faults) else over
            if not good or until < end + seconds:
                continue
            first = next((at for at in good if at > end), None)
            if first is None or first > end + seconds:
                shown = "never" if first is None else f"{first - end:.1f} s"
                found["recovered"].append(f"{client}: {op} after fault {number + 1}: {shown}")


def _check_past_reads(found: Found, everything: list[Record], seconds: float) -> None:
    """After a fault, no read that needs the database takes long."""
    faults = sorted((r["start"], r["end"]) for r in everything if r["op"] == "fault")
    for record in everything:
        if record["op"] != "list" and not record.get("as_of"):
            continue
        # These are read from the database each time.
        for number, (_, end) in enumerate(faults):
            until = faults[number + 1][0] if number + 1 < len(faults) else record["end"]
            limit = max(record["start"], end) + seconds
            if record["start"] < until and limit < min(until, record["end"]):
                took = record["end"] - max(record["start"], end)
                found["recovered"].append(
                    f"{record['client']}: a read of the past after fault {number + 1}: {took:.1f} s"
                )


def told(found: dict[str, list[str]]) -> str:
    """What is wrong, for people."""
    lines = []
    for promise, examples in sorted(found.items()):
        lines.append(f"{promise}: {len(examples)} broken")
        lines.extend(f"  {example}" for example in examples[:5])
    return "\n".join(lines) or "nothing is wrong"


def write_stored(folder: Path, name: str, records: Iterable[Record]) -> None:
    """Writes what is on disk at the end of a run."""
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / f"{name}.jsonl").write_text(text)
