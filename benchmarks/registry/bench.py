"""The parts of every benchmark of the registry: interleaved runs, medians, one table.

Absolute figures mean little on a shared machine, so a figure is compared with another of the same
run, and their ratio counts. Variants take turns, and a figure is the median of its turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

Run = Callable[[], Awaitable[Mapping[str, float]]]
"""One turn of a variant: its figures by name."""


def quantile(values: Iterable[float], part: float) -> float:
    """The value below which a part of the values lies; nan of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


async def interleave(variants: Mapping[str, Run], rounds: int) -> dict[str, dict[str, float]]:
    """Runs every variant in turn, `rounds` times; the median of each figure of each variant."""
    turns: dict[str, list[Mapping[str, float]]] = {name: [] for name in variants}
    for number in range(rounds):
        # Every other round the other way round, so that nobody always follows the same one.
        for name in list(variants)[:: -1 if number % 2 else 1]:
            turns[name].append(await variants[name]())
    return {
        name: {key: statistics.median(figures[key] for figures in runs) for key in runs[0]}
        for name, runs in turns.items()
    }


class Table:
    """Prints what | measured | against | ratio | must | met."""

    WIDTHS = (44, 18, 34, 7, 9, 4)

    def __init__(self, title: str) -> None:
        self.missed = 0
        """Lines whose target was missed."""
        print(f"\n{title}")
        self._print("what", "measured", "against", "ratio", "must", "met")
        self._print(*("-" * width for width in self.WIDTHS))

    def add(
        self,
        what: str,
        measured: float,
        unit: str = "",
        *,
        against: float | None = None,
        of: str = "",
        least: float | None = None,
        most: float | None = None,
        absolute: bool = False,
    ) -> None:
        """Prints a line.

        Args:
            what: What was measured.
            measured: Its figure.
            unit: Of the figure.
            against: The figure of the same run that it stands beside.
            of: What that is of.
            least: The least ratio that will do.
            most: The greatest ratio that will do.
            absolute: Whether `least` and `most` are about the figure itself.
        """
        ratio = measured / against if against else None
        judged = measured if absolute or ratio is None else ratio
        met = ""
        if least is not None or most is not None:
            good = (least is None or judged >= least) and (most is None or judged <= most)
            met = "yes" if good else "NO"
            self.missed += not good
        must = " ".join(
            f"{sign} {_figure(limit)}"
            for sign, limit in ((">=", least), ("<=", most))
            if limit is not None
        )
        self._print(
            what,
            f"{_figure(measured)} {unit}",
            "" if against is None else f"{_figure(against)} {unit} {of}",
            "" if ratio is None else f"{ratio:.2f}",
            must,
            met,
        )

    def _print(self, *cells: str) -> None:
        padded = [cell.ljust(width) for cell, width in zip(cells, self.WIDTHS, strict=True)]
        print(" | ".join(padded).rstrip(), flush=True)


def _figure(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"


def arguments(
    description: str | None, *, seconds: float = 2.0, rounds: int = 5
) -> argparse.ArgumentParser:
    """The command line that the benchmarks share."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=seconds, help="length of one turn")
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of each variant")
    return parser


def run(measure: Callable[[Path], Awaitable[None]]) -> None:
    """Runs a benchmark in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="vistaflow-bench-") as folder:

        async def measuring() -> None:
            await measure(Path(folder))

        asyncio.run(measuring())
