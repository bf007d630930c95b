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

from tests.faults.cluster import Cluster, signal_postgres, thaw_postgres
from tests.faults.proxy import Proxy
from vistaflow_services.registry.embedded import EmbeddedPostgres

Fault = Callable[[Cluster], Awaitable[None]]


async def kill_registry(cluster: Cluster) -> None:
    """SIGKILL of a registry; it is started again on the same port."""
    registry = cluster.chance.choice(cluster.registries)
    with cluster.fault("kill registry"):
        await registry.kill()
        await asyncio.sleep(cluster.chance.uniform(0, 0.3))
        await cluster.restart(registry)


async def freeze_registry(cluster: Cluster) -> None:
    """SIGSTOP of a registry for a while."""
    registry = cluster.chance.choice(cluster.registries)
    with cluster.fault("freeze registry"):
        registry.freeze()
        await asyncio.sleep(cluster.chance.uniform(0.5, 4.0))
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
        await asyncio.sleep(cluster.chance.uniform(0.5, 4.0))
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


def die_at(*points: str, most: int = 40) -> Fault:
    """A registry dies at one of these failpoints and is started again.

    Args:
        points: The failpoints.
        most: It dies when it has reached the point at most so many times.
    """

    async def die(cluster: Cluster) -> None:
        point = cluster.chance.choice(points)
        registry = cluster.chance.choice(cluster.registries)
        nth = cluster.chance.randrange(1, most + 1)
        await registry.stop()
        cluster.arm(registry, f"{point}=kill@{nth}")
        await cluster.restart(registry)
        process = registry.process
        assert process is not None
        try:
            async with asyncio.timeout(8):
                await process.wait()
        except TimeoutError:
            await registry.kill()
            cluster.arm(registry, cluster.failpoints)
            await cluster.restart(registry)
            return
        with cluster.fault(f"died at {point}"):
            cluster.arm(registry, cluster.failpoints)
            await cluster.restart(registry)

    return die


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
