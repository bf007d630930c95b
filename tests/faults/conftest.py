"""One PostgreSQL for the runs of a session, to be broken; what failed is kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cluster import postgres
from tests.faults.report import Report, table
from tests.faults.runner import run
from vistaflow_services.registry.database.embedded import EmbeddedPostgres

Run = Callable[..., Report]
REPORTS: list[Report] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what became of every run, how to make it again, and what it all came to.

    The file `$VISTAFLOW_FAULTS_REPORT` has the table of the runs so far.
    """
    if not REPORTS:
        return
    terminalreporter.section("fault runs")
    for report in REPORTS:
        terminalreporter.write_line(str(report))
    terminalreporter.write_line(table(REPORTS))


@pytest.fixture(scope="session")
def breakable() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that may be broken."""
    with postgres() as server:
        yield server


@pytest.fixture
def harness(breakable: EmbeddedPostgres, tmp_path: Path) -> Run:
    """Runs a scenario.

    Histories and logs of a run that fails stay below $VISTAFLOW_FAULTS_FOLDER, or where pytest
    keeps temporary files.
    """
    top = Path(os.environ.get("VISTAFLOW_FAULTS_FOLDER", tmp_path))

    def one(name: str, *, seed: int, mutation: str = "", **limits: Any) -> Report:
        folder = top / f"{name}-{mutation or 'real'}-{seed}-{len(REPORTS)}"
        report = asyncio.run(
            run(name, seed=seed, folder=folder, server=breakable, mutation=mutation, **limits)
        )
        REPORTS.append(report)
        print(report, flush=True)
        if file := os.environ.get("VISTAFLOW_FAULTS_REPORT"):
            Path(file).write_text(table(REPORTS) + "\n")
        return report

    return one
