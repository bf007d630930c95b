"""A client in a process that was forked from one that has used it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.client.conftest import RegistryProcess  # type: ignore[import-not-found]


def test_a_client_in_a_fork_says_what_to_do_and_nobody_else_is_disturbed(
    process: RegistryProcess,
) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("forking.py")), process.address],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.splitlines() == [
        "the client: says what to do",
        "its watch: says what to do",
        "a new client: says what to do",
        "a new asynchronous client: says what to do",
        "closing it: fine",
        "nothing: fine",
        "the parent: RUNNING",
        "a new client after it was closed: says what to do",
        "the asynchronous client: says what to do",
    ], done.stderr
    assert done.returncode == 0
