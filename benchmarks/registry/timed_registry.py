"""The registry, with a clock on its event loop: see stalls.py.

Each turn of the loop is timed by the processor time of its thread, so that other load does not
count. SIGUSR1 writes the longest turn since the last signal to `TURNS_FILE`, in ms.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from vistaflow_services.registry.__main__ import run

_turn = asyncio.Handle._run
_longest = 0.0


def _timed(handle: Any) -> None:
    global _longest
    began = time.thread_time()
    try:
        _turn(handle)
    finally:
        _longest = max(_longest, time.thread_time() - began)


def _write(number: int, frame: Any) -> None:
    global _longest
    file = Path(os.environ["TURNS_FILE"])
    new = file.with_suffix(".new")
    new.write_text(f"{1000 * _longest:.3f}")
    _longest = 0.0
    new.replace(file)


if __name__ == "__main__":
    asyncio.Handle._run = _timed  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, _write)
    run()
