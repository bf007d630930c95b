"""What a caller whose token is for one project may see: that project, as if there were no other.

`Tenancy.admit` looks at every request before it is served. A kit or job of another project is
not found, as if its number were wrong; a list or a filter is narrowed to the project; what is
made is made there. Rows that are appended name their jobs one by one: the draft looks at those,
see `commands.Item.within`.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from typing import Any, TypeVar

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import callers
from vistaflow_services.core.callers import Caller
from vistaflow_services.core.errors import NotFoundError, PermissionDeniedError
from vistaflow_services.registry.store import Store

KEPT = 100_000
"""Kits and jobs whose project is remembered; it never changes."""

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
        elif "project" in fields:
            _narrow(caller, request)
        # An empty filter of jobs is refused, and must not become one of a whole project.
        if "filter" in fields and (
            isinstance(request.filter, pb.StateFilter) or request.filter.ByteSize()
        ):
            _narrow(caller, request.filter)

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
        project = self._jobs.get(job_id)
        if project is None:
            project = await self._store.project_of_job(job_id)
            _remember(self._jobs, job_id, project)
        if project is not None and project != caller.project:
            raise NotFoundError(f"there is no job {job_id}")


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
