"""The cost of running points safely, against bare runs in the same run of the benchmark.

    python benchmarks/simulators.py [--points 20000]

A point that is evaluated is checked, looked up, stored on disk, and reported in order; a program
runs in a process and a folder of its own, under limits, which are removed afterwards. The tables
show what this adds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.stats import qmc

from vistaflow_services.decks.deck import Deck, load_deck, shipped_deck
from vistaflow_services.decks.space import Point
from vistaflow_services.simulators import (
    python_deck,
    python_simulator,
    run_point,
    simulator_status,
)
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.functions import FUNCTIONS
from vistaflow_services.simulators.points import PointStore
from vistaflow_services.simulators.processes.sandbox import this_sandbox

ROUNDS = 5

NOTHING = """\
name: nothing
version: "1"
simulator: devsim
entry: nothing.py:simulate
parameters:
  - {name: x, range: [0, 1]}
responses:
  - {name: y}
timeout: 20
"""


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def functions(count: int, folder: Path) -> None:
    """Points of a function, through the store and without it."""
    deck = shipped_deck("borehole")
    points = deck.space.decode(qmc.Sobol(deck.space.dimension, rng=0).random(count))
    function = FUNCTIONS["borehole"]

    def at_once() -> None:
        columns = [np.array([point[name] for point in points]) for name in function.inputs]
        function.compute(*columns)

    def one_by_one() -> None:
        for point in points:
            function.compute(*(np.array([point[name]]) for name in function.inputs))

    def stored(store: PointStore) -> Callable[[], None]:
        def run() -> None:
            with local_executor() as executor:
                evaluate(
                    deck, points, store=store, executor=executor, scratch_root=folder / "scratch"
                )

        return run

    direct = timed(at_once)
    ways = {
        "the function, all at once": direct,
        "the function, one by one": timed(one_by_one),
        "evaluate, never run": timed(stored(PointStore(folder / "points"))),
        "evaluate, all known": timed(stored(PointStore(folder / "points"))),
    }
    print(f"borehole, {count:,} points{'points/s':>22}{'us a point':>13}{'ratio':>9}")
    for name, seconds in ways.items():
        rate, microseconds = count / seconds, seconds / count * 1e6
        print(f"  {name:28}{rate:>17,.0f}{microseconds:>13.2f}{seconds / direct:>9.1f}")


def written(deck: str, program: str, folder: Path) -> Deck:
    folder.mkdir()
    (folder / "deck.yaml").write_text(deck)
    (folder / "nothing.py").write_text(program)
    return load_deck(folder)


def middle(deck: Deck) -> Point:
    return deck.space.decode(np.full((1, deck.space.dimension), 0.5))[0]


def bare(deck: Deck, folder: Path) -> Callable[[], None]:
    """The deck's program at the same point with nobody looking after it."""
    point = middle(deck)
    for path, content in deck.render(point).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "point.json").write_text(json.dumps(point))
    if deck.simulator == "ngspice":
        command = ["ngspice", "-n", "-b", deck.templates[0]]
    else:
        command = [sys.executable, "-I", "-B", python_deck.__file__, "point.json", deck.entry]
    environment = {**os.environ, **python_simulator.environment(str(folder))}

    def once() -> None:
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

    return once


def supervised(deck: Deck, folder: Path) -> Callable[[], None]:
    """The deck at a point as every service runs it."""
    point = middle(deck)

    def once() -> None:
        outcome = run_point(deck, point, scratch_root=folder / "scratch")
        assert outcome.ok, outcome.message

    return once


def programs(folder: Path, available: set[str]) -> None:
    """One run of a program, in the median: what looking after it adds."""
    decks = [shipped_deck(name) for name in ("mosfet", "opamp")]
    if "devsim" in available:
        nothing = "def simulate(point):\n    return {'y': point['x']}\n"
        decks.insert(0, written(NOTHING, nothing, folder / "nothing"))
    print(f"\none run, sandbox: {this_sandbox().description}")
    print(f"  {'':28}{'bare':>10}{'run_point':>12}{'added':>10}{'ratio':>8}")
    for deck in decks:
        if deck.simulator not in available:
            print(f"  {deck.name:28}  {deck.simulator} is not on this machine")
            continue
        place = folder / f"bare-{deck.name}"
        place.mkdir()
        ways = bare(deck, place), supervised(deck, folder)
        # Interleaved, so that both meet the same machine.
        rounds = [[timed(way) for way in ways] for _ in range(ROUNDS)]
        alone, watched = (statistics.median(column) * 1e3 for column in zip(*rounds, strict=True))
        print(
            f"  {f'{deck.name} ({deck.simulator})':28}{alone:>8.0f}ms{watched:>10.0f}ms"
            f"{watched - alone:>8.0f}ms{watched / alone:>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=20_000)
    count = parser.parse_args().points
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as folder:
        functions(1 << (count - 1).bit_length(), Path(folder))
        programs(Path(folder), {status.name for status in simulator_status() if status.available})


if __name__ == "__main__":
    main()
