"""Datasets in the database. Their SQL is in `sql/dataset_queries.sql`.

Every change is one transaction, which first waits until no other one changes a dataset of the same
project: so numbers have no gaps and quotas hold however many registries there are.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from operator import itemgetter
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from vistaflow_services.core.errors import ConflictError, NotFoundError, field_error
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.database.pool import Connection, Connections, Pool
from vistaflow_services.registry.database.queries import QUERIES, fetch
from vistaflow_services.registry.database.space import StorageGuard
from vistaflow_services.registry.datasets import versions
from vistaflow_services.registry.datasets.records import (
    Dataset,
    DatasetChange,
    Deletion,
    Documents,
    NewVersion,
    RecordedVersion,
    Version,
)
from vistaflow_services.registry.domain import JobType

MAX_DUE = 1_000
"""Files that a service is given to purge at once."""

CHANGES_AT_ONCE = 3
"""Connections that changes take, each of another project."""

PURGE_SECONDS = 600.0
"""How long it has to purge them, before another one is given them."""

# Others of the project wait for a change, and at its end whatever moves its job.
_BEGIN: Final = "SET LOCAL transaction_timeout = '10s'"

Answer = TypeVar("Answer")


class DatasetStore:
    """Reads and changes datasets.

    Args:
        pool: Connections whose search path is the registry's schema.
        guard: Knows whether there is room for more rows.
        project_quota_bytes: Most bytes of all datasets of a project; 0: no limit.
    """

    def __init__(self, pool: Pool, guard: StorageGuard, project_quota_bytes: int = 0) -> None:
        self._connections = Connections(pool)
        self._guard = guard
        self._project_quota_bytes = project_quota_bytes
        self._projects = WeakValueDictionary[str, asyncio.Lock]()
        self._room = asyncio.Semaphore(CHANGES_AT_ONCE)

    async def page(
        self, *, project: str | None, name_contains: str, after: int | None, limit: int
    ) -> list[Dataset]:
        """Datasets by project and name, after the one of an id."""
        chosen = {"project": project, "name_contains": name_contains, "after": after}
        return await self._connections.use(
            lambda connection: versions.datasets(connection, **chosen, limit=limit)
        )

    async def get(self, project: str, name: str) -> Dataset | None:
        """A dataset; None if it is not there."""
        listed = await self._connections.use(
            lambda connection: versions.datasets(connection, project=project, name=name)
        )
        return listed[0] if listed else None

    async def versions(self, dataset: Dataset, *, newest: int, limit: int) -> list[Version]:
        """Versions of a dataset, newest first, from a number on."""
        return await self._connections.use(
            lambda connection: versions.listed(connection, dataset, newest, limit)
        )

    async def content(self, dataset: Dataset, number: int) -> tuple[Version, Documents] | None:
        """A version and what it holds; None if it is not there."""
        parameters = {"dataset_id": dataset.dataset_id, "version": number}
        rows = await self._connections.fetch(QUERIES["dataset_version"], parameters)
        return (Version(*rows[0][:-3]), Documents(*rows[0][-3:])) if rows else None

    async def update(
        self, project: str, name: str, change: DatasetChange, request: c.Request
    ) -> Dataset:
        """Changes a dataset, which is made if it is not there.

        Raises:
            ExistsError: The request's id was used for something else.
            InvalidError: It would have too many labels.
            ConflictError: It has more bytes than a new quota allows.
        """
        self._guard.check()

        async def work(connection: Connection) -> Dataset:
            if not await _is_repeated(connection, request):
                dataset_id, _ = await versions.put(connection, project, name)
                await versions.change(
                    connection, await versions.get(connection, project, name), change
                )
                size, quota = await versions.measure(connection, dataset_id)
                if quota and size > quota:
                    raise ConflictError(
                        f"limits.quota_bytes: dataset `{name}` has {size:,} bytes already; delete "
                        "versions first, or give a larger quota",
                        reason="QUOTA",
                    )
            return await versions.get(connection, project, name)

        return await self._change(project, work)

    async def set_alias(self, project: str, name: str, alias: str, number: int) -> Dataset:
        """Has an alias name a version; removes it if the version is 0.

        Raises:
            NotFoundError: The dataset or the version is not there.
            ConflictError: The dataset has too many aliases.
        """

        async def work(connection: Connection) -> Dataset:
            dataset = await versions.get(connection, project, name)
            await versions.set_alias(connection, dataset, alias, number)
            return await versions.get(connection, project, name)

        return await self._change(project, work)

    async def pin(
        self, project: str, name: str, number: int, pinned: bool
    ) -> tuple[Dataset, Version]:
        """Pins a version, or unpins it.

        Raises:
            NotFoundError: The dataset or the version is not there.
        """

        async def work(connection: Connection) -> tuple[Dataset, Version]:
            dataset = await versions.get(connection, project, name)
            parameters = {"dataset_id": dataset.dataset_id, "version": number, "pinned": pinned}
            await connection.execute(QUERIES["pin_version"], parameters)
            return dataset, await versions.version(connection, dataset, number)

        return await self._change(project, work)

    async def delete(self, project: str, name: str, number: int) -> int:
        """Deletes a version, or with 0 all of them and the dataset; returns how many.

        Raises:
            NotFoundError: The dataset or the version is not there.
            ConflictError: A version is pinned or has an alias.
        """

        async def work(connection: Connection) -> int:
            dataset = await versions.get(connection, project, name)
            doomed = (
                [await versions.version(connection, dataset, number)]
                if number
                else await versions.listed(connection, dataset)
            )
            for version in doomed:
                if version.pinned or dataset.aliases_of(version.version):
                    why = "is pinned" if version.pinned else "has an alias"
                    raise ConflictError(
                        f"version {version.version} of dataset `{name}` {why}; "
                        "unpin it and remove its aliases first",
                        reason="PROTECTED",
                    )
            reasons = {version.version: Deletion.REQUEST for version in doomed}
            await versions.delete(connection, dataset.dataset_id, reasons)
            if not number:
                key = {"dataset_id": dataset.dataset_id}
                await connection.execute(QUERIES["delete_dataset"], key)
            return len(doomed)

        return await self._change(project, work)

    async def record(self, new: NewVersion) -> RecordedVersion:
        """Records a version that a job made, and deletes what is not kept beside it.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: The job is of a type that makes no versions.
            ConflictError: The job does not run, or the version cannot follow those there are.
            ExhaustedError: A quota is reached, or the disk is full.
        """
        self._guard.check()
        rows = await self._connections.fetch(QUERIES["recording_job"], {"job_id": new.job_id})
        if not rows:
            raise NotFoundError(f"there is no job {new.job_id}")
        ((project, job_type),) = rows
        if job_type != JobType.IMPORT:
            raise field_error("job_id", f"is a {job_type} job; give an IMPORT job")
        quota = self._project_quota_bytes
        return await self._change(
            project, lambda connection: versions.record(connection, project, new, quota)
        )

    async def expire(self) -> int:
        """Deletes the versions that retention does not keep; returns how many."""
        count = 0
        rows = await self._connections.fetch(QUERIES["expired_versions"], {"dataset_id": None})
        for (dataset_id, project), _ in itertools.groupby(rows, key=itemgetter(0, 1)):

            async def work(connection: Connection, dataset_id: int = dataset_id) -> int:
                return len(await versions.expire(connection, dataset_id))

            count += await self._change(project, work)
        return count

    async def references(self, blobs: Sequence[bytes]) -> list[str]:
        """Which files a version refers to, or are still to be purged."""
        rows = await self._connections.fetch(QUERIES["referenced_blobs"], {"blobs": list(blobs)})
        return [text for (text,) in rows]

    async def purge(self, purged: Sequence[bytes], unused: Sequence[bytes] = ()) -> list[str]:
        """Notes which files were purged, and gives those whose time has come.

        The time of the unused ones has come if no version refers to them.

        What was given is not given again for `PURGE_SECONDS`, and never while a version refers to
        it. Until it is purged, no version that refers to it is recorded.
        """

        async def work(connection: Connection) -> list[str]:
            async with connection.transaction():
                # What a transaction records that is open now would not be seen below.
                await connection.execute(_BEGIN)
                await connection.execute(QUERIES["lock_blobs"])
                await connection.execute(QUERIES["settle_purged_blobs"], {"blobs": list(purged)})
                await connection.execute(QUERIES["release_blobs"], {"blobs": list(unused)})
                parameters = {"seconds": PURGE_SECONDS, "limit": MAX_DUE}
                due = [blob for (blob,) in await fetch(connection, "due_blobs", parameters)]
                rows = await fetch(connection, "give_blobs", {"blobs": due})
                return sorted(text for (text,) in rows)

        return await self._connections.use(work)

    async def _change(
        self, project: str, work: Callable[[Connection], Awaitable[Answer]]
    ) -> Answer:
        """Runs a change of a project's datasets, alone and as a whole.

        Changes wait here first: those that wait for the lock of the database hold connections,
        which others need to read.
        """

        async def whole(connection: Connection) -> Answer:
            async with connection.transaction():
                await connection.execute(_BEGIN)
                await connection.execute(QUERIES["lock_datasets"], {"project": project})
                return await work(connection)

        turn = self._projects.setdefault(project, asyncio.Lock())
        async with turn, self._room:
            return await self._connections.use(whole)


async def _is_repeated(connection: Connection, request: c.Request) -> bool:
    """Keeps a request; whether it was kept before."""
    parameters = {
        "request_id": request.request_id,
        "method": request.method,
        "body_sha256": request.body_sha256,
        "data": request.data_json,
        "actor": request.actor,
    }
    if await fetch(connection, "keep_request", parameters):
        return False
    ((method, body_sha256, _),) = await fetch(connection, "answered_request", parameters)
    request.check_repeated(method, body_sha256)
    return True
