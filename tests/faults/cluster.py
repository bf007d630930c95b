"""Real registries on a real PostgreSQL, with proxies between, and what may be done to them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from tests.faults.history import Recorder
from tests.faults.proxy import Proxy
from tests.faults.reuse import RegistryProcess
from vistaflow_services.registry.__main__ import PACKAGE
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.database.migrations import migrate

LEASE_SECONDS = 2.0
ROWS = (
    "SELECT id, batch, kit_id, job_id::text, job_type, task_name, status, attempt, seq"
    f" FROM {Config.schema}.mlops_totalstate_table ORDER BY id"
)


class ImpossibleHere(Exception):
    """What a scenario needs is not allowed on this machine."""


@contextmanager
def postgres(home: Path | None = None) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the harness's own, to be broken; removed afterwards.

    Args:
        home: Where its data goes; None takes a new folder.
    """
    folder = home or Path(tempfile.mkdtemp(prefix="vistaflow-faults-"))
    server = EmbeddedPostgres(folder)
    try:
        server.start()
        yield server
    finally:
        thaw_postgres(server)
        server.stop()
        if home is None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """A file system of its own that is soon full.

    Raises:
        ImpossibleHere: Mounting is not allowed.
    """
    folder = Path(tempfile.mkdtemp(prefix="vistaflow-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise ImpossibleHere("mounting a tmpfs is not allowed here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


def processes_of(server: EmbeddedPostgres) -> list[int]:
    """The postmaster and its children."""
    postmaster = server.pid
    if postmaster is None:
        return []
    found = [postmaster]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[1]
                if int(parent) == postmaster:
                    found.append(int(entry.name))
    return found


def signal_postgres(server: EmbeddedPostgres, number: int) -> None:
    """Sends a signal to every process of the server."""
    for pid in processes_of(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def thaw_postgres(server: EmbeddedPostgres) -> None:
    signal_postgres(server, signal.SIGCONT)


@dataclass
class Cluster:
    """The registries of one run, on a database of its own.

    Args:
        server: The PostgreSQL.
        folder: Where the registries' homes and the histories go.
        replicas: How many registries.
        mutation: A deliberate bug they all have; empty for none.
        seed: Of everything random.
        failpoints: Failpoints that every registry starts with.
    """

    server: EmbeddedPostgres
    folder: Path
    seed: str
    replicas: int = 1
    mutation: str = ""
    failpoints: str = ""
    registries: list[RegistryProcess] = field(default_factory=list)
    doors: list[Proxy] = field(default_factory=list)
    """Between the clients and each registry."""
    lines: list[Proxy] = field(default_factory=list)
    """Between each registry and PostgreSQL."""
    database: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    """How often each kind of fault was."""

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed} faults")
        self.turns: dict[tuple[str, ...], list[str]] = {}
        """Failpoints whose turn it is, of each group."""
        self._recorders: list[Recorder] = []
        self.recorder = self.record("nemesis")

    def record(self, client: str) -> Recorder:
        """A history of its own for a client, closed when the cluster stops."""
        recorder = Recorder(self.folder / "histories", client)
        self._recorders.append(recorder)
        return recorder

    @property
    def addresses(self) -> list[str]:
        """Where clients connect to: the proxies."""
        return [door.address for door in self.doors]

    @property
    def dsn(self) -> str:
        """The database, past every proxy."""
        return make_conninfo(self.server.conninfo, dbname=self.database)

    @property
    def hits_file(self) -> Path:
        return self.folder / "failpoints"

    def hits(self) -> Counter[str]:
        """How often each failpoint was reached, by every process so far."""
        with contextlib.suppress(FileNotFoundError):
            return Counter(self.hits_file.read_text().splitlines())
        return Counter()

    async def start(self) -> None:
        self.database = f"run_{os.getpid()}_{time.monotonic_ns()}"
        with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {self.database}")
        await asyncio.to_thread(migrate, self.dsn, Config.schema, PACKAGE)
        socket = Path(str(self.server._socket)) / ".s.PGSQL.5432"
        for number in range(self.replicas):
            line = await Proxy(upstream=str(socket)).start()
            home = self.folder / f"registry-{number}"
            home.mkdir(parents=True, exist_ok=True)
            registry = RegistryProcess(
                make_conninfo(self.dsn, host="127.0.0.1", port=line.port),
                home,
                settings={"LEASE_SECONDS": str(LEASE_SECONDS)},
            )
            if self.mutation:
                registry.arguments = ("-m", "tests.faults.mutated", self.mutation)
            self.arm(registry, self.failpoints)
            await registry.start()
            self.registries.append(registry)
            self.lines.append(line)
            self.doors.append(await Proxy(upstream=registry.address).start())

    def arm(self, registry: RegistryProcess, failpoints: str) -> None:
        """Says which failpoints the registry has from its next start on."""
        root = str(Path(__file__).parents[2])
        registry.variables = {
            "VISTAFLOW_FAILPOINT": failpoints,
            "VISTAFLOW_FAILPOINT_HITS": str(self.hits_file),
            "PYTHONPATH": root,
        }

    async def stop(self) -> None:
        for proxy in [*self.doors, *self.lines]:
            proxy.heal()
        for registry in self.registries:
            if registry.process is not None and registry.process.returncode is None:
                registry.thaw()
                try:
                    async with asyncio.timeout(10):
                        await registry.stop()
                except TimeoutError:
                    await registry.kill()
        for proxy in [*self.doors, *self.lines]:
            await proxy.stop()
        for recorder in self._recorders:
            recorder.close()

    async def drop(self) -> None:
        """Removes the database."""
        with psycopg.connect(self.server.conninfo, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")

    @contextlib.contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Records a fault; it is over when the block ends."""
        start = time.monotonic()
        yield
        self.faults[kind] += 1
        self.recorder.note("fault", kind=kind, start=start)

    async def restart(self, registry: RegistryProcess) -> None:
        """Starts a registry that has died."""
        async with asyncio.timeout(130):
            await registry.start()

    def next_point(self, points: tuple[str, ...]) -> str:
        """One of these failpoints, each in its turn."""
        turn = self.turns.setdefault(points, [])
        if not turn:
            turn.extend(self.chance.sample(points, len(points)))
        return turn.pop()

    def stored(self) -> list[dict[str, object]]:
        """Every row of the log."""
        names = ["revision", "batch", "kit", "job", "job_type", "task", "status", "attempt", "seq"]
        with psycopg.connect(self.dsn) as connection:
            return [
                dict(zip(names, row, strict=True)) for row in connection.execute(ROWS).fetchall()
            ]

    def kits(self) -> list[dict[str, object]]:
        """Every kit."""
        query = f"SELECT kit_id, name, labels FROM {Config.schema}.kits ORDER BY kit_id"
        with psycopg.connect(self.dsn) as connection:
            rows = connection.execute(query).fetchall()
            return [{"kit_id": row[0], "name": row[1], "labels": row[2]} for row in rows]
