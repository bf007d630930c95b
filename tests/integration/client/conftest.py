"""A registry in a process of its own, that can be killed and started again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import end  # type: ignore[import-not-found]


class RegistryProcess:
    """`python -m vistaflow_services.registry` on a database."""

    def __init__(self, database: str, folder: Path) -> None:
        self.address = "127.0.0.1:0"
        self._database = database
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved: socket.socket | None = None

    def start(self) -> None:
        """Starts it, where it listened before if it did."""
        self.release()
        told = self._folder / "address"
        told.unlink(missing_ok=True)
        with (self._folder / "registry.out").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vistaflow_services.registry"],
                env={
                    **os.environ,
                    "PYTHONFAULTHANDLER": "1",
                    "VISTAFLOW_HOME": str(self._folder),
                    "VISTAFLOW_REGISTRY_DATABASE": self._database,
                    "VISTAFLOW_REGISTRY_LISTEN": self.address,
                    "VISTAFLOW_REGISTRY_ADDRESS_FILE": str(told),
                },
                stdout=output,
                stderr=output,
            )
        deadline = time.monotonic() + 120
        while not told.exists():
            assert self._process.poll() is None, (self._folder / "registry.out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.address = told.read_text()

    def kill(self) -> None:
        """Ends it without warning."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._reserve()

    def stop(self) -> None:
        """Ends it politely."""
        assert self._process is not None
        end(self._process, output=self._folder / "registry.out")
        self._reserve()

    def _reserve(self) -> None:
        """Keeps the port while nobody listens, so that no other process answers there."""
        host, _, port = self.address.rpartition(":")
        self.release()
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((host, int(port)))

    def release(self) -> None:
        """Gives the port back."""
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None


@pytest.fixture
def process(database: str, tmp_path: Path) -> Iterator[RegistryProcess]:
    """A registry of this test's own."""
    made = RegistryProcess(database, tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        made.release()
