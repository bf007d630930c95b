"""The whole suite, as `vistaflow up` starts it, on an embedded PostgreSQL."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.slow_kit import holding  # type: ignore[import-not-found]
from tests.processes import end, reaped  # type: ignore[import-not-found]
from vistaflow_services.core.server import probe
from vistaflow_services.suite.ports import free_port

SERVICES = ("registry", "ingestion", "doe", "ml", "optimize", "pipeline", "query", "gateway")
START_SECONDS = 120
CLI_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A running suite."""

    home: Path
    address: str
    site: str = ""
    """Where a site of tests may listen, `HOST:PORT`; pages may be collected from it, and events may
    be sent to it."""

    simulator: str = ""
    """Where the simulator server `tcad` of tests may listen, `HOST:PORT`."""

    @property
    def data(self) -> Path:
        """The folder of the data root `raw`."""
        return data_of(self.home)

    @property
    def env(self) -> dict[str, str]:
        """The environment of its users."""
        return {
            **os.environ,
            "VISTAFLOW_HOME": str(self.home),
            "VISTAFLOW_REGISTRY": self.address,
            "VISTAFLOW_PORT": self.address.rpartition(":")[2],
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "120",
            "DATA": str(self.data),
            "TOOLS": str(tools_of(self.home)),
        }

    def cli(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Runs `vistaflow` and checks its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "vistaflow.cli.app", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=CLI_SECONDS,
        )
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def json(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """The lines of JSON that `vistaflow … --json` prints."""
        return [
            json.loads(line)
            for line in self.cli(*arguments, "--json", code=code).stdout.splitlines()
        ]

    def pid(self, service: str) -> int:
        """The process of a service now, or of the postmaster; 0 if there is none."""
        if service == "postgres":
            try:
                return int((self.home / "pg" / "postmaster.pid").read_text().split()[0])
            except (OSError, IndexError):  # not there, or being written
                return 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                home = f"VISTAFLOW_HOME={self.home}".encode()
                ours = home in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            started = b"vistaflow_services.suite.child" in words
            if ours and started and f"vistaflow_services.{service}".encode() in words[-3:]:
                return int(entry.name)
        return 0

    def kill(self, service: str) -> int:
        """Kills a service or the postmaster with SIGKILL, as soon as there is one; the process."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if pid := self.pid(service):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return pid
            time.sleep(0.05)
        return 0

    def wait_for(self, *services: str) -> None:
        """Waits until services that were killed serve again."""
        deadline = time.monotonic() + START_SECONDS
        for service in services:
            while not self.serves(service):
                assert time.monotonic() < deadline, service
                time.sleep(0.1)

    def serves(self, service: str) -> bool:
        """Whether a service says that it serves."""
        endpoints = json.loads((self.home / "run" / "endpoints.json").read_bytes())
        asked = probe.answers if service == "gateway" else probe.serves
        return asked(endpoints[service], timeout=10)


def data_of(home: Path) -> Path:
    return home.parent / f"{home.name}-data"


def tools_of(home: Path) -> Path:
    """The folder of what the suite has registered: a program, a folder of models."""
    return home.parent / f"{home.name}-tools"


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A port that nobody else gets while the block runs, and that servers here may listen on."""
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", free_port()))
        yield keeper.getsockname()[1]


def start_suite(home: Path) -> Iterator[Suite]:
    """Starts a suite in a fresh home; ends it, and checks that nothing of it is left."""
    with kept_port() as site, kept_port() as simulator:
        yield from _start_suite(home, f"127.0.0.1:{site}", f"127.0.0.1:{simulator}")


def _start_suite(home: Path, site: str, simulator: str) -> Iterator[Suite]:
    port, tools = free_port(), tools_of(home)
    data_of(home).mkdir(exist_ok=True)
    tools.mkdir(exist_ok=True)
    output = home.parent / f"{home.name}.out"
    command = [sys.executable, "-m", "vistaflow_services.suite"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, f"--home={home}", f"--port={port}"],
            stdout=file,
            stderr=file,
            env={
                **os.environ,
                "VISTAFLOW_DATA_ROOTS": f"raw={data_of(home)}",
                "VISTAFLOW_PROGRAMS": f"amplifier={tools}/amplifier",
                "VISTAFLOW_SIMULATOR_SERVERS": f"tcad={simulator}",
                "VISTAFLOW_MODEL_FOLDERS": f"PDK_ROOT={tools}/pdk",
                "VISTAFLOW_INGESTION_COLLECT_HOSTS": site,
                "VISTAFLOW_WEBHOOK_HOSTS": site,
                "VISTAFLOW_BACKUPS": f"disk={home.parent / f'{home.name}-backups'}",
                "VISTAFLOW_INGESTION_COLLECT_DELAY_SECONDS": "0.1",
            },
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (home / "run" / "endpoints.json").exists():
            told = output.read_text()
            assert process.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.1)
        yield Suite(home=home, address=f"127.0.0.1:{port}", site=site, simulator=simulator)
    finally:
        code = end(process, START_SECONDS, output=output)
    assert code == 0, output.read_text()[-20_000:]


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A suite for the whole run."""
    yield from start_suite(tmp_path_factory.mktemp("suite") / "home")


@pytest.fixture
def hold() -> Iterator[Path]:
    """While this file exists, some runs of a slow kit do not end."""
    with holding() as path:
        yield path


@pytest.fixture
def own_suite(tmp_path: Path) -> Iterator[Suite]:
    """A suite for this test alone, to be broken."""
    yield from start_suite(tmp_path / "home")


@contextlib.contextmanager
def lines(command: Sequence[str], suite: Suite, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command whose output goes to a file; what has not ended after the block is killed."""
    with path.open("wb") as file:
        process = subprocess.Popen(command, env=suite.env, stdout=file, stderr=subprocess.STDOUT)
    with reaped(process):
        yield process


@pytest.fixture
def own_home(tmp_path: Path) -> Suite:
    """A home and a port where nothing is up yet."""
    return Suite(home=tmp_path / "home", address=f"127.0.0.1:{free_port()}")
