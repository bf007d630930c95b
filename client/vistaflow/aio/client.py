"""The asynchronous client. The blocking one runs this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from vistaflow._machine.archive import pack_deck
from vistaflow._rows import AsyncListing
from vistaflow._rpc import paging
from vistaflow._rpc.messages import is_number, listed, message_of, page_size, set_time
from vistaflow._rpc.structs import struct_of
from vistaflow.aio._artifacts import ArtifactCalls
from vistaflow.aio._calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio._data.collections import CollectionCalls
from vistaflow.aio._data.conversions import DataCalls
from vistaflow.aio._data.datasets import DatasetCalls
from vistaflow.aio._data.imports import ImportCalls
from vistaflow.aio._data.queries import QueryCalls
from vistaflow.aio._data.upkeep import UpkeepCalls
from vistaflow.aio._deliveries import DeliveryCalls
from vistaflow.aio._filters import job_filter, job_type_values, status_values, watch_filter
from vistaflow.aio._kits.extension import ExtensionCalls
from vistaflow.aio._kits.schedules import ScheduleCalls
from vistaflow.aio._kits.sources import KitSource, fill_kit
from vistaflow.aio._stages import StageCalls
from vistaflow.aio._stream import StateStream
from vistaflow.aio._watch import Watch, place_of
from vistaflow.aio._watch_many import ManyWatches
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    KitFailedError,
    UnavailableError,
    invalid,
)
from vistaflow.models import (
    Delta,
    Job,
    Kit,
    KitDiff,
    ManyJobs,
    State,
    appended_of,
    diff_of,
    job_of,
    job_type_value,
    kit_of,
    many_of,
    role_value,
    seen_at,
    state_of,
    status_value,
)

T = TypeVar("T")

MAX_DAYS = 3_660
"""Longest lifetime of a token with an end."""


def connect(
    address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
) -> AsyncClient:
    """A client of the suite whose registry is at `address`.

    Args:
        address: Such as `127.0.0.1:50051`; if empty `VISTAFLOW_REGISTRY`, else where the suite of
            `VISTAFLOW_HOME` listens, else the default. Several divided by commas are replicas of
            one registry.
        timeout: The longest one call may take with all its tries, in seconds.
        token: Shown to the services; if empty `VISTAFLOW_TOKEN`, else the one that `vistaflow up`
            made in that home, for its suite.
    """
    return AsyncClient(address, timeout=timeout, token=token)


class AsyncClient(
    StageCalls,
    ImportCalls,
    DatasetCalls,
    DataCalls,
    CollectionCalls,
    QueryCalls,
    ExtensionCalls,
    ScheduleCalls,
    DeliveryCalls,
    UpkeepCalls,
    ArtifactCalls,
):
    """Calls the services; needs the registry's address only, the others it asks for.

    Methods raise `VistaError` only. Calls that reach no service are repeated within the timeout,
    with one request id, so that nothing is done twice.
    """

    # Kits

    async def run(
        self,
        kit: KitSource,
        *,
        settings: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        actor: str = "",
    ) -> Kit:
        """Validates a kit and starts it; returns at once.

        Args:
            kit: The path of a kit.yaml, its text (with a line break), its content as a mapping, or
                a message. A deck beside the file, or of a relative path in a text or mapping, is
                sent with it.
            settings: Values that replace those of a kit file, each as YAML, by path, such as
                `design.size`.
            labels: Labels beside those of the kit.
            actor: The caller's name, for the log.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        request = message_of(
            pipeline_pb2.RunKitRequest, settings=settings or {}, labels=labels or {}, actor=actor
        )
        fill_kit(request, kit, instead=request.settings.get("deck", ""))
        response = await self._call("pipeline", "RunKit", request, timeout=3 * self._timeout)
        return kit_of(response.kit)

    async def validate(
        self,
        kit: KitSource,
        *,
        settings: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> pipeline_pb2.ValidateKitResponse:
        """Every mistake of a kit, without starting it.

        Args:
            kit: As `run` takes it.
            settings: As `run` takes them.
            labels: As `run` takes them.

        Returns:
            `mistakes` and `warnings`, each with its place in the kit.
        """
        request = message_of(
            pipeline_pb2.ValidateKitRequest, settings=settings or {}, labels=labels or {}
        )
        fill_kit(request, kit, instead=request.settings.get("deck", ""))
        response: pipeline_pb2.ValidateKitResponse = await self._call(
            "pipeline", "ValidateKit", request, timeout=3 * self._timeout
        )
        return response

    async def create_kit(
        self,
        name: str,
        jobs: Sequence[registry_pb2.NewJob | str] = (),
        *,
        project: str = "",
        labels: Mapping[str, str] | None = None,
        actor: str = "",
        request_id: str = "",
    ) -> Kit:
        """Creates a kit.

        Args:
            name: For people.
            jobs: What it consists of; a text is the type of an external job, such as "DOE".
            project: "default" if empty.
            labels: To filter by.
            actor: The caller's name, for the log.
            request_id: A UUID that makes the call safe to repeat from elsewhere.
        """
        new_jobs = [
            registry_pb2.NewJob(job_type=job_type_value(job)) if isinstance(job, str) else job
            for job in listed(jobs, "jobs")
        ]
        request = message_of(
            registry_pb2.CreateKitRequest,
            request_id=request_id,
            name=name,
            project=project,
            labels=labels or {},
            jobs=new_jobs,
            actor=actor,
        )
        return kit_of((await self._call("registry", "CreateKit", request)).kit)

    async def kit(
        self, kit_id: int, *, min_revision: int = 0, as_of: int | datetime | None = None
    ) -> Kit:
        """A kit with its jobs and their tasks.

        Args:
            kit_id: The kit.
            min_revision: Answer no older than this revision.
            as_of: The kit as it was at this revision or time, instead of as it is.

        Raises:
            OutOfRangeError: If that is no longer kept, or not there yet.
        """
        request = message_of(registry_pb2.GetKitRequest, kit_id=kit_id, min_revision=min_revision)
        if isinstance(as_of, datetime):
            set_time(request.as_of_time, as_of, "as_of")
        elif as_of is not None:
            request.MergeFrom(message_of(registry_pb2.GetKitRequest, as_of_revision=as_of))
        kit = kit_of((await self._whole("GetKit", request)).kit)
        if as_of is None:
            return kit
        return seen_at(kit, as_of if isinstance(as_of, datetime) else kit.updated_at)

    async def diff_kit(self, kit_id: int, from_revision: int = 0, to_revision: int = 0) -> KitDiff:
        """What changed in a kit between two revisions.

        Args:
            kit_id: The kit.
            from_revision: The earlier; 0: before it was created.
            to_revision: The later; 0: now.
        """
        request = message_of(
            registry_pb2.DiffKitRequest,
            kit_id=kit_id,
            from_revision=from_revision,
            to_revision=to_revision,
        )
        return diff_of(await self._whole("DiffKit", request))

    async def pause_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants no more jobs of a kit to workers; what runs goes on to its end.

        Args:
            kit_id: The kit.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        request = message_of(
            registry_pb2.PauseKitRequest, kit_id=kit_id, reason=reason, actor=actor
        )
        return await self._changed(await self._call("registry", "PauseKit", request))

    async def resume_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants jobs of a paused kit again.

        Args:
            kit_id: The kit.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        request = message_of(
            registry_pb2.ResumeKitRequest, kit_id=kit_id, reason=reason, actor=actor
        )
        return await self._changed(await self._call("registry", "ResumeKit", request))

    def _listing(
        self, method: str, request: Any, field: str, convert: Callable[[Any], T], limit: int
    ) -> AsyncListing[T]:
        """The results of a listing call of the registry, fetched page by page."""
        pages = self._pages("registry", method, request, field, limit)
        return AsyncListing(convert(message) async for message in pages)

    async def _whole(self, method: str, request: Any) -> Any:
        """The answer of a call with all its pages: a large kit does not fit one message."""
        return await paging.whole(lambda page: self._call("registry", method, page), request)

    async def _changed(self, answer: Any) -> Kit:
        """The kit in the answer to a change, read again if its jobs did not fit the answer."""
        if answer.kit.omitted_job_count:
            return await self.kit(answer.kit.kit_id, min_revision=answer.revision)
        return kit_of(answer.kit)

    def kits(
        self,
        *,
        project: str = "",
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        name_contains: str = "",
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        min_revision: int = 0,
        limit: int = 0,
    ) -> AsyncListing[Kit]:
        """Kits without their jobs, newest first; every page is fetched as it is needed.

        Args:
            project: Only kits of it.
            statuses: Only kits in them, such as "RUNNING".
            labels: Only kits that have them all.
            name_contains: Only kits whose name has this in it, whatever the case.
            created_after: Only kits created then or later.
            created_before: Only kits created before.
            min_revision: Answer no older than this revision.
            limit: Most kits; 0: all.
        """
        request = message_of(
            registry_pb2.ListKitsRequest,
            project=project,
            name_contains=name_contains,
            min_revision=min_revision,
            statuses=status_values(statuses),
            labels=labels or {},
            page_size=page_size(limit, 200),
        )
        set_time(request.created_after, created_after, "created_after")
        set_time(request.created_before, created_before, "created_before")
        return self._listing("ListKits", request, "kits", kit_of, limit)

    async def cancel_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Cancels every job of a kit that is not terminal.

        Args:
            kit_id: The kit.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        request = message_of(
            registry_pb2.CancelKitRequest, kit_id=kit_id, reason=reason, actor=actor
        )
        return await self._changed(await self._call("registry", "CancelKit", request))

    async def retry_kit(
        self, kit_id: int, *, deck: str | Path = "", reason: str = "", actor: str = ""
    ) -> Kit:
        """Retries the failed or canceled jobs of a kit; finished jobs and points are reused.

        Args:
            kit_id: The kit.
            deck: A folder or an archive with a corrected deck, or a deck's name or id: jobs that
                depend on it run again, except for points that the change does not affect.
            reason: The reason, for the log.
            actor: The caller's name, for the log.

        Returns:
            The kit; with a deck, if the kit has not collected its own, the new kit in its place.

        Raises:
            InvalidArgumentError: `violations` has every mistake of the kit with that deck.
        """
        if deck:
            return await self._retry_in(deck, kit_id, reason, actor)
        request = message_of(
            registry_pb2.RetryKitRequest, kit_id=kit_id, reason=reason, actor=actor
        )
        return await self._changed(await self._call("registry", "RetryKit", request))

    async def _retry_in(self, deck: str | Path, kit_id: int, reason: str, actor: str) -> Kit:
        request = message_of(
            pipeline_pb2.RetryKitRequest, kit_id=kit_id, reason=reason, actor=actor
        )
        _fill_deck(request.deck, deck)
        return await self._changed(
            await self._call("pipeline", "RetryKit", request, timeout=3 * self._timeout)
        )

    async def wait(self, kit_id: int, *, timeout: float | None = None) -> Kit:
        """Waits until nothing of a kit moves any more.

        Args:
            kit_id: The kit.
            timeout: The longest to wait, in seconds; None: without a limit.

        Raises:
            KitFailedError: If it ended FAILED or CANCELED.
            DeadlineExceededError: If it did not end in time; it goes on.
        """
        if timeout is not None and not is_number(timeout):
            raise invalid("timeout", f"is {timeout!r}; give seconds, or None")
        try:
            async with asyncio.timeout(timeout):
                # The first page of a large kit has its status.
                request = message_of(registry_pb2.GetKitRequest, kit_id=kit_id)
                answer = await self._call("registry", "GetKit", request)
                kit = kit_of(answer.kit)
                watch = self.watch(kit_ids=[kit_id], after_revision=kit.revision)
                moved = False
                if not kit.is_terminal:
                    async for event in watch:
                        moved = moved or isinstance(event, Delta)
                        if moved:
                            request = message_of(
                                registry_pb2.GetKitRequest,
                                kit_id=kit_id,
                                min_revision=event.revision,
                                page_size=1 if answer.next_page_token else 0,
                            )
                            # It may be down again just now; every later event asks again.
                            with contextlib.suppress(UnavailableError, DeadlineExceededError):
                                answer = await self._call("registry", "GetKit", request)
                                kit = kit_of(answer.kit)
                                moved = False
                        if kit.is_terminal:
                            break
                if answer.next_page_token:
                    kit = await self.kit(kit_id, min_revision=answer.revision)
        except TimeoutError:
            raise DeadlineExceededError(f"kit {kit_id} is not done after {timeout} s") from None
        if kit.status != "FINISHED":
            why = "; ".join(
                f"{job.name}: {job.reason}" for job in kit.jobs if job.status == kit.status
            )
            raise KitFailedError(f"kit {kit_id} is {kit.status}: {why}")
        return kit

    # Jobs and states

    async def job(self, job_id: str, *, min_revision: int = 0) -> Job:
        """A job with its tasks, no older than a revision.

        Args:
            job_id: The job.
            min_revision: Answer no older than this revision.
        """
        request = message_of(registry_pb2.GetJobRequest, job_id=job_id, min_revision=min_revision)
        return job_of((await self._whole("GetJob", request)).job)

    def jobs(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        min_revision: int = 0,
        limit: int = 0,
    ) -> AsyncListing[Job]:
        """Jobs without their tasks, newest first; every page is fetched as it is needed.

        Args:
            kit_ids: Only jobs of these kits.
            job_types: Only these types, such as "DOE".
            statuses: Only jobs in these, such as "QUEUED".
            labels: Only jobs that have them all.
            min_revision: Answer no older than this revision.
            limit: Most jobs; 0: all.
        """
        request = message_of(
            registry_pb2.ListJobsRequest,
            kit_ids=listed(kit_ids, "kit_ids"),
            job_types=job_type_values(job_types),
            statuses=status_values(statuses),
            labels=labels or {},
            min_revision=min_revision,
            page_size=page_size(limit, 200),
        )
        return self._listing("ListJobs", request, "jobs", job_of, limit)

    async def create_job(
        self,
        job_type: str,
        spec: Message | None = None,
        *,
        kit_id: int = 0,
        name: str = "",
        depends_on: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        project: str = "",
        actor: str = "",
        request_id: str = "",
    ) -> Job:
        """Adds a job to a kit, or to a new kit of its own.

        Args:
            job_type: Such as "DOE".
            spec: What to do; none: an external job, whose states its owner appends.
            kit_id: The kit; 0: a new one.
            name: Unique in the kit; the type in lower case if empty.
            depends_on: Names of jobs of the kit that must be FINISHED first.
            labels: Of the job, to filter by.
            project: Of the new kit; must be empty if `kit_id` is given.
            actor: The caller's name, for the log.
            request_id: A UUID that makes the call safe to repeat from elsewhere.
        """
        job = message_of(
            registry_pb2.NewJob,
            name=name,
            job_type=job_type_value(job_type),
            depends_on=listed(depends_on, "depends_on"),
            labels=labels or {},
        )
        if spec is not None:
            if not isinstance(spec, Message):
                raise invalid("spec", f"{type(spec).__name__} is not a protobuf message")
            packed = any_pb2.Any()
            packed.Pack(spec)
            job.spec.CopyFrom(packed)
        request = message_of(
            registry_pb2.CreateJobRequest,
            request_id=request_id,
            kit_id=kit_id,
            job=job,
            project=project,
            actor=actor,
        )
        return job_of((await self._call("registry", "CreateJob", request)).job)

    async def cancel_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Cancels a job; its dependents stay INIT.

        Args:
            job_id: The job.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        request = message_of(
            registry_pb2.CancelJobRequest, job_id=job_id, reason=reason, actor=actor
        )
        return job_of((await self._call("registry", "CancelJob", request)).job)

    async def retry_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Queues a failed or canceled job again.

        Args:
            job_id: The job.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        request = message_of(
            registry_pb2.RetryJobRequest, job_id=job_id, reason=reason, actor=actor
        )
        return job_of((await self._call("registry", "RetryJob", request)).job)

    async def cancel_jobs(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        project: str = "",
        kit_labels: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        created_before: datetime | None = None,
        dry_run: bool = False,
        reason: str = "",
        actor: str = "",
    ) -> ManyJobs:
        """Cancels every job that a filter selects and that is not terminal.

        Args:
            kit_ids: Only jobs of these kits.
            job_types: Only these types, such as "DOE".
            statuses: Only jobs in these, such as "QUEUED".
            project: Only jobs of kits of it.
            kit_labels: Only jobs of kits that have them all.
            labels: Only jobs that have them all.
            created_before: Only jobs created before.
            dry_run: Whether to count only.
            reason: The reason, for the log.
            actor: The caller's name, for the log.

        Raises:
            InvalidArgumentError: If the filter is empty.
        """
        jobs = job_filter(
            kit_ids=kit_ids,
            job_types=job_types,
            statuses=statuses,
            project=project,
            kit_labels=kit_labels,
            labels=labels,
            created_before=created_before,
        )
        request = message_of(
            registry_pb2.CancelJobsRequest, filter=jobs, dry_run=dry_run, reason=reason, actor=actor
        )
        return many_of(await self._call("registry", "CancelJobs", request))

    async def retry_jobs(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        project: str = "",
        kit_labels: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        created_before: datetime | None = None,
        dry_run: bool = False,
        reason: str = "",
        actor: str = "",
    ) -> ManyJobs:
        """Queues every FAILED or CANCELED job again that a filter selects.

        Args:
            kit_ids: Only jobs of these kits.
            job_types: Only these types, such as "DOE".
            statuses: Only jobs in these, such as "FAILED".
            project: Only jobs of kits of it.
            kit_labels: Only jobs of kits that have them all.
            labels: Only jobs that have them all.
            created_before: Only jobs created before.
            dry_run: Whether to count only.
            reason: The reason, for the log.
            actor: The caller's name, for the log.

        Raises:
            InvalidArgumentError: The filter is empty.
        """
        jobs = job_filter(
            kit_ids=kit_ids,
            job_types=job_types,
            statuses=statuses,
            project=project,
            kit_labels=kit_labels,
            labels=labels,
            created_before=created_before,
        )
        request = message_of(
            registry_pb2.RetryJobsRequest, filter=jobs, dry_run=dry_run, reason=reason, actor=actor
        )
        return many_of(await self._call("registry", "RetryJobs", request))

    async def append(
        self,
        job_id: str,
        status: str,
        *,
        task_name: str = "",
        metadata: Mapping[str, Any] | None = None,
        reason: str = "",
        actor: str = "",
    ) -> int:
        """Reports one state of an external job.

        Args:
            job_id: The job.
            status: The status entered, such as "RUNNING".
            task_name: The task; empty: the job itself.
            metadata: A mapping that JSON can hold, kept with the row.
            reason: The reason, for the log.
            actor: The caller's name, for the log.

        Returns:
            The revision of the row.

        Raises:
            FailedPreconditionError: If the status machine does not allow it.
            InvalidArgumentError: If it is malformed, for example with a whole number beyond 2**53
                in the metadata: pass such a number as text.
        """
        state = message_of(
            common_pb2.State,
            job_id=job_id,
            status=status_value(status),
            task_name=task_name,
            reason=reason,
            actor=actor,
        )
        if metadata:
            state.metadata.CopyFrom(struct_of(metadata, "metadata"))
        response = await self.append_states([state], numbers_checked=True)
        (result,) = appended_of(response.results, response.revision).results
        if not result.is_recorded:
            raise FailedPreconditionError(result.detail, reason=f"VERDICT_{result.verdict}")
        return result.revision

    async def append_states(
        self,
        states: Sequence[common_pb2.State],
        *,
        request_id: str = "",
        numbers_checked: bool = False,
    ) -> registry_pb2.AppendStatesResponse:
        """Appends state rows.

        Args:
            states: 1 to 1,000 rows.
            request_id: A UUID that makes it safe to repeat the call; one of its own if empty.
            numbers_checked: Whether the caller has checked that no number in their metadata was
                rounded in the Struct. If not, whole numbers from 2**53 on, which may have been
                rounded, are refused.

        Returns:
            The verdict of each row. Check it: a row with the verdict REJECTED or STALE_ATTEMPT is
            not recorded, and no exception is raised.
        """
        request = message_of(
            registry_pb2.AppendStatesRequest,
            request_id=request_id,
            states=listed(states, "states"),
            numbers_checked=numbers_checked,
        )
        response: registry_pb2.AppendStatesResponse = await self._call(
            "registry", "AppendStates", request
        )
        return response

    def stream(self, *, patience: float = 60.0, numbers_checked: bool = False) -> StateStream:
        """For appending many rows: a context whose `send` takes rows while others are on their way.

        Leaving the block raises `RowsRefusedError` if the registry refused some of them.

        Args:
            patience: The longest time without an acknowledgement, in seconds, through which a lost
                connection is opened again.
            numbers_checked: As in `append_states`.
        """
        if not is_number(patience):
            raise invalid("patience", f"is {patience!r}; give seconds")
        if not isinstance(numbers_checked, bool):
            raise invalid("numbers_checked", f"is {numbers_checked!r}; give True or False")
        return StateStream(self._registry, patience=patience, numbers_checked=numbers_checked)

    def states(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_ids: Iterable[str] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        project: str = "",
        recorded_after: datetime | None = None,
        recorded_before: datetime | None = None,
        after_revision: int = 0,
        min_revision: int = 0,
        limit: int = 0,
    ) -> AsyncListing[State]:
        """Rows of the log in revision order; every page is fetched as it is needed.

        Args:
            kit_ids: Only these kits.
            job_ids: Only these jobs.
            job_types: Only these types, such as "DOE".
            statuses: Only rows that enter these, such as "FAILED".
            labels: Only kits that have them all.
            project: Only kits of it.
            recorded_after: Only rows recorded then or later.
            recorded_before: Only rows recorded before.
            after_revision: Only rows after this one.
            min_revision: Answer no older than this revision.
            limit: Most rows; 0: all.
        """
        request = message_of(
            registry_pb2.ListStatesRequest,
            after_revision=after_revision,
            min_revision=min_revision,
            filter=watch_filter(
                kit_ids=kit_ids,
                job_ids=job_ids,
                job_types=job_types,
                statuses=statuses,
                labels=labels,
                project=project,
                recorded_after=recorded_after,
                recorded_before=recorded_before,
            ),
            page_size=page_size(limit, 1000),
        )
        return self._listing("ListStates", request, "states", state_of, limit)

    def watch(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_ids: Iterable[str] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        project: str = "",
        recorded_after: datetime | None = None,
        recorded_before: datetime | None = None,
        after_revision: int = 0,
        include_snapshot: bool = False,
        mode: str = "every",
        include_left: bool = False,
        snapshot_if_expired: bool = False,
    ) -> Watch:
        """Rows as they are recorded, without end; resumes after lost connections without a gap.

        Args:
            kit_ids: Only these kits.
            job_ids: Only these jobs.
            job_types: Only these types, such as "DOE".
            statuses: Only rows that enter these, such as "FAILED".
            labels: Only kits that have them all.
            project: Only kits of it.
            recorded_after: Only rows recorded then or later.
            recorded_before: Only rows recorded before.
            after_revision: Rows after this one; 0: from the beginning.
            include_snapshot: Begin with the current state instead of the history.
            mode: "every" row, however late, or of those that wait the "latest" of each task, with
                the number of the others in `Delta.folded_count`.
            include_left: Deliver in `Delta.left` the rows by which a job or task left `statuses`.
            snapshot_if_expired: Begin with the current state when `after_revision` is no longer
                kept, or the log was restored from a backup, instead of raising.
        """
        place = place_of(
            mode=mode,
            include_left=include_left,
            snapshot_if_expired=snapshot_if_expired,
            after_revision=after_revision,
            include_snapshot=include_snapshot,
            kit_ids=kit_ids,
            job_ids=job_ids,
            job_types=job_types,
            statuses=statuses,
            labels=labels,
            project=project,
            recorded_after=recorded_after,
            recorded_before=recorded_before,
        )
        return Watch(self._registry, place)

    def watch_many(self, **watches: Mapping[str, Any]) -> ManyWatches:
        """Several watches on one stream; each event comes with the name of its watch.

            watches = client.watch_many(failures={"statuses": ["FAILED"]})
            async for name, event in watches:

        Args:
            watches: What `watch` takes, by names of the caller's. More are opened, and these
                closed, with the `open` and `close` of what is returned.
        """
        many = ManyWatches(self._registry)
        for name, options in watches.items():
            if not isinstance(options, Mapping):
                raise invalid(name, f"{options!r} is not a mapping of the arguments of `watch`")
            many.open(name, **options)
        return many

    # Tokens, for administrators

    async def create_token(
        self,
        name: str,
        role: str,
        *,
        project: str = "",
        scopes: Sequence[str] = (),
        days: float = 0,
        request_id: str = "",
    ) -> tuple[registry_pb2.Token, str]:
        """Creates a token; a repeat with the same `request_id` replaces its text, not its id.

        Args:
            name: What it is for, for people.
            role: "VIEWER", "EDITOR", "ADMIN", "WORKER" or "READER".
            project: The project it is for; viewers and editors have one.
            scopes: What a reader reads: `dataset:PROJECT.NAME:read` for the version that the alias
                `final` names, `dataset:PROJECT.NAME@ALIAS:read` for that of another alias.
            days: How long it is valid; 0 for good.
            request_id: Identifies the request, to repeat it after a lost answer; random if empty.

        Returns:
            The token, and its text, which no later call returns.
        """
        request = message_of(
            registry_pb2.CreateTokenRequest,
            name=name,
            project=project,
            role=role_value(role),
            scopes=listed(scopes, "scopes"),
            request_id=request_id,
        )
        if days:
            if not is_number(days) or not 0 < days <= MAX_DAYS:
                raise invalid("days", f"is {days!r}; at most {MAX_DAYS:,}, or 0")
            request.lifetime.FromNanoseconds(round(days * 86400e9))
        response = await self._call("registry", "CreateToken", request)
        return response.token, response.secret

    async def tokens(self) -> list[registry_pb2.Token]:
        """The tokens without their texts, newest first."""
        request = registry_pb2.ListTokensRequest()
        return [token async for token in self._pages("registry", "ListTokens", request, "tokens")]

    async def revoke_token(self, token_id: str) -> registry_pb2.Token:
        """Makes a token invalid, for good.

        Args:
            token_id: The id of the token.
        """
        request = message_of(registry_pb2.RevokeTokenRequest, token_id=token_id)
        response: registry_pb2.RevokeTokenResponse = await self._call(
            "registry", "RevokeToken", request
        )
        return response.token

    # The audit trail

    async def requests(
        self,
        *,
        actor: str = "",
        method: str = "",
        kit_id: int = 0,
        answered_after: datetime | None = None,
        answered_before: datetime | None = None,
        limit: int = 50,
    ) -> list[registry_pb2.RequestRecord]:
        """Requests with their answers, newest first: who asked for what. For administrators.

        Args:
            actor: Only requests of this actor.
            method: Only calls of this method, such as `CancelKit`; all but `AppendStates` if empty.
            kit_id: Only requests that made or changed this kit.
            answered_after: Only requests answered from then on.
            answered_before: Only requests answered before then.
            limit: Most requests to return; 0 for all.
        """
        request = message_of(
            registry_pb2.ListRequestsRequest,
            actor=actor,
            method=method,
            kit_id=kit_id,
            page_size=page_size(limit, 200),
        )
        set_time(request.answered_after, answered_after, "answered_after")
        set_time(request.answered_before, answered_before, "answered_before")
        pages = self._pages("registry", "ListRequests", request, "requests", int(limit))
        return [record async for record in pages]


def _fill_deck(source: ingestion_pb2.DeckSource, deck: str | Path) -> None:
    if not isinstance(deck, str | Path):
        raise invalid("deck", f"{deck!r} is not a path, a name or an id")
    if isinstance(deck, Path) or os.sep in deck or Path(deck).exists():
        source.archive = pack_deck(Path(deck))
    else:
        source.name = deck
