"""Keeps a caller whose token is for one project within that project.

`Tenancy.admit` checks every request before it is served. Kits and jobs of other projects are not
found; lists and filters are narrowed to the project; new kits and jobs are made in it. The draft
checks the jobs of appended rows one by one; see `commands.Item.within`. The spec of a job may
refer to other jobs, whose results its worker, who sees every project, would read: so these are
checked when the job is made.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1.ingestion_pb2 import CollectDecksSpec
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.errors import InvalidError, NotFoundError, PermissionDeniedError
from vistaflow_services.core.lru import Lru
from vistaflow_services.core.names import job_ids_in, slices
from vistaflow_services.registry.domain import SYSTEM_JOBS
from vistaflow_services.registry.messages import translate
from vistaflow_services.registry.messages.narrowing import narrow, narrow_ids
from vistaflow_services.registry.reads.store import Store

KEPT = 100_000
"""Kits and jobs whose project is remembered; it never changes."""

MOST_REFERENCES = 100
"""Jobs that those made by one call may refer to by their ids."""


_SYSTEM_JOBS = frozenset(map(translate.job_type_to_proto, SYSTEM_JOBS))


class Tenancy:
    """Keeps callers within their projects.

    Args:
        store: Knows the projects of kits and jobs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kits: Lru[int, str] = Lru(KEPT)
        self._jobs: Lru[uuid.UUID, str] = Lru(KEPT)

    async def admit(self, caller: Caller, request: Any) -> None:
        """Narrows a request to the caller's project.

        Raises:
            NotFoundError: It names something of another project.
            PermissionDeniedError: It would make something there.
        """
        fields = getattr(getattr(request, "DESCRIPTOR", None), "fields_by_name", {})
        if not caller.project:
            return
        if "kit_id" in fields and request.kit_id > 0:
            await self._check_kit(caller, request.kit_id)
        if "job_id" in fields and (job_id := translate.uuid_of(request.job_id)) is not None:
            await self._check_job(caller, job_id)
        if "kit_ids" in fields:
            await narrow_ids(caller, request, self._store.fetch)
        if isinstance(request, pb.CreateKitRequest | pb.CreateJobRequest):
            _place(caller, request)
            jobs = request.jobs if isinstance(request, pb.CreateKitRequest) else [request.job]
            await self.check_references(caller, jobs)
        elif isinstance(request, pb.RetryKitRequest):
            await self.check_references(caller, map(_successor, request.replacements))
        elif "project" in fields:
            narrow(caller, request)
        # An empty filter of jobs is refused, and must not become one of a whole project.
        if "filter" in fields and (
            isinstance(request.filter, pb.StateFilter) or request.filter.ByteSize()
        ):
            narrow(caller, request.filter)
            await narrow_ids(caller, request.filter, self._store.fetch)

    async def check_references(self, caller: Caller, jobs: Iterable[pb.NewJob]) -> None:
        """Checks what a caller's jobs are and what they name.

        Raises:
            NotFoundError: A spec names a job that is not there for the caller.
            PermissionDeniedError: A job looks after the whole installation, not one project.
        """
        named: set[str] = set()
        for job in jobs:
            if caller.project and job.job_type in _SYSTEM_JOBS:
                raise PermissionDeniedError(
                    "jobs of the system need the role ADMIN", reason="ROLE_TOO_SMALL"
                )
            # Decks are files, and refer to nothing.
            if job.job_type == common_pb2.JOB_TYPE_DECK_COLLECTION:
                continue
            for part in slices(job.spec.value):
                named |= job_ids_in(part)
                if len(named) > MOST_REFERENCES:
                    raise InvalidError(f"the jobs refer to more than {MOST_REFERENCES} others")
                await asyncio.sleep(0)
        for job_id in sorted(named):
            await self._check_job(caller, uuid.UUID(job_id))

    # What is of another project takes as long as what is not there at all: both are looked up
    # each time. Only a caller's own is remembered.

    async def _check_kit(self, caller: Caller, kit_id: int) -> None:
        if self._kits.get(kit_id) != caller.project:
            project = await self._store.project_of_kit(kit_id)
            if project != caller.project:
                raise NotFoundError(f"there is no kit {kit_id}")
            self._kits.put(kit_id, project)

    async def _check_job(self, caller: Caller, job_id: uuid.UUID) -> None:
        if self._jobs.get(job_id) != caller.project:
            project = await self._store.project_of_job(job_id)
            if project != caller.project:
                raise NotFoundError(f"there is no job {job_id}")
            self._jobs.put(job_id, project)


def _successor(replacement: pb.Replacement) -> pb.NewJob:
    """The job that a replacement makes, as far as what it refers to goes."""
    # No worker takes a spec for another message than the one that its type URL names.
    collects = replacement.spec.type_url.endswith(f"/{CollectDecksSpec.DESCRIPTOR.full_name}")
    kind = common_pb2.JOB_TYPE_DECK_COLLECTION if collects else common_pb2.JOB_TYPE_UNSPECIFIED
    return pb.NewJob(job_type=kind, spec=replacement.spec)


def _place(caller: Caller, request: pb.CreateKitRequest | pb.CreateJobRequest) -> None:
    """What is made without naming a project is made in the caller's."""
    if not caller.sees(request.project or caller.project):
        raise PermissionDeniedError(
            f"the token is for project {caller.project}; nothing can be made in another",
            reason="OTHER_PROJECT",
        )
    if isinstance(request, pb.CreateKitRequest) or not request.kit_id:
        request.project = caller.project
