"""Requests narrowed to the project of their caller."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.door.callers import Caller
from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.registry.domain import MAX_FILTER_IDS
from vistaflow_services.registry.messages import translate

NO_KIT = 2**31 - 1
"""Replaces kits of other projects in filters: kits are numbered from 1 and never get this id."""

NO_JOB = str(uuid.UUID(int=0))
"""The same for jobs."""

Fetch = Callable[[str, Mapping[str, Any]], Awaitable[Sequence[Any]]]
"""The rows of a named query."""


async def narrow_watch(request: pb.WatchStatesRequest, fetch: Fetch) -> None:
    """Narrows a watch to the project of its caller."""
    narrow(callers.current(), request.filter)
    await narrow_ids(callers.current(), request.filter, fetch)


async def narrow_ids(caller: Caller, message: Any, fetch: Fetch) -> None:
    """Replaces ids of other projects' kits and jobs in a filter by ids that do not exist.

    The answer is the same as with the ids. But neither its pages nor the time it takes show how
    much there is to read of another project's kit.
    """
    fields = message.DESCRIPTOR.fields_by_name
    if not caller.project:
        return
    if "kit_ids" in fields and 0 < len(message.kit_ids) <= MAX_FILTER_IDS:
        parameters = {"kit_ids": list(message.kit_ids), "project": caller.project}
        others = {row[0] for row in await fetch("kits_of_others", parameters)}
        for place, kit_id in enumerate(message.kit_ids):
            if kit_id in others:
                message.kit_ids[place] = NO_KIT
    if "job_ids" in fields and 0 < len(message.job_ids) <= MAX_FILTER_IDS:
        ids = [translate.uuid_of(text) for text in message.job_ids]
        parameters = {"job_ids": [job_id for job_id in ids if job_id], "project": caller.project}
        others = {row[0] for row in await fetch("jobs_of_others", parameters)}
        for place, job_id in enumerate(ids):
            if job_id in others:
                message.job_ids[place] = NO_JOB


def narrow(caller: Caller, message: Any) -> None:
    """Narrows a list's or a filter's `project`."""
    if not caller.project:
        return
    if not caller.sees(message.project or caller.project):
        raise NotFoundError(f"there is no project {message.project!r}")
    message.project = caller.project
