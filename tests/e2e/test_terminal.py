"""What a person sees at a terminal: the live tree, its result, and what Ctrl-C does."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import vistaflow
from tests.e2e.conftest import Suite  # type: ignore[import-not-found]
from tests.e2e.slow_kit import write_kit  # type: ignore[import-not-found]


class Terminal:
    """`vistaflow` at a terminal of its own."""

    def __init__(self, suite: Suite, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vistaflow.cli.app", *arguments],
            env={**suite.env, "TERM": "xterm", "LINES": "40"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def read(self, until: str = "", seconds: float = 240) -> str:
        """What was shown, up to a text or to the end, without colours and moves."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if until and re.search(until, self.text):
                return self.text
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    data = os.read(self._ours, 65536)
                except OSError:
                    data = b""
                if not data:
                    break
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode("utf-8", "replace"))
        assert not until or re.search(until, self.text), self.text
        return self.text

    def code(self) -> int:
        """Its exit code."""
        self.read()
        return self.process.wait(60)

    def close(self) -> None:
        """Kills it, if it has not ended."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_a_run_at_a_terminal_shows_the_live_tree_and_the_result(
    suite: Suite, hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    kit_file = write_kit(tmp_path / "kit", "seen", size=12, budget=2, seconds=0.1, hold=hold)

    with closing(Terminal(suite, "run", str(kit_file))) as terminal:
        terminal.read(until=r"[1-9]\d*/12")
        assert "✔ design" not in terminal.text
        hold.unlink()
        code = terminal.code()

    assert code == 0, terminal.text
    assert re.search(r"▶ design +RUNNING", terminal.text)
    assert re.search(r"✔ optimize +FINISHED", terminal.text)
    assert "best point" in terminal.text
    assert "✔ met" in terminal.text


def test_ctrl_c_detaches_and_the_kit_goes_on(suite: Suite, hold: Path, tmp_path: Path) -> None:
    hold.touch()
    kit_file = write_kit(tmp_path / "kit", "left alone", size=12, budget=2, seconds=0.2, hold=hold)
    with closing(Terminal(suite, "run", str(kit_file))) as terminal:
        terminal.read(until=r"▶ collect|▶ design")
        found = re.search(r"kit (\d+) is started", terminal.text)
        assert found is not None
        kit_id = int(found.group(1))

        terminal.process.send_signal(signal.SIGINT)
        code = terminal.code()

    assert code == 130, terminal.text
    assert f"kit {kit_id} goes on" in terminal.text
    assert "Traceback" not in terminal.text
    with vistaflow.connect(suite.address) as client:
        assert client.kit(kit_id).status == "RUNNING"
        client.cancel_kit(kit_id)
    hold.unlink()


def test_a_watch_at_a_terminal_survives_the_kill_of_the_registry(
    suite: Suite, hold: Path, tmp_path: Path
) -> None:
    hold.touch()
    kit_file = write_kit(tmp_path / "kit", "watched", size=12, budget=2, seconds=0.1, hold=hold)
    (started,) = suite.json("run", str(kit_file), "--detach")
    with closing(Terminal(suite, "watch", str(started["kit_id"]))) as terminal:
        terminal.read(until=r"[1-9]\d*/12")
        assert "✔ design" not in terminal.text

        suite.kill("registry")
        hold.unlink()
        code = terminal.code()

    assert code == 0, terminal.text
    assert re.search(r"✔ optimize +FINISHED", terminal.text)
