"""Holds removals back while a backup is made, so that what its dump refers to stays.

A hold is a file in the artifact store, which all services of an installation share, whose time is
renewed while the job runs. After a kill it expires by itself. Removals share a lock that a hold
takes alone for a moment: when that is taken, every removal that did not know of it has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FOLDER: Final = "holds"
"""The folder in the artifact store."""

HOLD_SECONDS: Final = 300.0
"""How long a hold lasts that is not renewed."""


@contextlib.contextmanager
def removing(root: Path) -> Iterator[bool]:
    """Whether files may be removed now; if so, no hold begins before the block ends.

    Args:
        root: The artifact store.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield not held(root)


def held(root: Path) -> bool:
    """Whether a backup that is being made holds removals back."""
    oldest = time.time() - HOLD_SECONDS
    for path in (root / FOLDER).glob("[!.]*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > oldest:
                return True
    return False


@contextlib.contextmanager
def holding(root: Path, name: str) -> Iterator[None]:
    """Holds removals back until the block ends, or the process.

    Args:
        root: The artifact store.
        name: Of the hold, such as the id of a job.
    """
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path, over = folder / name, threading.Event()

    def renew() -> None:
        while not over.wait(HOLD_SECONDS / 10):
            path.touch()

    with (folder / ".lock").open("ab") as lock:
        # First the file, which lets no other removal begin, then the end of those at work.
        path.touch()
        fcntl.flock(lock, fcntl.LOCK_EX)
    # Waiting may have taken longer than a hold lasts; from here on it is renewed.
    path.touch()
    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        path.unlink(missing_ok=True)


def forget_expired(root: Path) -> None:
    """Removes the files of holds that ended with their processes."""
    oldest = time.time() - HOLD_SECONDS
    for path in (root / FOLDER).glob("[!.]*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
