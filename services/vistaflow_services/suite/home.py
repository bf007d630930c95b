"""What lies under `$VISTAFLOW_HOME`, and who runs there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from vistaflow._machine.local import started_at
from vistaflow_services.core import files
from vistaflow_services.core.home import prepare_home


@dataclass(frozen=True, kw_only=True)
class Running:
    """The process that holds a home."""

    pid: int
    started: int
    """When it started, in clock ticks since boot: another process may have the pid by now."""
    port: int
    """Where its registry listens."""


class Home:
    """A folder with `pg/ artifacts/ logs/ run/`, held by one suite at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run = path / "run"
        self.logs = path / "logs"
        self.endpoints_file = self.run / "endpoints.json"
        self._state_file = self.run / "suite.json"
        self._lock: IO[bytes] | None = None

    def create(self) -> None:
        """Makes the folders, readable by their owner only.

        Raises:
            HomeError: It belongs to another user, or cannot be made.
        """
        prepare_home(self.path)

    def holder(self) -> Running | None:
        """The suite that runs here now, if one does."""
        try:
            running = Running(**json.loads(self._state_file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return running if started_at(running.pid) == running.started else None

    def hold(self, port: int) -> bool:
        """Records that this process runs here; false if another one does."""
        lock = (self.run / "suite.lock").open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._lock = lock
        # What a killed suite left behind must not be taken for this one's.
        self.endpoints_file.unlink(missing_ok=True)
        pid = os.getpid()
        running = Running(pid=pid, started=started_at(pid) or 0, port=port)
        files.write(self._state_file, json.dumps(asdict(running)).encode())
        return True

    def release(self) -> None:
        """Takes the record back."""
        self.endpoints_file.unlink(missing_ok=True)
        self._state_file.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def publish(self, endpoints: Mapping[str, str]) -> None:
        """Tells where each service listens; made only when all of them serve."""
        files.write(self.endpoints_file, (json.dumps(dict(endpoints), indent=1) + "\n").encode())
