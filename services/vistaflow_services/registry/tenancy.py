"""What a caller whose token is for one project may see: that project, as if there were no other.

`Tenancy.admit` looks at every request before it is served. A kit or job of another project is
not found, as if its number were wrong; a list or a filter is narrowed to the project; what is
made is made there. Rows that are appended name their jobs one by one: the draft looks at those,
see `commands.Item.within`. A job may refer to others by their ids, which its worker, who sees every
project, looks up: so what a job refers to is looked at when it is made.
"""

from __future__ import annotations

import re
import uuid
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, TypeVar

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1.ingestion_pb2 import CollectDecksSpec
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.callers import Caller
from vistaflow_services.core.errors import InvalidError, NotFoundError, PermissionDeniedError
from vistaflow_services.registry.store import Store

KEPT = 100_000
"""Kits and jobs whose project is remembered; it never changes."""

MOST_REFERENCES = 100
"""Jobs that those made by one call may refer to by their ids."""

_JOB_ID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

Id = TypeVar("Id", int, uuid.UUID)


class Tenancy:
    """Keeps callers within their projects.

    Args:
        store: Knows the projects of kits and jobs.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kits: OrderedDict[int, str] = OrderedDict()
        self._jobs: OrderedDict[uuid.UUID, str] = OrderedDict()

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
        if "job_id" in fields:
            await self._check_job(caller, request.job_id)
        if isinstance(request, pb.CreateKitRequest | pb.CreateJobRequest):
            _place(caller, request)
            jobs = request.jobs if isinstance(request, pb.CreateKitRequest) else [request.job]
            await self._check_references(caller, jobs)
        elif isinstance(request, pb.RetryKitRequest):
            await self._check_references(caller, map(_successor, request.replacements))
        elif "project" in fields:
            _narrow(caller, request)
        # An empty filter of jobs is refused, and must not become one of a whole project.
        if "filter" in fields and (
            isinstance(request.filter, pb.StateFilter) or request.filter.ByteSize()
        ):
            _narrow(caller, request.filter)

    async def _check_references(self, caller: Caller, jobs: Iterable[pb.NewJob]) -> None:
        """Raises `NotFoundError` if a job's spec names one that is not there for the caller."""
        # Strings of a message lie in its bytes as they are. Decks are files, and refer to nothing.
        named = {
            uuid.UUID(match.decode())
            for job in jobs
            if job.job_type != common_pb2.JOB_TYPE_DECK_COLLECTION
            for match in _JOB_ID.findall(job.spec.value)
        }
        if len(named) > MOST_REFERENCES:
            raise InvalidError(f"the jobs refer to {len(named)} others; {MOST_REFERENCES} at most")
        for job_id in sorted(named):
            if await self._project_of(job_id) != caller.project:
                raise NotFoundError(f"there is no job {job_id}")

    async def _check_kit(self, caller: Caller, kit_id: int) -> None:
        project = self._kits.get(kit_id)
        if project is None:
            project = await self._store.project_of_kit(kit_id)
            _remember(self._kits, kit_id, project)
        if project is not None and project != caller.project:
            raise NotFoundError(f"there is no kit {kit_id}")

    async def _check_job(self, caller: Caller, text: str) -> None:
        try:
            job_id = uuid.UUID(text)
        except ValueError:
            return  # Malformed, and told so where it is served.
        project = await self._project_of(job_id)
        if project is not None and project != caller.project:
            raise NotFoundError(f"there is no job {job_id}")

    async def _project_of(self, job_id: uuid.UUID) -> str | None:
        """The project of a job; None if there is no such job."""
        project = self._jobs.get(job_id)
        if project is None:
            project = await self._store.project_of_job(job_id)
            _remember(self._jobs, job_id, project)
        return project


def _successor(replacement: pb.Replacement) -> pb.NewJob:
    """The job that a replacement makes, as far as what it refers to goes."""
    # No worker takes a spec for another message than the one that its type URL names.
    collects = replacement.spec.type_url.endswith(f"/{CollectDecksSpec.DESCRIPTOR.full_name}")
    kind = common_pb2.JOB_TYPE_DECK_COLLECTION if collects else common_pb2.JOB_TYPE_UNSPECIFIED
    return pb.NewJob(job_type=kind, spec=replacement.spec)


def narrow_watch(request: pb.WatchStatesRequest) -> None:
    """Narrows a watch to the project of whoever makes the call."""
    _narrow(callers.current(), request.filter)


def _narrow(caller: Caller, message: Any) -> None:
    """Narrows a list's or a filter's `project`."""
    if not caller.project:
        return
    if not caller.sees(message.project or caller.project):
        raise NotFoundError(f"there is no project {message.project!r}")
    message.project = caller.project


def _place(caller: Caller, request: pb.CreateKitRequest | pb.CreateJobRequest) -> None:
    """What is made without naming a project is made in the caller's."""
    if not caller.sees(request.project or caller.project):
        raise PermissionDeniedError(
            f"the token is for project {caller.project}; nothing can be made in another",
            reason="OTHER_PROJECT",
        )
    if isinstance(request, pb.CreateKitRequest) or not request.kit_id:
        request.project = caller.project


def _remember(known: OrderedDict[Id, str], key: Id, project: str | None) -> None:
    if project is not None:
        known[key] = project
        if len(known) > KEPT:
            known.popitem(last=False)
