"""How long requests of unusual shapes delay other callers.

Two other callers, in a process of their own, make calls while each request is served: one requests
the server's info, the other appends a row. The result is the longest wait of either, which must not
be more than 100 ms on an idle machine. Two further columns do not depend on other load: the
processor time that the registry used meanwhile in all its threads, and the longest turn of its
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from bench import Table, arguments, run
from google.protobuf import struct_pb2
from load import asked
from servers import METADATA, SCHEMA, Running, new_job, postgres, process, stub_of

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc

MOST_MS = 100.0
REASON = "\U0001f600" * 4096
HERE = Path(__file__).parent

Call = Callable[[], Awaitable[object]]


def processor_ms(pid: int) -> float:
    """The processor time that a process has taken, in all its threads."""
    used = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e6


async def neighbour(address: str, job_id: str, pid: int) -> None:
    """Goes on calling; for each line it reads, tells the longest waits since the last, in ms."""
    stub = stub_of(address)
    waits = {"info": 0.0, "append": 0.0, "used": 0.0}
    state = common.State(job_id=job_id, task_name="neighbour", status=common.STATUS_RUNNING)

    async def go_on(name: str, call: Call) -> None:
        while True:
            began, used = time.perf_counter(), processor_ms(pid)
            await call()
            waits[name] = max(waits[name], 1000 * (time.perf_counter() - began))
            waits["used"] = max(waits["used"], processor_ms(pid) - used)
            await asyncio.sleep(0.005)

    info, append = pb.GetServerInfoRequest(), pb.AppendStatesRequest(states=[state])
    tasks = [
        asyncio.create_task(go_on("info", lambda: stub.GetServerInfo(info))),
        asyncio.create_task(go_on("append", lambda: stub.AppendStates(append))),
    ]
    line = await asked("ready")
    while line:
        longest = json.dumps(waits)
        waits |= dict.fromkeys(waits, 0.0)
        line = await asked(longest)
    for task in tasks:
        task.cancel()


class Measure:
    """Makes requests, and tells what others felt of them."""

    def __init__(self, registry: Running, turns: Path, beside: asyncio.subprocess.Process) -> None:
        self._registry = registry
        self._turns = turns
        self._beside = beside
        self.table = Table("Longest wait of a neighbour's call while a request is served")

    async def of(self, what: str, call: Call) -> None:
        """Serves a request and prints what it cost others."""
        await asyncio.sleep(0.3)
        await self._waits()
        await self._turn()
        began = time.perf_counter()
        try:
            await call()
            answer = "OK"
        except grpc.aio.AioRpcError as error:
            answer = error.code().name
        took = time.perf_counter() - began
        await asyncio.sleep(0.2)
        waits, turn = await self._waits(), await self._turn()
        self.table.add(
            f"{what}: {answer}"[:60],
            max(waits["info"], waits["append"]),
            "ms",
            against=waits["used"],
            of=f"CPU, {turn:.0f} at once; info {waits['info']:.0f}; {took:.1f} s",
            most=MOST_MS,
            absolute=True,
        )

    async def _waits(self) -> dict[str, float]:
        assert self._beside.stdin is not None
        assert self._beside.stdout is not None
        self._beside.stdin.write(b"go on\n")
        longest: dict[str, float] = json.loads(await self._beside.stdout.readline())
        return longest

    async def _turn(self) -> float:
        self._turns.unlink(missing_ok=True)
        self._registry.process.send_signal(signal.SIGUSR1)
        for _ in range(3000):
            if self._turns.exists():
                return float(self._turns.read_text())
            await asyncio.sleep(0.01)
        raise SystemExit("the registry does not tell how long its turns are")


@contextlib.asynccontextmanager
async def timed_registry(dsn: str, home: Path) -> AsyncIterator[tuple[Running, Path]]:
    """A registry whose event loop is timed, and where it tells its longest turn."""
    file, turns = home / "registry.address", home / "turns"
    env = {
        "VISTAFLOW_REGISTRY_DATABASE": dsn,
        "VISTAFLOW_REGISTRY_LISTEN": "127.0.0.1:0",
        "VISTAFLOW_REGISTRY_ADDRESS_FILE": str(file),
        "VISTAFLOW_REGISTRY_SCHEMA": SCHEMA,
        "VISTAFLOW_HOME": str(home),
        "TURNS_FILE": str(turns),
    }
    script = str(HERE / "timed_registry.py")
    async with process(script, address_file=file, env=env) as running:
        yield running, turns


def large_stub(address: str) -> Any:
    """A client that sends what is too large."""
    options = [("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
    return rpc.RegistryServiceStub(grpc.aio.insecure_channel(address, options=options))


def numbers(count: int) -> struct_pb2.Struct:
    """Metadata that takes long to read: many numbers."""
    metadata = struct_pb2.Struct()
    metadata["a"] = [0] * count
    return metadata


def text(size: int) -> struct_pb2.Struct:
    """Metadata of so many bytes."""
    metadata = struct_pb2.Struct()
    metadata["a"] = "x" * size
    return metadata


def states(job_id: str, count: int, metadata: struct_pb2.Struct) -> list[common.State]:
    """Rows of as many tasks."""
    return [
        common.State(
            job_id=job_id,
            task_name=f"large-{number}",
            status=common.STATUS_RUNNING,
            metadata=metadata,
        )
        for number in range(count)
    ]


def chain(count: int, most: int = 1000) -> list[pb.NewJob]:
    """Jobs that each depend on all before, but on the first of them at most."""
    names = [f"j{number}" for number in range(count)]
    return [
        pb.NewJob(job_type=common.JOB_TYPE_DOE, name=name, depends_on=names[: min(place, most)])
        for place, name in enumerate(names)
    ]


async def kit_of(stub: Any, count: int) -> int:
    """A kit of so many jobs."""
    jobs = [pb.NewJob(job_type=common.JOB_TYPE_DOE, name=f"m{number}") for number in range(count)]
    kit_id: int = (await stub.CreateKit(pb.CreateKitRequest(name="m", jobs=jobs[:1000]))).kit.kit_id
    for start in range(1000, count, 100):
        await asyncio.gather(
            *(
                stub.CreateJob(pb.CreateJobRequest(kit_id=kit_id, job=job))
                for job in jobs[start : start + 100]
            )
        )
    return kit_id


async def tasks_of(stub: Any, count: int) -> int:
    """A kit with a job of so many tasks."""
    kit_id, job_id = await new_job(stub)
    for start in range(0, count, 1000):
        rows = [
            common.State(job_id=job_id, task_name=f"t{number}", status=common.STATUS_RUNNING)
            for number in range(start, start + 1000)
        ]
        for row in rows:
            row.metadata.update(METADATA)
        await stub.AppendStates(pb.AppendStatesRequest(states=rows))
    return kit_id


async def tree(stub: Any, kit_id: int, **fields: Any) -> None:
    """Reads all of a kit, page by page."""
    token = ""
    while True:
        page = await stub.GetKit(pb.GetKitRequest(kit_id=kit_id, page_token=token, **fields))
        token = page.next_page_token
        if not token:
            return


async def difference(stub: Any, kit_id: int, until: int) -> None:
    """Reads all that changed in a kit."""
    token = ""
    while True:
        request = pb.DiffKitRequest(kit_id=kit_id, from_revision=1, to_revision=until)
        request.page_token = token
        token = (await stub.DiffKit(request)).next_page_token
        if not token:
            return


async def snapshot(stub: Any, kit_id: int) -> None:
    """Reads the snapshot with which a watch of a kit begins."""
    state_filter = pb.StateFilter(kit_ids=[kit_id])
    call = stub.WatchStates(pb.WatchStatesRequest(include_snapshot=True, filter=state_filter))
    async for message in call:
        if message.HasField("synced"):
            break
    call.cancel()


async def watching(stub: Any, rows: Sequence[common.State]) -> None:
    """Appends rows that a watch receives, and waits until it has them."""
    head = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    call = stub.WatchStates(pb.WatchStatesRequest(after_revision=head))
    answer = await stub.AppendStates(pb.AppendStatesRequest(states=rows))
    async for message in call:
        if message.revision >= answer.revision:
            break
    call.cancel()


async def measure(folder: Path, jobs: int, tasks: int) -> None:
    """Measures every shape."""
    with postgres(folder) as dsn:
        async with timed_registry(dsn, folder) as (registry, turns):
            stub = large_stub(registry.address)
            _, job_id = await new_job(stub)
            beside = await asyncio.create_subprocess_exec(
                sys.executable,
                __file__,
                "--neighbour",
                registry.address,
                job_id,
                str(registry.process.pid),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=os.environ,
            )
            assert beside.stdin is not None
            assert beside.stdout is not None
            await beside.stdout.readline()
            measured = Measure(registry, turns, beside)
            await _appends(measured, stub, job_id)
            await _kits(measured, stub)
            await _changes(measured, stub, jobs)
            await _reads(measured, stub, tasks)
            beside.stdin.write_eof()
            await beside.wait()


async def _appends(measured: Measure, stub: Any, job_id: str) -> None:
    def append(rows: list[common.State], request_id: str = "") -> Call:
        request = pb.AppendStatesRequest(states=rows, request_id=request_id)
        return lambda: stub.AppendStates(request)

    await measured.of("append of 13 MB of numbers", append(states(job_id, 40, numbers(33_000))))
    await measured.of("append of 19 MB of text", append(states(job_id, 300, text(63_000))))
    await measured.of("append of 1,800,000 empty rows", append([common.State()] * 1_800_000))
    entries = {f"k{number}": None for number in range(50_000)}
    objects = struct_pb2.Struct()
    objects.update(entries)
    await measured.of("append of 5 objects of 50,000 keys", append(states(job_id, 5, objects)))
    largest = states(job_id, 10, numbers(32_000))
    await measured.of("append of 10 rows of 64 KiB of numbers", append(largest))
    known = append(largest, str(uuid.uuid4()))
    await measured.of("the same with a request_id", known)
    await measured.of("the same again", known)
    await measured.of("the same, watched", lambda: watching(stub, largest))
    await measured.of("append of 57 rows of 64 KiB", append(states(job_id, 57, text(63_000))))
    await measured.of("append of 1,000 rows of 3.6 KB", append(states(job_id, 1000, text(3_600))))


async def _kits(measured: Measure, stub: Any) -> None:
    def create(**fields: Any) -> Call:
        request = pb.CreateKitRequest(name="kit", request_id=str(uuid.uuid4()), **fields)
        return lambda: stub.CreateKit(request)

    labels = {f"k{number}": "" for number in range(300_000)}
    await measured.of("kit with 300,000 labels", create(labels=labels))
    await measured.of("kit with a spec of 256 KiB of numbers", create(spec=numbers(130_000)))
    await measured.of("kit with 1,000 jobs that wait for all before", create(jobs=chain(1000)))
    await measured.of("kit with 1,000 jobs", create(jobs=chain(1000, 0)))
    await measured.of("kit with 1,000 jobs that wait for 200", create(jobs=chain(1000, 200)))
    again = create(jobs=chain(600))
    await measured.of("kit with 600 jobs that wait for all before", again)
    await measured.of("the same again", again)
    kit = (await stub.CreateKit(pb.CreateKitRequest(name="k", jobs=chain(1000)[:500]))).kit
    first = kit.jobs[0].job_id
    run_first = [common.State(job_id=first, status=common.STATUS_RUNNING)]
    await stub.AppendStates(pb.AppendStatesRequest(states=run_first))
    failed = [common.State(job_id=first, status=common.STATUS_FAILED, reason=REASON)]
    request = pb.AppendStatesRequest(states=failed)
    await measured.of("failure for which 499 jobs wait", lambda: stub.AppendStates(request))


async def _changes(measured: Measure, stub: Any, jobs: int) -> None:
    one, other = await kit_of(stub, jobs), await kit_of(stub, 1000)
    cancel, retry = pb.CancelKitRequest(kit_id=one), pb.RetryKitRequest(kit_id=one)
    job_filter = pb.JobFilter(kit_ids=[one, other])
    for reason, length in (("", "a short"), (REASON, "the longest")):
        cancel.reason = retry.reason = reason
        of = f"of {jobs:,} jobs with {length} reason"
        await measured.of(f"CancelKit {of}", lambda: stub.CancelKit(cancel))
        await measured.of(f"RetryKit {of}", lambda: stub.RetryKit(retry))
        by_filter = pb.CancelJobsRequest(filter=job_filter, reason=reason)
        again = pb.RetryJobsRequest(filter=job_filter, reason=reason)
        more = f"of {jobs + 1000:,} jobs of two kits"
        await measured.of(f"CancelJobs {more}", lambda request=by_filter: stub.CancelJobs(request))
        await measured.of(f"RetryJobs {more}", lambda request=again: stub.RetryJobs(request))


async def _reads(measured: Measure, stub: Any, tasks: int) -> None:
    kit_id = await tasks_of(stub, tasks)
    until = (await stub.GetServerInfo(pb.GetServerInfoRequest())).revision
    await measured.of(f"GetKit of {tasks:,} tasks", lambda: tree(stub, kit_id))
    await measured.of("the same again", lambda: tree(stub, kit_id))
    await measured.of("the same as of a revision", lambda: tree(stub, kit_id, as_of_revision=until))
    await measured.of("DiffKit of it", lambda: difference(stub, kit_id, until))
    await measured.of("snapshot of it", lambda: snapshot(stub, kit_id))
    listed = pb.ListStatesRequest(page_size=5000)
    await measured.of("ListStates of 5,000 rows", lambda: stub.ListStates(listed))
    jobs = pb.ListJobsRequest(page_size=1000)
    await measured.of("ListJobs of 1,000 jobs", lambda: stub.ListJobs(jobs))


def main() -> None:
    if "--neighbour" in sys.argv:
        asyncio.run(neighbour(sys.argv[2], sys.argv[3], int(sys.argv[4])))
        return
    parser = arguments(__doc__)
    parser.add_argument("--jobs", type=int, default=3_000, help="jobs of the kit that is canceled")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks of the kit that is read")
    options = parser.parse_args()
    run(lambda folder: measure(folder, options.jobs, options.tasks))


if __name__ == "__main__":
    main()
