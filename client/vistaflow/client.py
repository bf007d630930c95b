"""The blocking client: the asynchronous one, run by a thread of its own.

So it works inside a running event loop too, as in a notebook, and both do exactly the same.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from google.protobuf.message import Message

from vistaflow import forks
from vistaflow.aio.calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio.client import AsyncClient
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.errors import ForkedError
from vistaflow.models import (
    Appended,
    Job,
    Kit,
    KitDiff,
    ManyJobs,
    Prediction,
    State,
    WatchEvent,
)
from vistaflow.streaming import StateStream
from vistaflow.watching_many import ManyWatches

T = TypeVar("T")


def connect(
    address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
) -> Client:
    """A client of the suite whose registry is at `address`.

    Args:
        address: Such as `127.0.0.1:50051`; if empty `VISTAFLOW_REGISTRY`, else where the suite of
            `VISTAFLOW_HOME` listens, else the default. Several divided by commas are replicas of
            one registry.
        timeout: The longest one call may take with all its tries, in seconds.
        token: Shown to the services; if empty `VISTAFLOW_TOKEN`, else the one that `vistaflow up`
            made in that home, for its suite.
    """
    return Client(address, timeout=timeout, token=token)


class Stream:
    """Many rows appended over one stream; made by `Client.stream`, for one thread."""

    def __init__(self, stream: StateStream, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._stream = stream
        self._run = run

    def send(self, states: Sequence[common_pb2.State]) -> Sent:
        """Sends rows as one append, once there is room for them; see `StateStream.send`."""
        return Sent(self._run(self._stream.send(states)), self._run)

    def flush(self) -> int:
        """Waits until all sent rows are durable; raises as `StateStream.flush` does."""
        revision: int = self._run(self._stream.flush())
        return revision


class Sent:
    """Rows on their way; `result` waits for what became of them."""

    def __init__(
        self, answer: asyncio.Future[Appended], run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        self._answer = answer
        self._run = run

    def result(self) -> Appended:
        """What became of them, once they are durable."""
        appended: Appended = self._run(_answered(self._answer))
        return appended


class Watches:
    """Several watches on one stream; made by `Client.watch_many`."""

    def __init__(
        self,
        many: ManyWatches,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        iterate: Callable[..., Iterator[tuple[str, WatchEvent]]],
    ) -> None:
        self._many = many
        self._run = run
        self._iterate = iterate

    def open(self, name: str, **wanted: Any) -> None:
        """Begins a watch under a name; the rest is what `watch` takes."""
        self._run(_made(lambda: self._many.open(name, **wanted)))

    def close(self, name: str) -> None:
        """Ends a watch; what it was told already may still come."""
        self._run(_made(lambda: self._many.close(name)))

    def revision(self, name: str) -> int:
        """Everything of a watch up to here was delivered: what to resume from."""
        return self._many.revision(name)

    def __iter__(self) -> Iterator[tuple[str, WatchEvent]]:
        """The names of watches, and what happened in them, without end."""
        return self._iterate(self._many.__aiter__)


class Client:
    """Calls the services; see `vistaflow.aio.AsyncClient`, whose methods these are.

    Safe to share between threads. Every method raises a `VistaError`.
    """

    def __init__(
        self, address: str = "", *, timeout: float = DEFAULT_TIMEOUT_SECONDS, token: str = ""
    ) -> None:
        forks.check()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vistaflow-client", daemon=True
        )
        self._thread.start()
        self._client = self._run(_made(lambda: AsyncClient(address, timeout=timeout, token=token)))
        self.address = self._client.address

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        if self._loop.is_closed() or forks.in_fork():
            return
        self._run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, kit: str | Path | pipeline_pb2.KitSpec, *, actor: str = "") -> Kit:
        """Validates a kit and starts it; returns at once."""
        return self._run(self._client.run(kit, actor=actor))

    def validate(self, kit: str | Path | pipeline_pb2.KitSpec) -> pipeline_pb2.ValidateKitResponse:
        """Every mistake of a kit, without starting it."""
        return self._run(self._client.validate(kit))

    def create_kit(
        self,
        name: str,
        jobs: Sequence[registry_pb2.NewJob | str] = (),
        *,
        project: str = "",
        labels: Mapping[str, str] | None = None,
        actor: str = "",
        request_id: str = "",
    ) -> Kit:
        """Creates a kit; a text among its jobs is the type of an external one."""
        return self._run(
            self._client.create_kit(
                name, jobs, project=project, labels=labels, actor=actor, request_id=request_id
            )
        )

    def kit(
        self, kit_id: int, *, min_revision: int = 0, as_of: int | datetime | None = None
    ) -> Kit:
        """A kit with its jobs and their tasks, as it is or as it was at a revision or time."""
        return self._run(self._client.kit(kit_id, min_revision=min_revision, as_of=as_of))

    def diff_kit(self, kit_id: int, from_revision: int = 0, to_revision: int = 0) -> KitDiff:
        """What changed in a kit between two revisions; 0: before it was created, and now."""
        return self._run(self._client.diff_kit(kit_id, from_revision, to_revision))

    def pause_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants no more jobs of a kit to workers; what runs goes on to its end."""
        return self._run(self._client.pause_kit(kit_id, reason=reason, actor=actor))

    def resume_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants jobs of a paused kit again."""
        return self._run(self._client.resume_kit(kit_id, reason=reason, actor=actor))

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
    ) -> Iterator[Kit]:
        """Kits without their jobs, newest first."""
        return self._iterate(
            lambda: self._client.kits(
                project=project,
                statuses=statuses,
                labels=labels,
                name_contains=name_contains,
                created_after=created_after,
                created_before=created_before,
                min_revision=min_revision,
                limit=limit,
            )
        )

    def cancel_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Cancels every job of a kit that is not terminal."""
        return self._run(self._client.cancel_kit(kit_id, reason=reason, actor=actor))

    def retry_kit(
        self, kit_id: int, *, deck: str | Path = "", reason: str = "", actor: str = ""
    ) -> Kit:
        """Goes on from the failed or canceled jobs of a kit."""
        return self._run(self._client.retry_kit(kit_id, deck=deck, reason=reason, actor=actor))

    def wait(self, kit_id: int, *, timeout: float | None = None) -> Kit:
        """Waits until nothing of a kit moves any more; raises `KitFailedError` if it failed."""
        return self._run(self._client.wait(kit_id, timeout=timeout))

    def job(self, job_id: str, *, min_revision: int = 0) -> Job:
        """A job with its tasks, no older than a revision."""
        return self._run(self._client.job(job_id, min_revision=min_revision))

    def jobs(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        min_revision: int = 0,
        limit: int = 0,
    ) -> Iterator[Job]:
        """Jobs without their tasks, newest first."""
        return self._iterate(
            lambda: self._client.jobs(
                kit_ids=kit_ids,
                job_types=job_types,
                statuses=statuses,
                labels=labels,
                min_revision=min_revision,
                limit=limit,
            )
        )

    def create_job(
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
        """Adds a job to a kit, or to a new kit of its own."""
        return self._run(
            self._client.create_job(
                job_type,
                spec,
                kit_id=kit_id,
                name=name,
                depends_on=depends_on,
                labels=labels,
                project=project,
                actor=actor,
                request_id=request_id,
            )
        )

    def cancel_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Cancels a job; its dependents stay INIT."""
        return self._run(self._client.cancel_job(job_id, reason=reason, actor=actor))

    def retry_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Queues a failed or canceled job again."""
        return self._run(self._client.retry_job(job_id, reason=reason, actor=actor))

    def cancel_jobs(
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
        """Cancels every job that a filter wants and that is not terminal, or counts them."""
        return self._run(
            self._client.cancel_jobs(
                kit_ids=kit_ids,
                job_types=job_types,
                statuses=statuses,
                project=project,
                kit_labels=kit_labels,
                labels=labels,
                created_before=created_before,
                dry_run=dry_run,
                reason=reason,
                actor=actor,
            )
        )

    def retry_jobs(
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
        """Queues every FAILED or CANCELED job again that a filter wants, or counts them."""
        return self._run(
            self._client.retry_jobs(
                kit_ids=kit_ids,
                job_types=job_types,
                statuses=statuses,
                project=project,
                kit_labels=kit_labels,
                labels=labels,
                created_before=created_before,
                dry_run=dry_run,
                reason=reason,
                actor=actor,
            )
        )

    def append(
        self,
        job_id: str,
        status: str,
        *,
        task_name: str = "",
        metadata: Mapping[str, Any] | None = None,
        reason: str = "",
        actor: str = "",
    ) -> int:
        """Reports one state of an external job; returns its revision."""
        return self._run(
            self._client.append(
                job_id,
                status,
                task_name=task_name,
                metadata=metadata,
                reason=reason,
                actor=actor,
            )
        )

    def append_states(
        self,
        states: Sequence[common_pb2.State],
        *,
        request_id: str = "",
        numbers_checked: bool = False,
    ) -> registry_pb2.AppendStatesResponse:
        """Appends state rows; a refused row raises nothing, so check the verdicts."""
        return self._run(
            self._client.append_states(
                states, request_id=request_id, numbers_checked=numbers_checked
            )
        )

    @contextmanager
    def stream(self, *, patience: float = 60.0, numbers_checked: bool = False) -> Iterator[Stream]:
        """For appending many rows: `send` takes rows while others are on their way.

        Leaving the block raises `RowsRefusedError` if the registry refused some of them.
        """
        stream = self._run(
            _made(lambda: self._client.stream(patience=patience, numbers_checked=numbers_checked))
        )
        try:
            yield Stream(stream, self._run)
        except BaseException as error:
            self._run(stream.__aexit__(type(error), error, None))
            raise
        self._run(stream.close())

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
    ) -> Iterator[State]:
        """Rows of the log in revision order."""
        return self._iterate(
            lambda: self._client.states(
                kit_ids=kit_ids,
                job_ids=job_ids,
                job_types=job_types,
                statuses=statuses,
                labels=labels,
                project=project,
                recorded_after=recorded_after,
                recorded_before=recorded_before,
                after_revision=after_revision,
                min_revision=min_revision,
                limit=limit,
            )
        )

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
    ) -> Iterator[WatchEvent]:
        """What happens, for ever: reconnects by itself, misses nothing, repeats nothing."""
        return self._iterate(
            lambda: self._client.watch(
                kit_ids=kit_ids,
                job_ids=job_ids,
                job_types=job_types,
                statuses=statuses,
                labels=labels,
                project=project,
                recorded_after=recorded_after,
                recorded_before=recorded_before,
                after_revision=after_revision,
                include_snapshot=include_snapshot,
                mode=mode,
                include_left=include_left,
                snapshot_if_expired=snapshot_if_expired,
            ).__aiter__()
        )

    def watch_many(self, **watches: Mapping[str, Any]) -> Watches:
        """Several watches on one stream, by names of the caller's; see the asynchronous client."""
        many = self._run(_made(lambda: self._client.watch_many(**watches)))
        return Watches(many, self._run, self._iterate)

    def server_info(self) -> registry_pb2.GetServerInfoResponse:
        """What the registry is, and where the other services are."""
        return self._run(self._client.server_info())

    def decks(self) -> list[ingestion_pb2.Deck]:
        """The decks collected and shipped."""
        return self._run(self._client.decks())

    def deck(self, deck: str) -> ingestion_pb2.Deck:
        """One deck, by its name or id."""
        return self._run(self._client.deck(deck))

    def collect_deck(self, folder: str | Path) -> Job:
        """Starts collecting a deck from a folder or archive of this machine."""
        return self._run(self._client.collect_deck(folder))

    def generate_design(self, deck: str, design: doe_pb2.DesignSpec) -> Job:
        """Starts making a design; the job's id is the design's."""
        return self._run(self._client.generate_design(deck, design))

    def evaluate_design(self, design_id: str) -> Job:
        """Starts running a design; the job's id is that of the evaluated design."""
        return self._run(self._client.evaluate_design(design_id))

    def design(self, design_id: str) -> doe_pb2.Design:
        """What a design is: how it was made, its quality, how it was run."""
        return self._run(self._client.design(design_id))

    def design_rows(self, design_id: str) -> list[dict[str, Any]]:
        """The rows of a design: parameters, responses and `failure` by name."""
        return self._run(self._client.design_rows(design_id))

    def model(self, model_id: str) -> ml_pb2.Model:
        """What a model is: how it was made and how good it is."""
        return self._run(self._client.model(model_id))

    def predict(
        self,
        model_id: str,
        points: Sequence[Mapping[str, Any]],
        *,
        allow_extrapolation: bool = False,
    ) -> list[dict[str, Prediction]]:
        """The responses at raw parameter values, with their uncertainty, by name."""
        return self._run(
            self._client.predict(model_id, points, allow_extrapolation=allow_extrapolation)
        )

    def study(self, study_id: str) -> optimize_pb2.Study:
        """The result of an optimisation."""
        return self._run(self._client.study(study_id))

    def trials(self, study_id: str) -> list[optimize_pb2.Trial]:
        """What a study tried, in order."""
        return self._run(self._client.trials(study_id))

    def create_token(
        self, name: str, role: str, *, project: str = "", days: float = 0, request_id: str = ""
    ) -> tuple[registry_pb2.Token, str]:
        """Makes a token; returns it and its text, which is told only now."""
        return self._run(
            self._client.create_token(name, role, project=project, days=days, request_id=request_id)
        )

    def tokens(self) -> list[registry_pb2.Token]:
        """The tokens without their texts, newest first."""
        return self._run(self._client.tokens())

    def revoke_token(self, token_id: str) -> registry_pb2.Token:
        """Makes a token invalid, for good."""
        return self._run(self._client.revoke_token(token_id))

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        try:
            forks.check()  # in a fork no thread runs the loop
        except ForkedError:
            coroutine.close()
            raise
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C here ends the call there
            raise

    def _iterate(self, start: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        source = start()
        try:
            while True:
                try:
                    yield self._run(_next(source))
                except StopAsyncIteration:
                    return
        finally:
            close = getattr(source, "aclose", None)
            if close is not None and not self._loop.is_closed() and not forks.in_fork():
                self._run(close())


async def _next(source: AsyncIterator[T]) -> T:
    return await anext(source)


async def _answered(answer: asyncio.Future[T]) -> T:
    return await asyncio.shield(answer)


async def _made(make: Callable[[], T]) -> T:
    return make()
