"""One PostgreSQL for the runs of a session, to be broken; what failed is kept."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import postgres
from tests.faults.runner import Report, run
from vistaflow_services.registry.embedded import EmbeddedPostgres

Run = Callable[..., Report]
REPORTS: list[Report] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what became of every run, and how to make it again."""
    if REPORTS:
        terminalreporter.section("fault runs")
    for report in REPORTS:
        terminalreporter.write_line(str(report))


@pytest.fixture(scope="session")
def breakable() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that may be broken."""
    with postgres() as server:
        yield server


@pytest.fixture
def harness(breakable: EmbeddedPostgres, request: pytest.FixtureRequest) -> Run:
    """Runs a scenario. Histories of runs that fail stay below $VISTAFLOW_FAULTS_FOLDER."""
    top = Path(os.environ.get("VISTAFLOW_FAULTS_FOLDER", tempfile.gettempdir()))

    def one(name: str, *, seed: int, seconds: float = 0.0, mutation: str = "") -> Report:
        folder = top / f"vistaflow-faults-{os.getpid()}" / f"{name}-{mutation or 'real'}-{seed}"
        report = asyncio.run(
            run(
                name,
                seed=seed,
                folder=folder,
                seconds=seconds,
                server=breakable,
                mutation=mutation,
            )
        )
        REPORTS.append(report)
        return report

    return one
