"""Serves the registry: `python -m vistaflow_services.registry`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from importlib import metadata
from typing import Any

import psycopg

from vistaflow.api.datasets.v1.datasets_pb2_grpc import add_DatasetServiceServicer_to_server
from vistaflow.api.outbox.v1.outbox_pb2_grpc import add_OutboxServiceServicer_to_server
from vistaflow.api.schedules.v1.schedules_pb2_grpc import add_ScheduleServiceServicer_to_server
from vistaflow_services.core import files, log
from vistaflow_services.core.config import read_config
from vistaflow_services.core.home import prepare_home
from vistaflow_services.core.server import shell as core
from vistaflow_services.core.server.metrics import Metrics, served
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry import domain
from vistaflow_services.registry.access.issuer import read_issuer
from vistaflow_services.registry.access.service import TokenService
from vistaflow_services.registry.access.store import TokenStore
from vistaflow_services.registry.access.trail import Trail
from vistaflow_services.registry.cached_reads import CachedReads, StoreSource
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.guard import guard
from vistaflow_services.registry.database.migrations import MigrationError, migrate
from vistaflow_services.registry.database.space import StorageGuard
from vistaflow_services.registry.datasets import service as datasets
from vistaflow_services.registry.datasets.store import DatasetStore
from vistaflow_services.registry.handlers import SERVICE_NAME, serve
from vistaflow_services.registry.lease.service import LeaseService
from vistaflow_services.registry.lease.store import LeaseStore
from vistaflow_services.registry.log.board import Board
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.log.journal import Journal
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.log.tail import Tail
from vistaflow_services.registry.outbox import service as outbox
from vistaflow_services.registry.outbox.recorder import Recorder
from vistaflow_services.registry.outbox.sealing import Seal
from vistaflow_services.registry.outbox.store import OutboxStore
from vistaflow_services.registry.reads.cache import KitCache
from vistaflow_services.registry.reads.store import Pool, Store, make_pool
from vistaflow_services.registry.schedules import service as schedules
from vistaflow_services.registry.schedules.store import ScheduleStore
from vistaflow_services.registry.servicer import RegistryServicer
from vistaflow_services.registry.services import ServiceDirectory
from vistaflow_services.registry.streams import StreamService
from vistaflow_services.registry.upkeep.checks import Finding
from vistaflow_services.registry.upkeep.dump import Dumps
from vistaflow_services.registry.upkeep.loop import Upkeep
from vistaflow_services.registry.upkeep.meters import RegistryMeters
from vistaflow_services.registry.upkeep.retention import Policy
from vistaflow_services.registry.watch.service import WatchService
from vistaflow_services.registry.watch.store import WatchStore

logger = logging.getLogger(__name__)

PACKAGE = "vistaflow_services.registry"

# The hub looks at the database once a second at least. When it could not for longer than this,
# reads ask the database themselves.
CACHE_FRESH_SECONDS = 3.0


class Registry:
    """A registry on an open pool: the server, and what runs behind it."""

    def __init__(
        self,
        pool: Pool,
        config: Config,
        head: domain.Head,
        *,
        metrics: Metrics | None = None,
        embedded: EmbeddedPostgres | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.address = ""
        self.stop = asyncio.Event()
        """Set when something behind the server has failed for good."""
        self.limits = limits(config)
        self.hub = Hub(head.last_id)
        self.store = Store(pool)
        self.token_store = TokenStore(pool)
        self.trail = Trail(pool)
        self.guard = StorageGuard(embedded.data if embedded else None, config.min_free_mib << 20)
        self.datasets = DatasetStore(pool, self.guard, config.project_quota_bytes)
        self.schedules = ScheduleStore(pool, self.guard)
        self.outbox = OutboxStore(
            pool,
            self.guard,
            Seal(config.home / "keys" / "webhooks"),
            lease_seconds=config.lease_seconds,
            patience_hours=config.delivery_hours,
        )
        self.recorder = Recorder(pool, self.outbox, lambda: self.hub.head)
        self._tasks: list[asyncio.Task[None]] = []
        meters = RegistryMeters(metrics) if metrics is not None else None
        self._conninfo = str(pool.conninfo)
        self._build_log(self._conninfo, config, head, journal, meters)
        self._build_streams(pool, config, head)
        self.upkeep = Upkeep(
            pool=pool,
            config=config,
            hub=self.hub,
            ledger=self.ledger,
            guard=self.guard,
            datasets=self.datasets,
            limits=self.limits,
            meters=meters,
            counts=lambda: {
                "tail_reconnects": self.tail.reconnect_count,
                "postgres_restarts": embedded.restarts if embedded else 0,
            },
        )
        self._build_server(config, metrics)
        if meters is not None:
            meters.follow(self.cache)

    def _build_log(
        self,
        conninfo: str,
        config: Config,
        head: domain.Head,
        journal: Journal | None,
        meters: RegistryMeters | None,
    ) -> None:
        """What commits commands, and what notices the commits of other replicas."""
        self.ledger = Ledger(
            journal or Journal(conninfo, config.schema, partition_size=config.partition_size),
            self.hub,
            board=Board(max_weight=config.board_weight),
            request_seconds=config.request_days * 86400,
            trail_seconds=config.audit_days * 86400,
            guard=self.guard,
            meters=meters,
        )
        self.tail = Tail(
            self.hub,
            conninfo=conninfo,
            schema=config.schema,
            epoch=str(head.epoch),
            on_replaced=self._replaced,
        )

    def _build_streams(self, pool: Pool, config: Config, head: domain.Head) -> None:
        """What serves the methods that stream; `drain` ends these streams."""
        self.watch_store = WatchStore(pool)
        self.watches = WatchService(hub=self.hub, store=self.watch_store, epoch=str(head.epoch))
        self.streams = StreamService(self.ledger)
        self.leases = LeaseService(
            ledger=self.ledger,
            hub=self.hub,
            store=LeaseStore(pool),
            lease_seconds=config.lease_seconds,
        )

    def _build_server(self, config: Config, metrics: Metrics | None) -> None:
        """The server, its door, and what serves each method."""
        settings = core.ServerSettings(max_concurrent_calls=config.max_calls)
        self.server = core.make_server(
            SERVICE_NAME,
            datasets.SERVICE.full_name,
            schedules.SERVICE.full_name,
            outbox.SERVICE.full_name,
            settings=settings,
            metrics=metrics,
        )
        self.directory = ServiceDirectory(
            hub=self.hub,
            store=self.watch_store,
            name_schema=config.schema,
            version=_version(),
            address=lambda: self.address,
            limits=self.limits,
            findings=self._findings,
        )
        # After the directory has read the settings that callers of one project may see.
        self.limits["auth"] = self.server.door.settings.auth
        self.issuer = read_issuer(required=self.server.door.settings.required)
        if self.issuer is not None and metrics is not None:
            self.issuer.measure(metrics)
        self.servicer = RegistryServicer(
            ledger=self.ledger,
            store=self.store,
            hub=self.hub,
            watches=self.watches,
            streams=self.streams,
            leases=self.leases,
            directory=self.directory,
            tokens=TokenService(self.token_store, self.issuer),
            trail=self.trail,
            dumps=Dumps(self._conninfo, config.schema, _version()),
        )
        self.server.door.tokens = self.servicer.tokens.tokens
        self.server.door.admit = self.servicer.tenancy.admit
        self.cache = KitCache(
            self.hub,
            StoreSource(self.store),
            max_bytes=config.cache_bytes,
            fresh=lambda: self.tail.fresh(CACHE_FRESH_SECONDS),
        )
        serve(self.server, self.servicer, CachedReads(self.servicer, self.cache, self.hub))
        self.server.checks.update(datasets.checks())
        add_DatasetServiceServicer_to_server(datasets.DatasetServicer(self.datasets), self.server)
        self.server.checks.update(schedules.checks())
        scheduling = schedules.ScheduleServicer(self.schedules, self.ledger, self.servicer.tenancy)
        add_ScheduleServiceServicer_to_server(scheduling, self.server)
        self.server.checks.update(outbox.checks())
        add_OutboxServiceServicer_to_server(outbox.OutboxServicer(self.outbox), self.server)

    async def open(self) -> None:
        """Begins to commit, to follow the log and to lease; the server is started apart."""
        await self.ledger.start()
        if self.issuer is not None:
            self.issuer.prepare()
        for name, work in (
            ("tail", self.tail.run()),
            ("leases", self.leases.run()),
            ("upkeep", self.upkeep.run()),
            ("unfinished changes", self.servicer.unfinished.run()),
            ("outbox", self.recorder.run()),
        ):
            self._tasks.append(asyncio.create_task(self._guarded(name, work), name=name))

    async def ready(self) -> bool:
        """Whether requests can be answered."""
        self.guard.check()
        return self.ledger.ready and not self.upkeep.critical and await self.store.ping()

    async def drain(self) -> None:
        """Tells watchers and workers to go on elsewhere."""
        self.watches.drain()
        self.streams.drain()
        self.leases.drain()

    async def close(self) -> None:
        """Ends what `open` began, once the last call has ended."""
        await ended(self._tasks)
        await self.servicer.close()
        if self.issuer is not None:
            await self.issuer.close()
        await self.ledger.stop()

    def _findings(self) -> list[Finding]:
        """What `doctor` shows of this registry."""
        findings = list(self.upkeep.findings)
        if self.issuer is not None:
            state, summary, fix = self.issuer.state()
            findings.append(Finding(name="issuer", state=state, summary=summary, fix=fix))
        return findings

    def _replaced(self) -> None:
        """What is in memory is of another log than the database's: only a new start helps."""
        self.watches.replaced()
        logger.critical("the log was replaced under the registry; the registry stops")
        self.stop.set()

    async def _guarded(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("the registry's %s ended; the registry stops", name)
            self.stop.set()


async def build(
    pool: Pool,
    config: Config,
    *,
    metrics: Metrics | None = None,
    embedded: EmbeddedPostgres | None = None,
) -> Registry:
    """A registry on an open pool of a migrated database, not yet open."""
    head = await Store(pool).head()
    return Registry(pool, config, head, metrics=metrics, embedded=embedded)


def settle_memory() -> None:
    """Keeps the collector off what is there for good, and from looking at every large batch.

    While it looks, nothing else runs: so it looks at 5,000 objects at once, at five times as many
    that were made before, and at all of them as seldom as each 8 million.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 5, 320)


def limits(config: Config) -> dict[str, str]:
    """Limits and settings that `GetServerInfo` returns, by name."""
    return {
        "jobs_a_request": str(domain.MAX_JOBS_A_REQUEST),
        "jobs_a_kit": str(domain.MAX_JOBS_A_KIT),
        "states_an_append": str(domain.MAX_STATES_AN_APPEND),
        "metadata_bytes": str(domain.MAX_METADATA_BYTES),
        "job_spec_bytes": str(domain.MAX_JOB_SPEC_BYTES),
        "lease_seconds": f"{config.lease_seconds:g}",
        "request_days": f"{config.request_days:g}",
        "audit_days": f"{config.audit_days:g}",
        "retention": str(Policy.of(config)),
    }


async def main(config: Config) -> None:
    """Serves until it is asked to stop."""
    async with (
        served(config.metrics_listen) as metrics,
        _database(config) as (conninfo, embedded),
    ):
        try:
            await asyncio.to_thread(migrate, conninfo, config.schema, PACKAGE)
            await asyncio.to_thread(guard, conninfo, config.schema)
        except MigrationError as error:
            raise core.StartError(str(error)) from error
        except psycopg.OperationalError as error:
            # Who started it sees what PostgreSQL says, and has it started again.
            raise core.StartError(f"the database does not answer: {error}") from error
        pool = make_pool(conninfo, schema=config.schema, size=config.pool_size)
        await pool.open(wait=True, timeout=30)
        try:
            registry = await build(pool, config, metrics=metrics, embedded=embedded)
            registry.address = registry.server.bind(config.listen)
            await registry.open()
            settle_memory()
            logger.info("listening on %s", registry.address)
            if config.address_file is not None:
                files.write(config.address_file, registry.address.encode())
            await core.run(
                registry.server,
                ready=registry.ready,
                on_drain=registry.drain,
                on_stopped=registry.close,
                stop=registry.stop,
            )
        finally:
            await pool.close(timeout=2)


@asynccontextmanager
async def _database(config: Config) -> AsyncIterator[tuple[str, EmbeddedPostgres | None]]:
    """Where the database is; the embedded one runs for as long as the block lasts."""
    if config.database:
        yield config.database, None
        return
    postgres = EmbeddedPostgres(config.home)
    try:
        await asyncio.to_thread(postgres.start)
    except asyncio.CancelledError:
        await asyncio.to_thread(postgres.stop)
        raise
    supervisor = asyncio.create_task(postgres.supervise(), name="postgres")
    try:
        yield postgres.conninfo, postgres
    finally:
        await ended([supervisor])
        await asyncio.to_thread(postgres.stop)


def _version() -> str:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("vistaflow")
    return "0"


def run() -> None:
    """Reads the settings and serves."""
    log.configure("registry")

    async def serving() -> None:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        prepare_home(config.home)
        log.configure("registry", home=config.home, level=config.log_level)
        await main(config)

    core.main("registry", serving)


if __name__ == "__main__":
    run()
