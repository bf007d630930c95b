"""Whether an appended row is recorded, and the answer if it is not."""

from __future__ import annotations

from vistaflow_services.registry.commands import Item, Result
from vistaflow_services.registry.domain import (
    APPENDABLE_EXTERNAL,
    APPENDABLE_LEASED,
    MAX_TASKS_A_JOB,
    RETRYABLE,
    TASK_TRANSITIONS,
    Job,
    Status,
    Verdict,
)
from vistaflow_services.registry.log.changes import Recorded, content_of

SEQ_REUSED = "SEQ_REUSED"
"""The reason of a row that is refused because its seq is another row's."""


def starts_attempt(job: Job, item: Item) -> bool:
    """Whether the row begins a new attempt of an external job."""
    return (
        job.external
        and not item.task_name
        and item.status == Status.RUNNING
        and job.status == Status.QUEUED
    )


def unfit(job: Job, item: Item) -> Result | None:
    """Refuses a row that names another kit or type than its job's, or another attempt.

    Writers of external jobs may omit the attempt. The row that starts an attempt names the next.
    A worker must name its attempt: so the rows of an attempt that was lost are refused, even if
    another attempt of the job runs by now.
    """
    if item.kit_id and item.kit_id != job.kit_id:
        return _rejected(f"job {job.job_id} is of kit {job.kit_id}, not of kit {item.kit_id}")
    if item.job_type and item.job_type != job.job_type:
        return _rejected(f"job {job.job_id} is of type {job.job_type}, not {item.job_type}")
    current = job.attempt
    if job.external:
        expected = current + 1 if starts_attempt(job, item) else current
        if item.attempt in (0, expected):
            return None
        return _stale(f"attempt {item.attempt} is not the current one, which is {expected}")
    if item.attempt != current:
        attempt = f"attempt {item.attempt}" if item.attempt else "an attempt left out"
        return _stale(f"{attempt} is not the current one, which is {current}")
    # The attempt number stays until the next grant, so a job that waits still has the last one.
    if current and job.status in (Status.QUEUED, Status.INIT):
        return _stale(f"attempt {current} is over; the job waits for another")
    return None


def repeated(item: Item, attempt: int, recorded: Recorded) -> Result:
    """The answer to a row whose seq is recorded: a duplicate only if its content is the same."""
    if content_of(item) in recorded.contents:
        return Result(verdict=Verdict.DUPLICATE, revision=recorded.revision)
    return Result(
        verdict=Verdict.REJECTED,
        detail=(
            f"seq {item.seq} of attempt {attempt} belongs to another row, recorded at revision "
            f"{recorded.revision}; use a different seq for each row"
        ),
        reason=SEQ_REUSED,
    )


def illegal(job: Job, item: Item) -> Result | None:
    """Refuses a row that the status machine does not allow; None if it does."""
    if not item.task_name:
        table = APPENDABLE_EXTERNAL if job.external else APPENDABLE_LEASED
        if item.status in table[job.status]:
            return None
        return _rejected(_own(job, item.status, table[job.status]))
    if job.status != Status.RUNNING:
        return _rejected(
            f"task {item.task_name!r} cannot enter {item.status}: "
            f"its job is {job.status}, and tasks move only while it is RUNNING"
        )
    last = job.tasks.get(item.task_name)
    if last is None:
        if len(job.tasks) >= MAX_TASKS_A_JOB:
            return _rejected(f"a job has at most {MAX_TASKS_A_JOB:,} tasks")
        return None
    allowed = TASK_TRANSITIONS[last.status]
    if item.status in allowed:
        return None
    return _rejected(
        f"task {item.task_name!r} cannot go from {last.status} to {item.status}; "
        f"allowed: {_names(allowed)}"
    )


def _own(job: Job, to: str, allowed: frozenset[str]) -> str:
    text = f"{job.name} cannot go from {job.status} to {to}; allowed: {_names(allowed)}"
    if job.status in RETRYABLE and to in (Status.QUEUED, Status.INIT, Status.RUNNING):
        return f"{text}; RetryJob queues it again"
    if job.status == Status.INIT and to in (Status.QUEUED, Status.RUNNING):
        return f"{text}; it is queued once all it depends on is FINISHED"
    if job.status == Status.QUEUED and to == Status.RUNNING:
        return f"{text}; it runs once a worker leases it"
    return text


def _names(allowed: frozenset[str]) -> str:
    return ", ".join(status for status in Status if status in allowed) or "nothing"


def _rejected(detail: str) -> Result:
    return Result(verdict=Verdict.REJECTED, detail=detail)


def _stale(detail: str) -> Result:
    return Result(verdict=Verdict.STALE_ATTEMPT, detail=detail)
