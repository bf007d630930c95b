"""One run of a point at a time, over threads and processes: advisory file locks."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_FIRST_PAUSE = 0.005
_LAST_PAUSE = 0.1


@contextlib.contextmanager
def locked(path: Path, should_stop: Callable[[], bool] = lambda: False) -> Iterator[bool]:
    """Holds the lock named by `path`; yields whether it was had, or given up for `should_stop`.

    The file is removed with the lock. Who dies loses the lock at once; the file then stays and does
    no harm.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pause = _FIRST_PAUSE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The one before may have removed the file that was waited for.
            if _same(handle, path):
                break
            os.close(handle)
            continue
        except BlockingIOError:
            os.close(handle)
        if should_stop():
            yield False
            return
        time.sleep(pause)
        pause = min(_LAST_PAUSE, 2 * pause)
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(handle)


def _same(handle: int, path: Path) -> bool:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        return False
    opened = os.fstat(handle)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
