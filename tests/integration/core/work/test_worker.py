"""The worker against a registry that errs, vanishes and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripted_registry import ScriptedRegistry, words

from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.core.work import run
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.process_groups import descendants
from vistaflow_services.core.work.worker import Worker

HERE = Path(__file__).parents[1]


@pytest.fixture
async def registry(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedRegistry]:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    made = ScriptedRegistry()
    await made.start()
    yield made
    await made.stop()


def worker_of(client: RegistryClient, home: Path, capacity: int = 1, **options: Any) -> Worker:
    """A worker whose jobs are those of `misbehaving_jobs`."""
    store = ArtifactStore(home / "artifacts")
    return Worker(
        "doe-1", "misbehaving_jobs", ["DOE"], client, store, capacity, home=home, **options
    )


@pytest.fixture
async def worker(registry: ScriptedRegistry, tmp_path: Path) -> AsyncIterator[Worker]:
    client = RegistryClient(registry.address, actor="doe")
    made = worker_of(client, tmp_path, 2, cores=2, warm=False)
    run = asyncio.create_task(made.run())
    await registry.until(lambda: registry.hellos)
    yield made
    run.cancel()
    await asyncio.wait([run])
    await client.close()


async def ended(registry: ScriptedRegistry, job_id: str, seconds: float = 120) -> common_pb2.State:
    """The job's own row, once it is there."""

    def own() -> list[common_pb2.State]:
        return [each for each in registry.rows if (each.job_id, each.task_name) == (job_id, "")]

    await registry.until(own, seconds)
    return own()[0]


BEFORE: set[int] = set()
"""Processes that ran when the test began: those of other tests' suites, and their PostgreSQL."""


@pytest.fixture(autouse=True)
def _before() -> None:
    BEFORE.clear()
    BEFORE.update(descendants(os.getpid()))


def attempts() -> list[int]:
    """Processes of attempts that this test has running."""
    # PostgreSQL starts processes when it likes.
    others = BEFORE.union(*map(descendants, BEFORE))
    return [each for each in descendants(os.getpid()) if each not in others]


async def until_idle(worker: Worker, seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while (worker.running or attempts()) and time.monotonic() < give_up:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    assert (worker.running, attempts()) == ([], [])


async def test_a_jobs_tasks_and_result_are_recorded_in_order_with_a_seq(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    job_id = await registry.grant(do="steps", count=3)
    row = await ended(registry, job_id)
    assert words(registry.rows, job_id) == [
        (1, "step-0", "RUNNING"),
        (2, "step-0", "FINISHED"),
        (3, "step-1", "RUNNING"),
        (4, "step-1", "FINISHED"),
        (5, "step-2", "RUNNING"),
        (6, "step-2", "FINISHED"),
        (7, "", "FINISHED"),
    ]
    metadata = struct_to_dict(row.metadata)
    assert metadata["result"] == {"count": 3, "attempt": 1, "inputs": []}
    assert (row.attempt, row.actor, metadata["seconds"] > 0) == (1, "worker doe-1", True)
    await until_idle(worker)
    assert registry.releases == []


async def test_a_row_that_meets_a_bug_of_the_registry_is_tried_eleven_times_and_no_more(
    registry: ScriptedRegistry, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "backoff", lambda tried: 0.0)
    registry.breaks = lambda row: row.task_name == "step-0"

    job_id = await registry.grant(do="steps", count=2)
    row = await ended(registry, job_id)

    alone = Counter(seqs[0] for seqs in registry.broken if len(seqs) == 1)
    assert alone == {1: 11, 2: 11}
    assert row.status == common_pb2.STATUS_FINISHED
    assert struct_to_dict(row.metadata)["refused_row_count"] == 2
    assert [seq for seq, _, _ in words(registry.rows, job_id)] == [3, 4, 5]
    await until_idle(worker)


async def test_heartbeats_carry_progress_and_come_in_time(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    job_id = await registry.grant(do="steps", count=4, seconds=0.5)
    await ended(registry, job_id)
    told = [each.attempts[0] for each in registry.heartbeats if each.attempts]
    assert {(each.job_id, each.attempt) for each in told} == {(job_id, 1)}
    assert len(told) >= 2
    assert any(
        (each.progress.phase, each.progress.total, each.progress.unit) == ("steps", 4, "steps")
        for each in told
    )


async def test_two_attempts_run_side_by_side(registry: ScriptedRegistry, worker: Worker) -> None:
    jobs = {await registry.grant(do="sleep") for _ in range(2)}
    await registry.until(lambda: jobs == {each.job_id for each in registry.rows})
    assert len(attempts()) == 4


async def test_the_job_of_an_id_in_the_spec_is_among_the_inputs(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    other = "0b0e7b2c-90d5-4b7a-9a44-6f1d0f3a2c11"
    registry.jobs[other] = common_pb2.Job(
        job_id=other,
        job_type=common_pb2.JOB_TYPE_DOE,
        status=common_pb2.STATUS_FINISHED,
        attempt=2,
    )
    unknown = "11111111-90d5-4b7a-9a44-6f1d0f3a2c11"
    job_id = await registry.grant(do="steps", count=0, design=other, model=unknown)
    row = await ended(registry, job_id)
    assert struct_to_dict(row.metadata)["result"]["inputs"] == [other]


async def test_rows_wait_for_a_registry_that_is_away_and_arrive_in_order(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    registry.faults = 3
    job_id = await registry.grant(do="steps", count=5)
    await ended(registry, job_id)
    seqs = [seq for seq, _, _ in words(registry.rows, job_id)]
    assert seqs == list(range(1, 12))


async def test_a_running_attempt_survives_a_restart_of_the_registry(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    job_id = await registry.grant(do="steps", count=10, seconds=0.5)
    await registry.until(lambda: registry.rows)
    await registry.stop()
    await asyncio.sleep(1.0)
    assert not worker.connected
    await registry.start()
    await registry.until(lambda: len(registry.hellos) == 2)
    named = [(each.job_id, each.attempt) for each in registry.hellos[1].running]
    assert named == [(job_id, 1)]
    await ended(registry, job_id)
    seqs = [seq for seq, _, _ in words(registry.rows, job_id)]
    assert sorted(set(seqs)) == list(range(1, 22))
    assert seqs == sorted(seqs)


@pytest.mark.parametrize("action", [registry_pb2.ACTION_CANCEL, registry_pb2.ACTION_ABANDON])
async def test_an_order_to_stop_ends_every_process_and_nothing_more_is_said(
    registry: ScriptedRegistry, worker: Worker, action: registry_pb2.Action
) -> None:
    job_id = await registry.grant(do="sleep", children=True)
    await registry.until(lambda: registry.rows)
    assert len(attempts()) == 4
    await registry.direct(job_id, action)
    await until_idle(worker)
    await registry.until(lambda: not registry.heartbeats[-1].attempts, 120)
    assert words(registry.rows, job_id) == [(1, "pids", "RUNNING")]
    assert registry.releases == []


async def test_a_stale_attempt_is_stopped_and_says_nothing_more(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    registry.verdict = registry_pb2.VERDICT_STALE_ATTEMPT
    await registry.grant(do="sleep")
    await registry.until(lambda: registry.rows)
    await until_idle(worker)
    assert (len(registry.rows), registry.releases) == (1, [])


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ({"do": "crash"}, "its process ended: SIGSEGV"),
        ({"do": "exit", "code": 3}, "its process ended: exit code 3"),
        ({"do": "raise"}, "ended by an unforeseen RuntimeError"),
    ],
)
async def test_a_fault_gives_the_attempt_back_and_names_the_log(
    registry: ScriptedRegistry, worker: Worker, tmp_path: Path, what: dict[str, object], told: str
) -> None:
    job_id = await registry.grant(**what)  # type: ignore[arg-type]
    await registry.until(lambda: registry.releases)
    assert registry.releases == [
        registry_pb2.Release(
            job_id=job_id, attempt=1, reason=f"{told}; see `vistaflow logs {job_id}`", counts=True
        )
    ]
    assert registry.rows == []
    await until_idle(worker)
    log = tmp_path / "logs" / "jobs" / job_id / "1.log"
    assert "ends with" in log.read_text()


async def test_a_known_failure_is_a_failed_row_with_reason_and_hint(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    row = await ended(registry, await registry.grant(do="known"))
    assert row.status == common_pb2.STATUS_FAILED
    assert row.reason == "ALL_FAILED: all 40 runs failed; widen the range"
    assert struct_to_dict(row.metadata)["error"] == {
        "reason": "ALL_FAILED",
        "message": "all 40 runs failed",
        "hint": "widen the range",
        "details": {},
    }
    assert registry.releases == []


async def test_an_attempt_over_its_timeout_is_stopped_and_failed(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    row = await ended(registry, await registry.grant(timeout=1.0, do="sleep", children=True))
    assert row.status == common_pb2.STATUS_FAILED
    assert row.reason == (
        "TIMEOUT: ran longer than its timeout of 1 s; raise the job's timeout, or make it smaller"
    )
    await until_idle(worker)


async def test_a_row_that_the_registry_refuses_does_not_cost_the_job(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    registry.refuse = lambda row: row.task_name == "step-1"
    job_id = await registry.grant(do="steps", count=3)
    row = await ended(registry, job_id)
    assert row.status == common_pb2.STATUS_FINISHED
    assert [seq for seq, _, _ in words(registry.rows, job_id)] == [1, 2, 5, 6, 7]
    assert row.reason == (
        "2 rows of its tasks not recorded, the first: task step-1: a row is malformed"
    )
    assert struct_to_dict(row.metadata)["refused_row_count"] == 2


async def test_rows_with_a_verdict_against_them_are_counted_in_the_jobs_last_row(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    registry.reject = lambda row: row.task_name == "step-1"
    row = await ended(registry, await registry.grant(do="steps", count=3))
    assert row.status == common_pb2.STATUS_FINISHED
    assert row.reason == "2 rows of its tasks not recorded, the first: task step-1: it may not"


async def test_a_last_row_with_a_verdict_against_it_gives_the_attempt_back(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    registry.reject = lambda row: not row.task_name
    await registry.grant(do="steps", count=0)
    await registry.until(lambda: registry.releases)
    assert registry.releases[0].reason == "the registry refused its result: it may not"
    assert registry.releases[0].counts


async def test_a_whole_number_that_no_double_holds_is_recorded_as_text(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    row = await ended(registry, await registry.grant(do="return", value={"seed": 2**60 + 1}))
    assert struct_to_dict(row.metadata)["result"] == {"seed": str(2**60 + 1)}


async def test_a_result_that_the_registry_refuses_gives_the_attempt_back(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    registry.refuse = lambda row: not row.task_name
    await registry.grant(do="steps", count=0)
    await registry.until(lambda: registry.releases)
    assert registry.releases[0].counts
    assert "did not take its result" in registry.releases[0].reason


async def test_draining_gives_running_attempts_back_uncounted_after_they_have_ended(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    job_id = await registry.grant(do="sleep")
    await registry.until(lambda: registry.rows)
    await worker.drain()
    assert attempts() == []
    await registry.until(lambda: registry.releases)
    assert registry.releases == [
        registry_pb2.Release(job_id=job_id, attempt=1, reason="worker doe-1 shuts down")
    ]


async def test_a_draining_worker_first_says_that_it_takes_no_more_and_last_that_it_has_ended(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    await registry.grant(do="sleep")
    await registry.until(lambda: registry.rows)
    await worker.drain()
    words = [each for each in registry.said if each != "beat"]
    assert words == ["draining", "release", "end"]


async def test_a_grant_that_crosses_the_word_of_a_draining_worker_is_not_run(
    registry: ScriptedRegistry, worker: Worker
) -> None:
    job_id = await registry.grant(do="sleep")
    await registry.until(lambda: registry.rows)
    draining = asyncio.create_task(worker.drain())
    late = await registry.grant(do="steps", count=1)
    await draining
    assert {each.job_id for each in registry.releases} <= {job_id, late}
    assert not any(each.counts for each in registry.releases)
    assert words(registry.rows, late) == []


async def test_a_process_stands_by_for_the_next_attempt(
    registry: ScriptedRegistry, tmp_path: Path
) -> None:
    client = RegistryClient(registry.address, actor="doe")
    published: list[str] = []
    worker = worker_of(client, tmp_path, stand_by=True, published=published.append)

    async def standing_by() -> int:
        await registry.until(lambda: worker._next is not None and worker._next.done())
        assert worker._next is not None
        return worker._next.result().pid

    run = asyncio.create_task(worker.run())
    try:
        ready = [await standing_by()]
        jobs = []
        for is_killed in (False, True):
            if is_killed:
                os.kill(ready[-1], signal.SIGKILL)
                worker_next = worker._next
                assert worker_next is not None
                await worker_next.result().ended()
            jobs.append(await registry.grant(do="steps", count=0))
            assert (await ended(registry, jobs[-1])).status == common_pb2.STATUS_FINISHED
            ready.append(await standing_by())
        assert len(set(ready)) == 3
        assert published == jobs
    finally:
        run.cancel()
        await asyncio.wait([run])
        await client.close()
    with pytest.raises(ProcessLookupError):
        os.kill(ready[-1], 0)
