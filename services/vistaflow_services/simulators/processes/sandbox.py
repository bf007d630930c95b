"""Bubblewrap around a simulator, where the machine has it and lets it work.

Inside: a read-only view of the system's programs and of what the simulator needs, the run's own
folder, no network, no other processes, no home. A deck is a program written by other people.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

WORK: Final = "/run/deck"
"""Where a run's folder appears inside the sandbox."""

_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/alternatives",
)

_NAMES = ("/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/etc/services")
"""What names of machines are looked up with."""


@dataclass(frozen=True, kw_only=True)
class Sandbox:
    """How runs are kept apart from the machine."""

    program: str
    """The bubblewrap program; empty if only limits and process groups guard the machine."""
    description: str
    """One line for people."""

    @property
    def isolated(self) -> bool:
        """Whether runs see only what they need."""
        return bool(self.program)

    def command(
        self, folder: Path, readable: Sequence[Path], argv: Sequence[str], *, network: bool = False
    ) -> list[str]:
        """The command that runs `argv` in `folder`, able to read `readable`."""
        if not self.program:
            return list(argv)
        command = [
            self.program,
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
        ]
        if network:
            command.append("--share-net")
        for path in (*_SYSTEM, *(_NAMES if network else ())):
            command += ["--ro-bind-try", path, path]
        command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        for source in readable:
            command += ["--ro-bind", str(source), str(source)]
        command += ["--bind", str(folder), WORK, "--chdir", WORK, "--"]
        return [*command, *argv]

    def place(self, folder: Path) -> str:
        """What the run calls its folder."""
        return WORK if self.program else str(folder)


@lru_cache(maxsize=1)
def this_sandbox() -> Sandbox:
    """The best that works on this machine; tried once."""
    program = shutil.which("bwrap") if sys.platform == "linux" else None
    if program is None:
        return Sandbox(program="", description="resource limits only (bubblewrap is not installed)")
    trial = Sandbox(program=program, description="bubblewrap")
    command = trial.command(Path("/tmp"), [], ["/usr/bin/env", "true"])
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=False, env={})
    except (OSError, subprocess.TimeoutExpired):
        done = None
    if done is not None and done.returncode == 0:
        return trial
    why = "this machine does not let bubblewrap make namespaces"
    return Sandbox(program="", description=f"resource limits only ({why})")


def python_folders() -> list[Path]:
    """What Python needs to read to start: its own installation and its environment's packages."""
    places = [Path(sys.base_prefix), Path(sys.prefix), Path(__file__).parents[1]]
    folders: list[Path] = []
    for place in map(Path, map(os.path.abspath, places)):
        if place.is_dir() and not any(
            place.is_relative_to(other) for other in (*folders, Path("/usr"))
        ):
            folders.append(place)
    return folders
