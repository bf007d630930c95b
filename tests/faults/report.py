"""What became of a run, and of all the runs of a night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.faults.checker import told
from tests.faults.scenarios import Scenario

COLUMNS = (
    "scenario", "seed", "outcome", "s", "kills", "at points", "postgres", "faults", "acked rows",
    "delivered", "resumes", "violations",
)  # fmt: skip


class Outcome(StrEnum):
    """What a run says."""

    PASSED = "passed"
    VIOLATED = "violated"
    INVALID = "invalid"
    """Too little happened for it to say anything."""
    IMPOSSIBLE = "impossible"
    """This machine does not allow what it needs."""


EXIT_CODES = {Outcome.PASSED: 0, Outcome.VIOLATED: 1, Outcome.INVALID: 3, Outcome.IMPOSSIBLE: 4}


@dataclass(kw_only=True)
class Report:
    """What became of a run."""

    scenario: str
    seed: int
    seconds: float
    mutation: str = ""
    outcome: Outcome = Outcome.PASSED
    took: float = 0.0
    """Seconds from the first call to the last."""
    least_faults: int = 0
    is_whole: bool = False
    """Whether it must do all that its scenario says."""
    found: dict[str, list[str]] = field(default_factory=dict)
    shortfalls: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    """How often each kind of fault was."""
    hits: dict[str, int] = field(default_factory=dict)
    """How often each failpoint was reached."""
    folder: Path | None = None
    """Where the histories and logs lie, if they were kept."""

    def __str__(self) -> str:
        figures = [f"{name} {value:g}" for name, value in self.figures.items()]
        figures += [f"{kind} {count}" for kind, count in sorted(self.faults.items())]
        mutation = f" --mutation {self.mutation}" if self.mutation else ""
        lines = [
            f"{self.scenario}: {self.outcome}; {', '.join(figures)}; {self.took:g} s",
            f"  again: python -m tests.faults --seed {self.seed} --scenario {self.scenario}"
            f" --seconds {self.seconds:g}{mutation}",
        ]
        lines += [f"  too little: {each}" for each in self.shortfalls]
        if self.found:
            lines += [f"  {line}" for line in told(self.found).splitlines()]
        if self.folder is not None:
            lines.append(f"  histories and logs: {self.folder}")
        return "\n".join(lines)

    @property
    def deaths(self) -> int:
        """How often a registry died at a failpoint."""
        return sum(n for kind, n in self.faults.items() if kind.startswith("died at "))

    def lacking(self, scenario: Scenario, faults: Mapping[str, int]) -> list[str]:
        """Which faults there were too few of."""
        happened = sum(faults.values())
        lacking = []
        if happened < self.least_faults:
            lacking.append(f"{happened} faults, not {self.least_faults}")
        least = round(scenario.least_deaths * self.seconds / scenario.seconds)
        for point in scenario.points if self.is_whole else ():
            died = faults.get(f"died at {point}", 0)
            if died < least:
                lacking.append(f"{died} deaths at {point}, not {least}")
        return lacking

    def judge(self, scenario: Scenario) -> None:
        """Says what the run says."""
        self.shortfalls = self.lacking(scenario, self.faults)
        self.shortfalls += [
            f"failpoint {point} was never reached"
            for point in scenario.points
            if not self.hits.get(point)
        ]
        if self.is_whole and scenario.work is None:
            rates = {"appends": scenario.least_rate, "delivered": scenario.least_delivered_rate}
            for name, rate in rates.items():
                done, least = self.figures.get(name, 0), rate * self.seconds
                if done < least:
                    self.shortfalls.append(f"{done:g} {name}, not {least:g}")
        if self.found:
            self.outcome = Outcome.VIOLATED
        elif self.shortfalls:
            self.outcome = Outcome.INVALID


def table(reports: Sequence[Report]) -> str:
    """All runs in one table, with a last row for all that had no deliberate bug together."""
    rows = [_row(report) for report in reports]
    real = [report for report in reports if not report.mutation]
    sums = [0.0] * len(COLUMNS)
    for row in map(_row, real):
        sums = [s + v if isinstance(v, int | float) else s for s, v in zip(sums, row, strict=True)]
    rows.append([f"all {len(real)} without a bug", "", "", *sums[3:]])
    shown = [[f"{each:,.0f}" if isinstance(each, float) else str(each) for each in r] for r in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *shown, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(r, widths, strict=True)) + " |"
        for r in (COLUMNS, ["-" * width for width in widths], *shown)
    ]
    return "\n".join(lines)


def _row(report: Report) -> list[str | float]:
    faults, figures = report.faults, report.figures
    name = f"{report.scenario} ({report.mutation})" if report.mutation else report.scenario
    postgres = sum(
        count for kind, count in faults.items() if kind.startswith(("kill post", "restart post"))
    )
    return [
        name,
        str(report.seed),
        report.outcome.value,
        report.took,
        float(faults.get("kill registry", 0) + report.deaths),
        float(report.deaths),
        float(postgres),
        float(sum(faults.values())),
        float(figures.get("acked", 0)),
        float(figures.get("delivered", 0)),
        float(figures.get("resumes", 0) + figures.get("hops", 0)),
        float(sum(map(len, report.found.values()))),
    ]
