"""The whole suite, as `vistaflow up` starts it, on an embedded PostgreSQL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.slow_kit import holding  # type: ignore[import-not-found]
from vistaflow_services.suite.ports import free_port

SERVICES = ("registry", "ingestion", "doe", "ml", "optimize", "pipeline", "query", "gateway")
START_SECONDS = 120


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
            timeout=300,
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
            text = self.home / "pg" / "postmaster.pid"
            return int(text.read_text().split()[0]) if text.exists() else 0
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
        """Kills a service or the postmaster with SIGKILL; the process killed."""
        pid = self.pid(service)
        if pid:
            os.kill(pid, signal.SIGKILL)
        return pid


def data_of(home: Path) -> Path:
    return home.parent / f"{home.name}-data"


def tools_of(home: Path) -> Path:
    """The folder of what the suite has registered: a program, a folder of models."""
    return home.parent / f"{home.name}-tools"


def start_suite(home: Path) -> Iterator[Suite]:
    """Starts a suite in a fresh home; ends it, and checks that nothing of it is left."""
    port, site = free_port(), f"127.0.0.1:{free_port()}"
    simulator, tools = f"127.0.0.1:{free_port()}", tools_of(home)
    output = (home.parent / f"{home.name}.out").open("wb")
    data_of(home).mkdir(exist_ok=True)
    tools.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "vistaflow_services.suite", f"--home={home}", f"--port={port}"],
        stdout=output,
        stderr=output,
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
        end = time.monotonic() + START_SECONDS
        while not (home / "run" / "endpoints.json").exists():
            told = Path(output.name).read_text()
            assert process.poll() is None, told
            assert time.monotonic() < end, told
            time.sleep(0.1)
        address = f"127.0.0.1:{port}"
        yield Suite(home=home, address=address, site=site, simulator=simulator)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
            output.close()


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


def lines(command: Sequence[str], suite: Suite, path: Path) -> subprocess.Popen[bytes]:
    """Starts a command whose output goes to a file."""
    with path.open("wb") as file:
        return subprocess.Popen(command, env=suite.env, stdout=file, stderr=subprocess.STDOUT)


@pytest.fixture
def own_home(tmp_path: Path) -> Suite:
    """A home and a port where nothing is up yet."""
    return Suite(home=tmp_path / "home", address=f"127.0.0.1:{free_port()}")
