"""Datasets and versions on one connection, within the transaction of a change."""

from __future__ import annotations

from typing import Any

from psycopg.types.json import Jsonb

from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    NotFoundError,
    field_error,
)
from vistaflow_services.core.message_limits import STOCK_BYTES
from vistaflow_services.core.names import MAX_LABELS
from vistaflow_services.registry.database.pool import Connection
from vistaflow_services.registry.database.queries import QUERIES, fetch, fetch_planned
from vistaflow_services.registry.datasets.records import (
    Dataset,
    DatasetChange,
    Deletion,
    Limits,
    NewVersion,
    RecordedVersion,
    Version,
)
from vistaflow_services.registry.outbox import events

MAX_ALIASES = 100
NEWEST = 2**62


async def datasets(connection: Connection, **chosen: Any) -> list[Dataset]:
    """Datasets by project and name; one at most, unless a `limit` is chosen."""
    parameters = {
        **{"project": None, "name": None, "name_contains": "", "after": None, "limit": 1},
        # More than an answer holds: as JSON, labels take at most twice as many.
        "bytes": 2 * STOCK_BYTES,
        **chosen,
    }
    rows = await fetch_planned(connection, QUERIES["list_datasets"], parameters)
    latest = (Version(*row[12:]) if row[12] is not None else None for row in rows)
    return [
        Dataset._make([*row[:9], Limits(*row[9:12]), version])
        for row, version in zip(rows, latest, strict=True)
    ]


async def get(connection: Connection, project: str, name: str) -> Dataset:
    """A dataset.

    Raises:
        NotFoundError: It is not there.
    """
    listed = await datasets(connection, project=project, name=name)
    if not listed:
        raise absent(name)
    return listed[0]


def absent(name: str) -> NotFoundError:
    """The error about a dataset that is not there."""
    return NotFoundError(f"there is no dataset `{name}`")


async def listed(
    connection: Connection, dataset: Dataset, newest: int = NEWEST, limit: int | None = None
) -> list[Version]:
    """Versions of a dataset, newest first."""
    parameters = {"dataset_id": dataset.dataset_id, "newest": newest, "limit": limit}
    return [Version(*row) for row in await fetch(connection, "list_dataset_versions", parameters)]


async def version(connection: Connection, dataset: Dataset, number: int) -> Version:
    """A version.

    Raises:
        NotFoundError: It is not there.
    """
    for candidate in await listed(connection, dataset, number, 1):
        if candidate.version == number:
            return candidate
    raise no_version(dataset, number)


def no_version(dataset: Dataset, version: int | str) -> NotFoundError:
    """The error about a version that is not there, by its number or alias."""
    return NotFoundError(f"dataset `{dataset.name}` has no version `{version}`")


async def put(connection: Connection, project: str, name: str) -> tuple[int, int]:
    """The id of a dataset, which is made if it is not there, and the last number given."""
    parameters = {"project": project, "name": name}
    ((dataset_id, last),) = await fetch(connection, "put_dataset", parameters)
    return dataset_id, last


async def change(connection: Connection, dataset: Dataset, new: DatasetChange) -> None:
    """Changes the limits, the description and the labels of a dataset."""
    labels = {key: value for key, value in {**dataset.labels, **new.labels}.items() if value}
    if len(labels) > MAX_LABELS:
        problem = f"the dataset would have {len(labels)}; at most {MAX_LABELS} are allowed"
        raise field_error("labels", problem)
    limits = new.limits or dataset.limits
    parameters = {
        "dataset_id": dataset.dataset_id,
        "description": dataset.description if new.description is None else new.description,
        "labels": Jsonb(labels),
        **limits._asdict(),
    }
    await connection.execute(QUERIES["change_dataset"], parameters)


async def measure(connection: Connection, dataset_id: int) -> tuple[int, int]:
    """Counts a dataset's versions and bytes; returns its bytes and its quota."""
    parameters = {"dataset_id": dataset_id}
    ((size, quota),) = await fetch_planned(connection, QUERIES["measure_datasets"], parameters)
    return size, quota


async def set_alias(connection: Connection, dataset: Dataset, alias: str, number: int) -> None:
    """Has an alias name a version; removes it if the version is 0."""
    named = {"dataset_id": dataset.dataset_id, "alias": alias, "version": number}
    if not number:
        await connection.execute(QUERIES["remove_alias"], named)
        await _announce_alias(connection, dataset, alias, number)
        return
    await version(connection, dataset, number)
    if dataset.aliases.get(alias) == number:
        return
    if alias not in dataset.aliases and len(dataset.aliases) >= MAX_ALIASES:
        raise ConflictError(
            f"dataset `{dataset.name}` has {MAX_ALIASES} aliases already; remove one first"
        )
    await connection.execute(QUERIES["set_alias"], named)
    await _announce_alias(connection, dataset, alias, number)


async def _announce_alias(
    connection: Connection, dataset: Dataset, alias: str, number: int
) -> None:
    event = events.alias_event(dataset.project, dataset.name, alias, number)
    await events.add_events(connection, [event])


async def delete(
    connection: Connection,
    dataset_id: int,
    reasons: dict[int, Deletion],
    deleted_by: int | None = None,
) -> list[int]:
    """Deletes versions, each for a reason, and counts what is left; returns their numbers."""
    if not reasons:
        return []
    parameters = {
        "dataset_id": dataset_id,
        "versions": list(reasons),
        "reasons": [reason.value for reason in reasons.values()],
        "deleted_by": deleted_by,
    }
    rows = await fetch(connection, "delete_versions", parameters)
    await measure(connection, dataset_id)
    return [number for (number,) in rows]


async def expire(
    connection: Connection, dataset_id: int, deleted_by: int | None = None
) -> list[int]:
    """Deletes the versions of a dataset that retention does not keep; returns their numbers."""
    rows = await fetch_planned(connection, QUERIES["expired_versions"], {"dataset_id": dataset_id})
    reasons = {number: Deletion(reason) for _, _, number, reason in rows}
    return await delete(connection, dataset_id, reasons, deleted_by)


async def record(
    connection: Connection, project: str, new: NewVersion, project_quota_bytes: int
) -> RecordedVersion:
    """Records a version; see `DatasetStore.record`."""
    recorded = await _recorded(connection, new)
    if recorded is not None:
        return recorded
    dataset_id, last = await put(connection, project, new.name)
    number = last + 1
    dataset = await get(connection, project, new.name)
    latest = dataset.latest.version if dataset.latest else 0
    if new.parent and new.parent != latest:
        raise ConflictError(
            f"the version was made from version {new.parent} of dataset `{new.name}`, and "
            f"the latest one is now {latest or 'deleted'}; run the job again",
            reason="PARENT_CHANGED",
        )
    await _insert(connection, dataset_id, number, new)
    await _forget(connection, dataset_id, number, new)
    dataset = await get(connection, project, new.name)
    names = {*dataset.aliases_of(number), *filter(None, [new.alias])}
    recorded_version = await version(connection, dataset, number)
    event = events.version_event(project, new.name, recorded_version, sorted(names))
    await events.add_events(connection, [event])
    if new.alias:
        await set_alias(connection, dataset, new.alias, number)
    expired = await expire(connection, dataset_id, number)
    size, quota = await measure(connection, dataset_id)
    _check_quota(f"dataset `{new.name}`", size, quota)
    if project_quota_bytes:
        ((size,),) = await fetch(connection, "project_bytes", {"project": project})
        _check_quota(f"project `{project}`", size, project_quota_bytes)
    dataset = await get(connection, project, new.name)
    answer = RecordedVersion(dataset, await version(connection, dataset, number), expired)
    # Last, as from here on a change of the job waits for the end of this transaction.
    if not await fetch(connection, "hold_running_job", {"job_id": new.job_id}):
        raise ConflictError(
            f"job {new.job_id} does not run, so it can record nothing", reason="JOB_NOT_RUNNING"
        )
    return answer


async def _recorded(connection: Connection, new: NewVersion) -> RecordedVersion | None:
    """What the job recorded before."""
    rows = await fetch(connection, "version_of_job", {"job_id": new.job_id})
    if not rows:
        return None
    ((project, name, number, deleted, expired),) = rows
    if name != new.name:
        raise ConflictError(
            f"job {new.job_id} has recorded a version of dataset `{name}`; it can make one only",
            reason="JOB_HAS_RECORDED",
        )
    if deleted:
        raise ConflictError(
            f"version {number}, which job {new.job_id} has recorded, was deleted",
            reason="VERSION_DELETED",
        )
    dataset = await get(connection, project, name)
    return RecordedVersion(dataset, await version(connection, dataset, number), expired)


async def _insert(connection: Connection, dataset_id: int, number: int, new: NewVersion) -> None:
    """Records a version under a number, and what it holds."""
    content = new.content
    blobs = {"blobs": list(content.blobs), "job_id": new.job_id}
    # In this order: what was given to be purged until now is seen by the last.
    await connection.execute(QUERIES["share_blobs"])
    await fetch(connection, "hold_forgotten_blobs", blobs)
    if await fetch(connection, "purged_meanwhile", blobs):
        raise ConflictError(
            "files of the version were purged while it was made, as they hold rows that are to be "
            "forgotten; run the job again",
            reason="BLOBS_PURGED",
        )
    parameters = {
        **blobs,
        "dataset_id": dataset_id,
        "version": number,
        "parent": new.parent,
        "source": new.source,
        "digest": content.digest,
        "row_count": content.row_count,
        "rejected_count": content.rejected_count,
        "size_bytes": sum(content.blobs.values()),
        "sizes": list(content.blobs.values()),
        "manifest": content.documents.manifest,
        "report": content.documents.report or None,
        "profile": content.documents.profile or None,
        "forgotten": list(new.forgotten_versions),
    }
    await connection.execute(QUERIES["insert_version"], parameters)


async def _forget(connection: Connection, dataset_id: int, number: int, new: NewVersion) -> None:
    """Deletes versions with rows that are to be forgotten, and has their files be purged."""
    if new.parent in new.forgotten_versions:
        named = {"dataset_id": dataset_id, "version": number, "parent": new.parent}
        await connection.execute(QUERIES["move_aliases"], named)
    reasons = dict.fromkeys(new.forgotten_versions, Deletion.FORGOTTEN)
    reasons.pop(number, None)
    await delete(connection, dataset_id, reasons, number)
    if new.forgotten_blobs:
        parameters = {"blobs": list(new.forgotten_blobs), "purge_at": new.purge_at}
        await connection.execute(QUERIES["forget_blobs"], parameters)


def _check_quota(owner: str, size: int, quota: int) -> None:
    if quota and size > quota:
        raise ExhaustedError(
            f"{owner} would have {size:,} bytes, {size - quota:,} more than its quota of "
            f"{quota:,}; delete versions, or raise the quota",
            reason="QUOTA",
            metadata={"used_bytes": str(size), "quota_bytes": str(quota)},
        )
