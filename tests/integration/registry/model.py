"""What the registry promises of kits, jobs, tasks and attempts, said again with dictionaries.

Written from the contract and not from the code that it is held against.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

Row = tuple[int, int, uuid.UUID, str, str, int]
"""Revision, kit, job, task, status and attempt."""

OVER = {"FINISHED", "FAILED", "CANCELED"}
OWNER_MAY = {
    "QUEUED": {"RUNNING", "CANCELED"},
    "INIT": {"CANCELED"},
    "RUNNING": {"FINISHED", "FAILED", "CANCELED", "QUEUED"},
}
WORKER_MAY = {"RUNNING": OVER}
TASK_MAY = {
    "INIT": {"QUEUED", "RUNNING", *OVER},
    "QUEUED": {"RUNNING", *OVER},
    "RUNNING": {"QUEUED", "RUNNING", *OVER},
}


class Refused(Exception):
    """Nothing happens: there is nothing that the change could be made to."""


@dataclass
class Job:
    """A job."""

    job_id: uuid.UUID
    kit_id: int
    name: str
    needs: tuple[str, ...]
    external: bool
    most: int
    status: str = ""
    attempt: int = 0
    failures: int = 0
    tasks: dict[str, str] = field(default_factory=dict)
    said: dict[tuple[int, int], tuple[int, str, str]] = field(default_factory=dict)
    """Revisions by attempt and seq."""


class Model:
    """The log and what follows from it."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.jobs: dict[uuid.UUID, Job] = {}
        self.kits: dict[int, list[uuid.UUID]] = {}
        self.paused: dict[int, int] = {}
        """How often each kit was paused; negative while it is not paused now."""
        self.answers: dict[uuid.UUID, list[tuple[str, int]]] = {}
        """What each request was told."""
        self.head = 0

    def create(
        self, kit_id: int, jobs: Sequence[tuple[uuid.UUID, str, tuple[str, ...], bool, int]]
    ) -> None:
        self.kits[kit_id] = []
        self.paused[kit_id] = 0
        for job_id, name, needs, external, most in jobs:
            job = Job(job_id, kit_id, name, needs, external, most)
            self.jobs[job_id] = job
            self.kits[kit_id].append(job_id)
            self._enter(job, "INIT" if needs else "QUEUED")

    def append(self, job: Job, task: str, status: str, attempt: int, seq: int) -> tuple[str, int]:
        """What the item is told: a verdict and a revision."""
        begins = job.external and not task and (job.status, status) == ("QUEUED", "RUNNING")
        current = job.attempt + begins
        if attempt != current and not (job.external and attempt == 0):
            return "STALE_ATTEMPT", 0
        if not job.external and current and job.status in ("QUEUED", "INIT"):
            return "STALE_ATTEMPT", 0
        if seq and (current, seq) in job.said:
            revision, *content = job.said[current, seq]
            return ("DUPLICATE", revision) if content == [task, status] else ("REJECTED", 0)
        if not task:
            may = OWNER_MAY if job.external else WORKER_MAY
            if status not in may.get(job.status, ()):
                return "REJECTED", 0
        elif job.status != "RUNNING" or (
            task in job.tasks and status not in TASK_MAY.get(job.tasks[task], ())
        ):
            return "REJECTED", 0
        if begins:
            self._begin(job)
        revision = self._enter(job, status, task)
        if seq:
            job.said[job.attempt, seq] = (revision, task, status)
        if not task and status == "FINISHED":
            for other in self.of_kit(job.kit_id):
                if other.status == "INIT" and job.name in other.needs and self._ready(other):
                    self._enter(other, "QUEUED")
        return "ACCEPTED", revision

    def grant(self, job: Job) -> bool:
        if job.external or job.status != "QUEUED" or self.paused[job.kit_id] > 0:
            return False
        self._begin(job)
        self._enter(job, "RUNNING")
        return True

    def lose(self, job: Job, attempt: int) -> bool:
        if not self._runs(job, attempt):
            return False
        self._enter(job, "FAILED", f"attempt-{attempt}")
        self._give_back(job, counts=True)
        return True

    def release(self, job: Job, attempt: int, *, counts: bool) -> bool:
        if not self._runs(job, attempt):
            return False
        self._give_back(job, counts=counts)
        return True

    def cancel(self, jobs: Sequence[Job]) -> None:
        doomed = [job for job in jobs if job.status not in OVER]
        if not doomed:
            raise Refused
        for job in doomed:
            self._enter(job, "CANCELED")

    def retry(self, jobs: Sequence[Job]) -> None:
        again = [job for job in jobs if job.status in ("FAILED", "CANCELED")]
        if not again:
            raise Refused
        for job in again:
            job.failures = 0
            self._enter(job, "QUEUED" if self._ready(job) else "INIT")

    def pause(self, kit_id: int) -> None:
        over = all(job.status in OVER for job in self.of_kit(kit_id))
        if self.paused[kit_id] > 0 or over:
            raise Refused
        self.paused[kit_id] = 1 - self.paused[kit_id]
        self._note(kit_id, uuid.UUID(int=kit_id), "pause", "RUNNING", self.paused[kit_id])

    def resume(self, kit_id: int) -> None:
        if self.paused[kit_id] <= 0:
            raise Refused
        self._note(kit_id, uuid.UUID(int=kit_id), "pause", "FINISHED", self.paused[kit_id])
        self.paused[kit_id] *= -1

    def of_kit(self, kit_id: int) -> list[Job]:
        return [self.jobs[job_id] for job_id in self.kits[kit_id]]

    def statuses(self, kit_id: int, revision: int) -> dict[uuid.UUID, tuple[str, int]]:
        """Status and attempt of each job of a kit as of a revision."""
        return {
            row[2]: (row[4], row[5])
            for row in self.rows
            if row[0] <= revision and row[1] == kit_id and not row[3]
        }

    def _runs(self, job: Job, attempt: int) -> bool:
        return not job.external and job.status == "RUNNING" and job.attempt == attempt

    def _ready(self, job: Job) -> bool:
        finished = {each.name for each in self.of_kit(job.kit_id) if each.status == "FINISHED"}
        return finished.issuperset(job.needs)

    def _begin(self, job: Job) -> None:
        job.attempt += 1
        job.tasks.clear()

    def _give_back(self, job: Job, *, counts: bool) -> None:
        job.failures += counts
        self._enter(job, "FAILED" if job.failures >= job.most else "QUEUED")

    def _enter(self, job: Job, status: str, task: str = "") -> int:
        if task:
            job.tasks[task] = status
        else:
            job.status = status
        return self._note(job.kit_id, job.job_id, task, status, job.attempt)

    def _note(self, kit_id: int, job_id: uuid.UUID, task: str, status: str, attempt: int) -> int:
        self.head += 1
        self.rows.append((self.head, kit_id, job_id, task, status, attempt))
        return self.head
