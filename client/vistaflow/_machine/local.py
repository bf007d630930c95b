"""The suite of a home on this machine: its address and its token."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vistaflow._rpc.credentials import TOKEN

ADDRESS: Final = "VISTAFLOW_REGISTRY"
HOME: Final = "VISTAFLOW_HOME"
DEFAULT_ADDRESS: Final = "127.0.0.1:50051"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A suite that is up on this machine."""

    address: str
    """The address of its registry."""
    token: str
    """The owner's token; empty if this user may not read it."""


def token_file(home: Path) -> Path:
    """The file in which `vistaflow up` stores the token of its home."""
    return home / "run" / "token"


def home_of(environment: Mapping[str, str] = os.environ) -> Path:
    """`$VISTAFLOW_HOME`, or `~/.vistaflow`.

    Raises:
        RuntimeError: This user has no home folder.
    """
    return Path(environment.get(HOME) or "~/.vistaflow").expanduser()


def find_suite(home: Path) -> Suite | None:
    """The running suite of a home; None if there is none."""
    try:
        address = json.loads((home / "run" / "endpoints.json").read_bytes())["registry"]
        running = json.loads((home / "run" / "suite.json").read_bytes())
        # A killed suite leaves its files, and another user may listen on its port by now: the
        # token must not be sent there.
        if not isinstance(address, str) or not _runs(running):
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        token = token_file(home).read_text("ascii").strip()
    except (OSError, ValueError):
        token = ""
    return Suite(address=address, token=token)


def is_suite_here(address: str, home: Path | None = None) -> bool:
    """Whether an address is that of the suite of a home on this machine, by default the user's."""
    try:
        suite = find_suite(home or home_of())
    except RuntimeError:
        return False
    return suite is not None and _same(address, suite.address)


class HomeToken:
    """The token of a home while its suite serves at an address.

    It is read for every call: once the suite is down, another user may listen at the address, and
    a client that reconnects must not send the token there.

    Args:
        home: The home of the suite.
        address: The address of the suite's registry.
    """

    def __init__(self, home: Path, address: str) -> None:
        self._home = home
        self._address = address
        self._token = ""
        self._published: tuple[int, int] | None = None
        self._running: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return self()

    def __call__(self) -> str:
        """The token; empty if the suite is not up."""
        try:
            # The suite removes this file before the services stop and writes it at each start.
            status = (self._home / "run" / "endpoints.json").stat()
            published = (status.st_ino, status.st_mtime_ns)
            if published != self._published:
                self._running = json.loads((self._home / "run" / "suite.json").read_bytes())
                suite = find_suite(self._home)
                self._token = suite.token if suite and suite.address == self._address else ""
                self._published = published
            return self._token if _runs(self._running) else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""


def reach(
    address: str = "",
    token: str = "",
    *,
    home: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> tuple[str, str | HomeToken]:
    """The address to call and the token to send there.

    Args:
        address: An explicit address. If empty: `$VISTAFLOW_REGISTRY`, then the address of the
            home's suite, then the default.
        token: An explicit token. If empty: `$VISTAFLOW_TOKEN`, then the token of the home, which is
            sent to the suite of the home only.
        home: The home of the suite; `$VISTAFLOW_HOME` or `~/.vistaflow` if None.
        environment: The environment variables.
    """
    address = address or environment.get(ADDRESS, "")
    token = token or environment.get(TOKEN, "")
    if address and token:
        return address, token
    try:
        home = home if home is not None else home_of(environment)
    except RuntimeError:
        return address or DEFAULT_ADDRESS, token
    suite = find_suite(home)
    if suite is None or (address and not _same(address, suite.address)):
        return address or DEFAULT_ADDRESS, token
    return address or suite.address, token or HomeToken(home, suite.address)


def started_at(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None if it has ended or is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])


def _runs(running: Mapping[str, Any]) -> bool:
    """Whether the process of a suite's record is still running."""
    pid = int(running["pid"])
    if sys.platform == "linux":
        return started_at(pid) == int(running["started"])
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def _same(address: str, other: str) -> bool:
    """Whether two addresses of this machine are the same; localhost equals 127.0.0.1."""
    return address.replace("localhost:", "127.0.0.1:") == other
