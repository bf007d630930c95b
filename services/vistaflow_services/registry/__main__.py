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

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow_services.core import files, log
from vistaflow_services.core import server as core
from vistaflow_services.core.config import read_config
from vistaflow_services.core.home import prepare_home
from vistaflow_services.core.metrics import Metrics, served
from vistaflow_services.core.migrations import MigrationError, migrate
from vistaflow_services.core.sql import load_queries
from vistaflow_services.core.tasks import ended
from vistaflow_services.registry import domain
from vistaflow_services.registry.board import Board
from vistaflow_services.registry.cached_reads import CachedReads, StoreSource, serve_cached
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.embedded import EmbeddedPostgres
from vistaflow_services.registry.guarding import guard
from vistaflow_services.registry.hub import Hub
from vistaflow_services.registry.journal import Journal
from vistaflow_services.registry.kit_cache import KitCache
from vistaflow_services.registry.leases import LeaseService
from vistaflow_services.registry.ledger import Ledger
from vistaflow_services.registry.meters import RegistryMeters
from vistaflow_services.registry.raw_requests import serve_raw
from vistaflow_services.registry.retention import Policy
from vistaflow_services.registry.servicer import RegistryServicer
from vistaflow_services.registry.services import ServiceDirectory
from vistaflow_services.registry.storage import StorageGuard
from vistaflow_services.registry.store import Pool, Store, make_pool
from vistaflow_services.registry.streams import StreamService
from vistaflow_services.registry.tail import Tail
from vistaflow_services.registry.upkeep import Upkeep
from vistaflow_services.registry.watch import WatchService
from vistaflow_services.registry.watch_bytes import serve_bytes
from vistaflow_services.registry.watch_store import WatchStore

logger = logging.getLogger(__name__)

PACKAGE = "vistaflow_services.registry"
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name

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
        queries = load_queries(PACKAGE)
        conninfo = str(pool.conninfo)
        self.address = ""
        self.stop = asyncio.Event()
        """Set when something behind the server has failed for good."""
        self.hub = Hub(head.last_id)
        self.store = Store(pool)
        self.guard = StorageGuard(embedded.data if embedded else None, config.min_free_mib << 20)
        meters = RegistryMeters(metrics) if metrics is not None else None
        self.ledger = Ledger(
            journal or Journal(conninfo, config.schema, partition_size=config.partition_size),
            self.hub,
            board=Board(max_weight=config.board_weight),
            request_seconds=config.request_days * 86400,
            guard=self.guard,
            meters=meters,
        )
        self.limits = limits(config)
        watch_store = WatchStore(pool, queries)
        self.watches = WatchService(hub=self.hub, store=watch_store, epoch=str(head.epoch))
        self.streams = StreamService(self.ledger)
        self.leases = LeaseService(
            ledger=self.ledger,
            hub=self.hub,
            store=watch_store,
            lease_seconds=config.lease_seconds,
        )
        self.directory = ServiceDirectory(
            hub=self.hub,
            store=watch_store,
            name_schema=config.schema,
            version=_version(),
            address=lambda: self.address,
            limits=self.limits,
        )
        self.tail = Tail(
            self.hub,
            conninfo=conninfo,
            schema=config.schema,
            queries=queries,
            epoch=str(head.epoch),
            on_replaced=self._replaced,
        )
        settings = core.ServerSettings(max_concurrent_calls=config.max_calls)
        self.upkeep = Upkeep(
            pool=pool,
            config=config,
            hub=self.hub,
            ledger=self.ledger,
            guard=self.guard,
            limits=self.limits,
            meters=meters,
            counts=lambda: {
                "tail_reconnects": self.tail.reconnect_count,
                "postgres_restarts": embedded.restarts if embedded else 0,
            },
        )
        self.server = core.make_server(SERVICE_NAME, settings=settings, metrics=metrics)
        self.servicer = RegistryServicer(
            ledger=self.ledger,
            store=self.store,
            hub=self.hub,
            watches=self.watches,
            streams=self.streams,
            leases=self.leases,
            directory=self.directory,
        )
        self.limits["auth"] = self.server.door.settings.auth
        self.server.door.tokens = self.servicer.tokens.tokens
        self.server.door.admit = self.servicer.tenancy.admit
        rpc.add_RegistryServiceServicer_to_server(self.servicer, self.server)
        serve_raw(self.servicer, self.server)
        serve_bytes(self.watches, self.server)
        self.cache = KitCache(
            self.hub,
            StoreSource(self.store),
            max_bytes=config.cache_bytes,
            fresh=lambda: self.tail.fresh(CACHE_FRESH_SECONDS),
        )
        if meters is not None:
            meters.follow(self.cache)
        serve_cached(CachedReads(self.servicer, self.cache, self.hub), self.server)
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begins to commit, to follow the log and to lease; the server is started apart."""
        await self.ledger.start()
        for name, work in (
            ("tail", self.tail.run()),
            ("leases", self.leases.run()),
            ("upkeep", self.upkeep.run()),
            ("unfinished changes", self.servicer.unfinished.run()),
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
        await self.ledger.stop()

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
    """Keeps the collector off what is there for good, and from looking at every large batch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def limits(config: Config) -> dict[str, str]:
    """What is worth knowing of the registry's limits, by name."""
    return {
        "jobs_a_request": str(domain.MAX_JOBS_A_REQUEST),
        "jobs_a_kit": str(domain.MAX_JOBS_A_KIT),
        "states_an_append": str(domain.MAX_STATES_AN_APPEND),
        "metadata_bytes": str(domain.MAX_METADATA_BYTES),
        "job_spec_bytes": str(domain.MAX_JOB_SPEC_BYTES),
        "lease_seconds": f"{config.lease_seconds:g}",
        "request_days": f"{config.request_days:g}",
        "retention": str(Policy.of(config)),
    }


async def main(config: Config) -> None:
    """Serves until told to stop."""
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
