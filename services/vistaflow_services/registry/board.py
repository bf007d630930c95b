"""The kits that were touched lately, in memory, as of the last commit."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol

from vistaflow_services.registry.domain import Job, Kit


class Changed(Protocol):
    """What a commit changed."""

    kits: dict[int, Kit]
    jobs: dict[uuid.UUID, Job]


class Board:
    """The kits touched lately, with jobs and current tasks, as of the last commit."""

    def __init__(self, *, max_weight: int = 200_000) -> None:
        self._kits: OrderedDict[int, Kit] = OrderedDict()
        self._kit_of: dict[uuid.UUID, int] = {}
        self._weights: dict[int, int] = {}
        self._weight = 0
        self._max_weight = max_weight

    def kit(self, kit_id: int) -> Kit | None:
        """The kit, if it is held."""
        return self._kits.get(kit_id)

    def kit_of(self, job_id: uuid.UUID) -> int | None:
        """The kit of a job, if it is held."""
        return self._kit_of.get(job_id)

    def put(self, kit: Kit) -> None:
        """Holds `kit`, in place of what was held of it."""
        self._weight -= self._weights.get(kit.kit_id, 0)
        self._kits[kit.kit_id] = kit
        self._kits.move_to_end(kit.kit_id)
        self._kit_of.update(dict.fromkeys(kit.jobs, kit.kit_id))
        self._weights[kit.kit_id] = weight = _weight(kit)
        self._weight += weight

    def evict(self, kit_ids: Iterable[int]) -> None:
        """Forgets kits; they are read again when they are needed."""
        for kit_id in kit_ids:
            kit = self._kits.pop(kit_id, None)
            if kit is not None:
                self._weight -= self._weights.pop(kit_id)
                for job_id in kit.jobs:
                    self._kit_of.pop(job_id, None)

    def clear(self) -> None:
        """Forgets everything."""
        self.evict(list(self._kits))

    def adopt(self, changes: Changed) -> None:
        """Takes over what is on disk now."""
        for job_id, job in changes.jobs.items():
            held = self._kits.get(job.kit_id)
            old = held.jobs.get(job_id) if held else None
            delta = _job_weight(job) - (_job_weight(old) if old else 0)
            self._weights[job.kit_id] = self._weights.get(job.kit_id, 0) + delta
            self._weight += delta
            self._kit_of[job_id] = job.kit_id
        for kit_id, kit in changes.kits.items():
            self._weights.setdefault(kit_id, 0)
            self._kits[kit_id] = kit
            self._kits.move_to_end(kit_id)

    def trim(self) -> None:
        """Forgets the kits touched longest ago until the board is small enough."""
        while self._weight > self._max_weight and len(self._kits) > 1:
            self.evict([next(iter(self._kits))])


def _weight(kit: Kit) -> int:
    """What a kit costs in memory, in tasks."""
    return 1 + len(kit.spec_json) // 1000 + sum(_job_weight(job) for job in kit.jobs.values())


def _job_weight(job: Job) -> int:
    return 1 + len(job.tasks) + (len(job.spec) + len(job.result_json)) // 1000
