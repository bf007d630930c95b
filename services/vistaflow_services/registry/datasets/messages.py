"""Protos of datasets to values, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, TypeVar

from google.protobuf.duration_pb2 import Duration

from vistaflow.api.datasets.v1 import datasets_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.message_limits import (
    ENTRY_BYTES,
    MANIFEST_BYTES,
    PROFILE_BYTES,
    REPORT_BYTES,
)
from vistaflow_services.core.names import (
    DATASET_FORM,
    VERSION_FORM,
    DatasetReference,
    dataset_reference,
    is_dataset_alias,
    is_dataset_name,
    is_sha256,
)
from vistaflow_services.datasets.manifest import (
    Manifest,
    Profile,
    QualityReport,
    Table,
    TableProfile,
    TableReport,
    from_json,
    to_text,
)
from vistaflow_services.registry.datasets.records import (
    Content,
    Dataset,
    DatasetChange,
    Documents,
    Limits,
    NewVersion,
    Version,
)
from vistaflow_services.registry.messages import translate

MAX_DESCRIPTION = 4_096
MAX_SOURCE = 2_000
MAX_HASHES = 1_000
MAX_BYTES = 2**53
"""Largest quota, and largest size or number of rows of a version."""

MAX_VERSION = 2**62
MAX_AGE: Final = timedelta(days=36_525)

_PART_LIMIT = 2**48
"""Size and rows of one file are below it, so that no sum of them is too large for the database."""

Value = TypeVar("Value")

# An even number of backslashes before it are backslashes.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def reference(text: str, violations: Violations, *, versions: bool = False) -> DatasetReference:
    """The dataset that the field `dataset` names, and maybe its version."""
    read = dataset_reference(text)
    if read is None or (not versions and "@" in text):
        violations.add("dataset", VERSION_FORM if versions else DATASET_FORM)
        return DatasetReference(name="a")
    return read


def version_number(value: int, field: str, violations: Violations, *, least: int = 1) -> int:
    """The number of a version."""
    if not least <= value <= MAX_VERSION:
        violations.add(field, f"is {value}; versions are numbered from 1")
    return value


def alias(text: str, violations: Violations) -> str:
    """The name of a version."""
    if not is_dataset_alias(text):
        violations.add(
            "alias",
            "give 1 to 63 of a-z, 0-9, `_` and `-`, beginning with a letter; `latest` is taken",
        )
    return text


def hashes(texts: Sequence[str], field: str, violations: Violations, most: int) -> list[bytes]:
    """SHA-256 of files."""
    if len(texts) > most:
        violations.add(field, f"has {len(texts):,} entries; at most {most:,} are allowed")
        return []
    for place, text in enumerate(texts):
        if not is_sha256(text):
            violations.add(f"{field}[{place}]", "must be a SHA-256: 64 of 0-9 and a-f")
    return [bytes.fromhex(text) for text in texts if is_sha256(text)]


def change(request: pb.UpdateDatasetRequest, violations: Violations) -> DatasetChange:
    """A change of a dataset."""
    text = translate.text_from_proto
    return DatasetChange(
        limits=_limits(request.limits, violations) if request.HasField("limits") else None,
        description=(
            text(request.description, "description", MAX_DESCRIPTION, violations)
            if request.HasField("description")
            else None
        ),
        labels=translate.labels_from_proto(request.labels, "labels", violations),
    )


def _limits(message: pb.DatasetLimits, violations: Violations) -> Limits:
    if not 0 <= message.quota_bytes <= MAX_BYTES:
        violations.add("limits.quota_bytes", f"is {message.quota_bytes}; give bytes, or 0 for none")
    if message.max_versions < 0:
        violations.add("limits.max_versions", f"is {message.max_versions}; give 0 to keep all")
    return Limits(
        quota_bytes=message.quota_bytes,
        max_versions=message.max_versions,
        max_age=_age(message.max_age, violations) if message.HasField("max_age") else None,
    )


def _age(message: Duration, violations: Violations) -> timedelta | None:
    # Compared as a number: a hostile one fits no timedelta.
    if 0 < message.seconds <= MAX_AGE.total_seconds() and 0 <= message.nanos < 10**9:
        return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    violations.add("limits.max_age", f"give 1 second to {MAX_AGE.days:,} days, or leave it unset")
    return None


def new_version(request: pb.RecordDatasetVersionRequest) -> NewVersion:
    """A version to record. Takes long for a large one.

    Raises:
        InvalidError: Something of it cannot be.
    """
    violations = Violations()
    job_id = translate.uuid_from_proto(request.job_id, "job_id", violations)
    if not is_dataset_name(request.dataset):
        violations.add("dataset", f"{DATASET_FORM}; here NAME, as the project is the job's")
    version_number(request.parent, "parent", violations, least=0)
    if request.alias:
        alias(request.alias, violations)
    forgotten = [
        version_number(value, f"forgotten_versions[{place}]", violations)
        for place, value in enumerate(request.forgotten_versions)
    ]
    # As many as fit the request.
    blobs = hashes(request.forgotten_blobs, "forgotten_blobs", violations, 2**31)
    purge_at = translate.time_from_proto(request, "purge_at", violations)
    if blobs and purge_at is None and not request.HasField("purge_at"):
        violations.add("purge_at", "is required with forgotten_blobs")
    translate.text_from_proto(request.source, "source", MAX_SOURCE, violations)
    content = _content(request, violations)
    violations.check()
    assert content is not None
    if not content.blobs.keys().isdisjoint(blobs):
        violations.add("forgotten_blobs", "holds a file of the version itself")
    violations.check()
    return NewVersion(
        job_id=job_id,
        name=request.dataset,
        content=content,
        source=request.source,
        parent=request.parent,
        alias=request.alias,
        forgotten_versions=tuple(forgotten),
        forgotten_blobs=tuple(blobs),
        purge_at=purge_at,
    )


def _content(request: pb.RecordDatasetVersionRequest, violations: Violations) -> Content | None:
    if not request.manifest:
        violations.add("manifest", "is required")
    manifest = _document(Manifest, request.manifest, "manifest", MANIFEST_BYTES, violations)
    report = _document(QualityReport, request.report, "report", REPORT_BYTES, violations)
    profile = _document(Profile, request.profile, "profile", PROFILE_BYTES, violations)
    if manifest is None:
        return None
    parts = list(manifest.parts)
    if not all(is_sha256(part.sha256) for part in parts):
        violations.add("manifest", "names a file by something else than its SHA-256")
        return None
    if not all(0 <= n < _PART_LIMIT for part in parts for n in (part.size_bytes, part.row_count)):
        violations.add("manifest", "has a file of an impossible size")
        return None
    try:
        # What cannot be sent is not recorded.
        tables_to_proto(manifest, report, profile, room=2**31)
    except (ValueError, OverflowError):
        violations.add("manifest", "has, or its report or profile, text or numbers beyond all ends")
        return None
    text = to_text(manifest)
    if _NUL.search(text):
        violations.add("manifest", "holds a NUL character, which the database cannot keep")
    if len(text.encode()) > MANIFEST_BYTES:
        violations.add("manifest", _too_large(MANIFEST_BYTES))
    return Content(
        documents=Documents(
            manifest=text,
            # These quote values of rows.
            report=_NUL.sub(r"\1\\ufffd", to_text(report) if report else ""),
            profile=_NUL.sub(r"\1\\ufffd", to_text(profile) if profile else ""),
        ),
        digest=manifest.digest,
        row_count=sum(table.row_count for table in manifest.tables),
        rejected_count=sum(part.row_count for table in manifest.tables for part in table.rejects),
        blobs={bytes.fromhex(part.sha256): part.size_bytes for part in parts},
    )


def _document(
    kind: type[Value], data: bytes, field: str, limit: int, violations: Violations
) -> Value | None:
    """What a field holds as JSON; None if it is empty or cannot be."""
    if not data:
        return None
    if len(data) > limit:
        violations.add(field, _too_large(limit))
        return None
    try:
        return from_json(kind, json.loads(data, parse_constant=_refuse))
    except InvalidError as error:
        violations.add(field, error.message)
    except (ValueError, RecursionError, OverflowError):
        violations.add(field, "is no JSON, or has numbers beyond all ends")
    return None


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _too_large(limit: int) -> str:
    return f"is larger than {limit // 1024:,} KiB as JSON"


def manifest_bytes(documents: Documents) -> bytes:
    """A manifest as it was recorded: the database writes it with blanks."""
    document = json.loads(documents.manifest)
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def tables_of(documents: Documents, room: int) -> list[pb.DatasetTable]:
    """The tables of a version, as many as fit into so many bytes."""
    report, profile = documents.report, documents.profile
    return tables_to_proto(
        from_json(Manifest, json.loads(documents.manifest)),
        from_json(QualityReport, json.loads(report)) if report else None,
        from_json(Profile, json.loads(profile)) if profile else None,
        room=room,
    )


def tables_to_proto(
    manifest: Manifest, report: QualityReport | None, profile: Profile | None, *, room: int
) -> list[pb.DatasetTable]:
    """Tables, as many as fit into so many bytes; without figures where these would not fit."""
    reports = {entry.table: entry for entry in report.tables} if report else {}
    profiles = {entry.table: entry for entry in profile.tables} if profile else {}
    messages = []
    for table in manifest.tables:
        message = table_to_proto(table, reports.get(table.name), profiles.get(table.name))
        if message.ByteSize() + ENTRY_BYTES > room:
            message = table_to_proto(table, reports.get(table.name), None)
        room -= message.ByteSize() + ENTRY_BYTES
        if room < 0:
            break
        messages.append(message)
    return messages


def table_to_proto(
    table: Table, report: TableReport | None, profile: TableProfile | None
) -> pb.DatasetTable:
    """A table, with what is known of it."""
    figures = {column.name: column for column in profile.columns} if profile else {}
    message = pb.DatasetTable(
        name=table.name,
        primary_key=table.primary_key,
        rows=table.row_count,
        read_rows=report.read_count if report else table.row_count,
        rejected=report.rejected if report else {},
        dropped_rows=report.dropped_count if report else 0,
        orphans=report.orphans if report else {},
        size_bytes=sum(part.size_bytes for part in (*table.parts, *table.rejects)),
        profiled=profile is not None,
    )
    for reference in table.references:
        message.references.add(columns=reference.columns, table=reference.table, key=reference.key)
    for column in table.columns:
        entry = message.columns.add(name=column.name, type=column.type)
        if figure := figures.get(column.name):
            entry.null_count = figure.null_count
            entry.distinct_count = figure.distinct_count
            entry.minimum = figure.minimum or ""
            entry.maximum = figure.maximum or ""
            entry.bounds.extend(figure.bounds)
            entry.counts.extend(figure.counts)
    return message


def dataset_to_proto(dataset: Dataset) -> pb.Dataset:
    """A dataset."""
    message = pb.Dataset(
        project=dataset.project,
        name=dataset.name,
        description=dataset.description,
        labels=dataset.labels,
        version_count=dataset.version_count,
        size_bytes=dataset.size_bytes,
        limits=pb.DatasetLimits(
            quota_bytes=dataset.limits.quota_bytes, max_versions=dataset.limits.max_versions
        ),
        aliases=dataset.aliases,
    )
    message.created_at.FromDatetime(dataset.created_at)
    if dataset.limits.max_age is not None:
        message.limits.max_age.FromTimedelta(dataset.limits.max_age)
    if dataset.latest is not None:
        message.latest.CopyFrom(version_to_proto(dataset, dataset.latest))
    return message


def version_to_proto(dataset: Dataset, version: Version) -> pb.DatasetVersion:
    """A version of a dataset."""
    message = pb.DatasetVersion(
        version=version.version,
        parent=version.parent,
        source=version.source,
        job_id=str(version.job_id),
        rows=version.row_count,
        rejected_rows=version.rejected_count,
        size_bytes=version.size_bytes,
        digest=version.digest,
        pinned=version.pinned,
        aliases=dataset.aliases_of(version.version),
    )
    message.created_at.FromDatetime(version.created_at)
    return message
