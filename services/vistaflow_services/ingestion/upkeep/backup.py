"""The BACKUP job: a dump of the log from the registry, then what it refers to, to each target.

Removals are held back from before the dump until the end. A target that fails does not keep the
others from theirs; the job then ends as FAILED, and says which backups are complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import itertools
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.backups.manifest import id_at
from vistaflow_services.backups.targets import open_target
from vistaflow_services.backups.writing import Moment, Writer, Written
from vistaflow_services.core import config as configuration
from vistaflow_services.core import files
from vistaflow_services.core.errors import ExhaustedError, InvalidError, ServiceError
from vistaflow_services.core.registry_client import RegistryClient, backoff
from vistaflow_services.core.rpc.status import error_of
from vistaflow_services.core.work import hold
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.core.work.uris import DOWNLOADS
from vistaflow_services.ingestion.buckets import LOCKS
from vistaflow_services.ingestion.datasets.stores import LOCK, listed_blobs, stores_of
from vistaflow_services.ingestion.upkeep.requests import DEFAULT_KEEP, targets_of
from vistaflow_services.stores.blobs import Blob

EXCLUDED: Final = frozenset({"blobs", hold.FOLDER, LOCKS, DOWNLOADS})
"""Names in the artifact store that are no artifacts: the default store of blobs, locks, and
files of buckets."""

PATIENCE_SECONDS: Final = 600.0
"""How long a dump is tried again."""

MAX_MISSING: Final = 20
"""Missing files that the result lists; the manifest has all."""

_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_FILE_BYTES = 32 + 8


def back_up(attempt: Attempt) -> dict[str, Any]:
    """Makes the backups of a `BackUpSpec`; the result says what went where."""
    spec = attempt.unpack(pb.BackUpSpec)
    home, root = configuration.home(), attempt.artifacts.root
    try:
        targets = targets_of(spec)
    except InvalidError as error:
        raise JobError(
            error.message, error.reason, "declare the target, or correct the schedule"
        ) from None
    with hold.holding(root, attempt.job_id), _scratch(home, attempt) as scratch:
        hold.forget_expired(root)
        try:
            with attempt.part("dump") as metadata:
                log = asyncio.run(_dumped(attempt.registry, scratch))
                size = (scratch / "dump").stat().st_size
                metadata |= {"revision": log.revision, "epoch": log.epoch, "bytes": size}
        except ServiceError as error:
            raise JobError(error.message, error.reason, "correct it, and back up again") from None
        now, store = datetime.now(UTC), stores_of(home)
        moment = Moment(
            backup_id=id_at(now, attempt.job_id),
            created_at=now.isoformat(timespec="seconds"),
            version=log.version,
            epoch=log.epoch,
            revision=log.revision,
            database_schema=log.database_schema,
            dump=scratch / "dump",
            blobs=lambda: itertools.chain(_blobs(scratch / "files"), listed_blobs(root)),
            fetch=lambda sha256: store.fetch(sha256, scratch),
            artifacts=root,
            excluded=EXCLUDED,
        )
        writer = Writer(
            moment,
            scratch,
            lambda name, count: attempt.progress(name, count, 0, unit="files"),
        )
        outcomes = {
            name: _saved(attempt, writer, name, url, spec.keep or DEFAULT_KEEP)
            for name, url in targets.items()
        }
    result = {
        "backup": moment.backup_id,
        "revision": log.revision,
        "epoch": log.epoch,
        "dump_bytes": size,
        "targets": outcomes,
    }
    failed = {name: outcome["error"] for name, outcome in outcomes.items() if "error" in outcome}
    if failed:
        good = ", ".join(name for name in outcomes if name not in failed) or "none"
        raise JobError(
            "; ".join(f"{name}: {error}" for name, error in failed.items())
            + f"; complete in: {good}",
            "BACKUP_INCOMPLETE",
            "correct it, and back up again: what is there already is not sent again",
            result,
        )
    return result


def _saved(attempt: Attempt, writer: Writer, name: str, url: str, keep: int) -> dict[str, Any]:
    """What was done at a target, with `error` if there is no complete backup."""
    attempt.task(name, "RUNNING")
    written, problem = Written(), ""
    try:
        with _alone(attempt.artifacts.root / hold.FOLDER / f".target-{name}"):
            written = writer.write(open_target(name, url), keep)
        if written.missing:
            problem = (
                f"{len(written.missing):,} files of datasets, pages or results are in no store "
                f"undamaged, such as {written.missing[0]}; the rest is saved"
            )
    except ServiceError as error:
        problem = error.message
    except OSError as error:
        problem = "the disk for temporary files is full" if files.is_full(error) else "disk error"
    outcome = {
        **dataclasses.asdict(written),
        "missing": list(written.missing[:MAX_MISSING]),
        "missing_count": len(written.missing),
    }
    attempt.task(name, "FAILED" if problem else "FINISHED", outcome, problem)
    return {**outcome, "error": problem} if problem else outcome


async def _dumped(address: str, scratch: Path) -> registry_pb2.DumpedLog:
    """Saves a dump to `dump`, and what it refers to to `files`; tries again if it is cut off.

    Raises:
        UnavailableError: The registry does not dump.
        ExhaustedError: The disk is full.
    """
    give_up, tried = time.monotonic() + PATIENCE_SECONDS, 0
    client = RegistryClient(address or None, actor="ingestion")
    try:
        while True:
            try:
                return await _received(client, scratch)
            except grpc.aio.AioRpcError as failure:
                wait = backoff(tried)
                if failure.code() not in _AGAIN or time.monotonic() + wait > give_up:
                    raise error_of(failure) from None
            except OSError as error:
                if files.is_full(error):
                    raise ExhaustedError(
                        "the disk for temporary files is full; free space for a dump of the log",
                        reason="DISK_FULL",
                    ) from None
                raise
            tried += 1
            await asyncio.sleep(wait)
    finally:
        await client.close()


async def _received(client: RegistryClient, scratch: Path) -> registry_pb2.DumpedLog:
    log = registry_pb2.DumpedLog()
    with (scratch / "dump").open("wb") as dump, (scratch / "files").open("wb") as listed:
        async for message in client.stub.DumpLog(registry_pb2.DumpLogRequest()):
            dump.write(message.data)
            for file in message.files.files:
                listed.write(bytes.fromhex(file.sha256) + file.size_bytes.to_bytes(8))
            if message.HasField("log"):
                log = message.log
    return log


def _blobs(path: Path) -> Iterator[Blob]:
    """The files of datasets that the dump refers to."""
    with path.open("rb") as file:
        while data := file.read(_FILE_BYTES):
            yield Blob(sha256=data[:32].hex(), size_bytes=int.from_bytes(data[32:]))


@contextlib.contextmanager
def _scratch(home: Path, attempt: Attempt) -> Iterator[Path]:
    """A folder for temporary files; what an attempt before left is removed."""
    folder = home / "scratch" / "backups" / attempt.job_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with (folder / LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Waits until no other backup of this installation writes to a target."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
