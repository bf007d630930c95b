"""How long rows take from their acknowledgement to a thousand watchers, and what that costs.

    python benchmarks/registry/watch.py [--seconds 4] [--rounds 5] [--only one|all|etcd]

One writer appends 300 rows a second, row by row, over a thousand kits; the writer and the watchers
are processes of their own. Turns of each number of watchers are interleaved with turns without any,
which are the baseline for the time of an append; etcd takes its turns with the same clients. The
benchmark fails unless every watcher gets each of its rows once and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import Run, Table, arguments, interleave, quantile, run
from etcd import etcd
from servers import Running, new_job, postgres, registry, stub_of

KITS = 1_000
RATE = 300.0
PROCESSES = 2
"""Of watchers."""


class Load:
    """A process of `load.py` that waits for its line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @classmethod
    async def start(cls, what: str, *, script: str = "", **options: Any) -> Load:
        """Starts it and waits until it is ready."""
        words = [f"--{key}={value}" for key, value in options.items() if value is not True]
        words += [f"--{key}" for key, value in options.items() if value is True]
        load = cls(
            await asyncio.create_subprocess_exec(
                sys.executable,
                script or str(Path(__file__).with_name("load.py")),
                what,
                *words,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=1 << 28,
            )
        )
        await load._line()
        return load

    async def end(self, word: str = "") -> dict[str, Any]:
        """Gives it its line and returns what it found."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        figures: dict[str, Any] = json.loads(await self._line())
        await self._process.wait()
        return figures

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        if not line:
            raise SystemExit("a process of clients ended before its time")
        return line


def prefer(pid: int, level: int) -> None:
    """Raises a process, its threads and its children above the clients that press on it.

    Where the whole is run with real-time priority (`chrt -r 1`), so that other work on the machine
    does not count, a crowd of clients would otherwise keep a processor for 100 ms at a time.
    """
    if os.sched_getscheduler(0) != os.SCHED_RR:
        return
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if pid in (parent, int(path.name)):
                for thread in (path / "task").iterdir():
                    os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(level))


async def turn(
    server: Running, kits: Path, watchers: int, of: str, **more: Any
) -> dict[str, float]:
    """Figures of one turn, times in ms."""
    common = {"address": server.address, "kits": kits, **more}
    count = watchers // PROCESSES
    crowd = [
        await Load.start("watch", first=count * number, watchers=count, of=of, **common)
        for number in range(PROCESSES if watchers else 0)
    ]
    writer = await Load.start("write", rate=RATE, seconds=options.seconds, **common)
    prefer(writer.pid, 2)
    used = server.cpu_seconds()
    wrote = await writer.end()
    used = server.cpu_seconds() - used
    appends = wrote["appends"]
    seen = await asyncio.gather(*(load.end(str(appends[-1][1])) for load in crowd))
    acked = {revision: ack for _, revision, _, ack in appends}
    delays = []
    rows = len(appends) + 1  # and the one with which the writer said hello
    if watchers:
        counts = [count for result in seen for count in result["counts"]]
        complete = sum(counts) == rows if of == "one" else set(counts) == {rows}
        if not complete or any(result["disorder"] for result in seen):
            raise SystemExit(f"rows are missing: {min(counts)} to {max(counts)} of {rows} came")
        for result in seen:
            for rows_of_one in result["got"].values():
                delays += [
                    1000 * (delivered_at - acked[revision])
                    for revision, delivered_at in rows_of_one
                    if revision in acked
                ]
    waits = [1000 * (ack - asked) for _, _, asked, ack in appends]
    return {
        "append p50": quantile(waits, 0.5),
        "append p99": quantile(waits, 0.99),
        "rate": len(appends) / wrote["seconds"],
        "p50": quantile(delays, 0.5),
        "p99": quantile(delays, 0.99),
        "cpu": 100 * used / wrote["seconds"],
        "memory": server.memory_mib(),
    }


def report(table: Table, name: str, got: Mapping[str, float], none: Mapping[str, float]) -> None:
    """Lines without a target, or with the same one for the registry and etcd."""
    table.add(f"{name}: appends", got["rate"], "/s", against=RATE, of="offered")
    table.add(f"{name}: ack to delivery p50", got["p50"], "ms")
    table.add(f"{name}: append p99", got["append p99"], "ms", against=none["append p99"])
    table.add(f"{name}: processor", got["cpu"], "%", against=none["cpu"], of="without watchers")


async def measure(home: Path) -> None:
    with postgres(home) as dsn:
        async with registry(dsn, home) as server, etcd(home) as peer:
            prefer(int((home / "pg/postmaster.pid").read_text().split()[0]), 4)
            stub = stub_of(server.address)
            kits = home / "kits"
            kits.write_text(json.dumps([await new_job(stub) for _ in range(KITS)]))
            variants: dict[str, Run] = {"none": lambda: turn(server, kits, 0, "all")}
            if options.only in (None, "one"):
                variants["one"] = lambda: turn(server, kits, KITS, "one")
            if options.only in (None, "all"):
                variants["all"] = lambda: turn(server, kits, KITS, "all")
            if peer is not None and options.only in (None, "etcd"):
                variants["etcd none"] = lambda: turn(peer, kits, 0, "all", etcd=True)
                variants["etcd"] = lambda: turn(peer, kits, KITS, "all", etcd=True)
            got = await interleave(variants, options.rounds)
            none = got["none"]
            table = Table(f"{KITS:,} watchers, {RATE:g} appends of one row a second")
            for of, name, most, dearer in (
                ("one", "each of one kit", 2.0, 1.15),
                ("all", "each of all kits", 150.0, 2.0),
            ):
                if of in got:
                    figures = got[of]
                    table.add(f"{name}: ack to delivery p99", figures["p99"], "ms", most=most)
                    table.add(
                        f"{name}: append p50",
                        figures["append p50"],
                        "ms",
                        against=none["append p50"],
                        of="without watchers",
                        most=dearer,
                    )
                    table.add(f"{name}: memory", figures["memory"], "MiB", most=150, absolute=True)
                    report(table, name, figures, none)
            if "etcd" in got:
                figures, before = got["etcd"], got["etcd none"]
                beside = got.get("all", {}).get("p99")
                table.add(
                    "etcd: ack to delivery p99", figures["p99"], "ms", against=beside, of="ours"
                )
                table.add(
                    "etcd: append p50", figures["append p50"], "ms", against=before["append p50"]
                )
                table.add("etcd: memory", figures["memory"], "MiB")
                report(table, "etcd", figures, before)
            elif peer is None:
                print("etcd is not here to stand beside it: apt-get install etcd-server")


parser = arguments(__doc__, seconds=4.0)
parser.add_argument("--only", choices=("one", "all", "etcd"), help="one kind of watchers")
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
if __name__ == "__main__":
    run(measure)
