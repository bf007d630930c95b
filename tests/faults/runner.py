"""Runs a scenario: load, faults, an end in peace, and the verdict on the histories."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.faults.checker import Found, check, told, write_stored
from tests.faults.clients import Reader, Requester, Watcher, Writer
from tests.faults.cluster import Cluster, ImpossibleHere, postgres, small_disk
from tests.faults.scenarios import SCENARIOS, Scenario
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow_services.registry.embedded import EmbeddedPostgres

WRITERS = 4
CATCH_UP_SECONDS = 20.0
TYPES = (common.JOB_TYPE_DOE, common.JOB_TYPE_ML_TRAIN)


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
    outcome: Outcome = Outcome.PASSED
    found: Found = field(default_factory=dict)
    shortfalls: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    folder: Path | None = None
    """Where the histories and logs lie, if they were kept."""

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:g}" for name, value in self.figures.items())
        lines = [
            f"{self.scenario}: {self.outcome}; {figures}",
            f"  again: python -m tests.faults --seed {self.seed} --scenario {self.scenario}"
            f" --seconds {self.seconds:g}",
        ]
        lines += [f"  too little: {each}" for each in self.shortfalls]
        if self.found:
            lines += [f"  {line}" for line in told(self.found).splitlines()]
        if self.folder is not None:
            lines.append(f"  histories and logs: {self.folder}")
        return "\n".join(lines)


async def run(
    name: str,
    *,
    seed: int,
    folder: Path,
    seconds: float = 0.0,
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
        server: A PostgreSQL that may be broken; None starts one.
        mutation: A deliberate bug of the registries.
        keep: Whether the folder stays though nothing was wrong.
    """
    scenario = SCENARIOS[name]
    seconds = seconds or scenario.seconds
    report = Report(scenario=name, seed=seed, seconds=seconds)
    try:
        with _server(scenario, server) as used:
            await _run(scenario, report, used, folder, mutation)
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


async def _run(
    scenario: Scenario, report: Report, server: EmbeddedPostgres, folder: Path, mutation: str
) -> None:
    cluster = Cluster(
        server=server,
        folder=folder,
        seed=str(report.seed),
        replicas=scenario.replicas,
        mutation=mutation,
        failpoints=scenario.failpoints or "*=count",
    )
    histories = folder / "histories"
    try:
        await cluster.start()
        begun = time.monotonic()
        if scenario.work is not None:
            await _work(scenario, report, cluster)
        else:
            await _traffic(scenario, report, cluster)
        took = time.monotonic() - begun
        write_stored(histories, "stored", cluster.stored())
        write_stored(histories, "kits", cluster.kits())
    finally:
        await cluster.stop()
        with contextlib.suppress(OSError):
            shutil.copy(server._log, folder / "postgres.log")
        with contextlib.suppress(Exception):
            await cluster.drop()
    report.hits = dict(cluster.hits())
    report.figures |= {"faults": cluster.fault_count, "seconds": round(took, 1)}
    report.found = await asyncio.to_thread(
        check, histories, recovery_seconds=scenario.recovery_seconds
    )
    least = scenario.least_faults * report.seconds
    if cluster.fault_count < least:
        report.shortfalls.append(f"{cluster.fault_count} faults, not {least:g}")
    report.shortfalls += [
        f"failpoint {point} was never reached"
        for point in scenario.points
        if not report.hits.get(point)
    ]
    if report.found:
        report.outcome = Outcome.VIOLATED
    elif report.shortfalls:
        report.outcome = Outcome.INVALID


async def _break(scenario: Scenario, cluster: Cluster, end: float) -> None:
    """One fault after another until the time is over."""
    while scenario.faults and time.monotonic() < end:
        await asyncio.sleep(cluster.chance.uniform(*scenario.pause))
        await cluster.chance.choice(scenario.faults)(cluster)


async def _work(scenario: Scenario, report: Report, cluster: Cluster) -> None:
    assert scenario.work is not None
    watcher = Watcher(cluster.record("watcher"), cluster.addresses, str(report.seed))
    watcher.begin()
    over = asyncio.Event()
    watching = asyncio.create_task(watcher.run(over.is_set))
    breaking = asyncio.create_task(_break(scenario, cluster, time.monotonic() + report.seconds))
    report.figures |= await scenario.work(cluster, report.seconds, str(report.seed))
    await breaking
    over.set()
    await watching
    head = int(str(cluster.stored()[-1]["revision"]))
    await watcher.catch_up(head, CATCH_UP_SECONDS)
    await watcher.close()
    report.figures["rows"] = head


async def _traffic(scenario: Scenario, report: Report, cluster: Cluster) -> None:
    seed, addresses = str(report.seed), cluster.addresses

    def turned(number: int) -> list[str]:
        at = number % len(addresses)
        return addresses[at:] + addresses[:at]

    writers = [Writer(cluster.record(f"writer-{n}"), turned(n), seed) for n in range(WRITERS)]
    for number, writer in enumerate(writers):
        await writer.begin(TYPES[number % 2], {})
    requester = Requester(cluster.record("requester"), turned(0), seed)
    readers = [Reader(cluster.record(f"reader-{n}"), turned(n), seed) for n in range(2)]
    for reader in readers:
        reader.writers = writers
    wanted: list[dict[str, object]] = [
        {},
        {},
        {"kit_ids": [writers[0].kit_id]},
        {"job_types": [TYPES[1]]},
        {"statuses": [common.STATUS_QUEUED]},
    ]
    watchers = [
        Watcher(cluster.record(f"watcher-{n}"), turned(n), seed) for n in range(len(wanted))
    ]
    for watcher, filter_ in zip(watchers, wanted, strict=True):
        watcher.begin(**filter_)  # type: ignore[arg-type]
    writing_over, watching_over = asyncio.Event(), asyncio.Event()
    begun = time.monotonic()
    writing = [
        asyncio.create_task(client.run(writing_over.is_set))
        for client in (*writers, requester, *readers)
    ]
    watching = [asyncio.create_task(watcher.run(watching_over.is_set)) for watcher in watchers]
    await asyncio.sleep(min(1.0, report.seconds / 4))
    await _break(scenario, cluster, begun + report.seconds)
    await asyncio.sleep(max(scenario.peace, begun + report.seconds - time.monotonic()))
    writing_over.set()
    await asyncio.gather(*writing)
    took = time.monotonic() - begun
    head = int(str(cluster.stored()[-1]["revision"]))
    watching_over.set()
    await asyncio.gather(*watching)
    await asyncio.gather(*(w.catch_up(head, CATCH_UP_SECONDS) for w in watchers))
    for client in (*writers, requester, *readers, *watchers):
        await client.close()
    acked = sum(writer.acked_count for writer in writers)
    report.figures |= {
        "appends": acked,
        "rate": round(acked / took, 1),
        "rows": head,
        "delivered": sum(w.row_count for w in watchers),
        "resumes": sum(w.resume_count for w in watchers),
        "kits": requester.made_count,
        "reads": sum(reader.read_count for reader in readers),
    }
    if acked < scenario.least_rate * took:
        report.shortfalls.append(f"{acked / took:.1f} appends a second, not {scenario.least_rate}")
