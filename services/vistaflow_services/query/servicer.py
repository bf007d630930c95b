"""The gRPC service of queries."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import Message

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow.api.query.v1 import query_pb2_grpc as rpc
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core import config as configuration
from vistaflow_services.core import files
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    ExistsError,
    NotFoundError,
    Violations,
    cut,
)
from vistaflow_services.core.message_limits import fitting
from vistaflow_services.core.names import (
    DATASET_FORM,
    MAX_KIT_NAME,
    is_dataset_name,
    is_job_id,
    label_problems,
    text_problems,
)
from vistaflow_services.core.registry_client import exact, result_of
from vistaflow_services.core.results import readable
from vistaflow_services.core.rpc.interceptor import Context
from vistaflow_services.core.rpc.pages import size as page_size
from vistaflow_services.core.stage import Stage
from vistaflow_services.core.work.query_results import SCRATCH, keep_removing
from vistaflow_services.query.config import Config
from vistaflow_services.query.engines.confinement import note_confinement
from vistaflow_services.query.engines.duckdb_engine import DuckDbEngine
from vistaflow_services.query.engines.forking import ForkingServer
from vistaflow_services.query.messages import (
    CALLER,
    MOST,
    REQUEST,
    RESERVED,
    TEXT,
    column_messages,
    error_message,
    query_message,
    recorded,
    source_message,
)
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.results import pages
from vistaflow_services.query.results.storage import Storage
from vistaflow_services.query.submission import (
    MAX_RECORDED_TEXT,
    SECRET_BYTES,
    Submission,
    engine_for,
    is_parsed,
    origins_of,
    prepare,
    secret_path,
    source_records,
    spec_of,
    text_key,
)
from vistaflow_services.query.tables.catalog import Tables
from vistaflow_services.stores.roots import Roots

MAX_PAGE: Final = 1_000
MAX_LABELS: Final = 60
MAX_WAIT_SECONDS: Final = 60.0
PAGE_ROWS, PAGE_BYTES = 1_000, 2 << 20
"""Most rows and bytes of the first page that SubmitQuery answers with."""

QUERY: Final = "query"
"""The name of a query's job in its kit."""

EARLIER: Final = 20
"""Earlier results of the same text that are looked at for one with the same versions."""

_WAITING: Final = ("QUEUED", "RUNNING")
_ENDED: Final = (common_pb2.STATUS_FINISHED, common_pb2.STATUS_FAILED, common_pb2.STATUS_CANCELED)
_COPIED: Final = ("user_query", "dialect", "parameters", "offset", "engine", "tables")

Value = TypeVar("Value")

Encoder = Callable[[pages.Rows], Iterator[pages.Chunk]]

ENCODERS: Final[dict[int, Encoder]] = {
    pb.RESULT_FORMAT_UNSPECIFIED: pages.arrow,
    pb.RESULT_FORMAT_ARROW: pages.arrow,
    pb.RESULT_FORMAT_CSV: pages.csv,
    pb.RESULT_FORMAT_JSON_OBJECTS: pages.json,
    pb.RESULT_FORMAT_JSON_ARRAYS: functools.partial(pages.json, arrays=True),
    pb.RESULT_FORMAT_PARQUET: pages.parquet,
}


class QueryServicer(rpc.QueryServiceServicer):
    """Translates between the protos, the engines and the registry."""

    def __init__(self, stage: Stage) -> None:
        assert isinstance(stage.config, Config)
        self._config = stage.config
        self._registry = stage.registry
        self._artifacts = stage.artifacts
        self._storage = Storage(
            artifacts=stage.artifacts,
            scratch=stage.home / SCRATCH,
            cache_bytes=stage.config.cache_mib << 20,
        )
        self._roots = Roots.parse(configuration.data_roots())
        self._tables = self._tables_of("")
        forks = ForkingServer()
        stage.closing.callback(forks.close)
        self._duckdb = DuckDbEngine(forks)
        self._ends = stage.ends
        self._secret = bytes.fromhex(files.secret(secret_path(stage.home), SECRET_BYTES))
        note_confinement(stage.home)
        removing = asyncio.get_running_loop().create_task(
            keep_removing(stage.artifacts, stage.config.result_days, stage.config.result_mib << 20)
        )
        stage.closing.callback(removing.cancel)

    def _tables_of(self, project: str) -> Tables:
        """The tables of one project, or those that each caller may read if it is empty."""
        return Tables(
            self._registry,
            self._artifacts,
            self._roots,
            only=project,
            cache_bytes=self._config.cache_mib << 20,
        )

    async def SubmitQuery(
        self, request: pb.SubmitQueryRequest, context: Context
    ) -> pb.SubmitQueryResponse:
        """Starts a query. See the proto for the contract."""
        wait = request.wait.seconds + request.wait.nanos / 1e9
        _check_submit(request, wait)
        if job := await self._repeated(request):
            return await self._answer(job, request, wait)
        if request.rerun_of:
            await self._copy_former(request)
        project = callers.current().project
        engine = engine_for(request.engine, self._config, self._duckdb)
        may_reuse = request.reuse != pb.REUSE_POLICY_NEVER and not request.register_as
        # Nothing of this waits for the other.
        async with _beside(self._waiting(project)) as waiting:
            async with _beside(self._alike(request, project) if may_reuse else _none()) as alike:
                submission = await prepare(request, project, self._tables, engine)
                key = submission.key(request, project) if may_reuse else ""
                if key and (earlier := await self._earlier(request, await alike, key)):
                    return await self._answer(earlier, request, wait, reused=True)
            job = await self._create(request, submission, project, await waiting)
        return await self._answer(job, request, wait)

    async def completed(self, request: Message, project: str) -> Message:
        """The spec of a query of a data kit, which reads tables of the kit's project alone."""
        assert isinstance(request, pb.SubmitQueryRequest)
        engine = engine_for(request.engine, self._config, self._duckdb)
        tables = self._tables_of(project)
        submission = await prepare(request, project, tables, engine)
        return spec_of(request, submission, project, self._secret)

    async def ValidateQuery(
        self, request: pb.ValidateQueryRequest, context: Context
    ) -> pb.ValidateQueryResponse:
        """Checks a query. See the proto for the contract."""
        submitted = pb.SubmitQueryRequest(
            user_query=request.user_query,
            dialect=request.dialect,
            parameters=request.parameters,
            engine=request.engine,
        )
        engine = engine_for(request.engine, self._config, self._duckdb)
        project = callers.current().project
        try:
            if request.expected_tables and await is_parsed(
                submitted, project, self._tables, request.expected_tables
            ):
                return pb.ValidateQueryResponse()
            submission = await prepare(submitted, project, self._tables, engine)
        except QueryError as error:
            return pb.ValidateQueryResponse(errors=[error_message(error)])
        return pb.ValidateQueryResponse(
            converted_query=submission.converted_query,
            columns=column_messages(submission.columns),
            sources=map(source_message, submission.tables),
            offset=submission.offset,
            limit=submission.limit,
        )

    async def GetQuery(self, request: pb.GetQueryRequest, context: Context) -> pb.GetQueryResponse:
        """Gets a query. See the proto for the contract."""
        return pb.GetQueryResponse(query=await self._message(await self._job(request.query_id)))

    async def ListQueries(
        self, request: pb.ListQueriesRequest, context: Context
    ) -> pb.ListQueriesResponse:
        """Lists queries. See the proto for the contract."""
        violations = Violations()
        size = page_size(request, 100, MAX_PAGE, violations)
        for problem in text_problems(request.text_contains, MAX_KIT_NAME):
            violations.add("text_contains", problem)
        violations.check()
        while True:
            jobs, token = await self._page(request, size)
            messages = await asyncio.to_thread(
                fitting, jobs, lambda job: query_message(job, self._artifacts)
            )
            if len(messages) == len(jobs):
                return pb.ListQueriesResponse(queries=messages, next_page_token=token)
            # Where the next page starts is the registry's to say.
            size = len(messages)

    async def CancelQuery(
        self, request: pb.CancelQueryRequest, context: Context
    ) -> pb.CancelQueryResponse:
        """Cancels a query. See the proto for the contract."""
        await self._job(request.query_id)
        cancel = registry_pb2.CancelJobRequest(
            request_id=request.request_id, job_id=request.query_id, reason=request.reason
        )
        await self._registry.call(self._registry.stub.CancelJob, cancel)
        return pb.CancelQueryResponse(query=await self._message(await self._job(request.query_id)))

    async def FetchResult(
        self, request: pb.FetchResultRequest, context: Context
    ) -> AsyncIterator[pb.FetchResultResponse]:
        """Streams rows of a result. See the proto for the contract."""
        _check_fetch(request)
        job = await self._job(request.query_id)
        parts, result = await asyncio.to_thread(self._result, job)
        encode = ENCODERS[request.format]
        if request.format == pb.RESULT_FORMAT_CSV:
            header = request.header if request.HasField("header") else not request.offset
            encode = functools.partial(pages.csv, header=header)
        chunks = encode(pages.Rows(parts=parts, offset=request.offset, limit=request.limit))
        first = pb.FetchResultResponse(row_count=result["rows"], limited=result["limited"])
        offset = request.offset
        while chunk := await asyncio.to_thread(next, chunks, None):
            first.data, rows = chunk
            offset += rows
            first.next_offset = offset if rows else 0
            yield first
            first = pb.FetchResultResponse()
        if first.row_count or not result["rows"]:
            yield first

    async def _job(self, query_id: str) -> common_pb2.Job:
        if not is_job_id(query_id):
            raise NotFoundError(f"query_id: no query {cut(query_id, 60)!r}; give its id, a UUID")
        job = await self._registry.job_without_tasks(query_id)
        if recorded(job) is None:
            raise NotFoundError(f"query_id: job {query_id} is no query")
        return job

    async def _message(self, job: common_pb2.Job) -> pb.Query:
        """The query of a job, with its columns and its place in the queue."""
        message = await asyncio.to_thread(query_message, job, self._artifacts, with_columns=True)
        if job.status == common_pb2.STATUS_QUEUED:
            waiting = await self._all(("QUEUED",))
            message.queue_place = 1 + sum(other.revision < job.revision for other in waiting)
        return message

    async def _all(self, statuses: tuple[str, ...]) -> list[common_pb2.Job]:
        """The queries in some statuses, of every caller: only their number leaves the service."""
        with callers.serving(callers.EVERYBODY):
            page = await self._registry.list_jobs(
                job_types=["QUERY"], statuses=statuses, page_size=MAX_PAGE
            )
        return [job for job in page.jobs if recorded(job)]

    async def _page(
        self, request: pb.ListQueriesRequest, size: int
    ) -> tuple[list[common_pb2.Job], str]:
        """Some jobs of the history, and where the next page starts."""
        is_search = bool(
            request.text_contains
            or request.HasField("created_after")
            or request.HasField("created_before")
        )
        labels = dict(request.labels)
        if not is_search:
            listing = registry_pb2.ListJobsRequest(
                job_types=[common_pb2.JOB_TYPE_QUERY],
                statuses=request.statuses,
                labels=labels,
                page_size=size,
                page_token=request.page_token,
            )
            page = await self._registry.call(self._registry.stub.ListJobs, listing)
            return [job for job in page.jobs if recorded(job)], page.next_page_token
        # Kits have the indexes for texts and times. A query's kit is named by its text.
        search = registry_pb2.ListKitsRequest(
            name_contains=_line(request.text_contains),
            statuses=request.statuses,
            labels=labels,
            page_size=size,
            page_token=request.page_token,
        )
        for field in ("created_after", "created_before"):
            if request.HasField(field):
                getattr(search, field).CopyFrom(getattr(request, field))
        kits = await self._registry.call(self._registry.stub.ListKits, search)
        ids = [kit.kit_id for kit in kits.kits if "user_query" in kit.spec.fields]
        jobs: list[common_pb2.Job] = []
        if ids:
            page = await self._registry.list_jobs(
                job_types=["QUERY"], kit_ids=ids, page_size=MAX_PAGE
            )
            jobs = [job for job in page.jobs if recorded(job)]
        return jobs, kits.next_page_token

    async def _repeated(self, request: pb.SubmitQueryRequest) -> common_pb2.Job | None:
        """The query that an earlier call with this `request_id` made."""
        if not request.request_id:
            return None
        page = await self._registry.list_jobs(
            job_types=["QUERY"], labels={REQUEST: request.request_id}, page_size=1
        )
        spec = recorded(page.jobs[0]) if page.jobs else None
        if spec is None:
            return None
        if request.user_query not in ("", spec.request.user_query):
            raise ExistsError("request_id: it is that of another query; make a new UUID")
        return page.jobs[0]

    async def _copy_former(self, request: pb.SubmitQueryRequest) -> None:
        """Completes a request by the query that it repeats."""
        spec = recorded(await self._job(request.rerun_of)) or pb.QuerySpec()
        for field in _COPIED:
            request.ClearField(field)
        request.MergeFrom(
            pb.SubmitQueryRequest(
                **{field: getattr(spec.request, field) for field in _COPIED},
                limit=spec.request.limit if spec.request.HasField("limit") else None,
                reuse=pb.REUSE_POLICY_NEVER,
            )
        )

    async def _alike(self, request: pb.SubmitQueryRequest, project: str) -> list[common_pb2.Job]:
        """Finished queries of the same text, parameters and engine, the newest first."""
        page = await self._registry.list_jobs(
            job_types=["QUERY"],
            statuses=["FINISHED"],
            labels={TEXT: text_key(request, project)},
            page_size=EARLIER,
        )
        return list(page.jobs)

    async def _earlier(
        self, request: pb.SubmitQueryRequest, jobs: list[common_pb2.Job], key: str
    ) -> common_pb2.Job | None:
        """The first of some queries that has the same versions and a result."""
        for job in jobs:
            spec = recorded(job)
            if spec is not None and spec.key == key and _age(job) <= _max_age(request):
                message = await asyncio.to_thread(query_message, job, self._artifacts)
                if not message.result_removed:
                    return job
        return None

    async def _waiting(self, project: str) -> int:
        """How many queries of the caller wait or run."""
        caller = _caller(project)
        return sum(job.labels.get(CALLER) == caller for job in await self._all(_WAITING))

    async def _create(
        self, request: pb.SubmitQueryRequest, submission: Submission, project: str, waiting: int
    ) -> common_pb2.Job:
        """Records a query and queues it; the job as the registry answers, without its spec."""
        if waiting >= self._config.max_waiting:
            raise ExhaustedError(
                f"{waiting} queries of yours wait or run; cancel some, or submit this one "
                "again when they have ended",
                reason="TOO_MANY_QUERIES",
                retry_after=5.0,
            )
        packed = any_pb2.Any()
        packed.Pack(spec_of(request, submission, project, self._secret))
        labels = {**request.labels, CALLER: _caller(project), TEXT: text_key(request, project)}
        if request.request_id:
            labels[REQUEST] = request.request_id
        if self._config.max_running:
            labels[MOST] = str(self._config.max_running)
        job = registry_pb2.NewJob(
            name=QUERY,
            job_type=common_pb2.JOB_TYPE_QUERY,
            spec=packed,
            labels=labels,
            max_attempts=3,
        )
        job.timeout.FromSeconds(self._config.max_seconds + 60)
        create = registry_pb2.CreateKitRequest(
            request_id=request.request_id,
            name=_line(request.user_query)[:MAX_KIT_NAME],
            project=project,
            labels=labels,
            jobs=[job, *_registration(request)],
            numbers_checked=True,
        )
        create.spec.update(await asyncio.to_thread(_kit_spec, request, submission))
        created = await self._registry.create_kit(create)
        return created.kit.jobs[0]

    async def _answer(
        self,
        job: common_pb2.Job,
        request: pb.SubmitQueryRequest,
        wait: float,
        *,
        reused: bool = False,
    ) -> pb.SubmitQueryResponse:
        """The answer about a query, at its end if it comes in time."""
        job = await self._at_its_end(job, wait)
        answer = pb.SubmitQueryResponse(query=await self._message(job), reused=reused)
        if reused:
            answer.age.FromMilliseconds(round(_age(job) * 1000))
        if wait and job.status == common_pb2.STATUS_FINISHED and not answer.query.result_removed:
            page = await asyncio.to_thread(self._first_page, job, request.format)
            answer.page, answer.page_row_count = page
        return answer

    async def _at_its_end(self, job: common_pb2.Job, wait: float) -> common_pb2.Job:
        """A query as it is when it has ended, or after `wait` seconds.

        The end is heard of where this service's own worker publishes it, and looked for as well:
        others have workers, too.
        """
        pause, loop = 0.05, asyncio.get_running_loop()
        give_up = loop.time() + wait
        with self._ends.event_of(job.job_id) as published:
            while job.status not in _ENDED and (left := give_up - loop.time()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause, left)):
                        await published.wait()
                published.clear()
                pause = min(0.25, pause * 1.2)
                job = await self._registry.job_without_tasks(job.job_id)
        # The answer to its creation, which nobody waited for, has no spec.
        return job if recorded(job) else await self._registry.job_without_tasks(job.job_id)

    def _first_page(self, job: common_pb2.Job, form: int) -> tuple[bytes, int]:
        """The first rows of a result in a format, and how many they are."""
        parts, result = self._result(job)
        rows = min(PAGE_ROWS, result["rows"])
        return pages.first_page(ENCODERS[form], parts, rows, PAGE_BYTES)

    def _result(self, job: common_pb2.Job) -> tuple[list[pages.PagePart], dict[str, Any]]:
        """The files of a result, and what its job published.

        Raises:
            ConflictError: The query has no result, or has none any more.
        """
        if job.status != common_pb2.STATUS_FINISHED:
            word = common_pb2.Status.Name(job.status).removeprefix("STATUS_")
            raise ConflictError(
                f"query_id: query {job.job_id} is {word}; it has a result once it is FINISHED"
            )
        result = result_of(job).result
        try:
            with readable(job.job_id, "query_id"):
                parts = self._storage.parts(job.job_id, result)
                return parts, {"rows": int(result["rows"]), "limited": bool(result["limited"])}
        except (NotFoundError, FileNotFoundError):
            raise ConflictError(
                f"query_id: the result of query {job.job_id} was removed; submit the query again "
                "with rerun_of",
                reason="RESULT_REMOVED",
            ) from None


def _caller(project: str) -> str:
    """Whose the query of a call is, for what one caller may have."""
    return callers.current().token_id or project or "everyone"


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[Any, Any, Value]) -> AsyncIterator[asyncio.Task[Value]]:
    """Does `work` while the block runs; what the block does not wait for is ended."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # looked at: the block has an error of its own


async def _none() -> list[common_pb2.Job]:
    return []


def _check_submit(request: pb.SubmitQueryRequest, wait: float) -> None:
    violations = Violations()
    if not 0 <= wait <= MAX_WAIT_SECONDS:
        violations.add("wait", f"is {wait:g} s; it is from 0 to {MAX_WAIT_SECONDS:g} s")
    if request.rerun_of and request.user_query:
        violations.add("rerun_of", "is given with a user_query; give one of them")
    if request.format not in ENCODERS:
        violations.add("format", f"{request.format} is no value of the enum")
    if request.register_as and not is_dataset_name(request.register_as):
        violations.add("register_as", f"is no name of a dataset; {DATASET_FORM}")
    if len(request.labels) > MAX_LABELS:
        violations.add("labels", f"has {len(request.labels)} pairs; at most {MAX_LABELS} may be")
    if request.request_id and not is_job_id(request.request_id.lower()):
        violations.add("request_id", f"{cut(request.request_id, 60)!r} is no UUID")
    for key, problem in label_problems(request.labels):
        violations.add(f"labels[{key!r}]" if key else "labels", problem)
    for key in request.labels:
        if key.startswith(RESERVED):
            violations.add(f"labels[{key!r}]", f"begins with `{RESERVED}`, which is reserved")
    violations.check()


def _registration(request: pb.SubmitQueryRequest) -> list[registry_pb2.NewJob]:
    """The job that makes a version of a dataset of the result, if one is asked for."""
    if not request.register_as:
        return []
    spec = ingestion_pb2.ImportSpec(dataset=request.register_as)
    spec.tables.add().source.query.job_id = QUERY
    packed = any_pb2.Any()
    packed.Pack(spec)
    job = registry_pb2.NewJob(
        name="register",
        job_type=common_pb2.JOB_TYPE_IMPORT,
        spec=packed,
        depends_on=[QUERY],
        max_attempts=3,
    )
    return [job]


def _check_fetch(request: pb.FetchResultRequest) -> None:
    violations = Violations()
    if request.format not in ENCODERS:
        violations.add("format", f"{request.format} is no value of the enum")
    for field in ("offset", "limit"):
        if getattr(request, field) < 0:
            violations.add(field, f"is {getattr(request, field)}; it is at least 0")
    violations.check()


def _line(text: str) -> str:
    """A text as one line: white space and control characters as single spaces."""
    return " ".join(
        "".join(character if character.isprintable() else " " for character in text).split()
    )


def _kit_spec(request: pb.SubmitQueryRequest, submission: Submission) -> dict[str, Any]:
    """What the view `query_job` shows of a query."""
    spec: dict[str, Any] = exact(
        {
            "user_query": request.user_query,
            "converted_query": cut(submission.converted_query, MAX_RECORDED_TEXT),
            "offset": submission.offset,
            "limit": submission.limit,
            "sources": source_records(submission.tables),
        }
    )
    if request.register_as:
        spec["register_as"] = request.register_as
    if configuration.openlineage_url():
        spec["lineage"] = origins_of(submission)
    return spec


def _age(job: common_pb2.Job) -> float:
    """Seconds since a query finished."""
    now = common_pb2.Job()
    now.finished_at.GetCurrentTime()
    return max(0.0, (now.finished_at.ToNanoseconds() - job.finished_at.ToNanoseconds()) / 1e9)


def _max_age(request: pb.SubmitQueryRequest) -> float:
    if not request.HasField("max_age"):
        return float("inf")
    return float(request.max_age.seconds + request.max_age.nanos / 1e9)
