"""The rows that a writer appends to one job: at random, and each may follow the one before."""

from __future__ import annotations

import random

from vistaflow.api.common.v1 import common_pb2 as common

MOST_TASKS = 120
"""Tasks of one attempt, after which another one is due."""
LIVE_TASKS = 20


class Work:
    """The rows of one external job that is RUNNING in its first attempt.

    Args:
        job_id: The job.
        chance: The luck of its writer.
        numbered: Whether rows have a `seq`. Without one only the `request_id` tells a repeat, and
            no two rows of an attempt are alike.
    """

    def __init__(self, job_id: str, chance: random.Random, *, numbered: bool) -> None:
        self.attempt = 1
        self._job_id = job_id
        self._chance = chance
        self._numbered = numbered
        self._seq = 0
        self._task_count = 0
        self._live: dict[str, int] = {}

    @property
    def is_large(self) -> bool:
        """Whether another attempt is due."""
        return self._task_count >= MOST_TASKS

    def rows(self, count: int) -> list[common.State]:
        """The next rows."""
        return [self._row() for _ in range(count)]

    def next_attempt(self) -> list[common.State]:
        """The rows that begin another attempt.

        A repeat of them would be of an attempt that is over: only a `request_id` can tell it.
        """
        rows = [
            common.State(job_id=self._job_id, status=common.STATUS_QUEUED, attempt=self.attempt),
            common.State(
                job_id=self._job_id, status=common.STATUS_RUNNING, attempt=self.attempt + 1
            ),
        ]
        self.attempt += 1
        self._seq = self._task_count = 0
        self._live.clear()
        return rows

    def _row(self) -> common.State:
        chance = self._chance
        if len(self._live) < LIVE_TASKS and (not self._live or chance.random() < 0.08):
            self._task_count += 1
            name = f"task-{self._task_count}"
            status = chance.choice((common.STATUS_QUEUED, common.STATUS_RUNNING))
        else:
            name = chance.choice(list(self._live))
            if self._live[name] == common.STATUS_QUEUED:
                status = common.STATUS_RUNNING
            elif not self._numbered or chance.random() < 0.08:
                status = chance.choice((common.STATUS_FINISHED, common.STATUS_FAILED))
            else:
                status = common.STATUS_RUNNING
        if status in (common.STATUS_QUEUED, common.STATUS_RUNNING):
            self._live[name] = status
        else:
            del self._live[name]
        self._seq += self._numbered
        return common.State(
            job_id=self._job_id,
            task_name=name,
            status=status,
            attempt=self.attempt,
            seq=self._seq if self._numbered else 0,
        )
