"""How fast kits are read and listed, as the log and the number of kits grow.

    python benchmarks/registry/reads.py [--rows 1e5,1e6,1e7] [--kits 1e3,1e6] [--home FOLDER]

* kit: GetKit of kits of 4,500 events in 140 states, in logs of so many rows: from SQL to the kit
  in memory, from SQL to the answer's bytes, and from the cache after every change; server time.
  Then one caller through gRPC.
* growth (only when asked for): bytes a row, and appends to a log of so many rows.
* lists: pages of 100 of ListKits and ListJobs by every filter, among so many kits. A filter
  is common (one kit in five) or old (100 kits, all among the first 500).

Filling 10,000,000 rows takes minutes and 4 GB, 100,000,000 a quarter of an hour and 40 GB. With
`--home` the filled logs are stored for the next run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filled
from bench import Table, arguments, interleave, quantile, run
from servers import METADATA_TEXT, stub_of
from servers import registry as serving

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.__main__ import Registry, build, settle_memory
from vistaflow_services.registry.cached_reads import CachedReads, StoreSource
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.domain import JobFilter, KitFilter
from vistaflow_services.registry.reads.cache import KitCache
from vistaflow_services.registry.reads.store import make_pool

READS = 300
KITS_READ = 100
"""Kits that are read again and again: how deep a log is counts, not how cold a disk."""
FIRST = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Patient:
    """A call that may take its time."""

    def time_remaining(self) -> float:
        return 10.0


@contextlib.contextmanager
def postgres(home: Path) -> Iterator[str]:
    """The embedded PostgreSQL of a home that may be kept."""
    server = EmbeddedPostgres(home)
    dsn = server.start()
    try:
        yield dsn
    finally:
        server.stop()


@contextlib.asynccontextmanager
async def opened(dsn: str, schema: str) -> AsyncIterator[Registry]:
    """The parts of a registry in this process; nothing is served."""
    pool = make_pool(dsn, schema=schema)
    await pool.open(wait=True)
    registry = await build(pool, Config(schema=schema))
    await registry.ledger.start()
    try:
        yield registry
    finally:
        await registry.ledger.stop()
        await pool.close()


async def timed(call: Callable[[], Awaitable[Any]], count: int = READS) -> dict[str, float]:
    """The waits for an answer, in ms."""
    waits = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        waits.append(1000 * (time.perf_counter() - began))
    return {"p50": quantile(waits, 0.5), "p99": quantile(waits, 0.99)}


async def running_job(registry: Registry, kit_id: int) -> uuid.UUID:
    """Adds a job to a kit, to which anybody may append."""
    job = c.NewJob(
        job_id=uuid.uuid4(),
        name=f"more-{uuid.uuid4().hex}",
        job_type="DOE",
        current_order=9,
        depends_on=(),
        external=True,
    )
    await registry.ledger.submit(c.CreateJob(kit_id=kit_id, job=job))
    await registry.ledger.submit(c.Append(items=(c.Item(job_id=job.job_id, status="RUNNING"),)))
    return job.job_id


def task_rows(job_id: uuid.UUID, count: int) -> c.Append:
    """Rows of a job's tasks."""
    return c.Append(
        items=tuple(
            c.Item(
                job_id=job_id,
                status="RUNNING",
                task_name=f"point-{number % 34}",
                metadata_json=METADATA_TEXT,
            )
            for number in range(count)
        )
    )


# What is measured of one log, inside the server.


async def from_sql(registry: Registry, kits: int) -> dict[str, float]:
    """Kits in memory out of the database."""
    some = chosen(kits)
    for kit_id in some:
        await registry.store.kit(kit_id)
    return await timed(lambda: registry.store.kit(random.choice(some)))


def chosen(kits: int) -> list[int]:
    """The kits to read, from all over the log."""
    return random.Random(1).sample(range(1, kits + 1), min(kits, KITS_READ))


async def answered(registry: Registry, kits: int) -> dict[str, float]:
    """The same, as bytes for the wire."""
    servicer: Any = registry.servicer
    context: Any = Patient()

    some = chosen(kits)

    async def answer() -> None:
        request = pb.GetKitRequest(kit_id=random.choice(some))
        (await servicer.GetKit(request, context)).SerializeToString()

    return await timed(answer)


async def from_cache(registry: Registry, kits: int) -> dict[str, float]:
    """The bytes of a kit in memory, each time after it changed."""
    context: Any = Patient()
    cache = KitCache(registry.hub, StoreSource(registry.store))
    reads = CachedReads(registry.servicer, cache, registry.hub)
    request = pb.GetKitRequest(kit_id=kits)
    job_id = await running_job(registry, kits)
    waits = []
    for _ in range(READS):
        await registry.ledger.submit(task_rows(job_id, 1))
        began = time.perf_counter()
        await reads.get_kit(request, context)
        waits.append(1000 * (time.perf_counter() - began))
    assert cache.hit_count == READS - 1
    return {"p50": quantile(waits, 0.5), "p99": quantile(waits, 0.99)}


async def by_call(address: str, kits: int) -> dict[str, float]:
    """One caller through gRPC."""
    stub = stub_of(address)
    some = [pb.GetKitRequest(kit_id=kit_id) for kit_id in chosen(kits)[:20]]
    for request in some:
        await stub.GetKit(request)
    return await timed(lambda: stub.GetKit(random.choice(some)))


async def appended(registry: Registry, seconds: float) -> dict[str, float]:
    """Rows a second, 8 writers of 100 rows."""
    kits = (await registry.store.head()).last_kit_id
    batches = [task_rows(await running_job(registry, kits - n), 100) for n in range(8)]
    rows = 0
    end = time.perf_counter() + seconds

    async def write(batch: c.Append) -> None:
        nonlocal rows
        while time.perf_counter() < end:
            answer = await registry.ledger.submit(batch)
            rows += len(answer.results)

    await asyncio.gather(*map(write, batches))
    return {"rate": rows / seconds}


def filters() -> dict[str, KitFilter | JobFilter]:
    """The filters of lists: of kits, and after `jobs:` of jobs."""
    failed, running = frozenset(["FAILED"]), frozenset(["RUNNING"])
    first, middle = FIRST + 200 * MINUTE, FIRST + 400 * MINUTE
    site, campaign = (("site", "site-2"),), (("campaign", "first"),)
    return {
        "any": KitFilter(),
        "status, common": KitFilter(statuses=failed),
        "status, old": KitFilter(statuses=running),
        "two statuses, old": KitFilter(statuses=running | {"QUEUED"}),
        "label, common": KitFilter(labels=site),
        "label, old": KitFilter(labels=campaign),
        "name, common": KitFilter(name_contains="mosfet"),
        "name, old": KitFilter(name_contains="diode"),
        "project, common": KitFilter(project="photonics"),
        "project, old": KitFilter(project="old"),
        "project and status": KitFilter(project="default", statuses=failed),
        "project and status, none": KitFilter(project="photonics", statuses=running),
        "created before, old": KitFilter(created_before=middle),
        "created between, old": KitFilter(created_after=first, created_before=middle),
        "jobs: any": JobFilter(),
        "jobs: status, common": JobFilter(statuses=failed),
        "jobs: status, old": JobFilter(statuses=running),
        "jobs: type, old": JobFilter(job_types=frozenset(["CONVERT"])),
        "jobs: label, old": JobFilter(labels=campaign),
        "jobs: project, old": JobFilter(project="old"),
        "jobs: project, common": JobFilter(project="photonics"),
    }


async def listed(registry: Registry, chosen: KitFilter | JobFilter) -> dict[str, float]:
    """The first page of 100."""
    store = registry.store
    if isinstance(chosen, JobFilter):
        return await timed(lambda: store.list_jobs(chosen, before=None, limit=100), 15)
    return await timed(lambda: store.list_kits(chosen, before=None, limit=100), 15)


async def measure_kits(dsn: str, home: Path, sizes: list[int]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        logs: dict[int, tuple[Registry, int]] = {}
        for size in sizes:
            filled.fill_log(dsn, f"log_{size}", size)
            registry = await stack.enter_async_context(opened(dsn, f"log_{size}"))
            logs[size] = registry, filled.kits_of(size)
        settle_memory()
        variants = {
            f"{what} {size}": functools.partial(read, *log)
            for size, log in logs.items()
            for what, read in (("sql", from_sql), ("answer", answered), ("cache", from_cache))
        }
        got = await interleave(variants, options.rounds)
    for size in sizes:
        schema = f"log_{size}"
        async with (
            serving(dsn, home, name="by-sql", schema=schema, cache_bytes="0") as sql,
            serving(dsn, home, name="by-cache", schema=schema) as cache,
        ):
            calls = {
                f"call, sql {size}": functools.partial(by_call, sql.address, logs[size][1]),
                f"call, cache {size}": functools.partial(by_call, cache.address, logs[size][1]),
            }
            got |= await interleave(calls, options.rounds)
    table = Table("GetKit of a kit of 4,500 events in 140 states, p50")
    for what, text, most in (
        ("sql", "from SQL, the kit in memory", 1.0),
        ("answer", "from SQL, the answer's bytes", None),
        ("cache", "from the cache after a change, bytes", 0.3),
        ("call, sql", "through gRPC, from SQL", None),
        ("call, cache", "through gRPC, from the cache", None),
    ):
        for size in sizes:
            name, least = f"{text}, {size:,} rows", got[f"{what} {sizes[0]}"]["p50"]
            took = got[f"{what} {size}"]["p50"]
            table.add(name, took, "ms", most=most, absolute=True)
            if size != sizes[0] and what == "sql":
                table.add(name, took, "ms", against=least, of=f"at {sizes[0]:,}", most=1.3)


async def measure_growth(dsn: str, sizes: list[int]) -> None:
    table = Table("Size of the log and of everything, bytes a row")
    for size in sizes:
        rows = filled.fill_log(dsn, f"log_{size}", size)
        log_bytes = filled.log_bytes(dsn, f"log_{size}")
        for what, most in (("log", 350), ("everything", None)):
            share = log_bytes[what] / rows
            table.add(f"{what}, {rows:,} rows", share, "B", most=most, absolute=True)
    async with contextlib.AsyncExitStack() as stack:
        variants = {}
        for size in sizes:
            registry = await stack.enter_async_context(opened(dsn, f"log_{size}"))
            variants[f"{size}"] = functools.partial(appended, registry, options.seconds)
        settle_memory()
        got = await interleave(variants, options.rounds)
    table = Table("Appends of 100 rows by 8 writers, without gRPC")
    for size in sizes:
        rate, least = got[f"{size}"]["rate"], got[f"{sizes[0]}"]["rate"]
        table.add(f"{size:,} rows", rate, "/s", against=least, of=f"at {sizes[0]:,}", least=0.8)


async def measure_lists(dsn: str, sizes: list[int]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        registries = {}
        for size in sizes:
            filled.fill_kits(dsn, f"kits_{size}", size)
            registries[size] = await stack.enter_async_context(opened(dsn, f"kits_{size}"))
        settle_memory()
        variants = {
            f"{name} {size}": functools.partial(listed, registry, chosen)
            for name, chosen in filters().items()
            for size, registry in registries.items()
        }
        got = await interleave(variants, options.rounds)
    table = Table(f"Pages of 100 among {sizes[-1]:,} kits, p50")
    for name in filters():
        few, many = (got[f"{name} {size}"]["p50"] for size in (sizes[0], sizes[-1]))
        table.add(name, many, "ms", against=few, of=f"among {sizes[0]:,}", most=1.5)


def sizes(text: str) -> list[int]:
    return [int(float(number)) for number in text.split(",")]


async def measure(folder: Path) -> None:
    home = options.home or folder
    home.mkdir(parents=True, exist_ok=True)
    with postgres(home) as dsn:
        if options.only in (None, "kit"):
            await measure_kits(dsn, folder, options.rows)
        if options.only in (None, "lists"):
            await measure_lists(dsn, options.kits)
        if options.only == "growth":
            await measure_growth(dsn, options.rows)


parser = arguments(__doc__)
parser.add_argument("--rows", type=sizes, default="1e5,1e6", help="rows of the logs")
parser.add_argument("--kits", type=sizes, default="1e3,1e6", help="kits to list")
parser.add_argument("--home", type=Path, help="where the filled databases are kept")
parser.add_argument("--only", choices=("kit", "lists", "growth"), help="one table of them")
if __name__ == "__main__":
    options = parser.parse_args()
    run(measure)
