"""`vistaflow run mosfet` from an idle suite, against the commit before the deck was made faster.

    python benchmarks/mosfet.py [--rounds 1] [--commit 3a5e1b9]

The commit is taken from the history of this repository, with the same interpreter and libraries.
Each turn has a new home. Wall time is that of the command; processor time is that of the suite with
all that it started, without PostgreSQL.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from bench import Table
from up import used

ROOT = Path(__file__).parents[1]


def code_of(commit: str, folder: Path) -> str | None:
    """The search path of the code of a commit; None if the history lacks it."""
    archive = subprocess.run(
        ["git", "archive", commit, "client", "services"], cwd=ROOT, capture_output=True
    )
    if archive.returncode:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return f"{folder / 'client'}:{folder / 'services'}"


def wait_until_idle(home: Path) -> None:
    """Waits until a suite has done what it does after its start, 3 minutes at most."""
    quiet, end = 0, time.monotonic() + 180
    while quiet < 2 and time.monotonic() < end:
        before = used(home)["cpu"]
        time.sleep(2)
        quiet = quiet + 1 if used(home)["cpu"] - before < 0.3 else 0


def turn(path: str, port: int) -> tuple[float, float, str]:
    """Wall and processor seconds of one run in a new home, and the end of what it printed."""
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as folder:
        home = Path(folder)
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "VISTAFLOW_HOME": str(home),
            "VISTAFLOW_REGISTRY": f"127.0.0.1:{port}",
        }

        def vistaflow(*words: str) -> str:
            command = [sys.executable, "-c", "from vistaflow.cli.app import main; main()", *words]
            done = subprocess.run(
                command, env=environment, cwd=home, text=True, stdout=subprocess.PIPE
            )
            if done.returncode:
                raise SystemExit(f"{done.stdout}\nvistaflow {words[0]} failed")
            return done.stdout

        vistaflow("up", "--detach", "--port", str(port))
        try:
            wait_until_idle(home)
            before, began = used(home)["cpu"], time.monotonic()
            text = vistaflow("run", "mosfet")
            wall, cpu = time.monotonic() - began, used(home)["cpu"] - before
        finally:
            vistaflow("down")
    return wall, cpu, text.strip()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as folder:
        former = code_of(options.commit, Path(folder))
        if former is None:
            print(f"the history has no commit {options.commit}: not compared")
            return
        paths = {"former": former, "today": f"{ROOT / 'client'}:{ROOT / 'services'}"}
        turns: dict[str, list[tuple[float, float, str]]] = {name: [] for name in paths}
        for number in range(options.rounds):
            for name in list(paths)[:: -1 if number % 2 else 1]:
                turns[name].append(turn(paths[name], options.port))
        for name, runs in turns.items():
            print(f"\n{name}:", *runs[-1][2].splitlines()[-options.lines :], sep="\n  ")
        wall, cpu = (
            {name: statistics.median(run[index] for run in runs) for name, runs in turns.items()}
            for index in (0, 1)
        )
        table = Table(f"vistaflow run mosfet at {options.commit}, load {os.getloadavg()[0]:.0f}")
        for what, figures in (("wall", wall), ("processor", cpu)):
            table.add(what, figures["former"], "s", against=figures["today"], of="today", least=1.5)


parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("--rounds", type=int, default=1, help="turns of each")
parser.add_argument("--commit", default="3a5e1b9", help="what today's code is compared with")
parser.add_argument("--port", type=int, default=50961, help="where the registry listens")
parser.add_argument("--lines", type=int, default=8, help="lines of the output that are shown")
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
if __name__ == "__main__":
    main()
