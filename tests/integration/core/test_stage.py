"""A stage service in a process of its own, with a registry on PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, wrappers_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2, doe_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient, status_word, struct_to_dict
from vistaflow_services.core.work.process_groups import descendants

HERE = Path(__file__).parent

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def client(registry: str) -> AsyncIterator[RegistryClient]:
    made = RegistryClient(registry, actor="test")
    yield made
    await made.close()


@pytest.fixture
async def start(registry: str, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts the stage service, logs into tmp_path."""
    started: list[asyncio.subprocess.Process] = []

    async def begin(**settings: str) -> asyncio.subprocess.Process:
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "VISTAFLOW_HOME": str(tmp_path),
            "VISTAFLOW_REGISTRY": registry,
            **settings,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "stage_under_test.py"), env=environment
        )
        started.append(process)
        return process

    yield begin
    for each in started:
        if each.returncode is None:
            each.terminate()
            await asyncio.wait_for(each.wait(), 120)


async def new_job(client: RegistryClient, **what: Any) -> common_pb2.Job:
    return (await client.create_job(registry_pb2.CreateJobRequest(job=job_of(**what)))).job


def job_of(
    name: str = "design",
    depends_on: tuple[str, ...] = (),
    timeout: float = 0,
    max_attempts: int = 0,
    **what: Any,
) -> registry_pb2.NewJob:
    spec = any_pb2.Any()
    spec.Pack(wrappers_pb2.StringValue(value=json.dumps(what)))
    job = registry_pb2.NewJob(
        name=name,
        job_type=common_pb2.JOB_TYPE_DOE,
        depends_on=depends_on,
        spec=spec,
        max_attempts=max_attempts,
    )
    if timeout:
        job.timeout.FromNanoseconds(int(timeout * 1e9))
    return job


async def until(
    client: RegistryClient,
    job_id: str,
    holds: Callable[[common_pb2.Job], Any],
    seconds: float = 120,
) -> common_pb2.Job:
    give_up = time.monotonic() + seconds
    while True:
        job = await client.get_job(job_id)
        if holds(job):
            return job
        assert time.monotonic() < give_up, f"still {status_word(job.status)}: {job}"
        await asyncio.sleep(0.05)


def is_over(job: common_pb2.Job) -> bool:
    return status_word(job.status) in ("FINISHED", "FAILED", "CANCELED")


def has_begun(job: common_pb2.Job) -> bool:
    return any(each.task_name == "pids" for each in job.tasks)


def pids_of(job: common_pb2.Job) -> list[int]:
    task = next(each for each in job.tasks if each.task_name == "pids")
    return [int(each) for each in struct_to_dict(task.metadata)["pids"]]


async def still_there(pids: list[int], seconds: float) -> list[int]:
    give_up = time.monotonic() + seconds
    while True:
        left = [each for each in pids if _lives(each)]
        if not left or time.monotonic() > give_up:
            return left
        await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def test_a_kit_of_jobs_runs_to_its_end_and_hands_results_on(
    client: RegistryClient, start: Start
) -> None:
    await start()
    request = registry_pb2.CreateKitRequest(
        name="kit",
        jobs=[
            job_of("first", do="steps", count=2),
            job_of("second", ("first",), do="steps", count=1),
        ],
    )
    kit = (await client.create_kit(request)).kit
    last = await until(client, kit.jobs[1].job_id, is_over)
    assert status_word(last.status) == "FINISHED"
    assert struct_to_dict(last.result) == {"count": 1, "attempt": 1, "inputs": ["first"]}
    first = await client.get_job(kit.jobs[0].job_id)
    tasks = [(each.task_name, status_word(each.status)) for each in first.tasks]
    assert [each for each in tasks if each[0] != "progress"] == [
        ("step-0", "FINISHED"),
        ("step-1", "FINISHED"),
    ]
    assert (await client.result(first.job_id, job_type="DOE")).result["count"] == 2


async def test_the_service_is_announced_serves_and_starts_a_job_once_a_request_id(
    client: RegistryClient, start: Start
) -> None:
    await start()
    address = ""
    while not address:
        for each in (await client.server_info()).services:
            if (each.name, each.status) == ("doe", "SERVING"):
                address = each.address
        await asyncio.sleep(0.05)
    request = doe_pb2.GenerateDesignRequest(
        request_id=str(uuid.uuid4()), deck=json.dumps({"do": "steps", "count": 1})
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub = doe_pb2_grpc.DoeServiceStub(channel)
        jobs = [(await stub.GenerateDesign(request, timeout=60)).job for _ in range(2)]
    assert jobs[0].job_id == jobs[1].job_id
    job = await until(client, jobs[0].job_id, is_over)
    assert (job.name, status_word(job.status), job.actor[:6]) == ("design", "FINISHED", "worker")


async def test_killing_the_service_leaves_no_process_and_its_job_runs_again(
    client: RegistryClient, start: Start
) -> None:
    service = await start()
    job = await new_job(client, do="sleep", seconds=2, children=True)
    job = await until(client, job.job_id, has_begun)
    pids = pids_of(job)
    assert set(pids) <= set(descendants(service.pid))
    service.kill()
    await service.wait()
    assert await still_there(pids, 120) == []
    await start()
    job = await until(client, job.job_id, is_over)
    assert (status_word(job.status), job.attempt) == ("FINISHED", 2)


@pytest.mark.parametrize("seconds", [60, pytest.param(5, marks=pytest.mark.slow)])
async def test_canceling_a_job_ends_all_its_processes(
    client: RegistryClient, start: Start, seconds: float
) -> None:
    await start()
    job = await new_job(client, do="sleep", children=True)
    job = await until(client, job.job_id, has_begun)
    pids = pids_of(job)
    assert len(pids) == 4
    await client.stub.CancelJob(registry_pb2.CancelJobRequest(job_id=job.job_id))
    assert await still_there(pids, seconds) == []
    assert status_word((await client.get_job(job.job_id)).status) == "CANCELED"
    after = await new_job(client, do="steps", count=1)
    assert status_word((await until(client, after.job_id, is_over)).status) == "FINISHED"


async def test_sigterm_gives_the_job_back_without_counting_it(
    client: RegistryClient, start: Start
) -> None:
    service = await start()
    job = await new_job(client, do="sleep", max_attempts=1)
    job = await until(client, job.job_id, has_begun)
    pids = pids_of(job)
    service.terminate()
    assert await asyncio.wait_for(service.wait(), 120) == 0
    assert await still_there(pids, 120) == []
    job = await client.get_job(job.job_id)
    assert status_word(job.status) == "QUEUED"
    assert "shuts down" in job.reason


async def test_a_crash_is_tried_again_up_to_the_jobs_attempts(
    client: RegistryClient, start: Start, tmp_path: Path
) -> None:
    await start()
    once = await new_job(client, name="once", do="crash once")
    always = await new_job(client, name="always", do="crash", max_attempts=2)
    once, always = [await until(client, each.job_id, is_over) for each in (once, always)]
    assert (status_word(once.status), once.attempt) == ("FINISHED", 2)
    assert (status_word(always.status), always.attempt) == ("FAILED", 2)
    assert "SIGSEGV" in always.reason
    assert f"vistaflow logs {always.job_id}" in always.reason
    logs = sorted(each.name for each in (tmp_path / "logs" / "jobs" / always.job_id).iterdir())
    assert logs == ["1.log", "2.log"]


async def test_a_known_failure_and_a_timeout_are_not_tried_again(
    client: RegistryClient, start: Start
) -> None:
    await start()
    known = await new_job(client, name="known", do="known")
    slow = await new_job(client, name="slow", timeout=1, do="sleep")
    known, slow = [await until(client, each.job_id, is_over) for each in (known, slow)]
    assert (status_word(known.status), known.attempt) == ("FAILED", 1)
    assert known.reason == "ALL_FAILED: all 40 runs failed; widen the range"
    assert (status_word(slow.status), slow.attempt) == ("FAILED", 1)
    assert slow.reason.startswith("TIMEOUT: ran longer than its timeout of 1 s")


@pytest.mark.slow
async def test_a_warm_service_does_a_small_job_in_a_fraction_of_the_time(
    client: RegistryClient, start: Start
) -> None:
    took: dict[str, list[float]] = {"false": [], "true": []}
    for warm, times in took.items():
        service = await start(VISTAFLOW_DOE_WARM=warm)
        warming = await new_job(client, do="steps", count=1)
        await until(client, warming.job_id, is_over)
        await asyncio.sleep(1.0)
        for _ in range(5):
            begin = time.monotonic()
            job = await new_job(client, do="steps", count=1)
            await until(client, job.job_id, is_over)
            times.append(time.monotonic() - begin)
        service.terminate()
        await service.wait()
    assert min(took["true"]) < 0.8 * min(took["false"])


async def test_a_misspelt_setting_stops_the_service_with_the_right_name(start: Start) -> None:
    service = await start(VISTAFLOW_DOE_CAPACTIY="2")
    assert await asyncio.wait_for(service.wait(), 120) == 2


async def test_a_second_service_gets_another_worker_name_and_both_work(
    client: RegistryClient, start: Start
) -> None:
    await start()
    await start()
    await asyncio.sleep(2)
    jobs = [await new_job(client, name=f"job-{n}", do="sleep", seconds=2) for n in range(2)]
    both = [await until(client, each.job_id, has_begun) for each in jobs]
    assert len({each.worker for each in both}) == 2
    for each in jobs:
        assert status_word((await until(client, each.job_id, is_over)).status) == "FINISHED"


async def test_a_frozen_service_loses_its_job_and_stops_it_when_it_wakes(
    client: RegistryClient, start: Start
) -> None:
    services = [await start(), await start()]
    job = await new_job(client, do="sleep", seconds=6)
    job = await until(client, job.job_id, has_begun)
    pids = pids_of(job)
    (frozen,) = [each for each in services if set(pids) & set(descendants(each.pid))]
    frozen.send_signal(signal.SIGSTOP)
    job = await until(client, job.job_id, lambda job: job.attempt == 2 and has_begun(job))
    assert not set(pids_of(job)) & set(pids)
    frozen.send_signal(signal.SIGCONT)
    assert await still_there(pids, 120) == []
    job = await until(client, job.job_id, is_over)
    assert (status_word(job.status), job.attempt) == ("FINISHED", 2)
    request = registry_pb2.ListStatesRequest(
        filter=registry_pb2.StateFilter(job_ids=[job.job_id]), page_size=5_000
    )
    rows = (await client.call(client.stub.ListStates, request)).states
    own = [(each.attempt, status_word(each.status)) for each in rows if not each.task_name]
    assert own == [
        (0, "QUEUED"),
        (1, "RUNNING"),
        (1, "QUEUED"),
        (2, "RUNNING"),
        (2, "FINISHED"),
    ]
