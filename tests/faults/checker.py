"""Judges a run by its histories alone, after it is over.

What is on disk at the end (`stored.jsonl`, `kits.jsonl`) is held against what every client was
told, and what every watcher was sent against what is on disk. Nothing here knows which faults
there were, except for how long they lasted.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.faults.history import Record, clients
from tests.faults.reuse import Message, Seen, judge
from vistaflow_services.registry.domain import TASK_TRANSITIONS, TRANSITIONS

Key = tuple[Any, ...]
Found = dict[str, list[str]]

TERMINAL = ("FINISHED", "FAILED", "CANCELED")
TAKEN = ("ACCEPTED", "DUPLICATE")


def check(folder: Path, *, recovery_seconds: float | None = None) -> Found:
    """Finds every broken promise in the histories of a run.

    Args:
        folder: Where they lie.
        recovery_seconds: Longest time from the end of a fault to the next success of each writer
            and reader; None: not judged.

    Returns:
        What is wrong, by the promise it breaks; empty if nothing is.
    """
    told = clients(folder)
    stored = told.pop("stored", [])
    kits = told.pop("kits", [])
    found: defaultdict[str, list[str]] = defaultdict(list)
    everything = [record for records in told.values() for record in records]
    log = Log(stored, kits)
    log.check(found)
    _check_appends(found, log, [r for r in everything if r["op"] == "append"])
    _check_requests(found, log, [r for r in everything if r["op"] == "create"])
    _check_workers(found, log, everything)
    for name, records in told.items():
        if records and records[0]["op"] == "watch":
            _check_watch(found, log, name, records)
        _check_reads(found, log, name, [r for r in records if r["op"] == "get"])
    if recovery_seconds is not None:
        _check_recovery(found, everything, recovery_seconds)
    return dict(found)


class Log:
    """What is on disk."""

    def __init__(self, stored: list[Record], kits: list[Record]) -> None:
        self.rows = stored
        self.kits = kits
        self.at = {row["revision"]: row for row in stored}
        self.head = stored[-1]["revision"] if stored else 0
        self.batches: dict[int, list[Record]] = defaultdict(list)
        for row in stored:
            self.batches[row["batch"]].append(row)
        self.by_seq: dict[Key, Record] = {}

    def check(self, found: defaultdict[str, list[str]]) -> None:
        """The log by itself: dense, in order, no row twice, and every status may follow."""
        jobs: dict[str, tuple[str, int]] = {}
        tasks: dict[tuple[str, str], str] = {}
        before = 0
        for row in self.rows:
            revision, job = row["revision"], row["job"]
            if revision != before + 1:
                found["dense"].append(f"{revision} comes after {before}")
            before = revision
            if row["seq"]:
                key = (job, row["attempt"], row["seq"])
                if key in self.by_seq:
                    first = self.by_seq[key]["revision"]
                    found["unique"].append(f"{key} is stored at {first} and at {revision}")
                self.by_seq.setdefault(key, row)
            status, attempt = jobs.get(job, ("", 0))
            if row["task"]:
                if status != "RUNNING" or row["attempt"] != attempt:
                    found["fenced"].append(
                        f"{revision}: a task of attempt {row['attempt']} while its job is "
                        f"{status} in attempt {attempt}"
                    )
                last = tasks.get((job, row["task"]))
                if last is not None and row["status"] not in TASK_TRANSITIONS[last]:
                    found["legal"].append(f"{revision}: a task from {last} to {row['status']}")
                tasks[job, row["task"]] = row["status"]
                continue
            if status and row["status"] not in TRANSITIONS[status]:
                found["legal"].append(f"{revision}: a job from {status} to {row['status']}")
            expected = attempt + 1 if row["status"] == "RUNNING" else attempt
            if row["attempt"] != expected:
                found["fenced"].append(
                    f"{revision}: {row['status']} of attempt {row['attempt']}, not {expected}"
                )
            if row["status"] == "RUNNING":
                tasks = {key: last for key, last in tasks.items() if key[0] != job}
            jobs[job] = (row["status"], row["attempt"])
        for batch, rows in self.batches.items():
            if [row["revision"] for row in rows] != list(range(batch, batch + len(rows))):
                found["atomic"].append(f"the append at {batch} is stored in pieces")
        twice = [name for name, n in Counter(kit["name"] for kit in self.kits).items() if n > 1]
        found_twice = [f"kit {name!r} was made more than once" for name in twice]
        if found_twice:
            found["unique"].extend(found_twice)

    def job_statuses(self, revisions: Iterable[int]) -> dict[int, dict[str, Key]]:
        """Status and attempt of each job as of revisions."""
        wanted = sorted(set(revisions))
        now: dict[str, Key] = {}
        answer: dict[int, dict[str, Key]] = {}
        rows = iter(self.rows)
        row = next(rows, None)
        for revision in wanted:
            while row is not None and row["revision"] <= revision:
                if not row["task"]:
                    now[row["job"]] = (row["status"], row["attempt"])
                row = next(rows, None)
            answer[revision] = dict(now)
        return answer


def key_of_row(row: Record) -> Key:
    """What a stored row is, whatever its place."""
    return (row["job"], row["attempt"], row["seq"], row["task"], row["status"])


def _check_appends(found: defaultdict[str, list[str]], log: Log, appends: list[Record]) -> None:
    """Acked is stored, as told; refused is not stored; and time goes one way."""
    acked: list[tuple[float, float, int]] = []
    for record in appends:
        if record["outcome"] != "answered":
            continue
        for asked, (verdict, revision) in zip(record["rows"], record["results"], strict=True):
            key = tuple(asked)
            row = log.at.get(revision)
            if verdict in TAKEN:
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
            elif verdict == "REJECTED" and not record.get("expects"):
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


def _check_requests(found: defaultdict[str, list[str]], log: Log, creates: list[Record]) -> None:
    """However often a request is made it happens once, and is answered the same."""
    answers: dict[str, tuple[int, int]] = {}
    held = {kit["kit_id"]: kit["name"] for kit in log.kits}
    for record in creates:
        if record["outcome"] != "answered":
            continue
        name, answer = record["name"], (record["kit_id"], record["revision"])
        if answers.setdefault(name, answer) != answer:
            found["unique"].append(f"{name} was answered {answers[name]} and {answer}")
        if held.get(record["kit_id"]) != name:
            found["durable"].append(f"kit {record['kit_id']}, {name}, was acked and is not stored")


def _check_workers(found: defaultdict[str, list[str]], log: Log, everything: list[Record]) -> None:
    """An attempt is one worker's; what an earlier one says after it is lost is refused."""
    owner: dict[Key, str] = {}
    for record in everything:
        if record["op"] == "grant":
            key = (record["job"], record["attempt"])
            if owner.setdefault(key, record["client"]) != record["client"]:
                found["fenced"].append(f"{key} was given to two workers")
    finished: Counter[str] = Counter()
    for row in log.rows:
        if not row["task"] and row["status"] == "FINISHED":
            finished[row["job"]] += 1
    for record in everything:
        if record["op"] != "ended":
            continue
        if record["status"] not in TERMINAL:
            found["ends"].append(f"job {record['job']} is still {record['status']}")
        elif record["expected"] and record["status"] != record["expected"]:
            found["ends"].append(f"{record['job']} is {record['status']}: {record['expected']}?")


def wants(told: Record) -> Callable[[Record], bool]:
    """The filter of a watch, of stored rows."""
    kits, types = set(told.get("kit_ids", ())), set(told.get("job_types", ()))
    statuses = set(told.get("statuses", ()))

    def wanted(row: Record) -> bool:
        return (
            (not kits or row["kit"] in kits)
            and (not types or row["job_type"] in types)
            and (not statuses or row["status"] in statuses)
        )

    return wanted


def _check_watch(
    found: defaultdict[str, list[str]], log: Log, name: str, records: list[Record]
) -> None:
    """A watcher got everything that it wanted, once, whole, in order, and nothing else."""
    head = records[0]
    wanted = wants(head["filter"])
    messages = [
        Message(
            kind=record["kind"],
            revision=record["revision"],
            rows=tuple(Seen(revision, tuple(key)) for revision, key in record["rows"]),
            at=record["end"],
        )
        for record in records
        if record["op"] == "message"
    ]
    appends = [
        [Seen(row["revision"], key_of_row(row)) for row in rows if wanted(row)]
        for rows in log.batches.values()
    ]
    told = judge(
        messages,
        [append for append in appends if append],
        after=head["after"],
    )
    for promise, examples in told.told().items():
        found[promise].extend(f"{name}: {example}" for example in examples)
    for message in messages:
        for seen in message.rows:
            row = log.at.get(seen.revision)
            if row is not None and not wanted(row):
                found["filtered"].append(f"{name}: {seen.revision} does not match")
    if messages and records[-1]["op"] == "left_behind":
        found["complete"].append(f"{name}: never got past {records[-1]['revision']} of {log.head}")


def _check_reads(
    found: defaultdict[str, list[str]], log: Log, name: str, reads: list[Record]
) -> None:
    """A read is as new as was asked for, and what it shows was so at its revision."""
    answered = [record for record in reads if record["outcome"] == "answered"]
    statuses = log.job_statuses(record["revision"] for record in answered)
    for record in answered:
        revision = record["revision"]
        if revision < record["min_revision"]:
            found["read_your_write"].append(
                f"{name}: asked for {record['min_revision']}, got {revision}"
            )
        if revision > log.head:
            found["durable"].append(f"{name}: read {revision}, beyond the end {log.head}")
        for job, shown in record["jobs"].items():
            held = statuses[revision].get(job)
            if held is not None and held != tuple(shown):
                found["consistent"].append(
                    f"{name}: job {job} was {held} at {revision}, not {tuple(shown)}"
                )


def _check_recovery(
    found: defaultdict[str, list[str]], everything: list[Record], seconds: float
) -> None:
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


def told(found: Found) -> str:
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
