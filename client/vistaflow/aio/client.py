"""The asynchronous client. The blocking one runs this one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from google.protobuf import any_pb2
from google.protobuf.message import Message

from vistaflow import paging
from vistaflow.aio.calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio.stages import StageCalls
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.archive import deck_beside, pack_deck
from vistaflow.encoding import read_text
from vistaflow.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    KitFailedError,
    UnavailableError,
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
    job_filter,
    job_of,
    job_type_value,
    kit_of,
    many_of,
    role_value,
    seen_at,
    state_of,
    status_value,
)
from vistaflow.streaming import StateStream
from vistaflow.structs import struct_of
from vistaflow.watching import Watch, place_of, watch_filter
from vistaflow.watching_many import ManyWatches

MAX_DAYS = 3_660
"""Longest lifetime of a token with an end."""

MAX_FILE_CHARACTERS = 200
"""Longest end of a kit file's path that its mistakes are reported with."""


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


class AsyncClient(StageCalls):
    """Calls the services; needs the registry's address only, the others it asks for.

    Every method raises a `VistaError`. Calls that find nobody are tried again within the timeout,
    with one request id, so that nothing is done twice.
    """

    # Kits

    async def run(self, kit: str | Path | pipeline_pb2.KitSpec, *, actor: str = "") -> Kit:
        """Validates a kit and starts it; returns at once.

        Args:
            kit: The path of a kit.yaml, or a spec. A deck that lies beside the file is sent along.
            actor: Who asks, for the record.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        request = pipeline_pb2.RunKitRequest(actor=actor)
        _fill(request, kit)
        response = await self._call("pipeline", "RunKit", request, timeout=3 * self._timeout)
        return kit_of(response.kit)

    async def validate(
        self, kit: str | Path | pipeline_pb2.KitSpec
    ) -> pipeline_pb2.ValidateKitResponse:
        """Every mistake of a kit, without starting it."""
        request = pipeline_pb2.ValidateKitRequest()
        _fill(request, kit)
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
            actor: Who asks, for the record.
            request_id: A UUID that makes the call safe to repeat from elsewhere.
        """
        wanted = [
            registry_pb2.NewJob(job_type=job_type_value(each)) if isinstance(each, str) else each
            for each in jobs
        ]
        request = registry_pb2.CreateKitRequest(
            request_id=request_id,
            name=name,
            project=project,
            labels=labels or {},
            jobs=wanted,
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
        request = registry_pb2.GetKitRequest(kit_id=kit_id, min_revision=min_revision)
        if isinstance(as_of, datetime):
            request.as_of_time.FromDatetime(as_of.astimezone(UTC))
        elif as_of is not None:
            request.as_of_revision = as_of
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
        request = registry_pb2.DiffKitRequest(
            kit_id=kit_id, from_revision=from_revision, to_revision=to_revision
        )
        return diff_of(await self._whole("DiffKit", request))

    async def pause_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants no more jobs of a kit to workers; what runs goes on to its end."""
        request = registry_pb2.PauseKitRequest(kit_id=kit_id, reason=reason, actor=actor)
        return await self._changed(await self._call("registry", "PauseKit", request))

    async def resume_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants jobs of a paused kit again."""
        request = registry_pb2.ResumeKitRequest(kit_id=kit_id, reason=reason, actor=actor)
        return await self._changed(await self._call("registry", "ResumeKit", request))

    async def _whole(self, method: str, request: Any) -> Any:
        """The answer of a call with all its pages: a large kit does not fit one message."""
        return await paging.whole(lambda page: self._call("registry", method, page), request)

    async def _changed(self, answer: Any) -> Kit:
        """The kit in the answer to a change, read again if its jobs did not fit the answer."""
        if answer.kit.omitted_job_count:
            return await self.kit(answer.kit.kit_id, min_revision=answer.revision)
        return kit_of(answer.kit)

    async def kits(
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
    ) -> AsyncIterator[Kit]:
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
        request = registry_pb2.ListKitsRequest(
            project=project,
            name_contains=name_contains,
            min_revision=min_revision,
            statuses=map(status_value, statuses),
            labels=labels or {},
            page_size=min(limit or 200, 200),
        )
        if created_after is not None:
            request.created_after.FromDatetime(created_after.astimezone(UTC))
        if created_before is not None:
            request.created_before.FromDatetime(created_before.astimezone(UTC))
        async for each in self._pages("registry", "ListKits", request, "kits", limit):
            yield kit_of(each)

    async def cancel_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Cancels every job of a kit that is not terminal."""
        request = registry_pb2.CancelKitRequest(kit_id=kit_id, reason=reason, actor=actor)
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

        Raises:
            InvalidArgumentError: `violations` has every mistake of the kit with that deck.
        """
        if deck:
            return await self._retry_in(deck, kit_id, reason, actor)
        request = registry_pb2.RetryKitRequest(kit_id=kit_id, reason=reason, actor=actor)
        return await self._changed(await self._call("registry", "RetryKit", request))

    async def _retry_in(self, deck: str | Path, kit_id: int, reason: str, actor: str) -> Kit:
        request = pipeline_pb2.RetryKitRequest(kit_id=kit_id, reason=reason, actor=actor)
        _fill_deck(request.deck, deck)
        return await self._changed(
            await self._call("pipeline", "RetryKit", request, timeout=3 * self._timeout)
        )

    async def wait(self, kit_id: int, *, timeout: float | None = None) -> Kit:
        """Waits until nothing of a kit moves any more.

        Args:
            kit_id: The kit.
            timeout: The longest to wait, in seconds; for ever if none.

        Raises:
            KitFailedError: If it ended FAILED or CANCELED.
            DeadlineExceededError: If it did not end in time; it goes on.
        """
        try:
            async with asyncio.timeout(timeout):
                # The first page of a large kit has its status.
                request = registry_pb2.GetKitRequest(kit_id=kit_id)
                answer = await self._call("registry", "GetKit", request)
                kit = kit_of(answer.kit)
                watch = self.watch(kit_ids=[kit_id], after_revision=kit.revision)
                moved = False
                if not kit.is_terminal:
                    async for event in watch:
                        moved = moved or isinstance(event, Delta)
                        if moved:
                            request = registry_pb2.GetKitRequest(
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
                f"{each.name}: {each.reason}" for each in kit.jobs if each.status == kit.status
            )
            raise KitFailedError(f"kit {kit_id} is {kit.status}: {why}")
        return kit

    # Jobs and states

    async def job(self, job_id: str, *, min_revision: int = 0) -> Job:
        """A job with its tasks, no older than a revision."""
        request = registry_pb2.GetJobRequest(job_id=job_id, min_revision=min_revision)
        return job_of((await self._whole("GetJob", request)).job)

    async def jobs(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        min_revision: int = 0,
        limit: int = 0,
    ) -> AsyncIterator[Job]:
        """Jobs without their tasks, newest first; every page is fetched as it is needed.

        Args:
            kit_ids: Only jobs of these kits.
            job_types: Only these types, such as "DOE".
            statuses: Only jobs in these, such as "QUEUED".
            labels: Only jobs that have them all.
            min_revision: Answer no older than this revision.
            limit: Most jobs; 0: all.
        """
        request = registry_pb2.ListJobsRequest(
            kit_ids=kit_ids,
            job_types=map(job_type_value, job_types),
            statuses=map(status_value, statuses),
            labels=labels or {},
            min_revision=min_revision,
            page_size=min(limit or 200, 200),
        )
        async for each in self._pages("registry", "ListJobs", request, "jobs", limit):
            yield job_of(each)

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
            actor: Who asks, for the record.
            request_id: A UUID that makes the call safe to repeat from elsewhere.
        """
        job = registry_pb2.NewJob(
            name=name,
            job_type=job_type_value(job_type),
            depends_on=depends_on,
            labels=labels or {},
        )
        if spec is not None:
            packed = any_pb2.Any()
            packed.Pack(spec)
            job.spec.CopyFrom(packed)
        request = registry_pb2.CreateJobRequest(
            request_id=request_id, kit_id=kit_id, job=job, project=project, actor=actor
        )
        return job_of((await self._call("registry", "CreateJob", request)).job)

    async def cancel_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Cancels a job; its dependents stay INIT."""
        request = registry_pb2.CancelJobRequest(job_id=job_id, reason=reason, actor=actor)
        return job_of((await self._call("registry", "CancelJob", request)).job)

    async def retry_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Queues a failed or canceled job again."""
        request = registry_pb2.RetryJobRequest(job_id=job_id, reason=reason, actor=actor)
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
        """Cancels every job that a filter wants and that is not terminal.

        Args:
            kit_ids: Only jobs of these kits.
            job_types: Only these types, such as "DOE".
            statuses: Only jobs in these, such as "QUEUED".
            project: Only jobs of kits of it.
            kit_labels: Only jobs of kits that have them all.
            labels: Only jobs that have them all.
            created_before: Only jobs created before.
            dry_run: Whether to count only.
            reason: Why, for the record.
            actor: Who asks, for the record.

        Raises:
            InvalidArgumentError: If the filter is empty.
        """
        wanted = job_filter(
            kit_ids=kit_ids,
            job_types=job_types,
            statuses=statuses,
            project=project,
            kit_labels=kit_labels,
            labels=labels,
            created_before=created_before,
        )
        request = registry_pb2.CancelJobsRequest(
            filter=wanted, dry_run=dry_run, reason=reason, actor=actor
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
        """Queues every FAILED or CANCELED job again that a filter wants; see `cancel_jobs`."""
        wanted = job_filter(
            kit_ids=kit_ids,
            job_types=job_types,
            statuses=statuses,
            project=project,
            kit_labels=kit_labels,
            labels=labels,
            created_before=created_before,
        )
        request = registry_pb2.RetryJobsRequest(
            filter=wanted, dry_run=dry_run, reason=reason, actor=actor
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
        """Reports one state of an external job; returns its revision.

        Raises:
            FailedPreconditionError: If the status machine does not allow it.
            InvalidArgumentError: If it is malformed, for example with a whole number beyond 2**53
                in the metadata: pass such a number as text.
        """
        state = common_pb2.State(
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
        request = registry_pb2.AppendStatesRequest(
            request_id=request_id, states=states, numbers_checked=numbers_checked
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
        return StateStream(self._registry, patience=patience, numbers_checked=numbers_checked)

    async def states(
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
    ) -> AsyncIterator[State]:
        """Rows of the log in revision order; every page is fetched as it is needed."""
        request = registry_pb2.ListStatesRequest(
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
            page_size=min(limit or 1000, 1000),
        )
        async for each in self._pages("registry", "ListStates", request, "states", limit):
            yield state_of(each)

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
        """What happens, for ever: reconnects by itself, misses nothing, repeats nothing.

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
            include_left: Tell in `Delta.left` by which row a job or task left `statuses`.
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
        """Several watches on one stream, of which each event tells the name.

            watches = client.watch_many(failures={"statuses": ["FAILED"]})
            async for name, event in watches:

        Args:
            watches: What `watch` takes, by names of the caller's. More are opened, and these
                closed, with the `open` and `close` of what is returned.
        """
        many = ManyWatches(self._registry)
        for name, wanted in watches.items():
            many.open(name, **wanted)
        return many

    # Tokens, for administrators

    async def create_token(
        self, name: str, role: str, *, project: str = "", days: float = 0, request_id: str = ""
    ) -> tuple[registry_pb2.Token, str]:
        """Creates a token; a repeat with the same `request_id` replaces its text, not its id.

        Args:
            name: What it is for, for people.
            role: "VIEWER", "EDITOR", "ADMIN" or "WORKER".
            project: The project it is for; viewers and editors have one.
            days: How long it is valid; 0 for good.
            request_id: Identifies the request, to repeat it after a lost answer; random if empty.

        Returns:
            The token, and its text, which is told only now.
        """
        request = registry_pb2.CreateTokenRequest(
            name=name, project=project, role=role_value(role), request_id=request_id
        )
        if days:
            if not 0 < days <= MAX_DAYS:
                raise InvalidArgumentError(f"days: is {days:g}; at most {MAX_DAYS:,}, or 0")
            request.lifetime.FromNanoseconds(round(days * 86400e9))
        response = await self._call("registry", "CreateToken", request)
        return response.token, response.secret

    async def tokens(self) -> list[registry_pb2.Token]:
        """The tokens without their texts, newest first."""
        request = registry_pb2.ListTokensRequest()
        return [each async for each in self._pages("registry", "ListTokens", request, "tokens")]

    async def revoke_token(self, token_id: str) -> registry_pb2.Token:
        """Makes a token invalid, for good."""
        request = registry_pb2.RevokeTokenRequest(token_id=token_id)
        response: registry_pb2.RevokeTokenResponse = await self._call(
            "registry", "RevokeToken", request
        )
        return response.token


def _fill_deck(source: ingestion_pb2.DeckSource, deck: str | Path) -> None:
    if isinstance(deck, Path) or os.sep in deck or Path(deck).exists():
        source.archive = pack_deck(Path(deck))
    else:
        source.name = deck


def _fill(request: Any, kit: str | Path | pipeline_pb2.KitSpec) -> None:
    if isinstance(kit, pipeline_pb2.KitSpec):
        request.spec.CopyFrom(kit)
        return
    path = Path(kit)
    request.kit_yaml = read_text(path)
    if str(path).isprintable():  # else mistakes name "kit.yaml"
        request.kit_file = str(path)[-MAX_FILE_CHARACTERS:]
    if beside := deck_beside(request.kit_yaml):
        folder = path.parent / beside
        # Any other path may lie below a deck folder of the service.
        if folder.exists() or beside.startswith((".", "/")):
            request.deck_archive = pack_deck(folder)
