"""A registry in this process, on a real port, with its parts at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from traffic import connect

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.server.shell import Server, make_server
from vistaflow_services.registry.access.service import TokenService
from vistaflow_services.registry.access.store import TokenStore
from vistaflow_services.registry.access.trail import Trail
from vistaflow_services.registry.handlers import serve
from vistaflow_services.registry.lease.service import LeaseService
from vistaflow_services.registry.lease.store import LeaseStore
from vistaflow_services.registry.log.hub import RING_ROWS, Hub
from vistaflow_services.registry.log.journal import Journal
from vistaflow_services.registry.log.ledger import Ledger
from vistaflow_services.registry.log.tail import Tail
from vistaflow_services.registry.log.unfinished import UnfinishedChanges
from vistaflow_services.registry.reads.store import Pool, Store, make_pool
from vistaflow_services.registry.servicer import RegistryServicer
from vistaflow_services.registry.services import ServiceDirectory
from vistaflow_services.registry.streams import StreamService
from vistaflow_services.registry.upkeep.dump import Dumps
from vistaflow_services.registry.watch.service import WatchService
from vistaflow_services.registry.watch.store import WatchStore

if TYPE_CHECKING:
    from vistaflow.api.registry.v1.registry_pb2_grpc import RegistryServiceAsyncStub

SCHEMA = "vistadb_test"
PACKAGE = "vistaflow_services.registry"


@dataclass
class Rig:
    """One replica."""

    dsn: str
    address: str
    hub: Hub
    ledger: Ledger
    leases: LeaseService
    watches: WatchService
    streams: StreamService
    unfinished: UnfinishedChanges
    stub: RegistryServiceAsyncStub
    channel: grpc.aio.Channel
    server: Server
    pool: Pool
    tail: Tail
    tasks: list[asyncio.Task[None]]

    @classmethod
    async def start(
        cls,
        dsn: str,
        *,
        ring_rows: int = RING_ROWS,
        lease_seconds: float = 10.0,
        partition_size: int = 50_000_000,
    ) -> Rig:
        """Starts a replica."""
        pool = make_pool(dsn, schema=SCHEMA)
        await pool.open()
        hub = Hub(0, max_rows=int(ring_rows))
        ledger = Ledger(Journal(dsn, SCHEMA, partition_size=partition_size), hub)
        head = await ledger.start()
        hub.begin(head.last_id)
        store = WatchStore(pool)
        watches = WatchService(hub=hub, store=store, epoch=ledger.epoch)
        streams = StreamService(ledger)
        leases = LeaseService(
            ledger=ledger, hub=hub, store=LeaseStore(pool), lease_seconds=lease_seconds
        )
        server = make_server(pb.DESCRIPTOR.services_by_name["RegistryService"].full_name)
        address = ""
        servicer = RegistryServicer(
            ledger=ledger,
            store=Store(pool),
            hub=hub,
            watches=watches,
            streams=streams,
            leases=leases,
            directory=ServiceDirectory(
                hub=hub,
                store=store,
                name_schema=SCHEMA,
                version="0",
                address=lambda: address,
                limits={},
            ),
            tokens=TokenService(TokenStore(pool)),
            trail=Trail(pool),
            dumps=Dumps(dsn, SCHEMA, "0"),
        )
        serve(server, servicer)
        address = server.bind("127.0.0.1:0")
        await server.start()
        tail = Tail(
            hub,
            conninfo=dsn,
            schema=SCHEMA,
            epoch=ledger.epoch,
            on_replaced=watches.replaced,
        )
        channel, stub = connect(address)
        return cls(
            dsn=dsn,
            address=address,
            hub=hub,
            ledger=ledger,
            leases=leases,
            watches=watches,
            streams=streams,
            unfinished=servicer.unfinished,
            stub=stub,
            channel=channel,
            server=server,
            pool=pool,
            tail=tail,
            tasks=[asyncio.create_task(tail.run()), asyncio.create_task(leases.run())],
        )

    def drain(self) -> None:
        """What the shell does first on SIGTERM."""
        self.watches.drain()
        self.streams.drain()
        self.leases.drain()

    async def stop(self) -> None:
        """Ends it."""
        await self.channel.close()
        await self.server.stop(0)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.ledger.stop()
        await self.pool.close()


class Start(Protocol):
    """Starts another replica of the same log."""

    def __call__(self, **settings: Any) -> Awaitable[Rig]: ...
