"""Combines the pages of trees and differences."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2 as pb


async def whole(ask: Callable[[Any], Awaitable[Any]], request: Any) -> Any:
    """The answer to a GetKit, GetJob or DiffKit with the content of all its pages.

    All pages are as of the revision of the first, which is the revision of the answer.

    Args:
        ask: Makes the call.
        request: The request for the first page; its page token is changed.
    """
    answer = page = await ask(request)
    while page.next_page_token:
        request.page_token = page.next_page_token
        page = await ask(request)
        _add(answer, page)
    answer.next_page_token = ""
    return answer


def _add(answer: Any, page: Any) -> None:
    if isinstance(page, pb.GetKitResponse):
        jobs = answer.kit.jobs
        for job in page.kit.jobs:
            if jobs and jobs[-1].job_id == job.job_id:
                _add_tasks(jobs[-1], job)
            else:
                jobs.append(job)
    elif isinstance(page, pb.GetJobResponse):
        _add_tasks(answer.job, page.job)
    else:
        answer.changes.extend(page.changes)


def _add_tasks(job: common_pb2.Job, more: common_pb2.Job) -> None:
    job.tasks.extend(more.tasks)
