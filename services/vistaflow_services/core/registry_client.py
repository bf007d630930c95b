"""The registry, as the other services call it.

Every call has a deadline and is tried again while the registry is away, always with the same
`request_id`, so that nothing happens twice. What the registry refuses is raised as the same error
that it raised itself.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from vistaflow._rpc import paging
from vistaflow._rpc.channel import Backoff
from vistaflow._rpc.replicas import Newest, ReplicaChannel, addresses_of, replica_count, replicated
from vistaflow._rpc.structs import MOST_WHOLE, whole
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.datasets.v1 import datasets_pb2_grpc
from vistaflow.api.outbox.v1 import outbox_pb2_grpc
from vistaflow.api.registry.v1 import registry_pb2, registry_pb2_grpc
from vistaflow.api.schedules.v1 import schedules_pb2_grpc
from vistaflow_services.core.config import registry_address
from vistaflow_services.core.dial import open_channel
from vistaflow_services.core.errors import ConflictError, InvalidError, ServiceError
from vistaflow_services.core.results import JobResult
from vistaflow_services.core.rpc.status import error_of

Answer = TypeVar("Answer")

TRY_SECONDS = 5.0
"""Deadline of one try."""

TRY_REPLICA_SECONDS = 2.0
"""The same where there is another replica to try."""

PATIENCE_SECONDS = 20.0
"""How long a call is tried again in all: longer than a registry's restart."""

_AGAIN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    # By the server: one that shuts down cancels the calls that it had not begun with.
    grpc.StatusCode.CANCELLED,
)


_BACKOFF = Backoff(first=0.1, longest=2.0, growth=2.0, spread=(0.5, 1.0))


def backoff(tried: int) -> float:
    """Seconds to wait before try number `tried` + 1."""
    return _BACKOFF.pause(tried)


class RegistryClient:
    """A connection to the registry.

    Args:
        address: Where it listens; `$VISTAFLOW_REGISTRY` if None. Several divided by commas are
            replicas of one registry.
        actor: Who calls, for the record, such as `doe`.
    """

    def __init__(self, address: str | None = None, *, actor: str = "") -> None:
        self.address = address or registry_address()
        self.actor = actor
        self._channel = replicated(self.address, open_channel)
        self._newest = Newest(len(addresses_of(self.address)))
        self.stub = registry_pb2_grpc.RegistryServiceStub(self._channel)
        self.datasets = datasets_pb2_grpc.DatasetServiceStub(self._channel)
        self.outbox = outbox_pb2_grpc.OutboxServiceStub(self._channel)
        self.schedules = schedules_pb2_grpc.ScheduleServiceStub(self._channel)

    async def close(self) -> None:
        """Ends the connection."""
        await self._channel.close()

    async def create_kit(
        self, request: registry_pb2.CreateKitRequest
    ) -> registry_pb2.CreateKitResponse:
        """Creates a kit with its jobs."""
        return await self.call(self.stub.CreateKit, _signed(request, self.actor))

    async def create_job(
        self, request: registry_pb2.CreateJobRequest
    ) -> registry_pb2.CreateJobResponse:
        """Adds a job to a kit, or to a new one of its own."""
        return await self.call(self.stub.CreateJob, _signed(request, self.actor))

    async def retry_kit(
        self, request: registry_pb2.RetryKitRequest
    ) -> registry_pb2.RetryKitResponse:
        """Queues FAILED and CANCELED jobs of a kit again, and replaces jobs by successors."""
        return await self.call(self.stub.RetryKit, _signed(request, self.actor))

    async def get_kit(self, kit_id: int, *, min_revision: int = 0) -> registry_pb2.Kit:
        """A kit with its jobs and their tasks."""
        request = registry_pb2.GetKitRequest(kit_id=kit_id, min_revision=min_revision)
        answer = await paging.whole(lambda page: self.call(self.stub.GetKit, page), request)
        kit: registry_pb2.Kit = answer.kit
        return kit

    async def get_job(self, job_id: str, *, min_revision: int = 0) -> common_pb2.Job:
        """A job with its tasks."""
        request = registry_pb2.GetJobRequest(job_id=job_id, min_revision=min_revision)
        answer = await paging.whole(lambda page: self.call(self.stub.GetJob, page), request)
        job: common_pb2.Job = answer.job
        return job

    async def job_without_tasks(self, job_id: str) -> common_pb2.Job:
        """A job alone, however many tasks it has.

        Raises:
            NotFoundError: There is no such job.
        """
        request = registry_pb2.GetJobRequest(job_id=job_id, page_size=1)
        return (await self.call(self.stub.GetJob, request)).job

    async def list_jobs(
        self,
        *,
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        kit_ids: Iterable[int] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 100,
        page_token: str = "",
    ) -> registry_pb2.ListJobsResponse:
        """One page of jobs, newest first; types and statuses as words, such as `DOE`."""
        request = registry_pb2.ListJobsRequest(
            kit_ids=list(kit_ids),
            job_types=[job_type_number(job_kind) for job_kind in job_types],
            statuses=[common_pb2.Status.Value(f"STATUS_{status}") for status in statuses],
            labels=labels or {},
            page_size=page_size,
            page_token=page_token,
        )
        return await self.call(self.stub.ListJobs, request)

    async def result(self, job_id: str, *, job_type: str = "", field: str = "job_id") -> JobResult:
        """What a finished job published.

        Args:
            job_id: The job.
            job_type: The type it has to be of, such as `DOE`; empty for any.
            field: The field of the request that named it, for the violation.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: It is of another type.
            ConflictError: It is not FINISHED.
        """
        job = await self.job_of_type(job_id, job_type=job_type, field=field)
        if job.status != common_pb2.STATUS_FINISHED:
            raise ConflictError(
                f"{field}: job {job_id} is {status_word(job.status)}; it has no result before it "
                "is FINISHED"
            )
        return result_of(job)

    async def job_of_type(
        self, job_id: str, *, job_type: str = "", field: str = "job_id"
    ) -> common_pb2.Job:
        """A job in whatever status, with its result if it is FINISHED; perhaps without tasks.

        Args:
            job_id: The job.
            job_type: The type it has to be of, such as `DOE`; empty for any.
            field: The field of the request that named it, for the violation.

        Raises:
            NotFoundError: There is no such job.
            InvalidError: It is of another type.
        """
        # The first page has all but tasks, of which there may be many.
        request = registry_pb2.GetJobRequest(job_id=job_id)
        job = (await self.call(self.stub.GetJob, request)).job
        word = job_type_word(job.job_type)
        if job_type and word != job_type:
            raise InvalidError(
                f"{field}: job {job_id} is a {word} job; give the id of a {job_type} job"
            )
        return job

    async def append(
        self, states: Iterable[common_pb2.State], *, patience: float = PATIENCE_SECONDS
    ) -> registry_pb2.AppendStatesResponse:
        """Appends rows; each must have a `seq`, which makes it safe to repeat.

        Their metadata must have gone through `exact`.
        """
        request = registry_pb2.AppendStatesRequest(states=list(states), numbers_checked=True)
        return await self.call(self.stub.AppendStates, request, patience=patience)

    async def announce(self, name: str, address: str, version: str, status: str) -> None:
        """Tells the registry where a service listens. Not tried again: the next one comes soon."""
        service = registry_pb2.ServiceInfo(
            name=name, address=address, version=version, status=status
        )
        request = registry_pb2.AnnounceServiceRequest(service=service)
        channel = self._channel
        # Each replica keeps its own list. One that is away has it from the next announcement.
        channels = channel.channels if isinstance(channel, ReplicaChannel) else [channel]
        stubs = map(registry_pb2_grpc.RegistryServiceStub, channels)
        calls = [self.call(stub.AnnounceService, request, patience=0) for stub in stubs]
        failures = [
            outcome
            for outcome in await asyncio.gather(*calls, return_exceptions=True)
            if isinstance(outcome, BaseException)
        ]
        if len(failures) == len(calls):
            raise failures[0]

    async def server_info(self, *, patience: float = 0) -> registry_pb2.GetServerInfoResponse:
        """What the registry is and which services it knows."""
        request = registry_pb2.GetServerInfoRequest()
        return await self.call(self.stub.GetServerInfo, request, patience=patience)

    async def call(
        self,
        method: Callable[..., Awaitable[Answer]],
        request: Message,
        *,
        patience: float = PATIENCE_SECONDS,
    ) -> Answer:
        """Calls the registry, again while it is away, for `patience` seconds.

        Raises:
            ServiceError: What the registry said, or `UnavailableError` if it stays away.
        """
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:  # type: ignore[attr-defined]
            request.request_id = str(uuid.uuid4())  # type: ignore[attr-defined]
        loop = asyncio.get_running_loop()
        give_up = loop.time() + patience
        tried = 0
        # Where there is another replica, a frozen one is given up sooner.
        seconds = TRY_REPLICA_SECONDS if replica_count(method) > 1 else TRY_SECONDS
        waits = self._newest.ask(request)
        while True:
            try:
                answer = await method(request, timeout=seconds)
                self._newest.note(answer)
                return answer
            except grpc.aio.AioRpcError as failure:
                # The replica that answered is behind the others: the next try asks for less.
                if waits and error_of(failure).reason == "REVISION_NOT_REACHED":
                    self._newest.forget()
                wait = backoff(tried)
                if failure.code() not in _AGAIN or loop.time() + wait >= give_up:
                    raise self._error_of(failure) from None
            tried += 1
            await asyncio.sleep(wait)

    def _error_of(self, failure: grpc.aio.AioRpcError) -> ServiceError:
        error = error_of(failure)
        if failure.code() in _AGAIN:
            error.message = f"the registry at {self.address} does not answer"
            error.args = (error.message,)
            error.reason = "REGISTRY_UNAVAILABLE"
        return error


def job_type_number(word: str) -> common_pb2.JobType.ValueType:
    """The enum value of a job type's word, such as `DOE`."""
    return common_pb2.JobType.Value(f"JOB_TYPE_{word}")


def job_type_word(number: int) -> str:
    """The word of a job type, such as `DOE`."""
    try:
        return common_pb2.JobType.Name(number).removeprefix("JOB_TYPE_")  # type: ignore[arg-type]
    except ValueError:
        return str(number)


def status_word(number: int) -> str:
    """The word of a status, such as `RUNNING`."""
    try:
        return common_pb2.Status.Name(number).removeprefix("STATUS_")  # type: ignore[arg-type]
    except ValueError:
        return str(number)


def result_of(job: common_pb2.Job) -> JobResult:
    """What a job published, as its dependents see it."""
    return JobResult(
        job_id=job.job_id,
        job_type=job_type_word(job.job_type),
        attempt=job.attempt,
        result=struct_to_dict(job.result),
    )


def exact(value: Any) -> Any:
    """A value for a Struct, whose numbers are doubles: whole ones beyond 2**53 as text."""
    if isinstance(value, int) and abs(value) > MOST_WHOLE:
        return str(value)
    if isinstance(value, Mapping):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return value


def struct_to_dict(struct: Message) -> dict[str, Any]:
    """A Struct as Python has it; whole numbers become int again, which Struct does not know."""
    whole: dict[str, Any] = _whole(json_format.MessageToDict(struct))
    return whole


def _whole(value: Any) -> Any:
    if isinstance(value, float):
        return whole(value)
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return value


Request = TypeVar(
    "Request",
    registry_pb2.CreateKitRequest,
    registry_pb2.CreateJobRequest,
    registry_pb2.RetryKitRequest,
)


def _signed(request: Request, actor: str) -> Request:
    if not request.actor:
        request.actor = actor
    return request
