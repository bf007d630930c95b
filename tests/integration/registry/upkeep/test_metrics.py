"""What the registry and a stage service tell Prometheus, and what the examples make of it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from google.protobuf import duration_pb2
from prometheus_client.parser import text_string_to_metric_families

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1.registry_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.core.server.metrics import LAG_INTERVAL, Metrics
from vistaflow_services.core.server.shell import StartError, make_server
from vistaflow_services.core.stage import StageService, serve
from vistaflow_services.doe.config import Config as DoeConfig
from vistaflow_services.registry.__main__ import build
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.reads.store import make_pool
from vistaflow_services.suite.ports import free_port

sys.path.insert(0, str(Path(__file__).parents[1]))

from traffic import connect, external_job, until

EXAMPLES = Path(__file__).parents[4] / "examples" / "monitoring"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(address: str) -> Samples:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def block(seconds: float) -> None:
    """Keeps the event loop from doing anything else."""
    time.sleep(seconds)


class Served:
    """A registry with metrics, in this process."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.metrics = Metrics()

    async def __aenter__(self) -> Served:
        self.pool = make_pool(self.database)
        await self.pool.open(wait=True, timeout=60)
        self.registry = await build(self.pool, Config(lease_seconds=3.0), metrics=self.metrics)
        self.registry.address = self.registry.server.bind("127.0.0.1:0")
        await self.registry.open()
        await self.registry.server.start()
        self.http = self.metrics.serve("127.0.0.1:0")
        self.address = self.http.__enter__()
        self.watching = asyncio.create_task(self.metrics.watch_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.watching.cancel()
        self.http.__exit__(None, None, None)
        await self.registry.drain()
        await self.registry.server.stop(0.2)
        await self.registry.close()
        await self.pool.close()

    async def scrape(self) -> Samples:
        await self.registry.upkeep.look()
        return await asyncio.to_thread(scrape, self.address)


async def test_what_happens_is_counted(database: str) -> None:
    async with Served(database) as served:
        channel, stub = connect(served.registry.address)
        async with channel:
            kit_id, job_id = await external_job(stub)
            for number in range(10):
                states = [
                    common.State(
                        job_id=job_id, task_name=f"t{n}", status=common.STATUS_RUNNING, attempt=1
                    )
                    for n in range(number + 1)
                ]
                await stub.AppendStates(pb.AppendStatesRequest(states=states))
            stale = common.State(
                job_id=job_id, task_name="t", status=common.STATUS_RUNNING, attempt=7
            )
            await stub.AppendStates(pb.AppendStatesRequest(states=[stale]))
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.GetKit(pb.GetKitRequest(kit_id=99))
            watch = stub.WatchStates(pb.WatchStatesRequest(filter=pb.StateFilter(kit_ids=[kit_id])))
            await watch.read()
            # A worker that leases a job and falls silent.
            lease = stub.LeaseJobs()
            await lease.write(
                pb.LeaseJobsRequest(
                    hello=pb.WorkerHello(worker="w", job_types=[common.JOB_TYPE_DOE], capacity=1)
                )
            )
            job = pb.NewJob(name="leased", job_type=common.JOB_TYPE_DOE, max_attempts=1)
            job.spec.Pack(duration_pb2.Duration(seconds=1))
            await stub.CreateJob(pb.CreateJobRequest(request_id=str(uuid.uuid4()), job=job))
            async with asyncio.timeout(120):
                while not (await lease.read()).HasField("grant"):
                    pass
            held = await served.scrape()
            lease.cancel()
            await until(
                lambda: (
                    served.metrics.registry.get_sample_value("vistaflow_lease_expiries_total") == 1
                )
            )
            block(0.3 + 2 * LAG_INTERVAL)
            lag = "vistaflow_event_loop_lag_seconds"
            await until(lambda: (served.metrics.registry.get_sample_value(lag) or 0) >= 0.3)
            # The watch is told of the last rows, and then is behind by none.
            samples = await served.scrape()
            while value(samples, "vistaflow_watch_lag_rows_max"):
                samples = await served.scrape()
            watch.cancel()

    service = "vistaflow.api.registry.v1.RegistryService"
    assert value(samples, "grpc_server_call_started_total", grpc_method=f"{service}/GetKit") == 1
    count = "grpc_server_call_duration_seconds_count"
    labels = {"grpc_method": f"{service}/GetKit", "grpc_status": "NOT_FOUND"}
    assert value(samples, count, **labels) == 1
    labels = {"grpc_method": f"{service}/AppendStates", "grpc_status": "OK"}
    assert value(samples, count, **labels) == 12
    assert value(samples, "grpc_server_call_duration_seconds_sum", **labels) > 0
    assert value(samples, "vistaflow_verdicts_total", verdict="ACCEPTED") == 56
    assert value(samples, "vistaflow_verdicts_total", verdict="STALE_ATTEMPT") == 1
    assert value(samples, "vistaflow_head_revision") == served.registry.hub.head
    assert value(samples, "vistaflow_append_rows_total") == served.registry.hub.head
    assert value(samples, "vistaflow_commits_total") == value(
        samples, "vistaflow_commit_seconds_count"
    )
    assert value(samples, "vistaflow_watches") == 1
    assert value(samples, "vistaflow_watch_lag_rows_max") == 0
    assert value(held, "vistaflow_leases") == 1
    assert value(samples, "vistaflow_leases") == 0
    assert value(samples, "vistaflow_pool_max") == 10
    assert value(samples, "vistaflow_database_connections") > 2
    assert value(samples, "vistaflow_log_bytes") > 0
    assert value(samples, "vistaflow_event_loop_lag_seconds") >= 0.3
    assert value(samples, "process_resident_memory_bytes") > 0


async def test_what_the_cache_of_kits_does_is_counted_where_it_happens(database: str) -> None:
    async with Served(database) as served:
        channel, stub = connect(served.registry.address)
        async with channel:
            kit_id, job_id = await external_job(stub)
            for _ in range(5):
                await stub.GetKit(pb.GetKitRequest(kit_id=kit_id))
            # Another job: no row tells what it is, so the kit is read anew.
            await stub.CreateJob(
                pb.CreateJobRequest(
                    kit_id=kit_id, job=pb.NewJob(name="more", job_type=common.JOB_TYPE_DOE)
                )
            )
            await stub.GetJob(pb.GetJobRequest(job_id=job_id))
            samples = await served.scrape()
    cache = served.registry.cache
    assert value(samples, "vistaflow_cache_hits_total") == cache.hit_count == 4
    assert value(samples, "vistaflow_cache_misses_total") == cache.miss_count == 2
    assert value(samples, "vistaflow_cache_drops_total") == cache.drop_count == 1
    assert value(samples, "vistaflow_cache_evictions_total") == 0
    assert value(samples, "vistaflow_cache_kits") == 1
    assert value(samples, "vistaflow_cache_bytes") == cache.bytes > 1000
    assert value(samples, "vistaflow_cache_max_bytes") == Config.cache_bytes


async def test_a_watch_that_does_not_read_is_seen_to_lag(database: str) -> None:
    async with Served(database) as served:
        channel, stub = connect(served.registry.address)
        async with channel:
            _, job_id = await external_job(stub)
            watch = stub.WatchStates(pb.WatchStatesRequest())
            await watch.read()
            rows = []
            for number in range(200):
                state = common.State(job_id=job_id, task_name=f"t{number}", status=3)
                state.metadata["x"] = "y" * 8000
                rows.append(state)
            for _ in range(12):
                await stub.AppendStates(pb.AppendStatesRequest(states=rows))
            await asyncio.sleep(0.2)
            samples = await served.scrape()
            info = await stub.GetServerInfo(pb.GetServerInfoRequest())
            watch.cancel()
    assert value(samples, "vistaflow_watch_lag_rows_max") > 1000
    assert value(samples, "vistaflow_watch_lag_seconds_max") > 0.1
    assert value(samples, "vistaflow_watches_behind", rows="1000") == 1
    assert value(samples, "vistaflow_watches_behind", rows="20000") == 0
    assert re.search(
        r"[1-9],\d{3} rows, .* s behind: from ipv4:127.0.0.1:\d+", info.limits["watches.slowest"]
    )


async def test_a_blocked_event_loop_is_seen(database: str) -> None:
    metrics = Metrics()
    watching = asyncio.create_task(metrics.watch_loop())
    await asyncio.sleep(0.3)
    import time

    time.sleep(0.6)  # noqa: ASYNC251
    await asyncio.sleep(0.3)
    watching.cancel()
    lag = metrics.registry.get_sample_value("vistaflow_event_loop_lag_seconds")
    assert lag is not None
    assert lag > 0.3


class Strange(RegistryServiceServicer):
    """Answers in every way there is."""

    async def GetKit(self, request: Any, context: Any) -> Any:
        raise NotFoundError("none")

    async def GetJob(self, request: Any, context: Any) -> Any:
        raise RuntimeError("a bug")

    async def WatchStates(self, request: Any, context: Any) -> Any:
        yield pb.WatchStatesResponse(revision=1)
        await asyncio.sleep(30)


async def test_calls_are_counted_however_they_end() -> None:
    metrics = Metrics()
    server = make_server("vistaflow.api.registry.v1.RegistryService", metrics=metrics)
    add_RegistryServiceServicer_to_server(Strange(), server)
    address = server.bind("127.0.0.1:0")
    await server.start()
    channel, stub = connect(address)
    async with channel:
        for call in (
            stub.GetKit(pb.GetKitRequest()),
            stub.GetJob(pb.GetJobRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError):
                await call
        watch = stub.WatchStates(pb.WatchStatesRequest())
        assert (await watch.read()).revision == 1
        watch.cancel()
        ended: dict[str, str] = {}

        def told() -> bool:
            for family in metrics.registry.collect():
                for sample in family.samples:
                    if sample.name == "grpc_server_call_duration_seconds_count":
                        method = sample.labels["grpc_method"].rpartition("/")[2]
                        ended[method] = sample.labels["grpc_status"]
            return len(ended) == 3

        await until(told)
    await server.stop(0)
    assert ended == {
        "GetKit": "NOT_FOUND",
        "GetJob": "INTERNAL",
        "WatchStates": "CANCELLED",
    }


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=60) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


async def test_a_stage_service_serves_metrics_and_says_that_it_is_ready_where_it_is_told(
    registry: str, tmp_path: Path
) -> None:
    stop = asyncio.Event()
    bound = asyncio.Event()
    service = StageService(
        name="doe", service_names=(), add_servicers=lambda stage, server: None, job_types=()
    )
    port = free_port()
    config = DoeConfig(listen="127.0.0.1:0", metrics_listen=f"127.0.0.1:{port}")
    serving = asyncio.create_task(
        serve(
            service,
            config,
            home=tmp_path,
            registry_address=registry,
            stop=stop,
            on_bound=lambda _: bound.set(),
        )
    )
    await bound.wait()
    samples = await asyncio.to_thread(scrape, f"127.0.0.1:{port}")
    async with asyncio.timeout(120):
        while not await asyncio.to_thread(is_ready, f"127.0.0.1:{port}"):
            pass
    stop.set()
    await serving
    assert ("vistaflow_event_loop_lag_seconds", ()) in samples


def test_metrics_are_not_open_to_the_network() -> None:
    with pytest.raises(StartError, match="open to the network"), Metrics().serve("0.0.0.0:0"):
        pass


WORD = re.compile(r"\b(?:vistaflow|grpc_server|process|python)_[a-z0-9_]+\b")
LABELS = {"grpc_method", "grpc_status"}


def named(text: str) -> set[str]:
    """The metrics that an expression names."""
    return set(WORD.findall(re.sub(r'"[^"]*"', '""', text))) - LABELS


async def test_every_metric_of_the_examples_exists(database: str) -> None:
    rules = yaml.safe_load((EXAMPLES / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", [])]
    expressions = [rule["expr"] for rule in alerts] + [target["expr"] for target in targets]

    async with Served(database) as served:
        served.metrics.watch_worker(lambda: 0, lambda: 1)
        channel, stub = connect(served.registry.address)
        async with channel:
            await external_job(stub)
            job = pb.NewJob(name="waits", job_type=common.JOB_TYPE_DOE)
            job.spec.Pack(duration_pb2.Duration(seconds=1))
            await stub.CreateJob(pb.CreateJobRequest(request_id=str(uuid.uuid4()), job=job))
            samples = await served.scrape()
    there = {name for name, _ in samples}

    assert len(alerts) >= 6
    for rule in alerts:
        assert {"alert", "expr", "for", "labels", "annotations"} <= set(rule)
        assert {"summary", "description"} <= set(rule["annotations"])
    assert len(targets) >= 12
    assert all(named(each) for each in expressions)
    assert set().union(*map(named, expressions)) <= there
