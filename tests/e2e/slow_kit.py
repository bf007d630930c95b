"""A kit whose simulator takes its time, so that faults land in the middle of its jobs."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vistaflow
from vistaflow.api.common.v1 import common_pb2
from vistaflow.errors import CanceledError
from vistaflow_services.decks.deck import read_archive

DECK = """\
name: slow_bowl
version: "{version}"
description: A bowl with a tilted rim; each run sleeps.
simulator: devsim
entry: bowl.py:simulate
parameters:
  - {{name: x, range: [-2, 2]}}
  - {{name: y, range: [-2, 2]}}
responses:
  - {{name: depth, range: [-100, 100]}}
  - {{name: rim, range: [-100, 100]}}
timeout: 120
"""
PROGRAM = """\
import math
import os
import time


def simulate(parameters):
    time.sleep({seconds})
    while parameters["x"] > 0 and os.path.exists({hold!r}):
        time.sleep(0.02)
    {first}
    x, y = parameters["x"], parameters["y"]
    depth = (x - 0.7) ** 2 + 2 * (y + 0.4) ** 2 + 0.3 * math.sin(3 * x)
    return {{"depth": depth, "rim": x + y}}
"""
KIT = """\
name: slow bowl {version}
deck: ./deck
seed: 11
design: {{generator: sobol, size: {size}}}
ml: {{families: [gaussian_process], folds: 3}}
goals: minimize depth; rim <= 0.2
optimize: {{budget: {budget}, batch_size: 2}}
"""


def write_kit(
    folder: Path,
    version: str,
    *,
    size: int = 16,
    budget: int = 8,
    seconds: float = 0.2,
    first: str = "pass",
    hold: Path | None = None,
) -> Path:
    """Writes a kit with its deck; decks of different versions share no points.

    Args:
        folder: Where; it is made.
        version: Of the deck.
        size: Points of the design.
        budget: Runs of the optimisation.
        seconds: That each run sleeps.
        first: A statement that each run begins with.
        hold: While this file of `holding` exists, runs in the right half of the space do not end.
    """
    (folder / "deck").mkdir(parents=True)
    (folder / "deck" / "deck.yaml").write_text(DECK.format(version=version))
    (folder / "deck" / "bowl.py").write_text(
        PROGRAM.format(seconds=seconds, first=first, hold=str(hold or ""))
    )
    kit = folder / "kit.yaml"
    kit.write_text(KIT.format(version=version, size=size, budget=budget))
    return kit


@contextmanager
def holding() -> Iterator[Path]:
    """A file, not there yet, that is gone afterwards.

    It lies where Python is installed: of all folders of this machine, a run in a sandbox sees that
    one and the system's.
    """
    with tempfile.TemporaryDirectory(prefix="hold-", dir=sys.prefix) as folder:
        yield Path(folder, "hold")


class Puts:
    """Sees each time that the outcome of a point is put into the store.

    A put renames a new file over the point's place, so the place has another inode after each. The
    store is looked at far more often than a run takes.
    """

    def __init__(self, home: Path) -> None:
        self._seen: set[tuple[str, int]] = set()
        self._lock = threading.Lock()
        self._root = home / "artifacts"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on_looking, daemon=True)

    def __enter__(self) -> Puts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def of(self, folder: Path) -> list[str]:
        """The point of each put below a folder; twice the same: evaluated twice."""
        self._look()
        with self._lock:
            return sorted(path for path, _ in self._seen if Path(path).is_relative_to(folder))

    def _go_on_looking(self) -> None:
        while not self._stop.wait(0.03):
            self._look()

    def _look(self) -> None:
        with self._lock:
            for path in self._root.glob("points/*/*/points/*/*.json"):
                with suppress(FileNotFoundError):
                    self._seen.add((str(path), path.stat().st_ino))


@dataclass
class Seen:
    """What a watcher saw of a kit."""

    revisions: list[int] = field(default_factory=list)


@contextmanager
def watching(address: str, kit_id: int) -> Iterator[Seen]:
    """Watches a kit beside what goes on, over lost connections; ends when its last row was seen."""
    seen = Seen()
    client = vistaflow.connect(address)

    def watch() -> None:
        with suppress(CanceledError):
            for event in client.watch(kit_ids=[kit_id]):
                if isinstance(event, vistaflow.Delta):
                    seen.revisions += [each.revision for each in event.states]

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
        with vistaflow.connect(address) as other:
            last = max(each.revision for each in other.states(kit_ids=[kit_id]))
        end = time.monotonic() + 120
        while last not in seen.revisions and time.monotonic() < end:
            time.sleep(0.1)
    finally:
        client.close()
        thread.join()


class Reporter:
    """Reports tasks of an external job all the time, and keeps what was acknowledged."""

    def __init__(self, address: str) -> None:
        self.acked: dict[int, str] = {}
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True)
        self.job_id = ""

    def __enter__(self) -> Reporter:
        with vistaflow.connect(self._address) as client:
            self.job_id = client.create_kit("reports", ["DOE"]).jobs[0].job_id
            client.append(self.job_id, "RUNNING")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def lost(self) -> dict[int, str]:
        """What was acknowledged and is not in the log."""
        with vistaflow.connect(self._address) as client:
            kept = {each.revision: each.task_name for each in client.states(job_ids=[self.job_id])}
        return {at: name for at, name in self.acked.items() if kept.get(at) != name}

    def _report(self) -> None:
        number = 0
        with vistaflow.connect(self._address, timeout=120) as client:
            while not self._stop.wait(0.05):
                number += 1
                name = f"part-{number}"
                row = common_pb2.State(
                    job_id=self.job_id, task_name=name, status=common_pb2.STATUS_FINISHED
                )
                try:
                    answer = client.append_states([row])
                except vistaflow.VistaError:
                    continue  # not acknowledged
                self.acked[answer.results[0].revision] = name


def ended(address: str, kit_id: int, *, seconds: float = 400) -> vistaflow.Kit:
    """The kit once it is FINISHED."""
    with vistaflow.connect(address, timeout=120) as client:
        return client.wait(kit_id, timeout=seconds)


def optimum(kit: vistaflow.Kit) -> dict[str, Any]:
    """What the kit found, without what differs from run to run."""
    best = dict(kit.job("optimize").result["best"])
    return {name: best[name] for name in ("point", "simulated", "objective", "feasible")}


def points_folder(home: Path, kit: vistaflow.Kit) -> Path:
    """Where the points lie that the kit's deck was run at."""
    deck_id = kit.job("collect").result["decks"][0]["deck_id"]
    archive = home / "artifacts" / "decks" / f"{deck_id}.zip"
    digest = read_archive(archive.read_bytes()).simulation_digest
    return home / "artifacts" / "points" / digest
