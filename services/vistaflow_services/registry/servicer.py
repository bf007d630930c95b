"""The gRPC service of the registry."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, Protocol, Self, TypeVar

from google.protobuf.message import Message

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow.api.registry.v1 import registry_pb2_grpc as rpc
from vistaflow_services.core import off_loop
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import NotFoundError, UnavailableError, Violations
from vistaflow_services.core.message_limits import ENTRY_BYTES, Part
from vistaflow_services.core.rpc import pages
from vistaflow_services.core.server.shell import Context
from vistaflow_services.registry import bulk
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.access.service import TokenService
from vistaflow_services.registry.access.tenancy import Tenancy
from vistaflow_services.registry.access.trail import Trail
from vistaflow_services.registry.domain import Counts, Job, Kit, StateRow
from vistaflow_services.registry.lease.service import LeaseService
from vistaflow_services.registry.lineage.trace import Lineage
from vistaflow_services.registry.log.hub import Hub
from vistaflow_services.registry.log.ledger import DEFAULT_WAIT, Ledger
from vistaflow_services.registry.log.unfinished import UnfinishedChanges
from vistaflow_services.registry.messages import filters, requests, translate
from vistaflow_services.registry.messages.raw import Rows
from vistaflow_services.registry.reads import differences, listing
from vistaflow_services.registry.reads.past import Comparison
from vistaflow_services.registry.reads.store import Store
from vistaflow_services.registry.services import ServiceDirectory
from vistaflow_services.registry.streams import StreamService
from vistaflow_services.registry.upkeep.dump import Dumps
from vistaflow_services.registry.watch.many import WatchMany
from vistaflow_services.registry.watch.service import WatchService

MAX_PAGE = 1000
MAX_STATES_PAGE = 5000
CHANGES_AT_ONCE = 500

INLINE_BYTES = 128 * 1024
"""Requests up to this size are read in the event loop, larger ones beside it."""

INLINE_JOBS = 200
"""Answers with no more jobs are made in the event loop."""

INLINE_ROWS = 20
"""Lists with no more entries are made in the event loop; an entry may be 64 KiB of numbers."""

GO_ON_SECONDS = 300.0
"""How long to wait for the end of a continued change before trying again."""

# A caller gets an error that says why, this long before its own deadline.
_MARGIN_SECONDS = 0.2


class Replayable(Protocol):
    """An answer that may be the stored one of an earlier call."""

    replayed: bool

    @classmethod
    def FromString(cls, s: bytes) -> Self:
        """From its wire form."""


Response = TypeVar("Response", bound=Replayable)
Read = TypeVar("Read")
M = TypeVar("M", bound=Message)
Change = TypeVar("Change", pb.CancelJobsResponse, pb.RetryJobsResponse)


class RegistryServicer(rpc.RegistryServiceServicer):
    """Translates between the proto and the domain; decides nothing itself."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: Store,
        hub: Hub,
        watches: WatchService,
        streams: StreamService,
        leases: LeaseService,
        directory: ServiceDirectory,
        tokens: TokenService,
        trail: Trail,
        dumps: Dumps,
    ) -> None:
        self._ledger = ledger
        self._bulk = bulk.BulkService(ledger=ledger, store=store)
        self.unfinished = UnfinishedChanges(store, self._go_on)
        """Continues changes that a crash interrupted."""
        self._store = store
        self._hub = hub
        self._watches = watches
        self._streams = streams
        self._leases = leases
        self._directory = directory
        self._trail = trail
        self._dumps = dumps
        self._lineage = Lineage(store)
        self.tokens = tokens
        """Knows the bearers of tokens, for the door."""
        self.tenancy = Tenancy(store)
        """Keeps callers within their projects, for the door."""

    async def CreateKit(
        self, request: pb.CreateKitRequest, context: Context
    ) -> pb.CreateKitResponse:
        """Creates a kit with its jobs."""
        command = await _read(request, requests.create_kit, _kit_created_in_short)
        answer = await self._submit(command, context, pb.CreateKitResponse, _kit_created)
        return _with_specs(answer, request) if answer.replayed else answer

    async def CreateJob(
        self, request: pb.CreateJobRequest, context: Context
    ) -> pb.CreateJobResponse:
        """Adds a job to a kit, or to a new one."""
        command = await _read(request, requests.create_job, _job_created_in_short)
        answer = await self._submit(command, context, pb.CreateJobResponse, _job_created)
        if answer.replayed and request.job.HasField("spec"):
            answer.job.spec.CopyFrom(request.job.spec)
        return answer

    async def AppendStates(
        self, request: pb.AppendStatesRequest | Rows[pb.AppendStatesRequest], context: Context
    ) -> pb.AppendStatesResponse:
        """Appends rows, each with a verdict."""
        command = await _read(request, requests.append, _appended)
        return await self._submit(command, context, pb.AppendStatesResponse, _appended)

    async def CancelKit(
        self, request: pb.CancelKitRequest, context: Context
    ) -> pb.CancelKitResponse:
        """Cancels every job of a kit that is not over."""
        command = requests.of_kit(c.CancelKit, request, _encoded(_kit_canceled))
        return await self._submit(command, context, pb.CancelKitResponse, _kit_canceled)

    async def RetryKit(self, request: pb.RetryKitRequest, context: Context) -> pb.RetryKitResponse:
        """Queues the failed and canceled jobs of a kit again."""
        command = requests.retry_kit(request, _encoded(_kit_retried))
        return await self._submit(command, context, pb.RetryKitResponse, _kit_retried)

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: Context
    ) -> pb.CancelJobResponse:
        """Cancels one job."""
        command = requests.of_job(c.CancelJob, request, _encoded(_job_canceled))
        return await self._submit(command, context, pb.CancelJobResponse, _job_canceled)

    async def RetryJob(self, request: pb.RetryJobRequest, context: Context) -> pb.RetryJobResponse:
        """Queues one failed or canceled job again."""
        command = requests.of_job(c.RetryJob, request, _encoded(_job_retried))
        return await self._submit(command, context, pb.RetryJobResponse, _job_retried)

    async def PauseKit(self, request: pb.PauseKitRequest, context: Context) -> pb.PauseKitResponse:
        """Grants no more jobs of a kit."""
        command = requests.of_kit(c.PauseKit, request, _encoded(_kit_paused))
        return await self._submit(command, context, pb.PauseKitResponse, _kit_paused)

    async def ResumeKit(
        self, request: pb.ResumeKitRequest, context: Context
    ) -> pb.ResumeKitResponse:
        """Grants jobs of a paused kit again."""
        command = requests.of_kit(c.ResumeKit, request, _encoded(_kit_resumed))
        return await self._submit(command, context, pb.ResumeKitResponse, _kit_resumed)

    async def CancelJobs(
        self, request: pb.CancelJobsRequest, context: Context
    ) -> pb.CancelJobsResponse:
        """Cancels every job that matches a filter."""
        many = requests.change_jobs(request, _encoded(_jobs_canceled))
        return await self._change(many, context, pb.CancelJobsResponse, _jobs_canceled)

    async def RetryJobs(
        self, request: pb.RetryJobsRequest, context: Context
    ) -> pb.RetryJobsResponse:
        """Queues every job again that matches a filter."""
        many = requests.change_jobs(request, _encoded(_jobs_retried))
        return await self._change(many, context, pb.RetryJobsResponse, _jobs_retried)

    async def GetKit(self, request: pb.GetKitRequest, context: Context) -> pb.GetKitResponse:
        """Gets a kit with its jobs and tasks, or a page of them."""
        violations = Violations()
        requests.kit_id(request.kit_id, violations)
        revision, time = filters.as_of(request, violations)
        size, began_at, after = filters.tree_page(request, violations)
        await self._reach(request.min_revision, context, violations)
        page, revision = await self._store.tree_page(
            request.kit_id,
            revision=revision,
            time=time,
            began_at=began_at,
            after=after,
            size=size,
        )
        if page is None:
            was = f" at revision {revision}" if request.as_of_revision or time else ""
            raise NotFoundError(f"there is no kit {request.kit_id}{was}")
        page.answer.revision = revision
        page.answer.next_page_token = filters.tree_token(request, revision, page.next_place)
        return page.answer

    async def DiffKit(self, request: pb.DiffKitRequest, context: Context) -> pb.DiffKitResponse:
        """The differences of a kit between two revisions, or a page of them."""
        violations = Violations()
        requests.kit_id(request.kit_id, violations)
        first, last = filters.between(request, violations)
        size = pages.size(request, 0, filters.MAX_TREE_PAGE, violations)
        end, last_sent = pages.decode_keys(request, 2, violations) or (last, 0)
        await self._reach(request.min_revision, context, violations)
        compared, end = await self._store.comparison(request.kit_id, first, end)
        if compared is None:
            raise NotFoundError(f"kit {request.kit_id} was not there yet at revision {end}")
        answer = differences.diff_to_proto(compared.before, compared.after, first, end)
        start = compared.place_after(last_sent)
        count = len(compared) - start
        await self._put_changes(compared, start, min(size or count, count), answer)
        if len(answer.changes) < count:
            (final,) = compared.some(start + len(answer.changes) - 1, 1)
            answer.next_page_token = pages.encode_keys((end, final.revision), request)
        return answer

    async def _put_changes(
        self, compared: Comparison, start: int, most: int, answer: pb.DiffKitResponse
    ) -> None:
        """Adds differences from a place on, as many as are asked for and fit."""
        changes = answer.changes
        room = differences.room_for_changes()
        while len(changes) < most and room > 0:
            some = compared.some(start + len(changes), min(CHANGES_AT_ONCE, most - len(changes)))
            ids = [
                revision
                for difference in some
                for revision in (difference.before, difference.after)
                if revision
            ]
            rows = await self._store.rows(ids, listing.PAGE_BYTES)
            fit = await off_loop.reading.do(differences.changes_to_proto, some, rows, room)
            size = sum(change.ByteSize() + ENTRY_BYTES for change in fit)
            if changes and size > room:
                break
            changes.extend(fit)
            room -= size

    async def GetJob(self, request: pb.GetJobRequest, context: Context) -> pb.GetJobResponse:
        """Gets a job with its tasks, or a page of them."""
        violations = Violations()
        job_id = translate.uuid_from_proto(request.job_id, "job_id", violations)
        size, began_at, after = filters.tree_page(request, violations)
        await self._reach(request.min_revision, context, violations)
        kit_id = await self._store.kit_of(job_id)
        if kit_id is None:
            raise NotFoundError(f"there is no job {job_id}")
        page, revision = await self._store.tree_page(
            kit_id, job_id=job_id, began_at=began_at, after=after, size=size
        )
        if page is None or not page.kit.jobs:
            raise NotFoundError(f"there is no job {job_id}")
        token = filters.tree_token(request, revision, page.next_place)
        # It is copied, which takes as long as to make it if it has very many tasks.
        return await off_loop.reading.do(
            pb.GetJobResponse, job=page.kit.jobs[0], revision=revision, next_page_token=token
        )

    async def ListKits(self, request: pb.ListKitsRequest, context: Context) -> pb.ListKitsResponse:
        """Lists kits, newest first."""
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        before = pages.decode(request, violations)
        kit_filter = filters.kits(request, violations)
        await self._reach(request.min_revision, context, violations)
        page = await self._store.list_kits(kit_filter, before=before, limit=limit)
        kits, next_key = await _filled(page, translate.kit_to_proto, lambda kit: kit.kit_id)
        return pb.ListKitsResponse(
            kits=kits, next_page_token=_token(next_key, request), revision=page.revision
        )

    async def ListJobs(self, request: pb.ListJobsRequest, context: Context) -> pb.ListJobsResponse:
        """Lists jobs, newest first."""
        violations = Violations()
        limit = pages.size(request, 100, MAX_PAGE, violations)
        before = pages.decode(request, violations)
        job_filter = filters.jobs(request, callers.current().project, violations)
        await self._reach(request.min_revision, context, violations)
        page = await self._store.list_jobs(job_filter, before=before, limit=limit)
        jobs, next_key = await _filled(
            page,
            lambda entry: translate.job_to_proto(entry[0], task_counts=entry[1]),
            lambda entry: entry[0].first_revision,
        )
        return pb.ListJobsResponse(
            jobs=jobs, next_page_token=_token(next_key, request), revision=page.revision
        )

    async def ListStates(
        self, request: pb.ListStatesRequest, context: Context
    ) -> pb.ListStatesResponse:
        """Lists rows of the log in order."""
        violations = Violations()
        limit = pages.size(request, 1000, MAX_STATES_PAGE, violations)
        token = pages.decode(request, violations)
        state_filter = filters.states(request.filter, violations)
        if request.after_revision < 0:
            violations.add("after_revision", f"is {request.after_revision}; revisions count from 1")
        await self._reach(request.min_revision, context, violations)
        after = request.after_revision if token is None else token
        page = await self._store.list_states(state_filter, after=after, limit=limit)
        rows, next_key = await _filled(page, translate.state_to_proto, lambda row: row.revision)
        return pb.ListStatesResponse(
            states=rows, next_page_token=_token(next_key, request), revision=page.revision
        )

    # The answers of the watches are in wire form. grpc.aio takes a coroutine that writes them, too.
    # The generated types know neither.

    async def WatchStates(  # type: ignore[override]
        self, request: pb.WatchStatesRequest, context: Context
    ) -> None:
        """Streams rows, in wire form."""
        callers.came_from(context.peer())
        await self._watches.watch(request, context.write)

    async def WatchMany(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.WatchManyRequest], context: Context
    ) -> AsyncIterator[bytes]:
        """Streams rows of several watches, in wire form."""
        callers.came_from(context.peer())
        messages = WatchMany(self._watches).messages(request_iterator)
        async with contextlib.aclosing(messages) as parts:
            async for part in parts:
                yield part

    async def StreamStates(
        self, request_iterator: AsyncIterator[pb.StreamStatesRequest], context: Context
    ) -> AsyncIterator[pb.StreamStatesResponse]:
        """Appends rows over one stream."""
        async with contextlib.aclosing(self._streams.session(request_iterator)) as messages:
            async for message in messages:
                yield message

    async def LeaseJobs(
        self, request_iterator: AsyncIterator[pb.LeaseJobsRequest], context: Context
    ) -> AsyncIterator[pb.LeaseJobsResponse]:
        """Hands jobs to one worker."""
        async for message in self._leases.session(request_iterator):
            yield message

    async def AnnounceService(
        self, request: pb.AnnounceServiceRequest, context: Context
    ) -> pb.AnnounceServiceResponse:
        """Records where a service listens."""
        return self._directory.announce(request)

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """Returns what this registry is: version, log, settings, services, findings."""
        info = await self._directory.info()
        shown = await self.tokens.shown()
        if shown is not None:
            info.caller.CopyFrom(shown)
        return info

    async def CreateToken(
        self, request: pb.CreateTokenRequest, context: Context
    ) -> pb.CreateTokenResponse:
        """Makes a token."""
        return await self.tokens.create(request)

    async def ListTokens(
        self, request: pb.ListTokensRequest, context: Context
    ) -> pb.ListTokensResponse:
        """Lists tokens, newest first."""
        return await self.tokens.list(request)

    async def RevokeToken(
        self, request: pb.RevokeTokenRequest, context: Context
    ) -> pb.RevokeTokenResponse:
        """Makes a token invalid."""
        return await self.tokens.revoke(request)

    async def GetLineage(
        self, request: pb.GetLineageRequest, context: Context
    ) -> pb.GetLineageResponse:
        """Tells where something comes from, or what was made of it."""
        await self._reach(request.min_revision, context, Violations())
        revision = self._hub.head
        response = await self._lineage.trace(request)
        response.revision = revision
        return response

    async def ListRequests(
        self, request: pb.ListRequestsRequest, context: Context
    ) -> pb.ListRequestsResponse:
        """Lists requests with their answers, newest first."""
        return await self._trail.list(request)

    async def DumpLog(  # type: ignore[override]  # it writes itself, to notice stalls
        self, request: pb.DumpLogRequest, context: Context
    ) -> None:
        """Streams a backup of the tables."""
        await self._dumps.write(context)

    async def _go_on(self, change: c.Change | c.ManyJobs) -> None:
        """Makes the rest of a change; its caller may repeat the request for the answer."""
        method = change.request.method
        request = replace(change.request, encode=_encoded(_CHANGES[method]))
        if isinstance(change, c.Change):
            await self._ledger.submit(c.GoOn(request=request), seconds=GO_ON_SECONDS)
            return
        response_type = pb.RetryJobsResponse if change.retry else pb.CancelJobsResponse
        await self._bulk.change(
            replace(change, request=request),
            seconds=GO_ON_SECONDS,
            decode=lambda response: bulk.moved_jobs_of(response_type.FromString(response)),
        )

    async def close(self) -> None:
        """Ends the background tasks of the servicer."""
        await self._bulk.stop()

    async def _submit(
        self,
        command: c.Command,
        context: Context,
        response_type: type[Response],
        respond: Callable[[Any], Response],
    ) -> Response:
        answer = await self._ledger.submit(command, seconds=_seconds(context))
        if isinstance(answer, c.Replayed):
            if len(answer.response) > INLINE_BYTES:
                return await off_loop.reading.do(_replayed, response_type, answer)
            return _replayed(response_type, answer)
        if isinstance(answer, c.KitChange) and _is_large(answer.kit):
            return await off_loop.reading.do(respond, answer)
        return respond(answer)

    async def _change(
        self,
        many: c.ManyJobs,
        context: Context,
        response_type: type[Change],
        respond: Callable[[Any], Change],
    ) -> Change:
        if many.dry_run:
            return respond(await self._bulk.count(many))
        answer = await self._bulk.change(
            many,
            seconds=_seconds(context),
            decode=lambda response: bulk.moved_jobs_of(response_type.FromString(response)),
        )
        return (
            _replayed(response_type, answer) if isinstance(answer, c.Replayed) else respond(answer)
        )

    async def _reach(self, revision: int, context: Context, violations: Violations) -> None:
        """Waits until the answer can be as new as the caller asks."""
        requests.min_revision(revision, violations)
        violations.check()
        if revision <= self._hub.head:
            return
        try:
            async with asyncio.timeout(_seconds(context)):
                await self._hub.reached(revision)
        except TimeoutError:
            raise UnavailableError(
                f"revision {revision} is not reached; the log is at {self._hub.head}",
                reason="REVISION_NOT_REACHED",
            ) from None


async def _read(
    request: M | Rows[Any],
    read: Callable[[Any, Callable[[Any], bytes]], Read],
    respond: Callable[[Any], Message],
) -> Read:
    """A request as a command; a large request is read beside the event loop."""
    encode = _encoded(respond)
    if isinstance(request, Rows) or request.ByteSize() > INLINE_BYTES:
        return await off_loop.reading.do(read, request, encode)
    return read(request, encode)


def _weight(entry: Kit | StateRow | tuple[Job, Counts]) -> int:
    """Bytes of JSON in an entry of a list."""
    if isinstance(entry, Kit):
        return len(entry.spec_json)
    return len(entry.metadata_json if isinstance(entry, StateRow) else entry[0].result_json)


async def _filled(
    page: listing.Page, make: Callable[[Any], Part], key_of: Callable[[Any], int]
) -> tuple[list[Part], int | None]:
    """The messages of a page of a list; those of a long one are made beside the event loop."""
    if len(page.entries) > INLINE_ROWS or sum(map(_weight, page.entries)) > INLINE_BYTES // 4:
        return await off_loop.reading.do(page.filled, make, key_of)
    return page.filled(make, key_of)


def _replayed(response_type: type[Response], answer: c.Replayed) -> Response:
    response = response_type.FromString(answer.response)
    translate.settle(response, answer.created_at)
    response.replayed = True
    return response


def _is_large(kit: Kit) -> bool:
    """Whether it takes long to make a message of a kit."""
    return len(kit.jobs) > INLINE_JOBS or len(kit.spec_json) > INLINE_BYTES // 4


def _seconds(context: Context) -> float:
    """How long the call may wait for the database."""
    remaining = context.time_remaining()
    if remaining is None:
        return DEFAULT_WAIT
    return max(0.05, min(remaining - min(_MARGIN_SECONDS, remaining / 4), 300.0))


def _token(key: int | None, request: pages.PagedRequest) -> str:
    return "" if key is None else pages.encode(key, request)


def _encoded(respond: Callable[[Any], Message]) -> Callable[[Any], bytes]:
    return lambda answer: respond(answer).SerializeToString()


def _kit_created(answer: c.KitChange) -> pb.CreateKitResponse:
    return pb.CreateKitResponse(kit=translate.kit_to_proto(answer.kit), revision=answer.revision)


def _job_created(answer: c.JobChange) -> pb.CreateJobResponse:
    return pb.CreateJobResponse(job=translate.job_to_proto(answer.job), revision=answer.revision)


def _kit_created_in_short(answer: c.KitChange) -> pb.CreateKitResponse:
    """The answer as it is stored: without what a repeat of the request holds itself."""
    kit = translate.kit_to_proto(answer.kit, asked=False)
    return pb.CreateKitResponse(kit=kit, revision=answer.revision)


def _job_created_in_short(answer: c.JobChange) -> pb.CreateJobResponse:
    return pb.CreateJobResponse(job=translate.job_in_short(answer.job), revision=answer.revision)


def _with_specs(answer: pb.CreateKitResponse, request: pb.CreateKitRequest) -> pb.CreateKitResponse:
    """A stored answer, with the specs and dependencies of the request."""
    if request.HasField("spec"):
        answer.kit.spec.CopyFrom(request.spec)
    asked_jobs = {requests.job_name(job): job for job in request.jobs}
    for job in answer.kit.jobs:
        job.depends_on.extend(asked_jobs[job.name].depends_on)
        if asked_jobs[job.name].HasField("spec"):
            job.spec.CopyFrom(asked_jobs[job.name].spec)
    return answer


def _kit_canceled(answer: c.KitChange) -> pb.CancelKitResponse:
    return pb.CancelKitResponse(
        kit=translate.kit_in_short(answer.kit),
        canceled_count=answer.count,
        revision=answer.revision,
    )


def _kit_retried(answer: c.KitChange) -> pb.RetryKitResponse:
    return pb.RetryKitResponse(
        kit=translate.kit_in_short(answer.kit),
        retried_count=answer.count,
        revision=answer.revision,
    )


def _kit_paused(answer: c.KitChange) -> pb.PauseKitResponse:
    return pb.PauseKitResponse(kit=translate.kit_in_short(answer.kit), revision=answer.revision)


def _kit_resumed(answer: c.KitChange) -> pb.ResumeKitResponse:
    return pb.ResumeKitResponse(kit=translate.kit_in_short(answer.kit), revision=answer.revision)


def _jobs_canceled(answer: bulk.MovedJobs | c.JobsChange) -> pb.CancelJobsResponse:
    moved = bulk.moved_jobs(answer)
    return pb.CancelJobsResponse(
        canceled_count=moved.count, jobs=moved.jobs, revision=moved.revision
    )


def _jobs_retried(answer: bulk.MovedJobs | c.JobsChange) -> pb.RetryJobsResponse:
    moved = bulk.moved_jobs(answer)
    return pb.RetryJobsResponse(retried_count=moved.count, jobs=moved.jobs, revision=moved.revision)


def _job_canceled(answer: c.JobChange) -> pb.CancelJobResponse:
    return pb.CancelJobResponse(job=translate.job_in_short(answer.job), revision=answer.revision)


def _job_retried(answer: c.JobChange) -> pb.RetryJobResponse:
    return pb.RetryJobResponse(job=translate.job_in_short(answer.job), revision=answer.revision)


def _appended(answer: c.Appended) -> pb.AppendStatesResponse:
    return pb.AppendStatesResponse(
        results=map(translate.result_to_proto, answer.results), revision=answer.revision
    )


_CHANGES: dict[str, Callable[[Any], Message]] = {
    "CancelKit": _kit_canceled,
    "RetryKit": _kit_retried,
    "CancelJobs": _jobs_canceled,
    "RetryJobs": _jobs_retried,
}
"""The answers to changes that may be made in several commits, by method."""
