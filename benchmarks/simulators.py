"""The cost of running points safely, against bare runs in the same run of the benchmark.

    python benchmarks/simulators.py [--points 20000] [--rounds 5] [--only functions runs rates]

A point that is evaluated is checked, looked up, stored on disk, and reported in order; a program
runs in a process and a folder of its own, under limits, which are removed afterwards. The tables
show what this adds. Processor time is that of all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.stats import qmc

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from bench import Table

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

RATES = {"opamp": (64, 2.0), "mosfet": (6, 1.1)}
"""Points of a turn, and how many times the time of as many bare runs they may take."""

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


def command_of(deck: Deck) -> list[str]:
    """The program with nobody looking after it."""
    if deck.simulator == "ngspice":
        return ["ngspice", "-n", "-b", deck.templates[0]]
    runner = [sys.executable, "-I", "-B", python_deck.__file__]
    return [*runner, "point.json", deck.entry, deck.simulator]


def bare(deck: Deck, point: Point, folder: Path) -> Callable[[], None]:
    """The deck's program at a point; its input is written beforehand."""
    for path, content in deck.render(point).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "point.json").write_text(json.dumps(point))
    command = command_of(deck)
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


def programs(folder: Path, available: set[str], rounds: int) -> None:
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
        ways = bare(deck, middle(deck), place), supervised(deck, folder)
        # Interleaved, so that both meet the same machine.
        turns = [[timed(way) for way in ways] for _ in range(rounds)]
        alone, watched = (statistics.median(column) * 1e3 for column in zip(*turns, strict=True))
        print(
            f"  {f'{deck.name} ({deck.simulator})':28}{alone:>8.0f}ms{watched:>10.0f}ms"
            f"{watched - alone:>8.0f}ms{watched / alone:>8.2f}"
        )


def used() -> float:
    """Processor seconds of this process and of those that it has waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, kinds))


def costs(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of a piece of work, and its processor seconds."""
    before = used()
    return timed(work), used() - before


def rates(folder: Path, available: set[str], rounds: int) -> None:
    """Many points through the store, against as many bare runs at a time."""
    table = Table("points a second, as designs run them")
    for name, (count, most) in RATES.items():
        deck = shipped_deck(name)
        if deck.simulator not in available:
            print(f"{name}: {deck.simulator} is not on this machine")
            continue
        points = deck.space.decode(qmc.Sobol(deck.space.dimension, rng=0).random(count))
        runs = []
        for index, point in enumerate(points):
            place = folder / f"{name}-{index}"
            place.mkdir()
            runs.append(bare(deck, point, place))
        for together in sorted({1, deck.points_per_process}):
            variant = replace(deck, points_per_process=together)
            for workers in (1, 2):
                bound = most if together == deck.points_per_process else None
                compare(table, variant, points, runs, workers, rounds, bound, folder)


def compare(
    table: Table,
    deck: Deck,
    points: Sequence[Point],
    runs: Sequence[Callable[[], None]],
    workers: int,
    rounds: int,
    most: float | None,
    folder: Path,
) -> None:
    """Adds the rows of a deck at a number of runs at a time."""

    def alone() -> None:
        with ThreadPoolExecutor(workers) as executor:
            for future in [executor.submit(run) for run in runs]:
                future.result()

    def evaluated() -> None:
        with (
            tempfile.TemporaryDirectory(dir=folder) as place,
            local_executor(workers) as executor,
        ):
            store = PointStore(Path(place, "points"))
            scratch = Path(place, "scratch")
            evaluate(deck, points, store=store, executor=executor, scratch_root=scratch)

    turns = [(*costs(alone), *costs(evaluated)) for _ in range(rounds)]
    wall, cpu, own_wall, own_cpu = (
        statistics.median(column) / len(points) for column in zip(*turns, strict=True)
    )
    together = f", {deck.points_per_process} a process" if deck.points_per_process > 1 else ""
    what = f"{deck.name}, {workers} at a time{together}"
    table.add(f"{what}: a point", 1e3 * own_wall, "ms", against=1e3 * wall, of="bare", most=most)
    table.add(f"{what}: processor", 1e3 * own_cpu, "ms", against=1e3 * cpu, of="bare", most=most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=20_000, help="of the named function")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    parts = ("functions", "runs", "rates")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="tables to print")
    options = parser.parse_args()
    available = {status.name for status in simulator_status() if status.available}
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as folder:
        place = Path(folder)
        if "functions" in options.only:
            functions(1 << (options.points - 1).bit_length(), place)
        if "runs" in options.only:
            programs(place, available, options.rounds)
        if "rates" in options.only:
            rates(place, available, options.rounds)


if __name__ == "__main__":
    main()
