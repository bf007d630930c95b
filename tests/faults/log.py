"""What is on disk at the end of a run, and what follows from it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tests.faults.history import Record, digest
from vistaflow_services.registry.domain import TASK_TRANSITIONS, TRANSITIONS

Key = tuple[Any, ...]
Found = defaultdict[str, list[str]]
Wanted = Callable[[Record], bool]


def key_of_row(row: Record) -> Key:
    """What a stored row is, whatever its place."""
    return (row["job"], row["attempt"], row["seq"], row["task"], row["status"])


class Log:
    """What is on disk."""

    def __init__(
        self, stored: list[Record], kits: list[Record], restored: Iterable[Record] = ()
    ) -> None:
        self.rows = stored
        self.revisions = [row["revision"] for row in stored]
        self.kits = kits
        self.at = {row["revision"]: row for row in stored}
        self.restored = [(each["after"], each["beyond"]) for each in restored]
        """What is between them was recorded after a backup that was put back later."""
        self.head = stored[-1]["revision"] if stored else 0
        self.batches: dict[int, list[Record]] = defaultdict(list)
        for row in stored:
            self.batches[row["batch"]].append(row)
        self.by_seq: dict[Key, Record] = {}

    def check(self, found: Found) -> None:
        """The log by itself: dense, in order, no row twice, and every status may follow."""
        jobs: dict[str, tuple[str, int]] = {}
        tasks: dict[tuple[str, str], str] = {}
        before = 0
        for row in self.rows:
            revision, job = row["revision"], row["job"]
            if not self._follows(revision, before):
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
        if twice:
            found["unique"].extend(f"kit {name!r} was made more than once" for name in twice)

    def _follows(self, revision: int, before: int) -> bool:
        """Whether nothing is missing between two rows, but for what a restored backup lacks."""
        at = before + 1
        while at < revision:
            beyond = max((b for after, b in self.restored if after < at < b), default=0)
            if not beyond:
                return False
            at = beyond
        return at == revision

    def lost(self, revision: int) -> bool:
        """Whether the row was recorded after a backup that was put back later."""
        return any(after < revision < beyond for after, beyond in self.restored)

    def within(self, after: int, through: int) -> Sequence[int]:
        """The revisions stored in a stretch."""
        first, beyond = bisect_right(self.revisions, after), bisect_right(self.revisions, through)
        return self.revisions[first:beyond]

    def wanted(self, told: Record) -> Wanted:
        """What a filter lets through."""
        kits, types = set(told.get("kit_ids", ())), set(told.get("job_types", ()))
        statuses, labels = set(told.get("statuses", ())), told.get("labels", {})
        if labels:
            kits = {
                kit["kit_id"]
                for kit in self.kits
                if labels.items() <= kit.get("labels", {}).items()
            } or {0}

        def wanted(row: Record) -> bool:
            return (
                (not kits or row["kit"] in kits)
                and (not types or row["job_type"] in types)
                and (not statuses or row["status"] in statuses)
            )

        return wanted

    def leaving(self, told: Record) -> set[int]:
        """The rows by which a job or task leaves the statuses that a filter wants."""
        statuses = set(told.get("statuses", ()))
        if not statuses:
            return set()
        wide = self.wanted({**told, "statuses": ()})
        before: dict[Key, str] = {}
        found = set()
        for row in self.rows:
            key = (row["job"], row["task"])
            was = before.get(key, "")
            before[key] = row["status"]
            if was in statuses and row["status"] not in statuses and wide(row):
                found.add(row["revision"])
        return found

    def trees(self, asked: Iterable[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Key]]:
        """Status, attempt and tasks of the jobs of kits, as of revisions.

        Args:
            asked: Revisions, each with a kit.
        """
        now: defaultdict[int, dict[str, list[Any]]] = defaultdict(dict)
        answer: dict[tuple[int, int], dict[str, Key]] = {}
        rows = iter(self.rows)
        row = next(rows, None)
        for revision, kit in sorted(set(asked)):
            while row is not None and row["revision"] <= revision:
                job = now[row["kit"]].setdefault(row["job"], ["", 0, {}])
                if row["task"]:
                    job[2][row["task"]] = row["revision"]
                else:
                    if row["status"] == "RUNNING":
                        job[2] = {}
                    job[:2] = row["status"], row["attempt"]
                row = next(rows, None)
            answer[revision, kit] = {
                job: (status, attempt, digest(tasks.items()))
                for job, (status, attempt, tasks) in now[kit].items()
            }
        return answer
