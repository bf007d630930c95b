"""The disk of the artifacts is full or broken: the job says so, and no half file is to be seen."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.disks import small_disk
from vistaflow.api.common.v1 import common_pb2

sys.path.insert(0, str(Path(__file__).parents[1]))
from scripted_registry import ScriptedRegistry

from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.worker import Worker

HERE = Path(__file__).parents[1]


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 4 MiB."""
    with small_disk(tmp_path / "artifacts", 4) as folder:
        yield folder


async def test_a_file_that_cannot_be_written_fails_the_job_and_leaves_nothing_half(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    registry = ScriptedRegistry()
    await registry.start()
    client = RegistryClient(registry.address, actor="doe")
    artifacts = ArtifactStore(volume)
    worker = Worker(
        *("doe-1", "misbehaving_jobs", ["DOE"], client, artifacts, 1),
        home=tmp_path,
        cores=1,
        warm=False,
    )
    running = asyncio.create_task(worker.run())
    try:
        jobs = [
            ({"kind": "parquet", "bytes": 8 << 20}, "No space left on device"),
            ({"kind": "csv", "bytes": 8 << 20}, "No space left on device"),
            ({"kind": "csv", "bytes": 1 << 20, "error": errno.EIO}, "Input/output error"),
        ]
        for number, (what, told) in enumerate(jobs, start=1):
            job_id = await registry.grant(do="write much", **what)
            await registry.until(lambda number=number: len(registry.rows) == number, 120)
            row = registry.rows[-1]
            assert (row.job_id, row.status) == (job_id, common_pb2.STATUS_FAILED)
            assert row.reason == (
                f"STORAGE: a file could not be written: {told}; "
                "free or repair the disk of the artifacts, then retry the job"
            )
            there = [each.name for each in artifacts.open_prefix(job_id, 1).iterdir()]
            assert there == ["before.bin"]
        assert registry.releases == []
        # With room it goes on by itself.
        await registry.grant(do="write much", kind="csv", bytes=1 << 20)
        await registry.until(lambda: len(registry.rows) == 4, 120)
        assert registry.rows[-1].status == common_pb2.STATUS_FINISHED
    finally:
        running.cancel()
        await asyncio.wait([running])
        await client.close()
        await registry.stop()
