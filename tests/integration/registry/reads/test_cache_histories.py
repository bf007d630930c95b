"""What is read from memory is what SQL tells, whatever happened to the kits and to the log."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_cache import History, Reader
from traffic import connect, until

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.__main__ import Registry
from vistaflow_services.registry.config import Config


class Eventful(History):
    """Pauses kits, resumes them, and changes jobs singly and by many as well."""

    def _command(self, kit_id: int, job: c.NewJob) -> c.Command:
        if self.chance.random() < 0.7:
            return super()._command(kit_id, job)
        ids = tuple(each.job_id for each in self.kits[kit_id])
        return self.chance.choice(
            [
                c.PauseKit(kit_id=kit_id, reason="lunch", actor="me"),
                c.ResumeKit(kit_id=kit_id),
                c.ResumeKit(kit_id=kit_id),
                c.RetryJob(job_id=job.job_id),
                c.RetryKit(kit_id=kit_id),
                c.ChangeJobs(
                    kit_id=kit_id, job_ids=ids[:2], statuses=frozenset({"RUNNING"}), retry=False
                ),
                c.ChangeJobs(
                    kit_id=kit_id,
                    job_ids=ids,
                    statuses=frozenset({"FAILED", "CANCELED"}),
                    retry=True,
                ),
            ]
        )


@pytest.mark.parametrize(
    ("seed", "steps"),
    [(19, 120), *(pytest.param(seed, 600, marks=pytest.mark.slow) for seed in range(12, 18))],
)
async def test_pauses_retries_and_old_revisions_are_answered_as_sql_does(
    database, serve, seed, steps
):
    config = Config(lease_seconds=60.0)
    async with serve(database, config) as one, serve(database, config) as two:
        history = Eventful(seed, one, two)
        readers = [Reader(one), Reader(two, max_bytes=80_000)]
        heads = [0]
        for _ in range(steps):
            kit_id, head = await history.step()
            for reader in readers:
                await reader.check(kit_id, head)
                # Who asks for less is told no less.
                before = history.chance.choice(heads)
                other = history.chance.choice(list(history.kits))
                answer = await reader.kit(other, before)
                assert answer.revision >= head
                kit, _ = await reader.registry.store.kit(other)
                assert kit is not None
                assert answer.kit.revision == kit.revision
                assert answer.kit.paused == kit.paused
            heads.append(head)
        assert {"PauseKit", "ResumeKit", "ChangeJobs", "RetryKit"} <= history.did
        assert all(reader.cache.hit_count > 3 * reader.cache.miss_count for reader in readers)


async def test_nothing_is_answered_from_memory_once_the_log_is_known_to_be_another(
    running: Registry,
):
    history = History(1, running)
    kit_id, _ = await history.step()
    channel, stub = connect(running.address)
    async with channel:
        await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
        await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
        assert running.cache.hit_count == 1
        async with running.store._pool.connection() as connection:
            await connection.execute("UPDATE head SET epoch = %s", [uuid.uuid4()])
            await connection.execute("UPDATE kits SET name = 'of the backup'")
        await until(running.stop.is_set)
        answer = await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
        assert answer.kit.name == "of the backup"
        assert running.cache.hit_count == 1
