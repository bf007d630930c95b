"""Runs a scenario: load, faults, an end in peace, and the verdict on the histories."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.checker import check, write_stored
from tests.faults.cluster import Cluster, ImpossibleHere, postgres, small_disk
from tests.faults.report import Outcome, Report
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.traffic import CATCH_UP_SECONDS, Traffic
from tests.faults.watchers import Watcher
from vistaflow_services.registry.database.embedded import EmbeddedPostgres

MOST_STRETCH = 6.0
"""However busy the machine is, no limit of time is stretched further."""
GENEROUS_SECONDS = 20.0
"""A short look at whatever machine allows at least so long for the way back."""
MORE_TIME = 90.0
"""Seconds that a run may last beyond twice its time, until there were enough faults."""


async def run(
    name: str,
    *,
    seed: int,
    folder: Path,
    seconds: float = 0.0,
    least_faults: int | None = None,
    server: EmbeddedPostgres | None = None,
    mutation: str = "",
    keep: bool = False,
) -> Report:
    """Runs a scenario and judges it.

    Args:
        name: The scenario.
        seed: Of everything random; the same seed makes the same choices.
        folder: Where histories and logs go; removed after a run that passed.
        seconds: How long the load lasts; 0: as long as the scenario says.
        least_faults: Faults without which the run says nothing, in place of everything that the
            scenario says of that: for a short look on whatever machine.
        server: A PostgreSQL that may be broken; None starts one.
        mutation: A deliberate bug of the registries.
        keep: Whether the folder stays though nothing was wrong.
    """
    scenario = SCENARIOS[name]
    seconds = seconds or scenario.seconds
    report = Report(scenario=name, seed=seed, seconds=seconds, mutation=mutation)
    if least_faults is None:
        report.least_faults = round(scenario.least_faults * seconds / scenario.seconds)
        report.is_whole = True
    else:
        report.least_faults = least_faults
    try:
        with _server(scenario, server) as used:
            await _run(scenario, report, used, folder)
    except ImpossibleHere as error:
        report.outcome = Outcome.IMPOSSIBLE
        report.shortfalls.append(str(error))
    if report.outcome in (Outcome.PASSED, Outcome.IMPOSSIBLE) and not keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        report.folder = folder
        (folder / "report.txt").write_text(f"{report}\n{json.dumps(report.hits)}\n")
    return report


@contextlib.contextmanager
def _server(scenario: Scenario, server: EmbeddedPostgres | None) -> Iterator[EmbeddedPostgres]:
    if scenario.disk_megabytes:
        with small_disk(scenario.disk_megabytes) as disk, postgres(disk) as own:
            yield own
    elif server is not None:
        yield server
    else:
        with postgres() as own:
            yield own


async def _run(scenario: Scenario, report: Report, server: EmbeddedPostgres, folder: Path) -> None:
    cluster = Cluster(
        server=server,
        folder=folder,
        seed=str(report.seed),
        replicas=scenario.replicas,
        mutation=report.mutation or scenario.variant,
        failpoints=scenario.failpoints,
    )
    histories = folder / "histories"
    try:
        await cluster.start()
        begun = time.monotonic()
        looking = asyncio.create_task(_look_at_load(report, cluster))
        if scenario.work is not None:
            await _work(scenario, report, cluster)
        else:
            await _traffic(scenario, report, cluster)
        looking.cancel()
        report.took = round(time.monotonic() - begun, 1)
        write_stored(histories, "stored", cluster.stored())
        write_stored(histories, "kits", cluster.kits())
    finally:
        await cluster.stop()
        with contextlib.suppress(OSError):
            shutil.copy(server._log, folder / "postgres.log")
        with contextlib.suppress(Exception):
            await cluster.drop()
    report.hits = dict(cluster.hits())
    report.faults = dict(cluster.faults)
    recovery = scenario.recovery_seconds
    if recovery is not None and not report.is_whole and not report.mutation:
        recovery = max(recovery, GENEROUS_SECONDS)
    report.found = await asyncio.to_thread(
        check,
        histories,
        recovery_seconds=recovery,
        past_seconds=scenario.past_seconds,
        lag_seconds=scenario.lag_seconds,
    )
    report.judge(scenario)


async def _look_at_load(report: Report, cluster: Cluster) -> None:
    """Records how much else the machine has to do; in vain, where a bug is to be caught."""
    while not report.mutation:
        a_core = os.getloadavg()[0] / (os.cpu_count() or 1)
        cluster.recorder.note("load", a_core=min(max(a_core, 1.0), MOST_STRETCH))
        await asyncio.sleep(2)


async def _break(scenario: Scenario, report: Report, cluster: Cluster, end: float) -> None:
    """One fault after another until the time is over and there were enough."""
    while scenario.faults and (now := time.monotonic()) < end + report.seconds + MORE_TIME:
        if now >= end and not report.lacking(scenario, cluster.faults):
            return
        await asyncio.sleep(cluster.chance.uniform(*scenario.pause))
        await cluster.chance.choice(scenario.faults)(cluster)


async def _work(scenario: Scenario, report: Report, cluster: Cluster) -> None:
    assert scenario.work is not None
    watcher = Watcher(cluster.record("watcher"), cluster.addresses, str(report.seed))
    watcher.begin(include_left=True)
    over = asyncio.Event()
    watching = asyncio.create_task(watcher.run(over.is_set))
    end = time.monotonic() + report.seconds
    breaking = asyncio.create_task(_break(scenario, report, cluster, end))
    report.figures |= await scenario.work(cluster, report.seconds, str(report.seed))
    await breaking
    over.set()
    await watching
    head = int(str(cluster.stored()[-1]["revision"]))
    await watcher.catch_up(head, CATCH_UP_SECONDS)
    await watcher.close()
    report.figures |= {"rows": head, "delivered": watcher.row_count}


async def _traffic(scenario: Scenario, report: Report, cluster: Cluster) -> None:
    traffic = Traffic(cluster)
    await traffic.begin()
    begun = time.monotonic()
    await asyncio.sleep(min(1.0, report.seconds / 4))
    await _break(scenario, report, cluster, begun + report.seconds)
    if scenario.to_the_last_row:
        last = asyncio.create_task(_repeat(scenario, cluster))
        await asyncio.sleep(0.3)
        await traffic.end_writing()
        last.cancel()
        await asyncio.gather(last, return_exceptions=True)
    else:
        await asyncio.sleep(max(scenario.peace, begun + report.seconds - time.monotonic()))
        await traffic.end_writing()
    report.figures |= await traffic.end()


async def _repeat(scenario: Scenario, cluster: Cluster) -> None:
    """Faults without a pause."""
    while True:
        await cluster.chance.choice(scenario.faults)(cluster)
        await asyncio.sleep(0.01)
