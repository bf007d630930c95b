"""The kits that were touched lately, in memory, as of the last commit."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Protocol

from vistaflow_services.core.lru import Lru
from vistaflow_services.registry.domain import Job, Kit


class Changed(Protocol):
    """What a commit changed."""

    kits: dict[int, Kit]
    jobs: dict[uuid.UUID, Job]


class Board:
    """The kits touched lately, with jobs and current tasks, as of the last commit.

    Args:
        max_weight: How many tasks may be held, about; one kit stays however many it has.
    """

    def __init__(self, *, max_weight: int = 200_000) -> None:
        self._kits: Lru[int, Kit] = Lru(max_weight, least=1, on_evict=self._forget_jobs)
        self._kit_of: dict[uuid.UUID, int] = {}

    def kit(self, kit_id: int) -> Kit | None:
        """The kit, if it is held."""
        return self._kits.peek(kit_id)

    def kit_of(self, job_id: uuid.UUID) -> int | None:
        """The kit of a job, if it is held."""
        return self._kit_of.get(job_id)

    def put(self, kit: Kit) -> None:
        """Holds `kit` in place of its former state, at least until the next trim."""
        self._kit_of.update(dict.fromkeys(kit.jobs, kit.kit_id))
        self._kits.put(kit.kit_id, kit, _weight(kit), trim=False)

    def evict(self, kit_ids: Iterable[int]) -> None:
        """Forgets kits; they are read again when they are needed."""
        for kit_id in kit_ids:
            kit = self._kits.pop(kit_id)
            if kit is not None:
                self._forget_jobs(kit_id, kit)

    def clear(self) -> None:
        """Forgets everything."""
        self._kits.clear()
        self._kit_of.clear()

    def adopt(self, changes: Changed) -> None:
        """Takes over what is on disk now."""
        # Only the jobs that changed are weighed: a kit may have thousands of others.
        grown: dict[int, int] = {}
        for job_id, job in changes.jobs.items():
            held = self._kits.peek(job.kit_id)
            before = held.jobs.get(job_id) if held else None
            more = _job_weight(job) - (_job_weight(before) if before else 0)
            grown[job.kit_id] = grown.get(job.kit_id, 0) + more
            self._kit_of[job_id] = job.kit_id
        for kit_id, kit in changes.kits.items():
            weight = self._kits.weight_of(kit_id) + grown.get(kit_id, 0)
            self._kits.put(kit_id, kit, weight, trim=False)

    def trim(self) -> None:
        """Forgets the kits touched longest ago until the board is small enough.

        Called after a commit, not by `put`: a batch needs every kit that was read for it.
        """
        self._kits.trim()

    def _forget_jobs(self, _kit_id: int, kit: Kit) -> None:
        for job_id in kit.jobs:
            self._kit_of.pop(job_id, None)


def _weight(kit: Kit) -> int:
    """What a kit costs in memory, in tasks."""
    return 1 + len(kit.spec_json) // 1000 + sum(_job_weight(job) for job in kit.jobs.values())


def _job_weight(job: Job) -> int:
    return 1 + len(job.tasks) + (len(job.spec) + len(job.result_json)) // 1000
