"""The quick tests first, those of the whole suite last."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

# Suites of several tests run at once: each gateway takes a free port.
os.environ["VISTAFLOW_GATEWAY_LISTEN"] = "127.0.0.1:0"

# All that tests connect to is on this machine, which a proxy does not reach.
for name in ("grpc_proxy", "http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(name, None)
    os.environ.pop(name.upper(), None)

# A run in the background ignores them, and so would all that tests start and interrupt.
if threading.current_thread() is threading.main_thread():
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number is signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)

ORDER = ("unit", "contract", "integration", "browser", "e2e")


SLOW_SECONDS = 3600
"""After what a slow test is given up; the others have the limit of the settings."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    items.sort(key=lambda item: rank(item.path))


def rank(path: Path) -> int:
    parts = path.relative_to(Path(__file__).parent).parts
    return ORDER.index(parts[0]) if parts[0] in ORDER else len(ORDER)
