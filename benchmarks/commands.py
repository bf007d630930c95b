"""What the `vistaflow` command costs: whole processes, in turns with a bare interpreter.

    python benchmarks/commands.py [--rounds 9]

`kits` asks a registry that is not there, so that it has everything but its answer.
"""

from __future__ import annotations

import asyncio
import functools
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "registry"))
from bench import Run, Table, arguments, interleave, run

PROGRAM = "import sys; sys.argv = ['vistaflow', *sys.argv[1:]]; "
MAIN = f"{PROGRAM}from vistaflow.cli.app import main; main()"
COMPLETION = {
    "_VISTAFLOW_COMPLETE": "complete_bash",
    "COMP_WORDS": "vistaflow ",
    "COMP_CWORD": "1",
}


async def turn(
    home: Path, program: str, *words: str, environment: dict[str, str] | None = None
) -> dict[str, float]:
    """Processor seconds and memory of one process."""
    return await asyncio.to_thread(
        _ended,
        [sys.executable, "-c", program, *words],
        {**os.environ, "VISTAFLOW_HOME": str(home), **(environment or {})},
    )


def _ended(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    null = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=null, stderr=null)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return {"cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss / 1024}


async def measure(home: Path) -> None:
    one = functools.partial
    variants: dict[str, Run] = {
        "a bare interpreter": one(turn, home, "pass"),
        "the client alone": one(turn, home, "import vistaflow.client"),
        "--version": one(turn, home, MAIN, "--version"),
        "completion of a command": one(turn, home, MAIN, environment=COMPLETION),
        "--help": one(turn, home, MAIN, "--help"),
        "show --help": one(turn, home, MAIN, "show", "--help"),
        "kits, without a registry": one(turn, home, MAIN, "kits", "--address", "127.0.0.1:1"),
    }
    got = await interleave(variants, options.rounds)
    client = got["the client alone"]["cpu"]
    table = Table("commands: processor time of the process")
    for name, figures in got.items():
        # A command that needs no client must cost less than the client.
        most = 1.5 if name == "--help" else 1.0 if name.startswith(("--version", "comp")) else None
        table.add(name, figures["cpu"], "s", against=client, of="the client alone", most=most)
    table.add("kits: memory", got["kits, without a registry"]["memory"], "MiB")


parser = arguments(__doc__, rounds=9)
options = parser.parse_args() if __name__ == "__main__" else parser.parse_args([])
if __name__ == "__main__":
    run(measure)
