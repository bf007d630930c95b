"""Backups of a whole installation: to two targets, restored on an empty machine."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString

import grpc
import psycopg
import pytest
import pytest_asyncio

from tests.disks import small_disk
from tests.integration.conftest import serving  # type: ignore[import-not-found]
from tests.integration.stages import finished, refused, stage_serving
from tests.integration.stores.conftest import environment, make_bucket, moto
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.ingestion.v1 import ingestion_pb2_grpc as rpc
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.backups.manifest import backups_of, chosen_backup, entries_of
from vistaflow_services.backups.targets import open_target
from vistaflow_services.core.registry_client import RegistryClient, struct_to_dict
from vistaflow_services.core.work import hold
from vistaflow_services.ingestion.__main__ import SERVICE
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.stores import stores_of
from vistaflow_services.pages.plan import PAGES, Page
from vistaflow_services.registry.config import Config as RegistryConfig
from vistaflow_services.registry.database.embedded import EmbeddedPostgres
from vistaflow_services.registry.upkeep.checksums import check_checksum

pytestmark = pytest.mark.asyncio(loop_scope="module")

__all__ = ["moto"]

FINISHED = common_pb2.STATUS_FINISHED
FAILED = common_pb2.STATUS_FAILED
SCHEMA = RegistryConfig.schema

ATTEMPT = """
import sys
from pathlib import Path
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt
from vistaflow_services.ingestion.jobs import JOBS

home, registry, job_id = sys.argv[1:]
artifacts = ArtifactStore(Path(home) / "artifacts")
JOBS["BACKUP"](
    Attempt(
        kit_id=1, job_id=job_id, artifacts=artifacts, registry=registry,
        folder=artifacts.open_prefix(job_id, 1), spec=pb.BackUpSpec(targets=["disk"]),
    )
)
"""
"""Makes a backup in a process of its own, to be killed."""


@dataclass(frozen=True)
class Suite:
    """A registry and ingestion, both serving, and two targets of backups."""

    ingestion: rpc.IngestionServiceAsyncStub
    registry: RegistryClient
    home: Path
    disk: Path
    cloud: str
    database: str

    async def imported(self, rows: str) -> None:
        """A version of a dataset from a file."""
        name = f"{hashlib.sha256(rows.encode()).hexdigest()[:8]}.csv"
        (self.home.parent / "data" / name).write_text(rows)
        source = pb.RowSource(files=pb.RowFiles(file_names=[f"raw/{name}"]))
        table = pb.ImportTable(name="t", source=source)
        spec = pb.ImportSpec(dataset="whisky", tables=[table])
        job = (await self.ingestion.ImportDataset(pb.ImportDatasetRequest(spec=spec))).job
        job = await finished(self.registry, job)
        assert job.status == FINISHED, job.reason

    async def dumped(self) -> tuple[registry_pb2.DumpedLog, list[str], bytes]:
        """What DumpLog streams."""
        log, files, data = registry_pb2.DumpedLog(), list[str](), b""
        async for message in self.registry.stub.DumpLog(registry_pb2.DumpLogRequest()):
            log = message.log if message.HasField("log") else log
            files += [file.sha256 for file in message.files.files]
            assert message.ByteSize() < 2 << 20
            data += message.data
        return log, files, data

    async def backed_up(self, *targets: str, keep: int = 0) -> common_pb2.Job:
        """The job of a backup, once it has ended."""
        spec = pb.BackUpSpec(targets=targets, keep=keep)
        job = (await self.ingestion.BackUp(pb.BackUpRequest(spec=spec))).job
        return await finished(self.registry, job)

    def target(self, name: str) -> Any:
        """A target, to look into it."""
        return open_target(name, str(self.disk) if name == "disk" else self.cloud)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def suite(
    module_database: str, tmp_path_factory: pytest.TempPathFactory, moto: str
) -> AsyncIterator[Suite]:
    root = tmp_path_factory.mktemp("backups")
    home, disk = root / "home", root / "disk" / "vistaflow"
    small = root / "small"
    for folder in (home, root / "data", disk.parent, small):
        folder.mkdir()
    artifact = home / "artifacts" / "jobs" / str(uuid.uuid4()) / "1" / "plots" / "가 b.svg"
    artifact.parent.mkdir(parents=True)
    artifact.write_text("<svg/>")
    (home / "artifacts" / "downloads").mkdir()
    (home / "artifacts" / "downloads" / "0f").write_text("a file of a bucket")
    artifact.chmod(0o640)
    cloud = f"s3://{make_bucket(moto)}/night"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTAFLOW_HOME", str(home))
        patch.setenv("VISTAFLOW_DATA_ROOTS", f"raw={root / 'data'}")
        patch.setenv("VISTAFLOW_BACKUPS", f"disk={disk},cloud={cloud},small={small}")
        for name, value in environment(moto).items():
            patch.setenv(f"CLOUD_{name}", value)
        config = Config(listen="127.0.0.1:0", sweep_seconds=0)
        async with (
            serving(module_database) as registry,
            stage_serving(SERVICE, config, home=home, registry=registry.address) as channel,
        ):
            client = RegistryClient(registry.address, actor="test")
            yield Suite(
                ingestion=rpc.IngestionServiceStub(channel),
                registry=client,
                home=home,
                disk=disk,
                cloud=cloud,
                database=module_database,
            )
            await client.close()


def artifacts_of(home: Path) -> dict[str, str]:
    """The hashes of artifacts and blobs of datasets, by path."""
    root = home / "artifacts"
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
        and not {"holds", "downloads"} & set(path.parts)
        and not path.name.startswith(".")
    }


def restored(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `restore` does on a machine with an empty home."""
    return subprocess.run(
        [sys.executable, "-m", "vistaflow_services.registry.restore", *arguments],
        env={**os.environ, "VISTAFLOW_HOME": str(home), "VISTAFLOW_REGISTRY_SCHEMA": SCHEMA},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def rows_of(conninfo: str, revision: int) -> list[list[Any]]:
    """The log up to a revision, and the versions of datasets with their files."""
    queries: tuple[LiteralString, ...] = (
        "SELECT t::text FROM mlops_totalstate_table t WHERE id <= %(revision)s ORDER BY id",
        "SELECT t::text FROM dataset_versions t ORDER BY job_id",
        "SELECT t::text FROM dataset_blobs t ORDER BY dataset_id, version, sha256",
    )
    with psycopg.connect(conninfo, options=f"-c search_path={SCHEMA}") as connection:
        found = [connection.execute(query, {"revision": revision}).fetchall() for query in queries]
    assert all(found)
    return found


async def test_a_dump_is_what_the_command_writes(suite: Suite, tmp_path: Path) -> None:
    await suite.imported("id\n1\n")
    log, files, data = await suite.dumped()
    assert log.revision > 0
    assert log.database_schema == SCHEMA
    stored = {blob.sha256 for blob in stores_of(suite.home).blobs()}
    assert files == sorted(stored)
    (tmp_path / "dump").write_bytes(data)
    assert check_checksum(tmp_path / "dump")


async def test_a_dump_that_is_cancelled_ends(suite: Suite) -> None:
    def dumping() -> int:
        with psycopg.connect(suite.database) as connection:
            row = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE %s",
                ["vistaflow dump%"],
            ).fetchone()
            return row[0] if row else 0

    call = suite.registry.stub.DumpLog(registry_pb2.DumpLogRequest())
    await call.read()
    assert dumping()
    status, _ = await refused(suite.registry.stub.DumpLog(registry_pb2.DumpLogRequest()).read())
    assert status is grpc.StatusCode.ABORTED
    call.cancel()
    async with asyncio.timeout(60):
        while dumping():  # noqa: ASYNC110  # another process ends
            await asyncio.sleep(0.02)
    assert (await suite.dumped())[2]


async def test_a_target_has_to_be_declared(suite: Suite) -> None:
    for spec, field in (
        (pb.BackUpSpec(targets=["disk", "/etc"]), "spec.targets[1]"),
        (pb.BackUpSpec(targets=["disk", str(suite.disk)]), "spec.targets[1]"),
        (pb.BackUpSpec(), "spec.targets"),
        (pb.BackUpSpec(targets=["disk"], keep=-1), "spec.keep"),
    ):
        status, found = await refused(suite.ingestion.BackUp(pb.BackUpRequest(spec=spec)))
        assert (status, list(found)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_nights_to_two_targets_and_a_restore_from_the_one_that_is_left(
    suite: Suite, tmp_path: Path
) -> None:
    results = []
    for night in range(4):
        await suite.imported("id,name\n" + "".join(f"{n},night {night}\n" for n in range(50)))
        job = await suite.backed_up("disk", suite.cloud, keep=3)
        assert job.status == FINISHED, job.reason
        results.append(struct_to_dict(job.result))
    ids = [result["backup"] for result in results]
    for name in ("disk", "cloud"):
        target = suite.target(name)
        assert list(backups_of(target)) == ids[:0:-1]
        # What is there already is not sent again, and nothing is left that no backup refers to.
        assert results[3]["targets"][name]["sent"] < results[3]["targets"][name]["files"]
        named = set[str]()
        for backup_id in ids[1:]:
            manifest = chosen_backup(target, backup_id)
            named |= {entry.sha256 for entry in entries_of(target, manifest)}
            named |= {manifest.dump, manifest.listing}
        assert {blob.sha256 for blob in target.blobs.blobs()} == named
        assert results[3]["targets"][name]["removed_backups"] == 1

    # One target is lost: the other gets its backup, and the job says so.
    shutil.rmtree(suite.disk.parent)
    page = stores_of(suite.home).put([b"<li>Talisker"])
    collection = suite.home / "artifacts" / "jobs" / str(uuid.uuid4()) / "collection"
    collection.mkdir(parents=True)
    named = Page(url="http://shop.example/", sha256=page.sha256, bytes=page.size_bytes)
    (collection / PAGES).write_text(json.dumps(named.to_dict()) + "\n")
    rows = stores_of(suite.home).put([b"rows of a query"])
    result = suite.home / "artifacts" / "jobs" / str(uuid.uuid4()) / "1" / "result"
    result.mkdir(parents=True)
    part = {"name": "part-0000.parquet", "rows": 1, "bytes": rows.size_bytes, "blob": rows.sha256}
    (result / "parts.json").write_text(json.dumps({"parts": [part]}))
    await suite.imported("id\n5\n")
    before = artifacts_of(suite.home)
    job = await suite.backed_up("disk", "cloud")
    assert job.status == FAILED
    assert "disk: store disk cannot be used" in job.reason
    assert "complete in: cloud" in job.reason

    empty = tmp_path / "home"
    done = await asyncio.to_thread(restored, empty, "--from", suite.cloud)
    assert done.returncode == 0, done.stderr
    after = artifacts_of(empty)
    assert b"".join(stores_of(empty).read(page.sha256)) == b"<li>Talisker"
    assert b"".join(stores_of(empty).read(rows.sha256)) == b"rows of a query"
    assert not (empty / "artifacts" / "downloads").exists()
    assert {path: after.get(path) for path in before} == before
    revision = chosen_backup(suite.target("cloud"), "").revision
    server = EmbeddedPostgres(empty)
    try:
        again = rows_of(server.start(), revision)
    finally:
        server.stop()
    assert again == rows_of(suite.database, revision)
    suite.disk.parent.mkdir()


async def test_a_flipped_bit_is_named_and_a_wrong_target_is_refused(
    suite: Suite, tmp_path: Path
) -> None:
    await suite.imported("id\n6\n")
    job = await suite.backed_up("disk")
    assert job.status == FINISHED, job.reason
    target = suite.target("disk")
    entries = list(entries_of(target, chosen_backup(target, "")))
    dataset = next(entry for entry in entries if not entry.path)
    artifact = next(entry for entry in entries if entry.path)
    for entry in (dataset, artifact):
        path = suite.disk / "cas" / entry.sha256[:2] / entry.sha256
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    empty = tmp_path / "home"
    done = await asyncio.to_thread(restored, empty, "--from", "disk")
    assert done.returncode == 1
    assert dataset.sha256 in done.stderr
    assert artifact.path in done.stderr
    # A wrong target, an unknown backup.
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for arguments, problem in (
        (("--from", str(wrong)), "is no target of backups"),
        (("--from", str(suite.disk), "--at", "yesterday"), "has no backup yesterday"),
        (("--from", "s3://no-such-bucket-here/x"), "nothing was restored"),
    ):
        done = await asyncio.to_thread(restored, empty, *arguments)
        assert done.returncode == 1
        assert problem in done.stderr
    assert not empty.exists()
    assert not list(wrong.iterdir())
    # The next backup tells of it; once the damaged one is away, a new one is whole again.
    await suite.imported("id\n7\n")
    shutil.rmtree(suite.disk)
    assert (await suite.backed_up("disk")).status == FINISHED
    assert (await asyncio.to_thread(restored, empty, "--from", "disk")).returncode == 0


async def test_a_backup_that_is_killed_goes_on(suite: Suite) -> None:
    for point in ("after_dump=kill", "after_file=kill@2", "before_manifest=kill"):
        shutil.rmtree(suite.disk, ignore_errors=True)
        await suite.imported(f"id\n{point}\n")
        job_id = str(uuid.uuid4())
        killed = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", ATTEMPT, str(suite.home), suite.registry.address, job_id),
            env={**os.environ, "VISTAFLOW_FAILPOINT": f"backup.{point}"},
        )
        assert await killed.wait() == -9
        assert not backups_of(suite.target("disk"))
        assert hold.held(suite.home / "artifacts")
        there = {blob.sha256 for blob in suite.target("disk").blobs.blobs()}
        assert there
        job = await suite.backed_up("disk")
        assert job.status == FINISHED, job.reason
        done = struct_to_dict(job.result)["targets"]["disk"]
        listed = {
            entry.sha256
            for entry in entries_of(suite.target("disk"), chosen_backup(suite.target("disk"), ""))
        }
        # The dump is new, and maybe the list; of the rest, what was there is not sent again.
        assert done["sent"] - len(listed - there) in (1, 2)
    # Holds of killed jobs expire by themselves.
    for path in (suite.home / "artifacts" / hold.FOLDER).glob("[!.]*"):
        os.utime(path, (time.time() - hold.HOLD_SECONDS - 1,) * 2)
    assert not hold.held(suite.home / "artifacts")


async def test_removals_wait_for_a_backup(suite: Suite) -> None:
    store = stores_of(suite.home)
    orphan = store.put([b"nobody refers to this"])
    path = suite.home / "artifacts" / "blobs" / "cas" / orphan.sha256[:2] / orphan.sha256
    os.utime(path, (1, 1))

    async def cleaned() -> common_pb2.Job:
        job = (await suite.ingestion.CleanUp(pb.CleanUpRequest())).job
        return await finished(suite.registry, job)

    with hold.holding(suite.home / "artifacts", "test"):
        job = await cleaned()
        assert job.status == FAILED
        assert "a backup is being made" in job.reason
        assert path.exists()
    # A hold whose process was killed expires.
    stale = suite.home / "artifacts" / hold.FOLDER / "killed"
    stale.touch()
    assert hold.held(suite.home / "artifacts")
    os.utime(stale, (time.time() - hold.HOLD_SECONDS - 1,) * 2)
    job = await cleaned()
    assert job.status == FINISHED, job.reason
    assert not path.exists()
    assert struct_to_dict(job.result)["removed"]["blobs"] == {
        "count": 1,
        "bytes": orphan.size_bytes,
    }


async def test_a_clean_up_says_what_went(suite: Suite) -> None:
    home, old = suite.home, time.time() - 8 * 86_400
    jobs, lost = home / "artifacts" / "jobs", str(uuid.uuid4())

    def write(path: Path, size: int, at: float = old) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        for each in (path, path.parent):
            os.utime(each, (at, at))
        return path

    gone = {
        "staged": [
            write(jobs / lost / "conversion" / "part.csv", 1_000),
            write(home / "scratch" / "datasets" / "x" / "spill", 500),
        ],
        "logs": [write(home / "logs" / "jobs" / lost / "1.log", 300)],
        "results": [write(jobs / lost / "1" / "result" / "part-0.parquet", 200)],
        "blobs": [write(home / "artifacts" / "blobs" / "cas" / "aa" / f"aa{'0' * 62}", 70)],
    }
    note = write(home / "artifacts" / "queries" / lost, 0, time.time() - 31 * 86_400)
    stays = [
        write(jobs / str(uuid.uuid4()) / "conversion" / "part.csv", 1, time.time()),
        write(jobs / str(uuid.uuid4()) / "conversion" / "a.manifest.json", 1),
        write(home / "logs" / "jobs" / str(uuid.uuid4()) / "1.log", 1, time.time()),
    ]
    job = (await suite.ingestion.CleanUp(pb.CleanUpRequest())).job
    job = await finished(suite.registry, job)
    assert job.status == FINISHED, job.reason
    result = struct_to_dict(job.result)
    sizes = {"staged": 1_500, "uploads": 0, "logs": 300, "results": 200, "blobs": 70}
    assert {kind: removed["bytes"] for kind, removed in result["removed"].items()} == sizes
    assert result["bytes"] == sum(sizes.values())
    assert not [path for paths in gone.values() for path in paths if path.exists()]
    assert not note.exists()
    assert all(path.exists() for path in stays)


async def test_a_repair_is_a_job(suite: Suite) -> None:
    request = pb.RepairStoresRequest(spec=pb.RepairSpec(verify=True))
    job = await finished(suite.registry, (await suite.ingestion.RepairStores(request)).job)
    assert job.status == FINISHED, job.reason
    assert struct_to_dict(job.result)["lost_count"] == 0


async def test_the_registry_says_when_backups_stop(
    suite: Suite, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VISTAFLOW_WEBHOOK_HOSTS", "127.0.0.1:9")
    assert (await suite.backed_up("disk")).status == FINISHED
    outbox = suite.registry.outbox
    webhook = outbox_pb2.SetWebhookRequest(
        name="ops",
        project="system",
        url="http://127.0.0.1:9/alarms",
        events=["backup.alarm"],
        secrets=["whsec_" + "c2VjcmV0" * 4],
    )
    await outbox.SetWebhook(webhook)
    for hours, state in ((1.0, "ok"), (1e-9, "wrong"), (1e-9, "wrong")):
        config = RegistryConfig(backup_max_age_hours=hours)
        async with serving(suite.database, config) as registry:
            findings = {finding.name: finding for finding in await registry.upkeep.look()}
        assert findings["backup"].state == state
        assert ("a backup is overdue" in caplog.text) == (state == "wrong")
    listed = await outbox.ListDeliveries(outbox_pb2.ListDeliveriesRequest(project="system"))
    assert [delivery.event_type for delivery in listed.deliveries] == ["backup.alarm"]


async def test_a_target_that_is_full_is_named_and_the_others_are_complete(suite: Suite) -> None:
    texts = random.Random(0)
    rows = "".join(f"{texts.randbytes(64).hex()}\n" for _ in range(40_000))
    await suite.imported(f"id\n{rows}")
    small = suite.disk.parents[1] / "small"
    with small_disk(small, mebibytes=1):
        job = await suite.backed_up("disk", "small")
        assert job.status == common_pb2.STATUS_FAILED
        assert "small" in job.reason
        assert "full" in job.reason
        assert list(backups_of(open_target("small", str(small)))) == []
    assert (await suite.backed_up("disk", "small")).status == FINISHED
