"""GetKit and GetJob from memory, as bytes; what is not in memory goes to the servicer."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import TypeVar

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.message_limits import MESSAGE_BYTES
from vistaflow_services.core.server.shell import Context
from vistaflow_services.registry.database.rows import progress_from_json
from vistaflow_services.registry.domain import Kit, Progress
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.messages.translate import uuid_of
from vistaflow_services.registry.messages.varint import varint
from vistaflow_services.registry.reads.cache import KitCache
from vistaflow_services.registry.reads.page_cache import PageCache, key_of
from vistaflow_services.registry.reads.store import Store
from vistaflow_services.registry.servicer import RegistryServicer

_KIT = varint(pb.GetKitResponse.KIT_FIELD_NUMBER << 3 | 2)
_KIT_REVISION = varint(pb.GetKitResponse.REVISION_FIELD_NUMBER << 3)
_JOB = varint(pb.GetJobResponse.JOB_FIELD_NUMBER << 3 | 2)
_JOB_REVISION = varint(pb.GetJobResponse.REVISION_FIELD_NUMBER << 3)


# Room for the revision beside the tree.
WHOLE_BYTES = MESSAGE_BYTES - 64

WHOLE_FIELDS = ("kit_id", "job_id", "min_revision")
"""What a request holds that asks for the present as a whole."""

MANY_TASKS = 30_000
"""A kit with more tasks is not read as a whole, nor one with more bytes than a message holds."""

MANY_JOBS = 2_000
"""The same of jobs."""

MANY_NEEDS = 20_000
"""The same of what its jobs depend on."""

Page = TypeVar("Page", pb.GetKitResponse, pb.GetJobResponse)


class StoreSource:
    """Kits for the cache, from the database; what is too large to be answered whole is not there.

    Args:
        store: Reads it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def kit(self, kit_id: int) -> tuple[Kit | None, int]:
        """A kit with jobs and tasks, and the revision up to which that is complete."""
        parameters = {
            "kit_id": kit_id,
            "tasks": MANY_TASKS,
            "jobs": MANY_JOBS,
            "needs": MANY_NEEDS,
            "bytes": 2 * MESSAGE_BYTES,
        }
        ((large,),) = await self._store.fetch("kit_is_large", parameters)
        return (None, 0) if large else await self._store.kit(kit_id)

    async def kit_of(self, job_id: uuid.UUID) -> int | None:
        """The kit of a job."""
        return await self._store.kit_of(job_id)

    async def progress(
        self, job_ids: Sequence[uuid.UUID]
    ) -> Mapping[tuple[uuid.UUID, int], Progress]:
        """What running jobs last said of their progress, by job and attempt."""
        rows = await self._store.fetch("progress_of_attempts", {"job_ids": list(job_ids)})
        return {
            (job_id, attempt): progress_from_json(progress_json, progress_at)
            for job_id, attempt, progress_json, progress_at in rows
        }


class CachedReads:
    """Answers GetKit and GetJob; not those that ask for the past.

    Args:
        servicer: Who answers everything else.
        cache: The kits in memory.
        hub: Tells how new they are.
    """

    def __init__(self, servicer: RegistryServicer, cache: KitCache, hub: Hub) -> None:
        self._servicer = servicer
        self._cache = cache
        self._hub = hub
        self._pages = PageCache(hub, max_bytes=cache.max_bytes)

    async def get_kit(
        self, request: pb.GetKitRequest, context: Context
    ) -> pb.GetKitResponse | bytes:
        """A kit with its jobs and tasks, or a page of it."""
        if request.kit_id > 0 and await self._reached(request, context):
            cached = await self._cache.kit(request.kit_id) if _is_whole(request) else None
            if cached is not None:
                tree, revision = cached
                kit = tree.kit_parts()
                size = sum(map(len, kit))
                if size <= WHOLE_BYTES:
                    return b"".join((_KIT, varint(size), *kit, _KIT_REVISION, varint(revision)))
            page = self._page(request, _KIT_REVISION)
            if page is not None:
                return page
            answer = await self._servicer.GetKit(request, context)
            return self._keep(
                request, answer, _KIT_REVISION, kit_id=request.kit_id, jobs=answer.kit.jobs
            )
        return await self._servicer.GetKit(request, context)

    async def get_job(
        self, request: pb.GetJobRequest, context: Context
    ) -> pb.GetJobResponse | bytes:
        """A job with its tasks, or a page of it."""
        job_id = uuid_of(request.job_id)
        if job_id is not None and await self._reached(request, context):
            cached = await self._cache.job(job_id) if _is_whole(request) else None
            if cached is not None:
                tree, revision = cached
                job = tree.job_bytes(job_id)
                if len(job) <= WHOLE_BYTES:
                    return b"".join((_JOB, varint(len(job)), job, _JOB_REVISION, varint(revision)))
            page = self._page(request, _JOB_REVISION)
            if page is not None:
                return page
            answer = await self._servicer.GetJob(request, context)
            return self._keep(
                request, answer, _JOB_REVISION, kit_id=answer.job.kit_id, jobs=[answer.job]
            )
        return await self._servicer.GetJob(request, context)

    def _page(
        self, request: pb.GetKitRequest | pb.GetJobRequest, revision_tag: bytes
    ) -> bytes | None:
        """A page as it was answered before, if that holds still."""
        if not self._cache.fresh:
            return None
        page = self._pages.get(key_of(request))
        if page is None or request.page_token:
            return page
        return b"".join((page, revision_tag, varint(self._hub.head)))

    def _keep(
        self,
        request: pb.GetKitRequest | pb.GetJobRequest,
        answer: Page,
        revision_tag: bytes,
        *,
        kit_id: int,
        jobs: Sequence[common.Job],
    ) -> Page | bytes:
        """The answer; cached for the same request if it is one of several pages."""
        if not (answer.next_page_token or request.page_token):
            return answer
        revision = answer.revision
        if not request.page_token:
            # The revision of a first page is set for each answer.
            answer.ClearField("revision")
        page = answer.SerializeToString()
        self._pages.put(
            key_of(request),
            page,
            kit_id=0 if request.page_token else kit_id,
            revision=revision,
            jobs=jobs,
        )
        if request.page_token:
            return page
        return b"".join((page, revision_tag, varint(revision)))

    async def _reached(
        self, request: pb.GetKitRequest | pb.GetJobRequest, context: Context
    ) -> bool:
        """Whether the request asks for the present; waits until the hub knows that much of it."""
        names = {field.name for field, _ in request.ListFields()}
        if request.min_revision < 0 or not names <= {*WHOLE_FIELDS, "page_size", "page_token"}:
            return False
        if request.min_revision > self._hub.head:
            remaining = context.time_remaining()
            try:
                async with asyncio.timeout(None if remaining is None else remaining / 2):
                    await self._hub.reached(request.min_revision)
            except TimeoutError:
                return False  # the servicer waits longer, and raises an error that says why
        return True


def _is_whole(request: pb.GetKitRequest | pb.GetJobRequest) -> bool:
    """Whether all of the tree is asked for, as far as it fits."""
    return not request.page_size and not request.page_token
