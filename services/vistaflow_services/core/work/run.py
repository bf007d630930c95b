"""Runs one attempt for the worker, from its grant to its last row.

Rows go to the registry in the order in which the job sent them, numbered by `seq`, in batches,
again and again until they are acknowledged. How an attempt ends, and what the registry gets:

    the job returned a result                        its FINISHED row, with the result
    the job failed, or ran longer than its timeout   its FAILED row, with the reason
    its template cannot be completed                 its FAILED row, with the reason
    its process crashed or ended early               a release that counts as an attempt
    the registry did not take the last row           a release that counts as an attempt
    the worker could not run it                      a release that counts as an attempt
    abandoned, to be given back                      a release that does not count
    abandoned                                        nothing
    no longer the current attempt                    nothing
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf import any_pb2

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow_services.core import log
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    ServiceError,
)
from vistaflow_services.core.names import job_ids_in
from vistaflow_services.core.registry_client import (
    RegistryClient,
    backoff,
    exact,
    job_type_word,
    struct_to_dict,
)
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.process import Execution, describe_exit
from vistaflow_services.core.work.templates import Complete, filled, template_of

logger = logging.getLogger(__name__)

MAX_PENDING_ROWS = 2_000
"""Rows that may wait for the registry; then the job waits as well."""

MAX_FAULTS = 10
"""Internal errors of the registry until a row is given up; that it is away does not count."""

MAX_BATCH_ROWS = 200
MAX_BATCH_BYTES = 1 << 20

_RECORDED = (registry_pb2.VERDICT_ACCEPTED, registry_pb2.VERDICT_DUPLICATE)

Value = TypeVar("Value")

Key = tuple[str, int]
"""Job id and attempt."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every attempt of one worker has in common."""

    worker: str
    registry: RegistryClient
    artifacts: ArtifactStore
    logs: Path
    cores: int
    memory_bytes: int
    prepare: Callable[[], Awaitable[Execution]]
    complete: Complete | None = None
    """Makes specs of the requests in templates."""

    published: Callable[[str], object] = lambda _: None
    """Called with the id of a job whose last row the registry has taken."""


class _StaleError(Exception):
    """The attempt is no longer the current one: the registry takes no more rows of it."""


class _IncompleteError(Exception):
    """The spec cannot be completed, and another attempt would not change that."""

    def __init__(self, error: ServiceError) -> None:
        super().__init__(error.message)
        mistakes = [vars(violation) for violation in error.violations[:50]]
        self.last = {
            "kind": "failed",
            "reason": error.reason or "INVALID",
            "message": error.message[:3000],
            "hint": "",
            "details": {"violations": mistakes} if mistakes else {},
        }


class Run:
    """One attempt, run and reported."""

    def __init__(self, grant: registry_pb2.Grant, around: Surroundings) -> None:
        self.job = grant.job
        self.key: Key = (grant.job.job_id, grant.job.attempt)
        self.progress: common_pb2.Progress | None = None
        self.progress_is_new = False
        self.publishing = False
        self._grant = grant
        self._around = around
        self._seq = 0
        self._rows: asyncio.Queue[common_pb2.State] = asyncio.Queue(MAX_PENDING_ROWS)
        self._task: asyncio.Task[registry_pb2.Release | None] | None = None
        self._abandoned = ""
        self._given_back = False
        self._refused_count = 0
        """Rows of tasks that the registry did not record."""
        self._refused = ""
        """The first of them, and why."""

    def abandon(self, why: str, *, give_back: bool = False) -> None:
        """Stops the attempt; it is not reported any more, or only given back."""
        if not self._abandoned:
            self._abandoned = why
            self._given_back = give_back
            if self._task is not None:
                self._task.cancel()

    async def run(self) -> registry_pb2.Release | None:
        """Runs the attempt. Returns how to release it, or None when nothing is left to report."""
        job_id, attempt = self.key
        with log.bound(kit_id=self.job.kit_id, job_id=job_id, attempt=attempt):
            if self._abandoned:
                return self._stopped()
            self._task = asyncio.create_task(self._run())
            try:
                return await self._task
            except asyncio.CancelledError:
                if not self._abandoned:
                    raise
                return self._stopped()
            except _StaleError:
                logger.info("stopped: the attempt is no longer the current one")
            except Exception:
                logger.exception("the attempt could not be run")
                return self._release("the worker could not run it; see the service's log")
            return None

    def _stopped(self) -> registry_pb2.Release | None:
        logger.info("stopped: %s", self._abandoned)
        return self._release(self._abandoned, counts=False) if self._given_back else None

    async def _run(self) -> registry_pb2.Release | None:
        """Runs the attempt in a process of its own, and reports its end.

        Raises:
            CancelledError: The attempt was abandoned.
            _StaleError: It is no longer the current one.
            ServiceError: The registry does not answer which results the attempt may read.
        """
        began = time.monotonic()
        try:
            header = await self._header()
        except _IncompleteError as incomplete:
            self.publishing = True
            return await self._publish(self._last_row(incomplete.last, 0.0))
        execution = await self._around.prepare()
        reporting = asyncio.create_task(self._report())
        # Why the process is stopped below if this ends before the job does.
        unfinished = "nobody wants its result any more"
        try:
            last = await self._execute(execution, header, reporting)
            unfinished = ""
            # The last row says how many rows were refused, so all others are sent before it.
            await self._until(self._rows.join(), reporting)
            seconds = round(time.monotonic() - began, 3)
            if last["kind"] not in ("result", "failed"):
                return self._release(f"{last['error']}; see `vistaflow logs {self.key[0]}`")
            # From here on a worker that drains waits for the row instead of abandoning the attempt.
            self.publishing = True
            return await self._publish(self._last_row(last, seconds))
        finally:
            reporting.cancel()
            # Even when this task is canceled: no process may outlive its attempt.
            await _to_its_end(execution.finish(self._abandoned or unfinished))
            await asyncio.wait([reporting])

    async def _execute(
        self, execution: Execution, header: dict[str, Any], reporting: asyncio.Task[None]
    ) -> dict[str, Any]:
        """Starts the attempt in its process, and listens until its last message."""
        job_id, attempt = self.key
        logger.info("starts in process %d", execution.pid)
        await execution.start(header, self._around.logs / job_id / f"{attempt}.log")
        return await self._until(self._listen(execution), reporting)

    async def _listen(self, execution: Execution) -> dict[str, Any]:
        """Takes the messages of the attempt up to its last, which is returned."""
        limit = self.job.timeout.ToTimedelta().total_seconds() or None
        try:
            async with asyncio.timeout(limit):
                async for message in execution.messages():
                    if message["kind"] in ("result", "failed"):
                        return message
                    if message["kind"] == "crashed":
                        error = message["error"]
                        return {"kind": "crashed", "error": f"ended by an unforeseen {error}"}
                    await self._take(message)
                code = await execution.ended()
                return {"kind": "crashed", "error": f"its process ended: {describe_exit(code)}"}
        except TimeoutError:
            await execution.stop(f"it ran longer than its timeout of {limit:g} s")
            return {
                "kind": "failed",
                "reason": "TIMEOUT",
                "message": f"ran longer than its timeout of {limit:g} s",
                "hint": "raise the job's timeout, or make it smaller",
                "details": {},
            }

    async def _until(
        self, work: Coroutine[Any, Any, Value], reporting: asyncio.Task[None]
    ) -> Value:
        """Does `work`, but ends it and raises the error if rows cannot be reported any more."""
        working = asyncio.create_task(work)
        try:
            await asyncio.wait([working, reporting], return_when=asyncio.FIRST_COMPLETED)
            if reporting.done():
                reporting.result()
        finally:
            if not working.done():
                working.cancel()
                await _to_its_end(_settled(working))
        return working.result()

    async def _take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "progress":
            self.progress = common_pb2.Progress(
                **{key: value for key, value in message.items() if key != "kind"}
            )
            self.progress_is_new = True
        elif message["kind"] == "task":
            await self._rows.put(self._row(**{k: v for k, v in message.items() if k != "kind"}))

    def _row(
        self, name: str, status: str, metadata: dict[str, Any], reason: str
    ) -> common_pb2.State:
        self._seq += 1
        job_id, attempt = self.key
        row = common_pb2.State(
            job_id=job_id,
            task_name=name,
            status=common_pb2.Status.Value(f"STATUS_{status}"),
            attempt=attempt,
            seq=self._seq,
            actor=f"worker {self._around.worker}",
            reason=reason,
        )
        if metadata:
            row.metadata.update(exact(metadata))
        return row

    def _last_row(self, last: dict[str, Any], seconds: float) -> common_pb2.State:
        """The job's own row: FINISHED with its result, or FAILED with its reason."""
        metadata: dict[str, Any] = {"seconds": seconds}
        reasons = []
        if last["kind"] == "result":
            metadata["result"] = last["result"]
        else:
            metadata["error"] = {
                name: last[name] for name in ("reason", "message", "hint", "details")
            }
            hint = f"; {last['hint']}" if last["hint"] else ""
            reasons.append(f"{last['reason']}: {last['message']}{hint}"[:3000])
        if self._refused_count:
            metadata["refused_row_count"] = self._refused_count
            count = f"{self._refused_count:,} row{'s' if self._refused_count > 1 else ''}"
            reasons.append(f"{count} of its tasks not recorded, the first: {self._refused[:800]}")
        status = "FINISHED" if last["kind"] == "result" else "FAILED"
        return self._row("", status, metadata, "; ".join(reasons))

    async def _report(self) -> None:
        """Sends rows as they come, in order, until canceled."""
        while True:
            batch = [await self._rows.get()]
            size = batch[0].ByteSize()
            while not self._rows.empty() and len(batch) < MAX_BATCH_ROWS and size < MAX_BATCH_BYTES:
                batch.append(self._rows.get_nowait())
                size += batch[-1].ByteSize()
            await self._append_all(batch)
            for _ in batch:
                self._rows.task_done()

    async def _append_all(self, batch: list[common_pb2.State]) -> None:
        try:
            for row, why in await self._append(batch):
                self._note_refused(row, why)
        except ServiceError as error:
            if len(batch) == 1:
                # One row that the registry cannot take must not cost the job.
                self._note_refused(batch[0], error.message)
                return
            for row in batch:
                await self._append_all([row])

    async def _append(self, rows: list[common_pb2.State]) -> list[tuple[common_pb2.State, str]]:
        """Appends rows, for as long as it takes for the registry to come back.

        Returns:
            The rows that are not recorded, and why.
        """
        tried = 0
        while True:
            try:
                response = await self._around.registry.append(rows)
                break
            except ServiceError as error:
                is_away = error.code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
                if not is_away and (error.code != "INTERNAL" or tried >= MAX_FAULTS):
                    raise
                waiting = len(rows) + self._rows.qsize()
                logger.warning("%s; %d rows wait", error, waiting)
                await asyncio.sleep(backoff(tried))
                tried += 1
        refused = []
        for row, result in zip(rows, response.results, strict=True):
            if result.verdict == registry_pb2.VERDICT_STALE_ATTEMPT:
                raise _StaleError
            if result.verdict not in _RECORDED:
                refused.append((row, result.detail))
        return refused

    def _note_refused(self, row: common_pb2.State, why: str) -> None:
        """Remembers, for the job's last row, that a row of a task is not recorded."""
        logger.error("task %s is not recorded: %s", row.task_name, why)
        self._refused_count += 1
        self._refused = self._refused or f"task {row.task_name}: {why}"

    async def _publish(self, row: common_pb2.State) -> registry_pb2.Release | None:
        try:
            refused = await self._append([row])
        except ServiceError:
            logger.exception("the registry does not take the last row")
            return self._release("the registry did not take its result; see the service's log")
        if refused:
            # Of a job that was canceled meanwhile this changes nothing any more.
            (_, why) = refused[0]
            logger.error("the last row is not recorded: %s", why)
            return self._release(f"the registry refused its result: {why}")
        logger.info("%s", common_pb2.Status.Name(row.status).removeprefix("STATUS_"))
        self._around.published(self.key[0])
        return None

    def _release(self, reason: str, *, counts: bool = True) -> registry_pb2.Release:
        job_id, attempt = self.key
        return registry_pb2.Release(
            job_id=job_id, attempt=attempt, reason=reason[:1000], counts=counts
        )

    async def _header(self) -> dict[str, Any]:
        """The line of JSON that describes the attempt to its process; see `child.py`."""
        job, (job_id, attempt) = self.job, self.key
        inputs = await self._inputs()
        spec = await self._spec(inputs)
        await self._add_referred(inputs, spec)
        return {
            "kit_id": job.kit_id,
            "job_id": job_id,
            "attempt": attempt,
            "job_type": job_type_word(job.job_type),
            "name": job.name,
            "spec_type": spec.type_url,
            "spec": base64.b64encode(spec.value).decode(),
            "inputs": inputs,
            "folder": str(self._around.artifacts.open_prefix(job_id, attempt)),
            "artifacts": str(self._around.artifacts.root),
            "workers": self._around.cores,
            "completed": template_of(job.spec) is not None,
            "registry": self._around.registry.address,
            "memory_bytes": self._around.memory_bytes,
        }

    async def _spec(self, inputs: dict[str, dict[str, Any]]) -> any_pb2.Any:
        """The spec of the job; that of a template is completed.

        Raises:
            _IncompleteError: It cannot be completed.
        """
        spec: any_pb2.Any = self.job.spec
        template, complete = template_of(spec), self._around.complete
        if template is None:
            return spec
        packed = any_pb2.Any()
        try:
            request = filled(template, inputs)
            if complete is not None:
                project = await self._project()
                # With its rights, and no others: anybody may have made the template.
                with callers.serving(callers.Caller(project=project, role=callers.Role.EDITOR)):
                    request = await complete(request, project)
            packed.Pack(request)
        except (InvalidError, NotFoundError, ConflictError) as error:
            raise _IncompleteError(error) from None
        return packed

    async def _project(self) -> str:
        """The project of the job's kit."""
        registry = self._around.registry
        request = registry_pb2.GetKitRequest(kit_id=self.job.kit_id, page_size=1)
        return str((await registry.call(registry.stub.GetKit, request)).kit.project)

    async def _inputs(self) -> dict[str, dict[str, Any]]:
        """The results of the jobs that this one depends on, by their names in the kit."""
        inputs: dict[str, dict[str, Any]] = {}
        for source in self._grant.inputs:
            # A grant leaves a large result out: it is read from the registry.
            if source.result_omitted:
                inputs[source.name] = dict(vars(await self._around.registry.result(source.job_id)))
                continue
            inputs[source.name] = {
                "job_id": source.job_id,
                "job_type": job_type_word(source.job_type),
                "attempt": source.attempt,
                "result": struct_to_dict(source.result),
            }
        return inputs

    async def _add_referred(self, inputs: dict[str, dict[str, Any]], spec: any_pb2.Any) -> None:
        """Adds the results of other jobs that the spec names, by the ids that it uses."""
        if self.job.job_type == common_pb2.JOB_TYPE_DECK_COLLECTION:
            return  # decks are files, and refer to nothing
        granted = {source["job_id"] for source in inputs.values()}
        for reference in sorted(job_ids_in(spec.value) - granted):
            result = await self._referred(reference)
            if result is not None:
                inputs[reference] = result

    async def _referred(self, job_id: str) -> dict[str, Any] | None:
        """A finished job that the spec names by its id; None if there is none."""
        try:
            result = await self._around.registry.result(job_id)
        except (NotFoundError, ConflictError, InvalidError):
            return None
        return dict(vars(result))


async def _settled(task: asyncio.Task[Any]) -> None:
    await asyncio.wait([task])


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Does `work` even if the caller is canceled meanwhile; the cancellation is raised after it."""
    task = asyncio.create_task(work)
    canceled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            canceled = True
    task.result()
    if canceled:
        raise asyncio.CancelledError
