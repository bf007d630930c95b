"""What is done to a cluster: each is one fault, from its first moment until all is well again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
from psycopg import sql

from tests.faults.cluster import Cluster, signal_postgres, thaw_postgres
from tests.faults.proxy import Proxy
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.migrations import migrate
from vistaflow_services.registry.upkeep.backup import backup
from vistaflow_services.registry.upkeep.restore import restore

Fault = Callable[[Cluster], Awaitable[None]]


async def kill_registry(cluster: Cluster) -> None:
    """SIGKILL of a registry; it is started again on the same port."""
    registry = cluster.chance.choice(cluster.registries)
    with cluster.fault("kill registry"):
        await registry.kill()
        await asyncio.sleep(cluster.chance.uniform(0, 0.3))
        await cluster.restart(registry)


def _freeze_seconds(cluster: Cluster) -> float:
    """Mostly less than anybody waits for an answer, and now and then more."""
    if cluster.chance.random() < 0.1:
        return cluster.chance.uniform(15, 25)
    return cluster.chance.uniform(0.5, 4.0)


async def freeze_registry(cluster: Cluster) -> None:
    """SIGSTOP of a registry for a while."""
    registry = cluster.chance.choice(cluster.registries)
    with cluster.fault("freeze registry"):
        registry.freeze()
        await asyncio.sleep(_freeze_seconds(cluster))
        registry.thaw()


async def kill_postgres(cluster: Cluster) -> None:
    """SIGKILL of the postmaster; what a supervisor does follows."""
    with cluster.fault("kill postgres"):
        signal_postgres(cluster.server, signal.SIGKILL)
        await asyncio.to_thread(cluster.server.start)


async def restart_postgres(cluster: Cluster) -> None:
    """A fast or an immediate shutdown under load, and a start."""
    way = cluster.chance.choice((signal.SIGINT, signal.SIGQUIT))
    with cluster.fault(f"restart postgres by {way.name}"):
        pid = cluster.server.pid
        assert pid is not None
        os.kill(pid, way)
        await asyncio.to_thread(_start_once_ended, cluster.server)


def _start_once_ended(server: EmbeddedPostgres) -> None:
    while server._running():
        time.sleep(0.02)
    server.start()


async def freeze_postgres(cluster: Cluster) -> None:
    """SIGSTOP of every process of PostgreSQL for a while."""
    with cluster.fault("freeze postgres"):
        signal_postgres(cluster.server, signal.SIGSTOP)
        await asyncio.sleep(_freeze_seconds(cluster))
        thaw_postgres(cluster.server)


async def end_backends(cluster: Cluster) -> None:
    """The connections of the registries are ended one and all, as an administrator might."""
    with cluster.fault("end backends"):
        async with await psycopg.AsyncConnection.connect(cluster.dsn, autocommit=True) as admin:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


async def deafen(cluster: Cluster) -> None:
    """The connections that hear notifications are ended; what is notified meanwhile is lost."""
    with cluster.fault("deafen"):
        async with await psycopg.AsyncConnection.connect(cluster.dsn, autocommit=True) as admin:
            await admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database()"
                " AND application_name = 'vistaflow registry tail'"
            )


def _proxied(name: str, disturb: Callable[[Proxy, Cluster], None]) -> tuple[Fault, Fault]:
    async def at(cluster: Cluster, proxies: list[Proxy], where: str) -> None:
        proxy = cluster.chance.choice(proxies)
        with cluster.fault(f"{name} {where}"):
            disturb(proxy, cluster)
            await asyncio.sleep(cluster.chance.uniform(0.3, 2.5))
            proxy.heal()

    async def door(cluster: Cluster) -> None:
        await at(cluster, cluster.doors, "between client and registry")

    async def line(cluster: Cluster) -> None:
        await at(cluster, cluster.lines, "between registry and postgres")

    return door, line


def _delay(proxy: Proxy, cluster: Cluster) -> None:
    proxy.delay = cluster.chance.uniform(0.01, 0.3)


def _cut(proxy: Proxy, cluster: Cluster) -> None:
    proxy.cut_after(cluster.chance.randrange(1, 20_000))


delay_door, delay_line = _proxied("delay", _delay)
cut_door, cut_line = _proxied("cut", _cut)
swallow_door, swallow_line = _proxied("swallow", lambda proxy, _: proxy.swallow())
half_open_door, half_open_line = _proxied("half-open", lambda proxy, _: proxy.half_open())


def die_at(*points: str, most: int = 25, burst: int = 4) -> Fault:
    """A registry dies at one of these failpoints, is started again, and dies at the next.

    Args:
        points: The failpoints, of which each has its turn.
        most: It dies when it has reached the point at most so many times.
        burst: Deaths in a row.
    """

    async def die(cluster: Cluster) -> None:
        registry = cluster.chance.choice(cluster.registries)

        async def start_to_die() -> str:
            point = cluster.next_point(points)
            nth = cluster.chance.randrange(1, most + 1)
            cluster.arm(registry, f"{point}=kill@{nth}")
            await cluster.restart(registry)
            return point

        with cluster.fault("kill registry"):
            await registry.kill()
            point = await start_to_die()
        for number in range(burst):
            process = registry.process
            assert process is not None
            kind = f"died at {point}"
            try:
                async with asyncio.timeout(8):
                    await process.wait()
            except TimeoutError:
                kind = "kill registry"
            with cluster.fault(kind):
                if process.returncode is None:
                    await registry.kill()
                if number < burst - 1:
                    point = await start_to_die()
                else:
                    cluster.arm(registry, cluster.failpoints)
                    await cluster.restart(registry)

    return die


async def foreign_transaction(cluster: Cluster) -> None:
    """Somebody else has a transaction open that has written, in another database and in this."""
    with cluster.fault("foreign transaction"), contextlib.ExitStack() as stack:
        databases = (cluster.server.conninfo, cluster.dsn)
        held = [stack.enter_context(psycopg.connect(each)) for each in databases]
        for connection in held:
            connection.execute("CREATE TABLE foreigner (id int)")
        await asyncio.sleep(cluster.chance.uniform(12, 18))
        for connection in held:
            connection.rollback()


async def restore_backup(cluster: Cluster) -> None:
    """A backup is made under load; some time later all is lost but that, and it is put back."""
    file = cluster.folder / f"backup-{cluster.faults.total()}.dump"
    schema = Config.schema
    saved = await asyncio.to_thread(backup, cluster.dsn, schema, file)
    await asyncio.sleep(cluster.chance.uniform(0.5, 3.0))
    with cluster.fault("restore"):
        for registry in cluster.registries:
            await registry.kill()
        # What the dead still had under way is over first.
        await asyncio.to_thread(_end_backends_for_good, cluster.dsn)
        made = await asyncio.to_thread(restore, cluster.dsn, schema, file)
        assert made.revision == saved.revision
        cluster.recorder.note("restored", after=made.revision, beyond=made.next_revision)
        with psycopg.connect(cluster.dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(made.aside)))
        await asyncio.to_thread(migrate, cluster.dsn, schema, PACKAGE)
        for registry in cluster.registries:
            await cluster.restart(registry)
    file.unlink()


def _end_backends_for_good(dsn: str) -> None:
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with psycopg.connect(dsn, autocommit=True) as admin:
        while (row := admin.execute(query).fetchone()) is not None and row[0]:
            time.sleep(0.05)


async def fill_disk(cluster: Cluster) -> None:
    """The disk is full for a while; then there is room again, and a supervisor looks."""
    disk = Path(cluster.server.data).parent
    ballast = disk / "ballast"
    with cluster.fault("disk full"):
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * (1 << 20))
                file.flush()
        end = time.monotonic() + cluster.chance.uniform(2.0, 5.0)
        while time.monotonic() < end:
            await asyncio.sleep(0.1)
            with contextlib.suppress(OSError), ballast.open("ab") as file:
                # WAL that is recycled makes room again.
                file.write(b"\0" * (1 << 16))
        ballast.unlink()
        await asyncio.to_thread(cluster.server.start)
