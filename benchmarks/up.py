"""The suite on one machine: time until it is ready, processor time, memory, and what it does idle.

    python benchmarks/up.py [--rounds 3] [--seconds 30]

`vistaflow up` in a new home (with a new database) and in one that was used before. The figures are
of the supervisor, the services and the processes that attempts are forked from, without PostgreSQL.
Memory is the proportional set size, so that shared pages count once.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from bench import Table, arguments, interleave, run

TICKS = os.sysconf("SC_CLK_TCK")


def processes(home: Path) -> list[Path]:
    """The processes of a suite, by its home in their environment, which PostgreSQL does not get."""
    mark = f"VISTAFLOW_HOME={home}".encode()
    own = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                own.append(entry)
        except OSError:
            continue
    return own


def used(home: Path) -> dict[str, float]:
    """Processor seconds, memory and number of the processes, and how often they were woken."""
    cpu = memory = wakes = count = 0.0
    for entry in processes(home):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            # With the children that have ended.
            cpu += sum(map(int, fields[11:15])) / TICKS
            rollup = (entry / "smaps_rollup").read_text()
            memory += int(rollup.partition("\nPss:")[2].split()[0]) / 1024
            for thread in (entry / "task").iterdir():
                text = (thread / "status").read_text()
                wakes += int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
            count += 1
        except OSError:
            continue
    return {"cpu": cpu, "memory": memory, "wakes": wakes, "count": count}


async def turn(home: Path, number: list[int], *, new: bool) -> dict[str, float]:
    """Figures of one start."""
    number[0] += 1
    place = home / (f"new-{number[0]}" if new else "used")
    environment = {**os.environ, "VISTAFLOW_HOME": str(place)}
    command = [sys.executable, "-m", "vistaflow.cli.app"]

    async def vistaflow(*words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *command, *words, env=environment, stdout=asyncio.subprocess.DEVNULL
        )
        if await process.wait():
            raise SystemExit(f"vistaflow {words[0]} failed")

    began = time.monotonic()
    try:
        await vistaflow("up", "--detach", "--port", str(options.port))
        ready = time.monotonic() - began
        first = used(place)
        await asyncio.sleep(options.settle)
        before = used(place)
        await asyncio.sleep(options.seconds)
        after = used(place)
    finally:
        await vistaflow("down")
    return {
        "ready": ready,
        "start": first["cpu"],
        "settled": before["cpu"],
        "memory": after["memory"],
        "count": after["count"],
        "idle": 100 * (after["cpu"] - before["cpu"]) / options.seconds,
        "wakes": (after["wakes"] - before["wakes"]) / options.seconds,
    }


async def measure(home: Path) -> None:
    number = [0]
    await turn(home, number, new=False)
    got = await interleave(
        {
            "new": lambda: turn(home, number, new=True),
            "used": lambda: turn(home, number, new=False),
        },
        options.rounds,
    )
    table = Table("vistaflow up")
    for name, figures in got.items():
        table.add(f"{name} home: until it is ready", figures["ready"], "s")
        table.add(f"{name} home: processor until then", figures["start"], "s")
    figures = got["used"]
    table.add("processor until it is idle", figures["settled"], "s", most=4.5, absolute=True)
    table.add("processes", figures["count"])
    table.add("memory", figures["memory"], "MiB", most=600, absolute=True)
    table.add("idle: processor", figures["idle"], "% of a core", most=2.5, absolute=True)
    table.add("idle: wake-ups", figures["wakes"], "/s")


parser = arguments(__doc__, seconds=30.0, rounds=3)
parser.add_argument("--settle", type=float, default=30.0, help="seconds before it counts as idle")
parser.add_argument("--port", type=int, default=50951, help="where the registry listens")
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
if __name__ == "__main__":
    run(measure)
