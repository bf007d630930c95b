"""The blocking client: the asynchronous one, run by a thread of its own.

It works inside a running event loop, too, as in a notebook. Generated from `aio` by
`client/generate_blocking.py`; change the asynchronous client instead.
"""

from __future__ import annotations

import os
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from vistaflow._blocking import BlockingClient, Dataset, QueryResult, Sent, Stream, Watches
from vistaflow._datasets import (
    DatasetSummary,
    DatasetVersion,
)
from vistaflow._rows import Listing, Rows
from vistaflow.aio._calls import DEFAULT_TIMEOUT_SECONDS
from vistaflow.aio._data.import_specs import (
    Rules,
)
from vistaflow.aio._data.uploads import FileSource
from vistaflow.aio._kits.schedules import Notified
from vistaflow.aio._kits.sources import KitSource
from vistaflow.aio._stream import StateStream
from vistaflow.aio.client import AsyncClient
from vistaflow.api.artifacts.v1 import artifacts_pb2
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow.api.outbox.v1 import outbox_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.api.schedules.v1 import schedules_pb2
from vistaflow.models import (
    Job,
    Kit,
    KitDiff,
    ManyJobs,
    Prediction,
    State,
    WatchEvent,
)
from vistaflow.results import Deck, Study, Trial

__all__ = [
    "AsyncClient",
    "Client",
    "Dataset",
    "QueryResult",
    "Sent",
    "StateStream",
    "Stream",
    "Watches",
    "connect",
]


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


class Client(BlockingClient):
    """Calls the services; `vistaflow.aio.AsyncClient` is the same for asyncio.

    Safe to share between threads. Methods raise `VistaError` only. Calls that reach no service are
    repeated within the timeout, with one request id, so that nothing is done twice.
    """

    def run(
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
        return self._loop.run(self._client.run(kit, settings=settings, labels=labels, actor=actor))

    def validate(
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
        return self._loop.run(self._client.validate(kit, settings=settings, labels=labels))

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
        """Creates a kit.

        Args:
            name: For people.
            jobs: What it consists of; a text is the type of an external job, such as "DOE".
            project: "default" if empty.
            labels: To filter by.
            actor: The caller's name, for the log.
            request_id: A UUID that makes the call safe to repeat from elsewhere.
        """
        return self._loop.run(
            self._client.create_kit(
                name, jobs, project=project, labels=labels, actor=actor, request_id=request_id
            )
        )

    def kit(
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
        return self._loop.run(self._client.kit(kit_id, min_revision=min_revision, as_of=as_of))

    def diff_kit(self, kit_id: int, from_revision: int = 0, to_revision: int = 0) -> KitDiff:
        """What changed in a kit between two revisions.

        Args:
            kit_id: The kit.
            from_revision: The earlier; 0: before it was created.
            to_revision: The later; 0: now.
        """
        return self._loop.run(self._client.diff_kit(kit_id, from_revision, to_revision))

    def pause_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants no more jobs of a kit to workers; what runs goes on to its end.

        Args:
            kit_id: The kit.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        return self._loop.run(self._client.pause_kit(kit_id, reason=reason, actor=actor))

    def resume_kit(self, kit_id: int, *, reason: str = "", actor: str = "") -> Kit:
        """Grants jobs of a paused kit again.

        Args:
            kit_id: The kit.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        return self._loop.run(self._client.resume_kit(kit_id, reason=reason, actor=actor))

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
    ) -> Listing[Kit]:
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
        return self._loop.listing(
            self._client.kits(
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
        """Cancels every job of a kit that is not terminal.

        Args:
            kit_id: The kit.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        return self._loop.run(self._client.cancel_kit(kit_id, reason=reason, actor=actor))

    def retry_kit(
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
        return self._loop.run(self._client.retry_kit(kit_id, deck=deck, reason=reason, actor=actor))

    def wait(self, kit_id: int, *, timeout: float | None = None) -> Kit:
        """Waits until nothing of a kit moves any more.

        Args:
            kit_id: The kit.
            timeout: The longest to wait, in seconds; None: without a limit.

        Raises:
            KitFailedError: If it ended FAILED or CANCELED.
            DeadlineExceededError: If it did not end in time; it goes on.
        """
        return self._loop.run(self._client.wait(kit_id, timeout=timeout))

    def job(self, job_id: str, *, min_revision: int = 0) -> Job:
        """A job with its tasks, no older than a revision.

        Args:
            job_id: The job.
            min_revision: Answer no older than this revision.
        """
        return self._loop.run(self._client.job(job_id, min_revision=min_revision))

    def jobs(
        self,
        *,
        kit_ids: Iterable[int] = (),
        job_types: Iterable[str] = (),
        statuses: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        min_revision: int = 0,
        limit: int = 0,
    ) -> Listing[Job]:
        """Jobs without their tasks, newest first; every page is fetched as it is needed.

        Args:
            kit_ids: Only jobs of these kits.
            job_types: Only these types, such as "DOE".
            statuses: Only jobs in these, such as "QUEUED".
            labels: Only jobs that have them all.
            min_revision: Answer no older than this revision.
            limit: Most jobs; 0: all.
        """
        return self._loop.listing(
            self._client.jobs(
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
        return self._loop.run(
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
        """Cancels a job; its dependents stay INIT.

        Args:
            job_id: The job.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        return self._loop.run(self._client.cancel_job(job_id, reason=reason, actor=actor))

    def retry_job(self, job_id: str, *, reason: str = "", actor: str = "") -> Job:
        """Queues a failed or canceled job again.

        Args:
            job_id: The job.
            reason: The reason, for the log.
            actor: The caller's name, for the log.
        """
        return self._loop.run(self._client.retry_job(job_id, reason=reason, actor=actor))

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
        return self._loop.run(
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
        return self._loop.run(
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
        return self._loop.run(
            self._client.append(
                job_id, status, task_name=task_name, metadata=metadata, reason=reason, actor=actor
            )
        )

    def append_states(
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
        return self._loop.run(
            self._client.append_states(
                states, request_id=request_id, numbers_checked=numbers_checked
            )
        )

    def stream(self, *, patience: float = 60.0, numbers_checked: bool = False) -> Stream:
        """For appending many rows: a context whose `send` takes rows while others are on their way.

        Leaving the block raises `RowsRefusedError` if the registry refused some of them.

        Args:
            patience: The longest time without an acknowledgement, in seconds, through which a lost
                connection is opened again.
            numbers_checked: As in `append_states`.
        """
        return Stream(
            self._loop.call(
                lambda: self._client.stream(patience=patience, numbers_checked=numbers_checked)
            ),
            self._loop,
        )

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
    ) -> Listing[State]:
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
        return self._loop.listing(
            self._client.states(
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
        return self._loop.iterate(
            aiter(
                self._loop.call(
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
                    )
                )
            )
        )

    def watch_many(self, **watches: Mapping[str, Any]) -> Watches:
        """Several watches on one stream; each event comes with the name of its watch.

            watches = client.watch_many(failures={"statuses": ["FAILED"]})
            for name, event in watches:

        Args:
            watches: What `watch` takes, by names of the caller's. More are opened, and these
                closed, with the `open` and `close` of what is returned.
        """
        return Watches(self._loop.call(lambda: self._client.watch_many(**watches)), self._loop)

    def create_token(
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
        return self._loop.run(
            self._client.create_token(
                name, role, project=project, scopes=scopes, days=days, request_id=request_id
            )
        )

    def tokens(self) -> list[registry_pb2.Token]:
        """The tokens without their texts, newest first."""
        return self._loop.run(self._client.tokens())

    def revoke_token(self, token_id: str) -> registry_pb2.Token:
        """Makes a token invalid, for good.

        Args:
            token_id: The id of the token.
        """
        return self._loop.run(self._client.revoke_token(token_id))

    def requests(
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
        return self._loop.run(
            self._client.requests(
                actor=actor,
                method=method,
                kit_id=kit_id,
                answered_after=answered_after,
                answered_before=answered_before,
                limit=limit,
            )
        )

    def decks(self) -> Rows[Deck]:
        """The decks collected and shipped."""
        return self._loop.run(self._client.decks())

    def deck(self, deck: str) -> Deck:
        """One deck.

        Args:
            deck: Its name or id.
        """
        return self._loop.run(self._client.deck(deck))

    def deck_archive(self, deck: str) -> bytes:
        """The folder of a deck as a zip file.

        Args:
            deck: Its name or id.
        """
        return self._loop.run(self._client.deck_archive(deck))

    def collect_deck(self, folder: str | Path) -> Job:
        """Starts collecting a deck.

        Args:
            folder: A folder or an archive of this machine.
        """
        return self._loop.run(self._client.collect_deck(folder))

    def generate_design(self, deck: str, design: doe_pb2.DesignSpec) -> Job:
        """Starts making a design; the job's id is the design's.

        Args:
            deck: The name or id of a deck.
            design: The generator, size, seed and ranges.
        """
        return self._loop.run(self._client.generate_design(deck, design))

    def evaluate_design(self, design_id: str) -> Job:
        """Starts running a design; the job's id is that of the evaluated design.

        Args:
            design_id: The design, with its points.
        """
        return self._loop.run(self._client.evaluate_design(design_id))

    def try_point(
        self,
        deck: str | Path = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        archive: bytes = b"",
        design_id: str = "",
        row_id: int = 0,
        ranges: Sequence[common_pb2.ParameterOverride] = (),
        timeout: float = 600.0,
    ) -> doe_pb2.TryPointResponse:
        """Runs one point now: what the simulator was given, what it printed, what came of it.

        Nothing is stored. If the call is canceled, the run ends.

        Args:
            deck: The name or id of a deck, or the path of a folder or an archive of this machine.
            parameters: Values by name, in the units of the deck; others have their default or
                their middle.
            archive: Instead of `deck`: its folder as a zip file.
            design_id: Instead of `deck`: a finished design, a row of which is run.
            row_id: That row.
            ranges: Narrower ranges, whose middle is run.
            timeout: The longest that the run may take, in seconds.
        """
        return self._loop.run(
            self._client.try_point(
                deck,
                parameters,
                archive=archive,
                design_id=design_id,
                row_id=row_id,
                ranges=ranges,
                timeout=timeout,
            )
        )

    def stored_run(
        self, design_id: str, row_id: int = 0, parameters: Mapping[str, Any] | None = None
    ) -> doe_pb2.GetRunResponse:
        """What is stored of a point's run: what it returned and printed, the files it wrote.

        Args:
            design_id: A finished design; the run is of its deck.
            row_id: The row of that design.
            parameters: Values instead of the row's, such as those of a trial of a study.

        Returns:
            The run, whose files are there if the deck has `keep_files`.
        """
        return self._loop.run(self._client.stored_run(design_id, row_id, parameters))

    def design(self, design_id: str) -> doe_pb2.Design:
        """A design: how it was made, its quality, how it was run.

        Args:
            design_id: The design.
        """
        return self._loop.run(self._client.design(design_id))

    def design_rows(
        self, design_id: str, *, allow_unfinished: bool = False
    ) -> Rows[dict[str, Any]]:
        """The rows of a design, in order.

        Args:
            design_id: The design.
            allow_unfinished: Whether, of a design whose job is not finished, the rows that were
                run so far are returned, in the order in which their runs ended.

        Returns:
            A mapping for each row: `row_id`, parameters and responses in the units of the deck, by
            name, `failure`, and of a failed run its reason (`message`) and the end of what it
            printed (`log`). If the design took known points, `origin` says from where.
        """
        return self._loop.run(
            self._client.design_rows(design_id, allow_unfinished=allow_unfinished)
        )

    def model(self, model_id: str) -> ml_pb2.Model:
        """A model: how it was trained and how good it is.

        Args:
            model_id: The model.
        """
        return self._loop.run(self._client.model(model_id))

    def predict(
        self,
        model_id: str,
        points: Sequence[Mapping[str, Any]],
        *,
        allow_extrapolation: bool = False,
    ) -> Rows[dict[str, Prediction]]:
        """The responses at raw parameter values, with their uncertainty.

        Args:
            model_id: The model.
            points: Values of the parameters by name, in the units of the deck; any number of
                points, which are sent in several requests.
            allow_extrapolation: Whether points may lie outside the ranges trained over.

        Returns:
            The predictions by response for each point, in order.
        """
        return self._loop.run(
            self._client.predict(model_id, points, allow_extrapolation=allow_extrapolation)
        )

    def study(self, study_id: str) -> Study:
        """The result of an optimisation.

        Args:
            study_id: The id of its job.
        """
        return self._loop.run(self._client.study(study_id))

    def trials(
        self, study_id: str, *, from_number: int = 0, allow_unfinished: bool = False
    ) -> Rows[Trial]:
        """The points of a study, in order.

        Args:
            study_id: The id of its job.
            from_number: The first point to return, by its number.
            allow_unfinished: Whether, of a study whose job is not finished, the points tried so
                far are returned.
        """
        return self._loop.run(
            self._client.trials(
                study_id, from_number=from_number, allow_unfinished=allow_unfinished
            )
        )

    def picture(
        self,
        kit_id: int,
        picture: str,
        *,
        format: str = "png",
        parameters: Iterable[str] = (),
        response: str = "",
    ) -> bytes:
        """A picture of a kit, drawn from what it has published so far.

        Args:
            kit_id: The kit.
            picture: `effects`, `slices`, `contours`, `parallel`, `importance`, `correlation` or
                `timeline`.
            format: `png`, `svg` or `pdf`.
            parameters: The parameters to show; those that matter most if empty.
            response: The response to show; those of the goals if empty.
        """
        return self._loop.run(
            self._client.picture(
                kit_id, picture, format=format, parameters=parameters, response=response
            )
        )

    def convert(
        self,
        files: FileSource | Sequence[FileSource] | Job,
        output_file_name: str,
        *,
        pages: bool = False,
        request_id: str = "",
        on_upload: Callable[[str, int, int], None] | None = None,
        **options: Any,
    ) -> Job:
        """Starts converting JSON files to CSV or Parquet.

        Files that the service does not see are sent to it first. A job that collected pages stands
        for its rows, or for its pages as they were fetched.

        Args:
            files: Names of files in the service's data roots, such as `raw/users.json`, and files
                of this machine. `./users.json` and a `Path` are always of this machine. Instead, a
                finished job of `collect_pages`, or its id.
            output_file_name: First part of the names of the output files.
            pages: Whether the pages of the job are read instead of its rows.
            request_id: Makes the call safe to repeat: a UUID.
            on_upload: Called with a file's name, the bytes of it that were sent, and its size.
            options: The other fields of `ConvertJsonRequest`, such as `merge=True`,
                `max_csv_rows=100_000`, `format="TABLE_FORMAT_PARQUET"`, `aes256cbckey` and `iv`.

        Returns:
            The job. `conversion(job.job_id)` says how far it is.
        """
        return self._loop.run(
            self._client.convert(
                files,
                output_file_name,
                pages=pages,
                request_id=request_id,
                on_upload=on_upload,
                **options,
            )
        )

    def conversion(self, job_id: str) -> ingestion_pb2.GetConversionResponse:
        """A conversion with all its files.

        Args:
            job_id: Its job.
        """
        return self._loop.run(self._client.conversion(job_id))

    def download_conversion(self, job: Job | str, folder: str | os.PathLike[str]) -> list[Path]:
        """Copies the files of a finished conversion to this machine.

        Args:
            job: The job, or its id. Its output is the artifact store or a bucket.
            folder: Where to; made if it is not there.

        Returns:
            The copies, by table and part. Each appears once its SHA-256 is right.

        Raises:
            FailedPreconditionError: It has not finished, or its files are in a folder of a data
                root, where only those who see the folder can read them.
        """
        return self._loop.run(self._client.download_conversion(job, folder))

    def summarize_shopping(
        self, file: FileSource, user_id: str, proposal_id: str, **keys: str
    ) -> dict[str, Any]:
        """The months and categories of one user's purchases under one proposal.

        Args:
            file: A file in the service's data roots, or of this machine, as for `convert`.
            user_id: The user.
            proposal_id: The proposal.
            keys: `aes256cbckey` and `iv`, or `key_ref`, if the file is encrypted.

        Returns:
            `months`, such as `["06", "07"]`, and `categories`: the ones below each, by name.
        """
        return self._loop.run(self._client.summarize_shopping(file, user_id, proposal_id, **keys))

    def query(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        dialect: str = "trino",
        engine: str = "duckdb",
        reuse: bool = True,
        max_age: float | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> QueryResult:
        """Runs one SELECT and waits for its end.

        Args:
            sql: The query. `:name` stands for a parameter.
            parameters: Values by name: None, text, whole numbers, floats, booleans, dates, times.
            limit: Most rows.
            offset: Rows to leave out first.
            dialect: `trino` or `duckdb`.
            engine: `duckdb` or `trino`.
            reuse: Whether an earlier result of the same data may be the answer.
            max_age: Oldest earlier result that may be, in seconds.
            labels: Key and value pairs to find it by.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The result; its methods fetch the rows.

        Raises:
            InvalidArgumentError: The query has a mistake; the message has line and column.
            FailedPreconditionError: It failed or was canceled.
        """
        return QueryResult(
            self._loop.run(
                self._client.query(
                    sql,
                    parameters,
                    limit=limit,
                    offset=offset,
                    dialect=dialect,
                    engine=engine,
                    reuse=reuse,
                    max_age=max_age,
                    labels=labels,
                    request_id=request_id,
                )
            ),
            self._loop,
        )

    def submit_query(
        self,
        sql: str = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        dialect: str = "trino",
        engine: str = "duckdb",
        reuse: bool = True,
        max_age: float | None = None,
        labels: Mapping[str, str] | None = None,
        rerun_of: str = "",
        register_as: str = "",
        wait: float = 0.0,
        request_id: str = "",
    ) -> query_pb2.SubmitQueryResponse:
        """Starts a query.

        Args:
            sql: As of `query`.
            parameters: As of `query`.
            limit: As of `query`.
            offset: As of `query`.
            dialect: As of `query`.
            engine: As of `query`.
            reuse: As of `query`.
            max_age: As of `query`.
            labels: As of `query`.
            rerun_of: The id of a query to run again, instead of `sql`.
            register_as: A dataset that the result becomes a version of, once it is there.
            wait: Seconds to wait for its end, at most 60; the answer then has the first rows.
            request_id: As of `query`.

        Returns:
            The query, and whether it is an earlier one whose result is reused.
        """
        return self._loop.run(
            self._client.submit_query(
                sql,
                parameters,
                limit=limit,
                offset=offset,
                dialect=dialect,
                engine=engine,
                reuse=reuse,
                max_age=max_age,
                labels=labels,
                rerun_of=rerun_of,
                register_as=register_as,
                wait=wait,
                request_id=request_id,
            )
        )

    def query_result(self, query_id: str) -> QueryResult:
        """The result of a query, once it has ended.

        Args:
            query_id: The query.

        Raises:
            FailedPreconditionError: It failed or was canceled, or its result was removed.
        """
        return QueryResult(self._loop.run(self._client.query_result(query_id)), self._loop)

    def query_info(self, query_id: str) -> query_pb2.Query:
        """A query: how far it is, or what became of it.

        Args:
            query_id: The query.
        """
        return self._loop.run(self._client.query_info(query_id))

    def validate_query(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, dialect: str = "trino"
    ) -> query_pb2.ValidateQueryResponse:
        """The mistakes of a query, or the columns of its result, without running it.

        Args:
            sql: The query.
            parameters: As of `query`.
            dialect: As of `query`.
        """
        return self._loop.run(self._client.validate_query(sql, parameters, dialect=dialect))

    def queries(
        self,
        *,
        text: str = "",
        statuses: Sequence[str] = (),
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 0,
    ) -> Listing[query_pb2.Query]:
        """The history of queries, newest first.

        Args:
            text: Only queries that contain this in their first 200 characters.
            statuses: Only these, such as `["FAILED"]`.
            created_after: Only queries submitted then or later.
            created_before: Only queries submitted before.
            labels: Only queries with all these labels.
            limit: Most queries; 0 for all.
        """
        return self._loop.listing(
            self._client.queries(
                text=text,
                statuses=statuses,
                created_after=created_after,
                created_before=created_before,
                labels=labels,
                limit=limit,
            )
        )

    def cancel_query(self, query_id: str, *, reason: str = "") -> query_pb2.Query:
        """Cancels a query.

        Args:
            query_id: The query.
            reason: Why, for the record.
        """
        return self._loop.run(self._client.cancel_query(query_id, reason=reason))

    def collect_pages(
        self,
        urls: str | Sequence[str] = (),
        *,
        pages: str | Mapping[str, Any] | None = None,
        html: Mapping[str, Any] | None = None,
        json: Mapping[str, Any] | None = None,
        name: str = "",
        format: str = "",
        max_pages: int = 0,
        max_page_bytes: int = 0,
        max_failed_share: float | None = None,
        delay: float = 0.0,
        request_id: str = "",
    ) -> Job:
        """Starts collecting pages from the web; returns at once.

        Args:
            urls: Pages to begin with.
            pages: Instead, numbered pages: an address with `{page}`, or a mapping with `url`,
                `first` and `last`.
            html: `rows`, `columns` and `next`: CSS selectors. A column is a selector or a mapping
                with `selector`, `attribute`, `type` (`text`, `number`, `url` or `page`), `pattern`
                and `optional`, by its name.
            json: `records`, `columns`, `next`, `next_parameter`, `next_link`: paths of fields.
            name: A name by which the next collection asks for changed pages only.
            format: How rows are written: `json` or `parquet`.
            max_pages: Most pages; 1,000 if 0.
            max_page_bytes: Largest page; 10,000,000 if 0.
            max_failed_share: Share of the pages that may fail; 0.1 if None.
            delay: Least seconds between two requests to one host.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Once it is finished, its result counts the pages and rows, and
            `import_dataset(name, job)` imports the rows.
        """
        return self._loop.run(
            self._client.collect_pages(
                urls,
                pages=pages,
                html=html,
                json=json,
                name=name,
                format=format,
                max_pages=max_pages,
                max_page_bytes=max_page_bytes,
                max_failed_share=max_failed_share,
                delay=delay,
                request_id=request_id,
            )
        )

    def download_collection(self, job: Job | str, folder: str | os.PathLike[str]) -> list[Path]:
        """Copies the rows of a finished collection and the list of its pages to this machine.

        Args:
            job: The job, or its id.
            folder: Where to; made if it is not there.

        Returns:
            The parts with rows, then `parts.json` and `pages.jsonl`.

        Raises:
            FailedPreconditionError: It has not finished.
        """
        return self._loop.run(self._client.download_collection(job, folder))

    def datasets(
        self, *, project: str = "", name_contains: str = "", limit: int = 0
    ) -> Listing[DatasetSummary]:
        """Datasets by project and name; every page is fetched as it is needed.

        Args:
            project: Only those of it.
            name_contains: Only those whose name has this in it.
            limit: Most datasets; 0: all.
        """
        return self._loop.listing(
            self._client.datasets(project=project, name_contains=name_contains, limit=limit)
        )

    def dataset(self, dataset: str, *, table: str = "") -> Dataset:
        """A version of a dataset, with its figures and methods that read its rows.

        Args:
            dataset: `NAME`, `NAME@3`, `NAME@ALIAS`, or these after `PROJECT.`.
            table: The table whose rows are read; empty for the first or only one.

        Raises:
            NotFoundError: There is no such dataset, version or table.
        """
        return Dataset(self._loop.run(self._client.dataset(dataset, table=table)), self._loop)

    def dataset_versions(self, dataset: str, *, limit: int = 0) -> Listing[DatasetVersion]:
        """The versions of a dataset, newest first; every page is fetched as it is needed.

        Args:
            dataset: `NAME` or `PROJECT.NAME`.
            limit: Most versions; 0: all.
        """
        return self._loop.listing(self._client.dataset_versions(dataset, limit=limit))

    def read_dataset(
        self,
        dataset: str,
        *,
        table: str = "",
        columns: Sequence[str] = (),
        filter: str = "",
        offset: int = 0,
        limit: int = 0,
        rejects: bool = False,
        encoding: str = "arrow",
        formula_guard: bool = True,
    ) -> Iterator[bytes]:
        """The rows of a table as bytes, in blocks of at most 1 MiB.

        Args:
            dataset: As `dataset` takes it.
            table: The table; empty for the first or only one.
            columns: Which columns, in this order; all if empty.
            filter: An SQL expression that the rows fulfil, such as `price > 0`.
            offset: Rows to leave out first.
            limit: Most rows; 0: all.
            rejects: Whether to read the rejected rows, with the columns `_rule`, `_row`, `_value`.
            encoding: "arrow", an IPC stream, "csv" with a header, or "json", an object a line.
            formula_guard: Whether text that a spreadsheet would run as a formula gets a `'` in
                front. Of CSV only.
        """
        return self._loop.iterate(
            self._client.read_dataset(
                dataset,
                table=table,
                columns=columns,
                filter=filter,
                offset=offset,
                limit=limit,
                rejects=rejects,
                encoding=encoding,
                formula_guard=formula_guard,
            )
        )

    def set_dataset_alias(
        self, dataset: str, alias: str, *, remove: bool = False
    ) -> DatasetSummary:
        """Has an alias name a version, which retention then never removes.

        Args:
            dataset: `NAME@3`; the latest version without a number.
            alias: The alias.
            remove: Whether to remove the alias instead.
        """
        return self._loop.run(self._client.set_dataset_alias(dataset, alias, remove=remove))

    def pin_dataset(self, dataset: str, *, pinned: bool = True) -> DatasetVersion:
        """Pins a version, so that retention never removes it.

        Args:
            dataset: `NAME@3`, `NAME@ALIAS`; the latest version without it.
            pinned: Whether it is pinned from now on.
        """
        return self._loop.run(self._client.pin_dataset(dataset, pinned=pinned))

    def delete_dataset(self, dataset: str) -> int:
        """Deletes a version of a dataset, or the dataset with all of them.

        Args:
            dataset: `NAME@3` or `NAME@ALIAS` for one version, `NAME` for all of it.

        Returns:
            How many versions were deleted.

        Raises:
            FailedPreconditionError: A version is pinned or has an alias.
        """
        return self._loop.run(self._client.delete_dataset(dataset))

    def update_dataset(
        self,
        dataset: str,
        *,
        quota_bytes: int | None = None,
        max_versions: int | None = None,
        max_age: timedelta | None = None,
        description: str | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> DatasetSummary:
        """Changes the limits, the description and the labels of a dataset; None: as it is.

        A dataset that is not there is created without versions.

        Args:
            dataset: `NAME` or `PROJECT.NAME`.
            quota_bytes: Most bytes of all versions; 0: what its project has left.
            max_versions: Most versions, the oldest go first; 0: all are kept.
            max_age: Versions older than this go; of no length: none.
            description: What it is.
            labels: Labels to set; one with an empty value is removed.
            request_id: Makes the call safe to repeat: a UUID.
        """
        return self._loop.run(
            self._client.update_dataset(
                dataset,
                quota_bytes=quota_bytes,
                max_versions=max_versions,
                max_age=max_age,
                description=description,
                labels=labels,
                request_id=request_id,
            )
        )

    def import_dataset(
        self,
        dataset: str,
        source: Any = None,
        *,
        primary_key: str | Sequence[str] = (),
        dedupe: str | Mapping[str, Any] | None = None,
        rules: Rules = (),
        types: Mapping[str, str] | None = None,
        tables: Sequence[Mapping[str, Any]] = (),
        alias: str = "",
        profile: bool = True,
        request_id: str = "",
        on_upload: Callable[[str, int, int], None] | None = None,
    ) -> Job:
        """Starts making a version of a dataset; returns at once.

        A source is one of these:

            files of this machine, or names in data roots, such as `raw/x.csv`, or several; files
            that the service does not see are sent to it; `./x.csv` and a `Path` are always here
            a data frame, or any table of Arrow: it is sent as Parquet
            a conversion, a design or a query: the job or its id; a conversion has all its tables
            an `AsyncDataset` or a `Dataset`
            a mapping: `{"files": …, "delimiter": ";"}` with the other fields of `RowFiles`,
            `{"job": …, "table": …}` or `{"dataset": "whisky@3", "table": …}`

        Args:
            dataset: Its name; it is made if it is not there.
            source: Where the rows come from.
            primary_key: The columns that name a row.
            dedupe: Which row of a key stays: "first", "newest:COLUMN" or "best:EXPRESSION", or a
                mapping with the fields of `Dedupe`. The first one if left out.
            rules: What every accepted row fulfils: expressions such as "price > 0", or mappings
                such as `{"column": "age", "minimum": 18}`; in a list, or by their names.
            types: Types of columns instead of those found, such as `{"price": "DECIMAL(18,2)"}`.
            tables: Instead of a source: mappings with `name`, `source`, `primary_key`, `dedupe`,
                `rules`, `types` and `references`, such as `["user_id -> user.id"]`.
            alias: A name for the new version.
            profile: Whether to compute the figures of the columns.
            request_id: Makes the call safe to repeat: a UUID.
            on_upload: Called with a file's name, the bytes of it that were sent, and its size.

        Returns:
            The job. Once it is finished, `dataset(name)` is what it made.
        """
        return self._loop.run(
            self._client.import_dataset(
                dataset,
                source,
                primary_key=primary_key,
                dedupe=dedupe,
                rules=rules,
                types=types,
                tables=tables,
                alias=alias,
                profile=profile,
                request_id=request_id,
                on_upload=on_upload,
            )
        )

    def deliver_dataset(
        self,
        dataset: str,
        *,
        alias: str = "final",
        require: Mapping[str, str] | None = None,
        output: str = "",
        format: str = "",
        request_id: str = "",
    ) -> Job:
        """Starts delivering a version of a dataset; returns at once.

        Args:
            dataset: `NAME`, `NAME@3` or `NAME@ALIAS`.
            alias: What names the version once it is delivered.
            require: What it must fulfil, or nothing changes: `accepted`, `rejected`,
                `rejected_share` or `bytes`, and a comparison such as ">= 100".
            output: A folder of a data root for its tables, such as `out/whisky`, or a URL below a
                root's; empty: they are not written.
            format: The files to write: `csv`, `parquet` or `both`; `csv` if empty.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The job. Once it is finished, its result says which version was delivered.
        """
        return self._loop.run(
            self._client.deliver_dataset(
                dataset,
                alias=alias,
                require=require,
                output=output,
                format=format,
                request_id=request_id,
            )
        )

    def forget_records(
        self,
        dataset: str,
        keys: Sequence[Any],
        *,
        table: str = "",
        columns: str | Sequence[str] = (),
        purge_after: timedelta | None = None,
        request_id: str = "",
    ) -> Job:
        """Starts making a version without the rows of some keys; returns at once.

        The rows go from tables that refer to them and from the rejected rows, too. Older versions
        that hold such rows are deleted, pinned ones too, and their files purged after a time.

        Args:
            dataset: Its name.
            keys: At most 10,000; each a value, or a list with one for each column.
            table: The table that the keys are of; empty for the first or only one.
            columns: The columns of the keys; empty: the primary key.
            purge_after: How long the files of older versions stay; None: as the service is set.
            request_id: Makes the call safe to repeat: a UUID.
        """
        return self._loop.run(
            self._client.forget_records(
                dataset,
                keys,
                table=table,
                columns=columns,
                purge_after=purge_after,
                request_id=request_id,
            )
        )

    def upload(
        self, path: str | os.PathLike[str], *, progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Sends a file into the caller's project.

        The same file under the same name is sent once: its id is made of both. If the call breaks
        off, or is repeated later, it goes on where the bytes end. At most 1 MiB is in memory.

        Args:
            path: The file.
            progress: Called with the bytes sent so far and the size of the file.

        Returns:
            The id; `upload:ID` names the file in other calls until it expires.

        Raises:
            InvalidArgumentError: The file cannot be read, or changes while it is sent.
            ResourceExhaustedError: The project's quota is reached, or the disk is full.
        """
        return self._loop.run(self._client.upload(path, progress=progress))

    def get_upload(self, upload_id: str) -> ingestion_pb2.Upload:
        """An upload: how much of it is there, and when it is deleted.

        Args:
            upload_id: Its id.
        """
        return self._loop.run(self._client.get_upload(upload_id))

    def delete_upload(self, upload_id: str) -> None:
        """Deletes an upload.

        Args:
            upload_id: Its id.
        """
        return self._loop.run(self._client.delete_upload(upload_id))

    def extend_kit(
        self,
        kit_id: int,
        *,
        budget: int = 0,
        goals: str = "",
        narrow: Mapping[str, Any] | None = None,
        name: str = "",
        labels: Mapping[str, str] | None = None,
        actor: str = "",
        request_id: str = "",
    ) -> Kit:
        """Extends a kit by a new one, which goes on from all that the kit knows; returns at once.

        No point is run again. Of a kit that stopped after a stage, the rest is run.

        Args:
            kit_id: The kit to extend; it stays as it is.
            budget: Further runs of the simulator; as many as the kit's own if 0.
            goals: What is wanted now; the kit's own if empty.
            narrow: Other ranges by parameter: `[low, high]`, one value, or `{"choices": […]}`.
            name: The name of the new kit; the kit's own if empty.
            labels: Labels beside those of the kit.
            actor: The caller's name, for the log.
            request_id: A UUID that makes the call safe to repeat from elsewhere.

        Returns:
            The new kit. Its `extends` in `spec` is the kit.
        """
        return self._loop.run(
            self._client.extend_kit(
                kit_id,
                budget=budget,
                goals=goals,
                narrow=narrow,
                name=name,
                labels=labels,
                actor=actor,
                request_id=request_id,
            )
        )

    def estimate_extension(
        self,
        kit_id: int,
        *,
        budget: int = 0,
        goals: str = "",
        narrow: Mapping[str, Any] | None = None,
    ) -> pipeline_pb2.RunEstimate:
        """How long the runs of a kit that extends another may take; starts nothing.

        Args:
            kit_id: The kit to extend.
            budget: Further runs of the simulator; as many as the kit's own if 0.
            goals: What is wanted now; the kit's own if empty.
            narrow: Other ranges by parameter, as of `extend_kit`.
        """
        return self._loop.run(
            self._client.estimate_extension(kit_id, budget=budget, goals=goals, narrow=narrow)
        )

    def import_points(
        self,
        dataset: str,
        file: str | os.PathLike[str] | bytes,
        deck: str | Path,
        *,
        request_id: str = "",
    ) -> Job:
        """Imports measurements or earlier runs as points of a deck; returns at once.

        Every row is checked against the deck first. A kit takes the points by
        `reuse: dataset NAME`.

        Args:
            dataset: The dataset's name; it is made if it is not there, else gets a version.
            file: The path of a CSV file with a column for each parameter and response, or its
                content.
            deck: The name or id of a deck, or the path of a folder or an archive of this machine.
            request_id: A UUID that makes the call safe to repeat from elsewhere.

        Raises:
            InvalidArgumentError: With every mistake, by line and column.
        """
        return self._loop.run(
            self._client.import_points(dataset, file, deck, request_id=request_id)
        )

    def lineage(
        self,
        *,
        kit_id: int = 0,
        job_id: str = "",
        dataset: str = "",
        file: str = "",
        direction: str = "",
        project: str = "",
        limit: int = 0,
    ) -> registry_pb2.GetLineageResponse:
        """Where something comes from, or what was made of it.

        Args:
            kit_id: Of all that a kit made.
            job_id: Of what a job made.
            dataset: Of a version of a dataset, such as `bench@3`.
            file: Of a file, as imports and conversions name it, or the name of an uploaded file.
            direction: `back` to what it was made from, or `forward` to what was made of it; if
                empty back from kits and jobs, forward from datasets and files.
            project: Only what is in this project.
            limit: Most nodes.
        """
        return self._loop.run(
            self._client.lineage(
                kit_id=kit_id,
                job_id=job_id,
                dataset=dataset,
                file=file,
                direction=direction,
                project=project,
                limit=limit,
            )
        )

    def create_schedule(
        self,
        name: str,
        kit: KitSource | None = None,
        *,
        system_job: Mapping[str, Any] | None = None,
        cron: str = "",
        time_zone: str = "",
        interval: timedelta | float = 0,
        overlap: str = "",
        catch_up: timedelta | float = 0,
        paused: bool = False,
        note: str = "",
        notify: Notified = (),
        project: str = "",
        actor: str = "",
        request_id: str = "",
    ) -> schedules_pb2.Schedule:
        """Creates a schedule: each fire makes one kit.

        Args:
            name: Unique in the project: 1 to 63 of a-z, 0-9, `_`, `.` and `-`.
            kit: As `run` takes it. Its deck is pinned.
            system_job: In place of a kit, for administrators: `{"backup": {"targets": ["disk"],
                "keep": 3}}`, `{"cleanup": {"days": 7}}` or `{"repair": {"verify": True}}`.
            cron: When it fires: minute, hour, day of the month, month, day of the week, where 0 is
                Sunday; or `@daily` and the like.
            time_zone: The zone of `cron`, such as `Asia/Seoul`; UTC if empty.
            interval: In place of `cron`: fires at the multiples of this since 1970; a number is
                one of seconds.
            overlap: What happens while an earlier kit is at work: `skip`, `buffer_one` or `allow`;
                `skip` if empty.
            catch_up: How late a fire may be made after an outage; 1 day if 0.
            paused: Whether it begins paused.
            note: A note for people.
            notify: Webhooks that get the ends of its kits, and fires without a kit: names, or by
                name the events out of FINISHED, FAILED, CANCELED, OVERDUE.
            project: The project of the schedule and its kits; the kit's if empty.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        return self._loop.run(
            self._client.create_schedule(
                name,
                kit,
                system_job=system_job,
                cron=cron,
                time_zone=time_zone,
                interval=interval,
                overlap=overlap,
                catch_up=catch_up,
                paused=paused,
                note=note,
                notify=notify,
                project=project,
                actor=actor,
                request_id=request_id,
            )
        )

    def update_schedule(
        self,
        name: str,
        *,
        kit: KitSource | None = None,
        system_job: Mapping[str, Any] | None = None,
        cron: str = "",
        time_zone: str = "",
        interval: timedelta | float = 0,
        overlap: str = "",
        catch_up: timedelta | float = 0,
        note: str | None = None,
        notify: Notified | None = None,
        project: str = "",
        actor: str = "",
    ) -> schedules_pb2.Schedule:
        """Changes what is given of a schedule.

        Args:
            name: The schedule.
            kit: The kit that each fire makes from now on.
            system_job: In place of a kit, as `create_schedule` takes it.
            cron: When it fires from now on; with its `time_zone`.
            time_zone: The zone of `cron`; UTC if empty.
            interval: In place of `cron`.
            overlap: What happens while an earlier kit is at work.
            catch_up: How late a fire may be made after an outage.
            note: A note for people.
            notify: Replaces the webhooks that get its events.
            project: The schedule's project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        return self._loop.run(
            self._client.update_schedule(
                name,
                kit=kit,
                system_job=system_job,
                cron=cron,
                time_zone=time_zone,
                interval=interval,
                overlap=overlap,
                catch_up=catch_up,
                note=note,
                notify=notify,
                project=project,
                actor=actor,
            )
        )

    def schedules(self, *, project: str = "") -> list[schedules_pb2.Schedule]:
        """The schedules, oldest first, each with its latest fire.

        Args:
            project: Only those of this project.
        """
        return self._loop.run(self._client.schedules(project=project))

    def schedule(
        self, name: str, *, project: str = "", fires: int = 10, next_times: int = 5
    ) -> pipeline_pb2.GetScheduleResponse:
        """A schedule, its latest fires, newest first, and its next times.

        Args:
            name: The schedule.
            project: Its project; the caller's, else `default`, if empty.
            fires: How many fires to return, at most 1,000.
            next_times: How many next times to return, at most 100.
        """
        return self._loop.run(
            self._client.schedule(name, project=project, fires=fires, next_times=next_times)
        )

    def pause_schedule(
        self, name: str, *, note: str = "", project: str = "", actor: str = ""
    ) -> schedules_pb2.Schedule:
        """Pauses a schedule: it does not fire.

        Args:
            name: The schedule.
            note: Why.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        return self._loop.run(
            self._client.pause_schedule(name, note=note, project=project, actor=actor)
        )

    def resume_schedule(
        self, name: str, *, note: str = "", project: str = "", actor: str = ""
    ) -> schedules_pb2.Schedule:
        """Resumes a schedule; what it did not fire while it was paused is not caught up.

        Args:
            name: The schedule.
            note: Why.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        return self._loop.run(
            self._client.resume_schedule(name, note=note, project=project, actor=actor)
        )

    def run_schedule(
        self, name: str, *, project: str = "", actor: str = "", request_id: str = ""
    ) -> schedules_pb2.Fire:
        """Makes a kit of a schedule now.

        Args:
            name: The schedule.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The fire, with the number of the kit in `kit_id`.
        """
        return self._loop.run(
            self._client.run_schedule(name, project=project, actor=actor, request_id=request_id)
        )

    def delete_schedule(self, name: str, *, project: str = "", actor: str = "") -> None:
        """Deletes a schedule with its fires; its kits stay.

        Args:
            name: The schedule.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        return self._loop.run(self._client.delete_schedule(name, project=project, actor=actor))

    def set_webhook(
        self,
        name: str,
        url: str = "",
        *,
        events: Sequence[str] | None = None,
        secrets: Sequence[str] = (),
        project: str = "",
        actor: str = "",
        request_id: str = "",
    ) -> outbox_pb2.Webhook:
        """Makes a webhook, or changes what is given of it.

        Args:
            name: Unique in the project: 1 to 63 of a-z, 0-9, `_`, `.` and `-`.
            url: Where events are posted to, of a host that the operator allows.
            events: The types of events of the project that it gets, such as `dataset.version` or
                `kit.failed`; none: those of the kits and schedules that name it.
            secrets: What signs its messages: one, or two while receivers change to a new one.
                Each is `whsec_` and 24 to 64 random bytes in base64.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.

        Raises:
            InvalidArgumentError: With every mistake in `violations`.
        """
        return self._loop.run(
            self._client.set_webhook(
                name,
                url,
                events=events,
                secrets=secrets,
                project=project,
                actor=actor,
                request_id=request_id,
            )
        )

    def webhooks(self, *, project: str = "") -> list[outbox_pb2.Webhook]:
        """The webhooks by project and name, without their secrets.

        Args:
            project: Only those of this project.
        """
        return self._loop.run(self._client.webhooks(project=project))

    def delete_webhook(self, name: str, *, project: str = "", actor: str = "") -> None:
        """Deletes a webhook; what waits to be sent to it is dead.

        Args:
            name: The webhook.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        return self._loop.run(self._client.delete_webhook(name, project=project, actor=actor))

    def test_webhook(self, name: str, *, project: str = "", actor: str = "") -> outbox_pb2.Delivery:
        """Sends an event of the type `webhook.test` to a webhook.

        Args:
            name: The webhook.
            project: Its project; the caller's, else `default`, if empty.
            actor: The caller's name, for the record.
        """
        return self._loop.run(self._client.test_webhook(name, project=project, actor=actor))

    def deliveries(
        self, *, project: str = "", state: str = "", target: str = "", limit: int = 100
    ) -> list[outbox_pb2.Delivery]:
        """Deliveries, newest first.

        Args:
            project: Only those of this project.
            state: Only those that are `pending`, `sent` or `dead`.
            target: Only those to this webhook, or to `openlineage`.
            limit: How many at most; 0 for all.
        """
        return self._loop.run(
            self._client.deliveries(project=project, state=state, target=target, limit=limit)
        )

    def retry_delivery(
        self, delivery_id: int, *, actor: str = "", request_id: str = ""
    ) -> outbox_pb2.Delivery:
        """Has a dead delivery be sent again, under the same event id.

        Args:
            delivery_id: The delivery.
            actor: The caller's name, for the record.
            request_id: Makes the call safe to repeat: a UUID.
        """
        return self._loop.run(
            self._client.retry_delivery(delivery_id, actor=actor, request_id=request_id)
        )

    def list_artifacts(self, uri: str) -> list[artifacts_pb2.ArtifactEntry]:
        """The files and folders in a folder of the artifact store, by name.

        Args:
            uri: The folder: `artifact://jobs/JOB_ID`, or one below it.
        """
        return self._loop.run(self._client.list_artifacts(uri))

    def read_artifact(self, uri: str) -> bytes:
        """The content of a file of the artifact store, which has to fit into memory.

        Args:
            uri: The file, such as the `uri` of a picture in a job's result.

        Raises:
            NotFoundError: There is no such file, or its job is not visible to this caller.
            FailedPreconditionError: It changed while it was read, or is not what was published.
        """
        return self._loop.run(self._client.read_artifact(uri))

    def download(self, uri: str, path: str | os.PathLike[str]) -> Path:
        """Copies a file of the artifact store to this machine, in blocks of at most 1 MiB.

        The file appears once it is complete; one that is there is replaced.

        Args:
            uri: The file.
            path: Where to, or a folder that exists, in which it gets the name that it has.

        Returns:
            The path of the copy.

        Raises:
            InvalidArgumentError: The path cannot be written.
            VistaError: As `read_artifact` raises.
        """
        return self._loop.run(self._client.download(uri, path))

    def logs(self, job: Job | str, *, attempt: int = 0, follow: bool = False) -> Iterator[str]:
        """The lines that the attempts of a job printed, without their line breaks.

        Args:
            job: The job, or its id.
            attempt: The attempt; 0 for all of them, in their order.
            follow: Whether to wait for more lines until the job has ended.
        """
        return self._loop.iterate(self._client.logs(job, attempt=attempt, follow=follow))

    def service_logs(self, service: str, *, follow: bool = False) -> Iterator[str]:
        """The lines that a service has logged, one JSON object each, the oldest removed.

        Args:
            service: Such as `doe`.
            follow: Whether to wait for more lines, without end.
        """
        return self._loop.iterate(self._client.service_logs(service, follow=follow))

    def server_info(self) -> registry_pb2.GetServerInfoResponse:
        """The registry's version, limits and revision, and the addresses of the other services."""
        return self._loop.run(self._client.server_info())
