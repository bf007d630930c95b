"""IMPORT jobs: a version of a dataset, from sources or without the rows that are to be forgotten.

    1. the sources are read, checked and written as Parquet, in a scratch folder
    2. the files go to the stores, where nothing refers to them yet
    3. the registry records the version, with the files that it refers to

A job that is killed begins again at 1. Files that an earlier attempt stored are the same blobs or
are swept later, and the registry has one version of a job, however often it is recorded. So there
is the whole version or none.

The project is that of the job's kit, as the registry tells it. A spec says nothing of it, so a job
that was created past ImportDataset reads nothing that its kit's project may not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core import config as configuration
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ConflictError, ExhaustedError, NotFoundError
from vistaflow_services.core.message_limits import MANIFEST_BYTES, PROFILE_BYTES
from vistaflow_services.core.names import dataset_reference
from vistaflow_services.core.results import find_result
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.datasets import reader
from vistaflow_services.datasets.build import Built, TableSpec, build
from vistaflow_services.datasets.engine import DISK_BYTES, MEMORY_BYTES
from vistaflow_services.datasets.erasure import Erasure, forget
from vistaflow_services.datasets.manifest import Manifest, to_json
from vistaflow_services.datasets.parts import fetched
from vistaflow_services.datasets.sources import Source
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.registrar import Registrar, manifest_of
from vistaflow_services.ingestion.datasets.row_sources import (
    JOB_TYPES,
    Places,
    conversion_specs,
    source_of_files,
    source_of_job,
    title,
)
from vistaflow_services.ingestion.datasets.stores import LOCK, scratch_folder, stores_of
from vistaflow_services.ingestion.datasets.table_specs import check_spec, table_name, table_spec
from vistaflow_services.ingestion.inputs import Inputs
from vistaflow_services.ingestion.keys import Seal
from vistaflow_services.stores.blobs import BlobStore

MAX_FILES = 100
"""Files that a job read whose SHA-256 is in its result."""

MAX_COLLECTIONS = 19
"""Most collections that an erasure names: the source of a version has room for them."""

MAX_CHANGES = 20
"""How often records are forgotten again because another version was recorded meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """What an IMPORT job works with."""

    attempt: Attempt
    config: Config
    registrar: Registrar
    places: Places
    store: BlobStore
    scratch: Path

    @property
    def memory_bytes(self) -> int:
        """Memory of the engine: half of what the job may use, as Python and Arrow need some."""
        limit = self.config.memory_mib << 20
        return min(MEMORY_BYTES, limit // 2) if limit else MEMORY_BYTES

    @property
    def disk_bytes(self) -> int:
        """Disk for what the engine spills; the rest is for the result."""
        return min(DISK_BYTES, shutil.disk_usage(self.scratch).free // 2)


def import_dataset(attempt: Attempt) -> dict[str, Any]:
    """Makes a version by an `ImportSpec` or a `ForgetSpec`; the result names it and counts."""
    config, home = read_config(Config, "VISTAFLOW_INGESTION_"), configuration.home()
    with (
        scratch_of(scratch_folder(home), attempt) as scratch,
        Registrar(attempt.registry) as registrar,
    ):
        workshop = Workshop(
            attempt=attempt,
            config=config,
            registrar=registrar,
            places=Places(
                inputs=Inputs.load(home, config),
                project=registrar.project_of(attempt.kit_id),
                artifacts=attempt.artifacts,
            ),
            store=stores_of(home),
            scratch=scratch,
        )
        if isinstance(attempt.spec, pb.ForgetSpec):
            return _forget(workshop, attempt.spec)
        return _import(workshop, attempt.unpack(pb.ImportSpec))


@contextlib.contextmanager
def scratch_of(folder: Path, attempt: Attempt) -> Iterator[Path]:
    """A folder of the attempt, which is removed also when the job is canceled."""
    path = folder / f"{attempt.job_id}-{attempt.number}"

    def stop(*_: object) -> None:
        # Here and now: an exception could be lost in the code of an extension.
        shutil.rmtree(path, ignore_errors=True)
        os._exit(128 + signal.SIGTERM)

    for former in folder.glob(f"{attempt.job_id}-*"):  # of an attempt that was killed
        shutil.rmtree(former, ignore_errors=True)
    path.mkdir(parents=True)
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        with (path / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        signal.signal(signal.SIGTERM, previous)


def _import(workshop: Workshop, spec: pb.ImportSpec) -> dict[str, Any]:
    attempt, project = workshop.attempt, workshop.places.project
    check_spec(spec)
    recorded = workshop.registrar.version_of_job(project, spec.dataset, attempt.job_id)
    read = attempt.folder.parent / "files.json"
    if recorded is not None and read.exists():  # by an attempt killed before it could say so
        return {
            **_result(project, spec.dataset, recorded),
            "files": json.loads(read.read_bytes()),
        }
    with attempt.part("build") as metadata, ExitStack() as stack:
        origins, files = list[str](), list[dict[str, str]]()
        built = build(
            _tables(workshop, spec, stack, origins, files),
            workshop.store,
            workshop.scratch,
            with_profile=not spec.skip_profile,
            field="spec.tables",
            watch=_progress(attempt),
            max_bytes=_quota(workshop, spec.dataset),
            memory_bytes=workshop.memory_bytes,
            disk_bytes=workshop.disk_bytes,
        )
        _report(attempt, built)
        metadata.update({"sources": origins[:100], "bytes": built.manifest.size_bytes})
    attempt.artifacts.write(read, json.dumps(files).encode())
    version = _record(
        workshop,
        datasets_pb2.RecordDatasetVersionRequest(
            dataset=spec.dataset,
            source=", ".join(dict.fromkeys(origins))[:1_000],
            alias=spec.alias,
            report=_json(built.report),
            profile=_json(built.profile) if built.profile else b"",
        ),
        built.manifest,
    )
    return {**_result(project, spec.dataset, version), "files": files}


def _tables(
    workshop: Workshop,
    spec: pb.ImportSpec,
    stack: ExitStack,
    origins: list[str],
    read_files: list[dict[str, str]],
) -> list[TableSpec]:
    """The tables of a request with their sources.

    Their descriptions are added to `origins`, what identifies their first files to `read_files`.
    """
    attempt, places = workshop.attempt, workshop.places
    if spec.conversion:
        origins.append(f"conversion {spec.conversion}")
        job = find_result(spec.conversion, attempt.inputs)
        if job is None or job.job_type != "CONVERT":
            raise _no_job("spec.conversion", spec.conversion, "CONVERT")
        return conversion_specs(job, spec.dataset, places, "spec.conversion")
    specs = []
    for index, table in enumerate(spec.tables):
        field, types = f"spec.tables[{index}].source", dict(table.types)
        kind = table.source.WhichOneof("source") or ""
        if kind == "files":
            files = table.source.files
            more = len(files.file_names) - 1
            name = title(files.file_names[0], places, f"{field}.files")
            origins.append(name + (f" and {more} more" if more else ""))
            source = source_of_files(
                files, places, workshop.scratch, stack, field=f"{field}.files", types=types
            )
            for place, path in enumerate(source.paths[: MAX_FILES - len(read_files)]):
                name = files.file_names[place]
                with path.open("rb") as content:
                    sha256 = hashlib.file_digest(content, "sha256").hexdigest()
                facts = {"name": name, "title": title(name, places, f"{field}.files")}
                read_files.append({**facts, "sha256": sha256})
        elif kind == "dataset":
            source = _dataset_rows(workshop, table.source.dataset, stack, f"{field}.dataset")
            source = replace(source, types=types)
            origins.append(f"dataset {table.source.dataset.dataset}")
        else:
            named: pb.JobTable = getattr(table.source, kind)
            origins.append(f"{kind} {named.job_id}")
            job = find_result(named.job_id, attempt.inputs)
            if job is None or job.job_type != JOB_TYPES[kind]:
                raise _no_job(f"{field}.{kind}", named.job_id, JOB_TYPES[kind])
            source = source_of_job(
                kind,
                named.table,
                job,
                places,
                lambda sha256: stack.enter_context(workshop.store.fetch(sha256, workshop.scratch)),
                field=f"{field}.{kind}",
                types=types,
            )
        specs.append(table_spec(table, table_name(spec, table), source))
    return specs


def _dataset_rows(workshop: Workshop, rows: pb.DatasetRows, stack: ExitStack, field: str) -> Source:
    """A table of a dataset of the job's project as a source."""
    reference, project = dataset_reference(rows.dataset), workshop.places.project
    if reference is None or reference.project_for(project) != project:
        raise NotFoundError(f"{field}: no such dataset in the project of the job")
    name = rows.dataset if reference.project else f"{project}.{rows.dataset}"
    manifest = manifest_of(workshop.registrar.dataset(name))
    table = manifest.table(rows.table or manifest.tables[0].name)
    if not table.parts:
        schema = reader.schema(table, workshop.scratch)
        return Source(reader=pa.RecordBatchReader.from_batches(schema, []), name=field)
    paths = stack.enter_context(fetched(workshop.store, table.parts, workshop.scratch))
    return Source(paths=tuple(paths), format="parquet", name=field)


def _no_job(field: str, job_id: str, job_type: str) -> JobError:
    return JobError(
        f"{field}: there is no finished {job_type} job {job_id[:100]} for this one",
        reason="NO_SOURCE",
        hint="give the id of a finished job of the same project, or its name in the kit",
    )


def _quota(workshop: Workshop, dataset: str) -> int | None:
    """Most bytes of a version, to fail before they are stored; the registry decides."""
    try:
        answer = workshop.registrar.dataset(
            f"{workshop.places.project}.{dataset}", with_manifest=False
        )
    except NotFoundError:
        return None
    return int(answer.dataset.limits.quota_bytes) or None


def _report(attempt: Attempt, built: Built) -> None:
    """Records a task for each table with what the rules did."""
    for report in built.report.tables:
        attempt.task(
            f"table {report.table}",
            "FINISHED",
            {
                "read": report.read_count,
                "accepted": report.accepted_count,
                "rejected": dict(report.rejected),
                "dropped": report.dropped_count,
                "orphans": dict(report.orphans),
            },
        )


def _record(
    workshop: Workshop, request: datasets_pb2.RecordDatasetVersionRequest, manifest: Manifest
) -> datasets_pb2.DatasetVersion:
    """Has the registry record a version; waits for a registry that is away."""
    with workshop.attempt.part("record") as metadata:
        request.job_id = workshop.attempt.job_id
        request.manifest = _json(manifest)
        if len(request.manifest) > MANIFEST_BYTES:
            raise ExhaustedError(
                f"the manifest of the version has {len(request.manifest):,} bytes; at most "
                f"{MANIFEST_BYTES:,} are allowed: import fewer tables, columns or rows",
                reason="MANIFEST_TOO_LARGE",
            )
        if len(request.profile) > PROFILE_BYTES:
            request.profile = b""
            metadata["profile"] = "left out: too many columns"
        version = workshop.registrar.record(request)
        metadata["version"] = version.version
    return version


def _json(value: Any) -> bytes:
    return json.dumps(to_json(value), ensure_ascii=False, separators=(",", ":")).encode()


def _result(project: str, dataset: str, version: datasets_pb2.DatasetVersion) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "project": project,
        "version": version.version,
        "name": f"{project}.{dataset}@{version.version}",
        "pinned": f"{dataset}@{version.version}",
        "accepted": version.rows,
        "rejected": version.rejected_rows,
        "rows": version.rows,
        "bytes": version.size_bytes,
        "digest": version.digest,
    }


def _forget(workshop: Workshop, spec: pb.ForgetSpec) -> dict[str, Any]:
    """Makes a version without some rows; rows of the log say how many, and never which."""
    attempt, request, project = workshop.attempt, spec.request, workshop.places.project
    sealed = Seal.load(configuration.home(), workshop.config.sealing_key).open(spec.sealed)
    if sealed.project != project or not sealed.keys:
        raise JobError(
            "the keys were not sealed for this project",
            reason="NOT_SEALED",
            hint="call ForgetRecords",
        )
    counts = attempt.folder.parent / "erasure.json"
    recorded = workshop.registrar.version_of_job(project, request.dataset, attempt.job_id)
    if recorded is not None and counts.exists():
        recorded_counts: dict[str, Any] = json.loads(counts.read_bytes())
        attempt.task("forget", "FINISHED", recorded_counts)
        return {**recorded_counts, **_result(project, request.dataset, recorded)}
    for _ in range(MAX_CHANGES):
        with attempt.part("forget") as metadata:
            attempt.progress("forget", 0, message="looks for the rows in every version")
            listed = list(workshop.registrar.listed(project, request.dataset))
            latest, erasure = _erased(workshop, request, sealed.keys, listed)
            purge_at = datetime.now(UTC) + _delay(request, workshop.config)
            metadata.update(_counts(erasure, purge_at))
            # Those of the latest version move to the new one.
            metadata["removed_aliases"] = [
                alias
                for version in listed
                if version.version in erasure.holders and version.version != latest
                for alias in version.aliases
            ]
            metadata["collections"] = _collections(listed)
        if not erasure.holders:
            return {"dataset": request.dataset, "project": project, **metadata}
        attempt.artifacts.write(counts, json.dumps(metadata).encode())
        try:
            version = _record_erasure(
                workshop, request.dataset, latest, erasure, purge_at, metadata["collections"]
            )
        except ConflictError as error:
            if error.reason != "PARENT_CHANGED":
                raise
            continue  # another version was recorded meanwhile, which may hold such rows, too
        return {**metadata, **_result(project, request.dataset, version)}
    raise JobError(
        f"versions of {request.dataset} are recorded faster than they are read",
        reason="PARENT_CHANGED",
        hint="stop its imports, then retry the job",
    )


def _collections(versions: Sequence[datasets_pb2.DatasetVersion]) -> list[str]:
    """The collections that versions were made from: their pages and rows are not rewritten."""
    sources = " ".join(version.source for version in versions)
    return sorted(set(re.findall(r"\bcollection (\S{36})", sources)))[:MAX_COLLECTIONS]


def _erased(
    workshop: Workshop,
    request: pb.ForgetRecordsRequest,
    keys: Sequence[tuple[str, ...]],
    listed: Sequence[datasets_pb2.DatasetVersion],
) -> tuple[int, Erasure]:
    """The number of the latest version, and what is to be recorded in its place."""
    versions = [
        workshop.registrar.with_manifest(workshop.places.project, request.dataset, version)
        for version in listed
    ]
    if not versions:
        raise NotFoundError(f"dataset: {request.dataset} has no version")
    latest = max(versions, key=lambda version: version.version)
    erasure = forget(
        versions,
        request.table or latest.manifest.tables[0].name,
        keys,
        workshop.store,
        workshop.scratch,
        columns=tuple(request.columns),
        memory_bytes=workshop.memory_bytes,
    )
    return latest.version, erasure


def _counts(erasure: Erasure, purge_at: datetime) -> dict[str, Any]:
    return {
        "removed": dict(erasure.removed),
        "removed_rows": sum(erasure.removed.values()),
        "versions": list(erasure.holders)[:1_000],
        "files": len(erasure.purge),
        "purge_at": purge_at.isoformat(timespec="seconds"),
    }


def _record_erasure(
    workshop: Workshop,
    dataset: str,
    parent: int,
    erasure: Erasure,
    purge_at: datetime,
    collections: Sequence[str],
) -> datasets_pb2.DatasetVersion:
    source = [f"version {parent} without forgotten records"]
    source += [f"collection {job_id}" for job_id in collections]
    request = datasets_pb2.RecordDatasetVersionRequest(
        dataset=dataset,
        parent=parent,
        source=", ".join(source)[:1_000],
        forgotten_versions=erasure.holders,
        forgotten_blobs=erasure.purge,
    )
    request.purge_at.FromDatetime(purge_at)
    return _record(workshop, request, erasure.manifest)


def _delay(request: pb.ForgetRecordsRequest, config: Config) -> timedelta:
    if request.HasField("purge_after"):
        return request.purge_after.ToTimedelta()
    return timedelta(seconds=config.purge_seconds)


def _progress(attempt: Attempt) -> Callable[[str, float], None]:
    """Reports what is done, with the time that is left of the step at its speed so far."""
    began = dict[str, float]()

    def report(step: str, fraction: float) -> None:
        began_at = began.setdefault(step, time.monotonic())
        seconds = time.monotonic() - began_at
        left = seconds * (1 - fraction) / fraction if 0 < fraction < 1 else 0.0
        attempt.progress(
            step,
            round(100 * fraction),
            100,
            unit="%",
            message=f"{left:,.0f} s of this step left" if left else "",
        )

    return report
