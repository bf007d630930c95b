"""A kit of instant points through the suite, against the same calls of the library.

    python benchmarks/kits.py [--points 500] [--rounds 5]

The kit has one job, which makes a design, runs a named function at its points, stores each point
durably, draws pictures and writes the table. The calls do the same in a process that is forked
with all imports done, as attempts are. What is left is the registry, the pipeline, the
supervision of the attempt and its messages. Processor time is that of all processes of the suite
but PostgreSQL; what they do when idle is in it.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "registry"))
import scipy.stats  # noqa: F401  (attempts have it as well)
from bench import Table, arguments, interleave, run
from up import used

import vistaflow
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt
from vistaflow_services.core.work.pictures import draw_pictures
from vistaflow_services.decks.deck import shipped_deck
from vistaflow_services.designs import table as tables
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.quality import assess
from vistaflow_services.designs.recipe import Generator, Recipe, Region
from vistaflow_services.doe import evaluation, plots
from vistaflow_services.simulators.evaluate import evaluate, local_executor
from vistaflow_services.simulators.points import PointStore

DECK = "borehole"
SEEDS = itertools.count(1)


def forked(home: Path) -> dict[str, float]:
    """The calls of the library in a process of their own."""
    context = multiprocessing.get_context("forkserver")
    answers, end = context.Pipe(duplex=False)
    folder = home / f"direct-{next(SEEDS)}"
    folder.mkdir()
    arguments = (end, folder, options.points, next(SEEDS))
    process = context.Process(target=direct, args=arguments)
    process.start()
    end.close()
    figures: dict[str, float] = answers.recv()
    process.join()
    return figures


def direct(end: Connection, folder: Path, count: int, seed: int) -> None:
    """The calls of the library, in a folder that has no points yet."""
    began, cpu = time.monotonic(), time.process_time()
    deck = shipped_deck(DECK)
    region = Region(space=deck.space)
    recipe = Recipe(generator=Generator.LHS, size=count, seed=seed)
    design = generate(recipe, region)
    assess(design)
    with local_executor() as executor:
        outcomes = evaluate(
            deck,
            design.points(),
            store=PointStore(folder / "points"),
            executor=executor,
            scratch_root=folder / "scratch",
        )
    results = evaluation.results_of(outcomes, deck.response_names)
    units = {response.name: response.unit for response in deck.responses}
    draw_pictures(
        Attempt(kit_id=1, job_id="", folder=folder, artifacts=ArtifactStore(folder)),
        {
            "design.png": lambda: plots.plot_design(region, design.columns, results, units=units),
            "responses.png": lambda: plots.plot_responses(
                region, design.columns, results, units=units
            ),
        },
    )
    tables.write_table(folder / "design.parquet", design.columns, results, {})
    end.send({"wall": time.monotonic() - began, "cpu": time.process_time() - cpu})


async def measure(home: Path) -> None:
    place = home / "suite"
    command = [sys.executable, "-m", "vistaflow.cli.app"]
    environment = {**os.environ, "VISTAFLOW_HOME": str(place)}

    def call(*words: str) -> None:
        null = subprocess.DEVNULL
        subprocess.run([*command, *words], env=environment, check=True, stdout=null)

    def kit() -> dict[str, float]:
        content = {
            "name": "instant",
            "deck": DECK,
            "seed": next(SEEDS),
            "design": {"generator": "lhs", "size": options.points},
            "stop_after": "doe",
        }
        cpu, began = used(place)["cpu"], time.monotonic()
        client.wait(client.run(content).kit_id)
        wall = time.monotonic() - began
        return {"wall": wall, "cpu": used(place)["cpu"] - cpu}

    call("up", "--detach", "--port", str(options.port))
    try:
        with vistaflow.connect(f"127.0.0.1:{options.port}") as client:
            await asyncio.sleep(options.settle)
            variants = {
                "library": lambda: asyncio.to_thread(forked, home),
                "kit": lambda: asyncio.to_thread(kit),
            }
            for variant in variants.values():
                await variant()
            got = await interleave(variants, options.rounds)
    finally:
        call("down")
    rows = Table(f"a kit of {options.points} instant points")
    own, bare = got["kit"], got["library"]
    rows.add("until it has ended", own["wall"], "s", against=bare["wall"], of="library", most=1.25)
    rows.add("processor", own["cpu"], "s", against=bare["cpu"], of="library", most=1.25)


parser = arguments(__doc__, rounds=5)
parser.add_argument("--points", type=int, default=500)
parser.add_argument("--settle", type=float, default=20.0, help="seconds until the first kit")
parser.add_argument("--port", type=int, default=50961, help="where the registry listens")
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
if __name__ == "__main__":
    run(measure)
