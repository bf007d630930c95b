"""Attempts go on while the registry is killed, frozen and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core.registry_client import RegistryClient, status_word, struct_to_dict
from vistaflow_services.suite.ports import free_port

sys.path.insert(0, str(Path(__file__).parent))
from test_stage import HERE, is_over, new_job, until

Begin = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
def address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
async def begin(database: str, address: str, tmp_path: Path) -> AsyncIterator[Begin]:
    """Starts the registry, always on the same database and address."""
    started: list[asyncio.subprocess.Process] = []

    async def start() -> asyncio.subprocess.Process:
        environment = {
            **os.environ,
            "VISTAFLOW_HOME": str(tmp_path),
            "VISTAFLOW_REGISTRY_LISTEN": address,
            "VISTAFLOW_REGISTRY_DATABASE": database,
            "VISTAFLOW_REGISTRY_LEASE_SECONDS": "10",
        }
        started.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vistaflow_services.registry", env=environment
            )
        )
        return started[-1]

    yield start
    for each in started:
        if each.returncode is None:
            each.send_signal(signal.SIGCONT)
            each.kill()
            await each.wait()


@pytest.fixture
async def stage(address: str, tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(HERE),
        "VISTAFLOW_HOME": str(tmp_path),
        "VISTAFLOW_REGISTRY": address,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "stage_under_test.py"), env=environment
    )
    yield process
    process.terminate()
    await asyncio.wait_for(process.wait(), 120)


@pytest.fixture
async def client(address: str) -> AsyncIterator[RegistryClient]:
    made = RegistryClient(address, actor="test")
    yield made
    await made.close()


async def seqs_of(client: RegistryClient, job_id: str) -> list[int]:
    """The seqs of the job's rows, in the order of the log."""
    request = registry_pb2.ListStatesRequest(
        filter=registry_pb2.StateFilter(job_ids=[job_id]), page_size=5_000
    )
    answer = await client.call(client.stub.ListStates, request)
    return [each.seq for each in answer.states if each.seq]


async def test_a_registry_killed_three_times_costs_neither_the_attempt_nor_a_row(
    begin: Begin, stage: asyncio.subprocess.Process, client: RegistryClient
) -> None:
    registry = await begin()
    job = await new_job(client, do="steps", count=60, seconds=0.15)
    for _ in range(3):
        await until(client, job.job_id, lambda job: bool(job.tasks))
        await asyncio.sleep(1.0)
        registry.kill()
        await registry.wait()
        await asyncio.sleep(0.5)
        registry = await begin()
    job = await until(client, job.job_id, is_over)
    assert (status_word(job.status), job.attempt) == ("FINISHED", 1)
    assert struct_to_dict(job.result)["count"] == 60
    assert await seqs_of(client, job.job_id) == list(range(1, 122))


@pytest.mark.slow
async def test_a_frozen_registry_is_noticed_and_the_attempt_goes_on(
    begin: Begin, stage: asyncio.subprocess.Process, client: RegistryClient
) -> None:
    registry = await begin()
    job = await new_job(client, do="steps", count=100, seconds=0.3)
    await until(client, job.job_id, lambda job: bool(job.tasks))
    registry.send_signal(signal.SIGSTOP)
    await asyncio.sleep(20)
    registry.send_signal(signal.SIGCONT)
    job = await until(client, job.job_id, is_over, seconds=90)
    assert status_word(job.status) == "FINISHED"
    assert len(set(await seqs_of(client, job.job_id))) == 201
