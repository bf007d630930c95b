"""Which of a kit's jobs wait for which others. Pure.

A kit may have 10,000 jobs that name half a million others together, so no change of one job looks
at all of them. A job that is FINISHED stays so. Therefore a job that waits watches only one of the
jobs it depends on, the first that is not FINISHED; once that one is, it looks for the next.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator, Mapping
from itertools import filterfalse

from vistaflow_services.core.errors import cut
from vistaflow_services.registry.domain import RETRYABLE, Job, Kit, Status, first_name

MAX_CAUSE = 200
"""How much of the reason of a job is quoted by the jobs that wait for it: they may be many."""


class Dependencies:
    """The dependencies among the jobs of one kit, in step with what a draft changes.

    Args:
        kit: The kit; its jobs are looked at as they are at each call.
    """

    def __init__(self, kit: Kit) -> None:
        current = kit.current_jobs()
        self.job_ids = {name: job.job_id for name, job in current.items()}
        """The jobs that others wait for, by the name that these have them by."""
        self.last_order = max((job.current_order for job in kit.jobs.values()), default=0)
        """The greatest place of a job in the kit's sequence."""
        self.count = sum(len(job.depends_on) for job in kit.jobs.values())
        """How many dependencies the jobs have together."""
        self._finished = {name for name, job in current.items() if job.status == Status.FINISHED}
        self._watchers: dict[str, list[tuple[uuid.UUID, Iterator[str]]]] | None = None
        """The jobs that wait for a job, by its name; None until the first use."""

    def add(self, job: Job) -> None:
        """A job is new, and takes the place of the one before of its name."""
        name = first_name(job.name)
        if name in self._finished:
            self._finished.discard(name)
            self._watchers = None
        self.job_ids[name] = job.job_id
        self.last_order = max(self.last_order, job.current_order)
        self.count += len(job.depends_on)

    def ready(self, job: Job) -> bool:
        """Whether all that a job depends on is FINISHED."""
        # Unlike `issuperset`, which makes a set of all of them, this ends at the first that is not.
        return all(map(self._finished.__contains__, job.depends_on))

    def wait(self, job: Job) -> None:
        """A job is INIT from now on."""
        if self._watchers is not None:
            self._watch(job.job_id, filterfalse(self._finished.__contains__, job.depends_on))

    def finish(self, name: str, jobs: Mapping[uuid.UUID, Job]) -> list[Job]:
        """A job is FINISHED. The INIT jobs that waited for nothing else, in the kit's order.

        Args:
            name: Of the job.
            jobs: The kit's jobs as they are now.
        """
        if self._watchers is None:
            self._watchers = {}
            self._finished.discard(name)
            for job in jobs.values():
                if job.status == Status.INIT:
                    self.wait(job)
        self._finished.add(name)
        free: dict[uuid.UUID, None] = {}
        for job_id, needs in self._watchers.pop(name, ()):
            if not self._watch(job_id, needs):
                free[job_id] = None
        ready = [jobs[job_id] for job_id in free if jobs[job_id].status == Status.INIT]
        return sorted(ready, key=lambda job: (job.current_order, job.first_revision))

    def _watch(self, job_id: uuid.UUID, needs: Iterator[str]) -> bool:
        """Has a job watch the next it needs; False if there is none."""
        assert self._watchers is not None
        need = next(needs, None)
        if need is None:
            return False
        self._watchers.setdefault(need, []).append((job_id, needs))
        return True


def blocked(kit: Kit) -> dict[uuid.UUID, str]:
    """The reason why each INIT job is blocked; empty for a job that is not.

    The cause is the nearest job before it that is FAILED or CANCELED.
    """
    reasons = {job.job_id: "" for job in kit.jobs.values() if job.status == Status.INIT}
    current = kit.current_jobs() if reasons else {}
    failed = {name: job for name, job in current.items() if job.status in RETRYABLE}
    if not failed:
        return reasons
    waiting = {name: job for name, job in current.items() if job.status == Status.INIT}
    # The job that blocks each visited job; a missing entry means not known to be blocked.
    causes: dict[str, Job] = dict(failed)
    for job in _in_order(waiting):
        need = next(filter(causes.__contains__, job.depends_on), None)
        if need is not None:
            causes[first_name(job.name)] = causes[need]
            reasons[job.job_id] = _waits_for(causes[need])
    return reasons


def dependents(current: Mapping[str, Job], names: Collection[str]) -> list[str]:
    """The jobs that depend on some of `names`, directly or not, but for these.

    The nearest come first.
    """
    distances = dict.fromkeys(names, 0)
    for job in _in_order(current):
        name = first_name(job.name)
        near = [distances[need] for need in job.depends_on if need in distances]
        if near and name not in distances:
            distances[name] = min(near) + 1
    touched = [name for name in current if distances.get(name)]
    return sorted(touched, key=distances.__getitem__)


def _in_order(waiting: Mapping[str, Job]) -> Iterator[Job]:
    """Jobs by name, each after those of them that it depends on."""
    # `filter` skips the names seen already without a loop in Python: there may be very many.
    unseen = set(waiting)
    for name in waiting:
        if name not in unseen:
            continue
        unseen.discard(name)
        path = [(waiting[name], filter(unseen.__contains__, waiting[name].depends_on))]
        while path:
            job, needs = path[-1]
            need = next(needs, None)
            if need is None:
                path.pop()
                yield job
            else:
                unseen.discard(need)
                path.append((waiting[need], filter(unseen.__contains__, waiting[need].depends_on)))


def _waits_for(cause: Job) -> str:
    reason = f": {cut(cause.reason, MAX_CAUSE)}" if cause.reason else ""
    return f"waits for {cause.name}, which is {cause.status}{reason}"
