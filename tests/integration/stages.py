"""A stage service beside the test, with its worker, on a real registry; and what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core import stage
from vistaflow_services.core.registry_client import RegistryClient, job_type_number


@asynccontextmanager
async def stage_serving(
    service: stage.StageService, config: stage.StageConfig, *, home: Path, registry: str
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a stage service that leases its jobs from the registry at an address."""
    stop = asyncio.Event()
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        stage.serve(
            service,
            config,
            home=home,
            registry_address=registry,
            stop=stop,
            on_bound=address.set_result,
        )
    )
    try:
        async with grpc.aio.insecure_channel(await address) as channel:
            yield channel
    finally:
        stop.set()
        await serving


async def finished(
    registry: RegistryClient, job: common_pb2.Job, *, seconds: float = 240
) -> common_pb2.Job:
    """The job once it has ended."""
    async with asyncio.timeout(seconds):
        while True:
            now = await registry.get_job(job.job_id)
            if now.status >= common_pb2.STATUS_FINISHED:
                return now
            await asyncio.sleep(0.05)


async def external(
    registry: RegistryClient, job_type: str, result: Mapping[str, Any] | None = None
) -> common_pb2.Job:
    """A job that no worker leases: FINISHED with a result, or RUNNING if there is none yet."""
    new = registry_pb2.NewJob(job_type=job_type_number(job_type))
    job = (await registry.create_job(registry_pb2.CreateJobRequest(job=new))).job
    rows = [common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_RUNNING, seq=1)]
    if result is not None:
        row = common_pb2.State(job_id=job.job_id, status=common_pb2.STATUS_FINISHED, seq=2)
        row.metadata.update({"result": dict(result)})
        rows.append(row)
    answer = await registry.append(rows)
    assert {each.verdict for each in answer.results} == {registry_pb2.VERDICT_ACCEPTED}, answer
    return await registry.get_job(job.job_id)


async def refused(call: Any) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The status of a call that must fail, and its violations by field."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    found: dict[str, str] = {}
    status = rpc_status.from_call(raised.value)
    for detail in status.details if status else ():
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {each.field: each.description for each in bad.field_violations}
    return raised.value.code(), found


async def until(condition: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    """Waits for a condition."""
    async with asyncio.timeout(120):
        while True:
            met = condition()
            if await met if isinstance(met, Awaitable) else met:
                return
            await asyncio.sleep(0.01)


def kill(home: Path, job_id: str, attempt: int) -> None:
    """Kills the processes of an attempt, which work in its folder."""
    folder = home / "artifacts" / "jobs" / job_id / str(attempt)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").resolve() == folder:
                os.kill(int(process.name), signal.SIGKILL)
