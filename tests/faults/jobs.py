"""Leased jobs and the workers that run them, for the scenarios about workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from google.protobuf import any_pb2

from tests.faults.client import Client, word
from tests.faults.cluster import LEASE_SECONDS, Cluster
from tests.faults.history import read
from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb

POISON = b"poison"
MOST_ROUNDS = 10
TYPE_URL = "type.googleapis.com/vistaflow.test.Spec"


class Workers:
    """Worker processes; one that dies is started again under its name."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self.cluster = cluster
        self.names = [f"worker-{number}" for number in range(count)]
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.death_count = 0
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        for name in self.names:
            await self._start_one(name)
        self._keeper = asyncio.create_task(self._keep())

    async def _start_one(self, name: str) -> None:
        root = Path(__file__).parents[2]
        with (self.cluster.folder / f"{name}.err").open("ab") as errors:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.worker", name),
                *(self.cluster.addresses[0], str(self.cluster.folder / "histories")),
                env={**os.environ, "PYTHONPATH": str(root)},
                stdout=errors,
                stderr=errors,
            )

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            for name, process in list(self.processes.items()):
                if process.returncode is not None:
                    self.death_count += 1
                    await self._start_one(name)

    def running(self) -> dict[str, int]:
        """How many grants each worker has had that it did not finish."""
        counts = {}
        for name in self.names:
            path = self.cluster.folder / "histories" / f"{name}.jsonl"
            ops = [record["op"] for record in read(path)] if path.exists() else []
            counts[name] = ops.count("grant") - ops.count("append")
        return counts

    async def freeze(self, name: str, seconds: float) -> None:
        """A zombie: it is frozen for longer than its leases last, and goes on as if nothing."""
        with self.cluster.fault("freeze worker"):
            process = self.processes[name]
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(seconds)
                process.send_signal(signal.SIGCONT)

    async def kill(self, name: str) -> None:
        with self.cluster.fault("kill worker"), contextlib.suppress(ProcessLookupError):
            self.processes[name].kill()

    async def stop(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        for process in self.processes.values():
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            await process.wait()


class Submitter(Client):
    """Makes leased jobs, waits for their ends, and records how each ended."""

    expected: dict[str, str]
    made_count = 0

    async def submit(self, specs: list[bytes], *, max_attempts: int = 3) -> None:
        self.expected = {}
        for spec in specs:
            self.made_count += 1
            request = pb.CreateKitRequest(
                request_id=self.request_id(),
                name=f"{self.recorder.client} {self.made_count} {spec.decode()}",
                jobs=[
                    pb.NewJob(
                        name="work",
                        job_type=common.JOB_TYPE_DOE,
                        spec=any_pb2.Any(type_url=TYPE_URL, value=spec),
                        max_attempts=max_attempts,
                    )
                ],
            )
            start = time.monotonic()
            made = await self.insist(
                lambda request=request: self.stub.CreateKit(request, timeout=5), start + 120
            )
            assert made is not None
            self.recorder.note(
                "create",
                start=start,
                name=request.name,
                outcome="answered",
                kit_id=made.kit.kit_id,
                revision=made.revision,
            )
            expected = "FAILED" if spec == POISON else "FINISHED"
            self.expected[made.kit.jobs[0].job_id] = expected

    async def await_ends(self, seconds: float) -> None:
        """Waits until every job has ended, and records what became of each."""
        end = time.monotonic() + seconds
        statuses: dict[str, str] = {}
        while time.monotonic() < end:
            for job_id in self.expected:
                if statuses.get(job_id) not in ("FINISHED", "FAILED", "CANCELED"):
                    request = pb.GetJobRequest(job_id=job_id)
                    got = await self.insist(
                        lambda request=request: self.stub.GetJob(request, timeout=2), end
                    )
                    statuses[job_id] = word(got.job.status) if got is not None else "UNKNOWN"
            if all(each in ("FINISHED", "FAILED", "CANCELED") for each in statuses.values()):
                break
            await asyncio.sleep(0.2)
        for job_id, expected in self.expected.items():
            self.recorder.note(
                "ended", job=job_id, status=statuses.get(job_id, "UNKNOWN"), expected=expected
            )


async def zombies(cluster: Cluster, seconds: float, seed: str) -> dict[str, float]:
    """Workers are frozen past their leases, over and over, while others take over their jobs."""
    workers = Workers(cluster, 3)
    submitter = Submitter(cluster.record("submitter"), cluster.addresses, seed)
    await workers.start()

    def lost() -> int:
        return cluster.hits()["lease.before_lose"]

    try:
        end = time.monotonic() + seconds
        rounds = 0
        # On a busy machine a worker may come back in time; then there was no zombie.
        while time.monotonic() < end or (not lost() and rounds < MOST_ROUNDS):
            rounds += 1
            # More than a lease, less than the freeze: so that the zombie comes back to it.
            await submitter.submit([b"1.0"] * 5, max_attempts=20)
            limit = time.monotonic() + 60
            while not (busy := [name for name, n in workers.running().items() if n > 0]):
                assert time.monotonic() < limit, "no worker was given anything"
                await asyncio.sleep(0.05)
            await workers.freeze(cluster.chance.choice(busy), 2 * LEASE_SECONDS)
            await submitter.await_ends(120)
        await asyncio.sleep(1.5)
    finally:
        await workers.stop()
        await submitter.close()
    stale = 0
    for name in workers.names:
        for record in read(cluster.folder / "histories" / f"{name}.jsonl"):
            stale += record["op"] == "append" and record["results"][0][0] != "ACCEPTED"
    return {"zombies": rounds, "stale": stale}


async def poison(cluster: Cluster, seconds: float, seed: str) -> dict[str, float]:
    """Jobs that kill their worker end as FAILED after their attempts; the others flow."""
    workers = Workers(cluster, 3)
    submitter = Submitter(cluster.record("submitter"), cluster.addresses, seed)
    await workers.start()
    try:
        # A healthy job may share a worker with a poisoned one each time: it has more attempts.
        count = max(1, round(seconds / 15))
        await submitter.submit([POISON] * count, max_attempts=3)
        poisoned = dict(submitter.expected)
        await submitter.submit([b"0.1"] * 10 * count, max_attempts=20)
        submitter.expected |= poisoned
        await submitter.await_ends(120 + 3 * seconds)
        with cluster.fault("poison"):
            pass
    finally:
        await workers.stop()
        await submitter.close()
    return {"deaths": workers.death_count, "poisoned": count}


async def flow(cluster: Cluster, seconds: float, seed: str) -> dict[str, float]:
    """A steady flow of short jobs; now and then a worker is killed or frozen past its leases."""
    workers = Workers(cluster, 3)
    submitter = Submitter(cluster.record("submitter"), cluster.addresses, seed)
    await workers.start()
    end = time.monotonic() + seconds
    harming = asyncio.create_task(_harm(workers, end))
    made = 0
    try:
        while time.monotonic() < end:
            await submitter.submit([b"0.3"] * 12, max_attempts=50)
            made += 12
            await submitter.await_ends(60)
    finally:
        await harming
        await workers.stop()
        await submitter.close()
    return {"jobs": made}


async def _harm(workers: Workers, end: float) -> None:
    chance = workers.cluster.chance
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(2, 6))
        name = chance.choice(workers.names)
        if chance.random() < 0.5:
            await workers.kill(name)
        else:
            await workers.freeze(name, 2 * LEASE_SECONDS)
