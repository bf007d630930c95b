"""What each command does, without clock and database.

A `Draft` applies commands on top of a board without changing it. So it can be discarded and made
again; once its rows are on disk, `Board.adopt` takes the changes over.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any

from vistaflow_services.core.errors import (
    ConflictError,
    ExhaustedError,
    ExistsError,
    FieldViolation,
    InvalidError,
)
from vistaflow_services.registry import commands as c
from vistaflow_services.registry.dependencies import dependents
from vistaflow_services.registry.domain import (
    MAX_JOBS_A_KIT,
    MAX_JOBS_ANSWERED,
    MAX_NEEDS_A_KIT,
    MAX_ORDER,
    RETRYABLE,
    TERMINAL,
    Job,
    Kit,
    Status,
    Verdict,
    first_name,
    same,
)
from vistaflow_services.registry.log.changes import (
    ACTOR,
    Changes,
    NewLease,
    Recorded,
    content_of,
    successor,
)
from vistaflow_services.registry.log.verdicts import illegal, repeated, starts_attempt, unfit

PIECE_JOBS = 200
"""Jobs that one commit cancels or retries at most."""

PIECE_BYTES = 1 << 20
"""Bytes of reasons that one commit writes at most; one job may have more."""


class Draft(Changes):
    """The changes of a batch of commands. Each command is applied whole or not at all."""

    def apply(self, command: c.Command) -> Any:
        """Applies one command and returns its answer.

        Raises:
            NotFoundError, ConflictError, ExistsError, ExhaustedError, InvalidError: It cannot be
                applied; nothing changed.
        """
        self._batch = self.last_id + 1
        match command:
            case c.Append():
                return self._append(command)
            case c.Grant():
                return self._grant(command)
            case c.Release():
                return self._release(command)
            case c.Lose():
                return self._lose(command)
            case c.CreateKit():
                return self._create_kit(command)
            case c.CreateJob():
                return self._create_job(command)
            case c.CancelKit():
                return self._cancel_kit(command)
            case c.CancelJob():
                return self._cancel_job(command)
            case c.RetryKit():
                return self._retry_kit(command)
            case c.RetryJob():
                return self._retry_job(command)
            case c.PauseKit():
                return self._pause_kit(command)
            case c.ResumeKit():
                return self._resume_kit(command)
            case c.ChangeJobs():
                return self._change_jobs(command)
            case c.GoOn():
                return self._go_on(self.unfinished[command.change_id])
            case c.BeginJobs():
                assert command.request is not None
                assert command.request.request_id is not None
                self.many_begun[command.request.request_id] = command.many
                return True
            case c.Conclude():
                assert command.request is not None
                if command.request.request_id is not None:
                    self.changes_over.add(command.request.request_id)
                return True
        raise TypeError(f"no rule for {type(command).__name__}")

    # What the commands do.

    def _create_kit(self, command: c.CreateKit) -> c.KitChange:
        kit = self._new_kit(
            command.name,
            command.project,
            command.labels,
            command.spec_json,
            command.actor,
            has_jobs=bool(command.jobs),
        )
        for place, new in enumerate(command.jobs, start=1):
            self._add(kit, new, new.current_order or place, command.actor)
        return c.KitChange(kit=kit.copy(), revision=self.last_id, count=len(kit.jobs))

    def _create_job(self, command: c.CreateJob) -> c.JobChange:
        new = command.job
        # All checks come before the first change: a command that fails changes nothing.
        if command.kit_id:
            held = self._kit(command.kit_id)
            self._check_room(held, new)
            _check_needs(new, self._dependencies(held).job_ids)
            kit = self._own_kit(held.kit_id)
        else:
            # A job without a kit gets one of its own, in which there is nothing to depend on.
            _check_needs(new, ())
            kit = self._new_kit(new.name, command.project, new.labels, "", command.actor)
        # Once the largest order is reached, jobs share it and run in the order of their creation.
        order = new.current_order or min(self._dependencies(kit).last_order + 1, MAX_ORDER)
        job = self._add(kit, new, order, command.actor)
        if job.status == Status.INIT:
            self._unexplained.add(kit.kit_id)
            self.explain()
        return c.JobChange(job=job.copy(), revision=job.revision)

    def _check_room(self, kit: Kit, new: c.NewJob) -> None:
        """Raises an error if a kit has a job of this name, or no room for the job."""
        dependencies = self._dependencies(kit)
        if new.name in dependencies.job_ids:
            raise ExistsError(f"kit {kit.kit_id} has a job named {new.name!r}")
        if len(kit.jobs) >= MAX_JOBS_A_KIT:
            raise ExhaustedError(f"a kit has at most {MAX_JOBS_A_KIT:,} jobs")
        if dependencies.count + len(new.depends_on) > MAX_NEEDS_A_KIT:
            raise ExhaustedError(
                f"the jobs of a kit have at most {MAX_NEEDS_A_KIT:,} dependencies together, "
                f"and {dependencies.count:,} exist already"
            )

    def _cancel_kit(self, command: c.CancelKit) -> Any:
        held = self._kit(command.kit_id)
        doomed = [job.job_id for job in held.ordered_jobs() if job.status not in TERMINAL]
        if not doomed:
            raise ConflictError(f"no job of kit {held.kit_id} is left to cancel: it is over")
        return self._change(command, doomed, retry=False, whole=True)

    def _cancel_job(self, command: c.CancelJob) -> c.JobChange:
        kit, job = self._find(command.job_id)
        if job.status in TERMINAL:
            raise ConflictError(f"job {job.name!r} is {job.status} and cannot be canceled")
        kit = self._own_kit(kit.kit_id)
        job = self._own_job(kit, job.job_id)
        self._cancel(kit, job, command.reason, command.actor)
        self._unexplained.add(kit.kit_id)
        return c.JobChange(job=job.copy(), revision=job.revision)

    def _retry_kit(self, command: c.RetryKit) -> Any:
        held = self._kit(command.kit_id)
        successors = self._successors(held, command.replacements)
        again = [job.job_id for job in held.ordered_jobs() if job.status in RETRYABLE]
        if not again and not successors:
            raise ConflictError(f"no job of kit {held.kit_id} is FAILED or CANCELED")
        kit = self._own_kit(held.kit_id)
        # First the successors: the jobs that are retried then wait for them.
        for replaced, new in successors:
            self._replace(kit, replaced, new, command.reason, command.actor)
        return self._change(command, again, retry=True, whole=True, moved=len(successors))

    def _successors(
        self, held: Kit, replacements: Sequence[c.Replacement]
    ) -> list[tuple[Job, c.NewJob]]:
        """Pairs of job and successor: for the replaced jobs, and FINISHED ones that need them."""
        if not replacements:
            return []
        current = held.current_jobs()
        specs = {replacement.name: replacement for replacement in replacements}
        unknown = [
            FieldViolation(
                field=f"replacements[{place}].name",
                description=f"the kit has no job named {replacement.name!r}",
            )
            for place, replacement in enumerate(replacements)
            if replacement.name not in current
        ]
        if unknown:
            raise InvalidError(unknown[0].description, violations=unknown)
        for name in specs:
            if current[name].status != Status.FINISHED:
                raise ConflictError(
                    f"job {name!r} is {current[name].status}; only a FINISHED job can be replaced"
                )
        touched = dependents(current, specs)
        for name in touched:
            if current[name].status in (Status.QUEUED, Status.RUNNING):
                raise ConflictError(
                    f"job {name!r} is {current[name].status} and depends on a job to be "
                    "replaced: cancel the kit first"
                )
        replaced = [
            current[name] for name in (*specs, *touched) if current[name].status == Status.FINISHED
        ]
        if len(held.jobs) + len(replaced) > MAX_JOBS_A_KIT:
            raise ExhaustedError(f"a kit has at most {MAX_JOBS_A_KIT:,} jobs")
        return [(job, successor(job, specs.get(first_name(job.name)))) for job in replaced]

    def _retry_job(self, command: c.RetryJob) -> c.JobChange:
        kit, job = self._find(command.job_id)
        if job.status not in RETRYABLE:
            raise ConflictError(
                f"job {job.name!r} is {job.status}; only a FAILED or CANCELED one is retried"
            )
        kit = self._own_kit(kit.kit_id)
        job = self._own_job(kit, job.job_id)
        self._retry(kit, job, command.reason, command.actor)
        self._unexplained.add(kit.kit_id)
        self.explain()
        return c.JobChange(job=job.copy(), revision=job.revision)

    def _pause_kit(self, command: c.PauseKit) -> c.KitChange:
        held = self._kit(command.kit_id)
        if held.paused:
            raise ConflictError(f"kit {held.kit_id} is paused already")
        if all(job.status in TERMINAL for job in held.jobs.values()):
            raise ConflictError(f"no job of kit {held.kit_id} is left to hold back: it is over")
        kit = self._own_kit(held.kit_id)
        kit.paused, kit.pauses = True, kit.pauses + 1
        reason = command.reason or "paused on request"
        row = self._record_pause(kit, Status.RUNNING, actor=command.actor, reason=reason)
        return c.KitChange(kit=kit.copy(), revision=row.revision)

    def _resume_kit(self, command: c.ResumeKit) -> c.KitChange:
        held = self._kit(command.kit_id)
        if not held.paused:
            raise ConflictError(f"kit {held.kit_id} is not paused")
        kit = self._own_kit(held.kit_id)
        kit.paused = False
        reason = command.reason or "resumed on request"
        row = self._record_pause(kit, Status.FINISHED, actor=command.actor, reason=reason)
        return c.KitChange(kit=kit.copy(), revision=row.revision)

    def _change_jobs(self, command: c.ChangeJobs) -> Any:
        held = self._kit(command.kit_id)
        job_ids = set(command.job_ids)
        chosen = [
            job.job_id
            for job in held.ordered_jobs()
            if job.job_id in job_ids
            and job.status in command.statuses
            and _moves(job.status, retry=command.retry)
        ]
        if not chosen:
            return c.JobsChange(jobs=[], revision=0, count=0)
        return self._change(command, chosen, retry=command.retry, whole=False)

    def _change(
        self,
        command: c.OfKit | c.ChangeJobs,
        job_ids: Sequence[uuid.UUID],
        *,
        retry: bool,
        whole: bool,
        moved: int = 0,
    ) -> Any:
        """Cancels or retries jobs of a kit, those that fit into one commit.

        Args:
            command: The command.
            job_ids: The jobs, in the order in which they change.
            retry: Whether they are queued again; otherwise they are canceled.
            whole: Whether the answer is the kit; otherwise it is the jobs.
            moved: Number of jobs that were added before, as successors.
        """
        request = command.request or c.Request(
            request_id=None,
            method=type(command).__name__,
            body_sha256="",
            data_json="{}",
            encode=lambda _: b"",
        )
        change = c.Change(
            change_id=request.request_id or uuid.uuid4(),
            request=request,
            kit_id=command.kit_id,
            job_ids=tuple(job_ids),
            retry=retry,
            whole=whole,
            reason=command.reason,
            actor=command.actor,
            count=moved,
            revision=self.last_id if moved else 0,
        )
        return self._go_on(change)

    def _go_on(self, change: c.Change) -> c.KitChange | c.JobsChange | c.Unfinished:
        """Makes the next piece of a change: so many jobs that others need not wait for long.

        A change that needs further commits is noted in `changes_begun` or `changes_moved`, which
        the commit writes: so it is continued even after a crash.
        """
        kit = self._own_kit(change.kit_id)
        end = change.done + piece_jobs(change.reason)
        count = change.count
        for job_id in change.job_ids[change.done : end]:
            if _moves(kit.jobs[job_id].status, retry=change.retry):
                move = self._retry if change.retry else self._cancel
                move(kit, self._own_job(kit, job_id), change.reason, change.actor)
                count += 1
        revision = self.last_id if count > change.count else change.revision
        first = change.done == 0
        change = replace(change, done=end, count=count, revision=revision)
        if end < len(change.job_ids):
            self.unfinished[change.change_id] = change
            (self.changes_begun if first else self.changes_moved)[change.change_id] = change
            return c.Unfinished(change=change)
        self.unfinished.pop(change.change_id, None)
        if not first:
            self.changes_begun.pop(change.change_id, None)
            self.changes_moved.pop(change.change_id, None)
            self.changes_over.add(change.change_id)
        self._unexplained.add(kit.kit_id)
        self.explain()
        if change.whole:
            return c.KitChange(kit=kit.copy(), revision=revision, count=count)
        jobs = [kit.jobs[job_id].copy() for job_id in change.job_ids[:MAX_JOBS_ANSWERED]]
        return c.JobsChange(jobs=jobs, revision=revision, count=count)

    def _append(self, command: c.Append) -> c.Appended:
        results = tuple(self._append_one(item) for item in command.items)
        return c.Appended(
            results=results, revision=max((result.revision for result in results), default=0)
        )

    def _append_one(self, item: c.Item) -> c.Result:
        """Records one row of an append, or says why not.

        The checks, in this order:

        ========================================  =====================================
        no such job, or not in the caller's       REJECTED
        project
        kit, type or attempt is not the job's     REJECTED, STALE_ATTEMPT (`unfit`)
        its seq is recorded                       DUPLICATE or REJECTED (`repeated`)
        the status machine does not allow it      REJECTED (`illegal`)
        otherwise                                 ACCEPTED
        ========================================  =====================================
        """
        held: Kit | None
        job: Job | None
        target = self._target
        if target is not None and target[0] is item.job_id:
            _, held, job = target
        else:
            target = None
            held, job = self._placed(item.job_id)
        if held is None or job is None or (item.within and held.project != item.within):
            return c.Result(verdict=Verdict.REJECTED, detail=f"there is no job {item.job_id}")
        starts = not item.task_name and starts_attempt(job, item)
        # Repeats before the status machine: the recorded row has moved the job or task already,
        # so the machine would refuse the same row.
        answer = unfit(job, item)
        if answer is None and item.seq and not starts and item.seq <= job.last_seq:
            answer = self._repeat(job, item)
        if answer is None:
            answer = illegal(job, item)
        if answer is not None:
            return answer
        if target is None:
            held = self._own_kit(held.kit_id)
            job = self._own_job(held, job.job_id)
            self._target = item.job_id, held, job
        if starts:
            self._begin_attempt(job)
        row = self._record(
            held,
            job,
            item.status,
            task_name=item.task_name,
            seq=item.seq,
            metadata_json=item.metadata_json,
            actor=item.actor,
            reason=item.reason,
        )
        if item.seq:
            job.last_seq = max(job.last_seq, item.seq)
            self._seqs[job.job_id, job.attempt, item.seq] = Recorded(
                row.revision, frozenset({content_of(item)})
            )
        if not item.task_name and item.status in TERMINAL:
            self._after_end(held, job, item)
        return c.Result(Verdict.ACCEPTED, row.revision)

    def _repeat(self, job: Job, item: c.Item) -> c.Result | None:
        """The answer to a row whose seq is recorded, in this batch or before; None if it is not.

        Seqs may come out of order, so a seq below the last one need not be recorded.
        """
        key = (job.job_id, job.attempt, item.seq)
        recorded = self._seqs.get(key) or self._recorded.get(key)
        return repeated(item, job.attempt, recorded) if recorded is not None else None

    def _after_end(self, kit: Kit, job: Job, item: c.Item) -> None:
        """Queues the jobs that waited for a job which has ended, or explains why they wait."""
        if item.status == Status.FINISHED:
            job.result_json = item.result_json
            self.results.add(job.job_id)
            self._queue_ready(kit, first_name(job.name))
        else:
            self._unexplained.add(kit.kit_id)

    def _grant(self, command: c.Grant) -> c.Granted | None:
        kit_id = self._kit_id_of(command.job_id)
        held = self._held(kit_id) if kit_id is not None else None
        job = held.jobs[command.job_id] if held else None
        if held is None or job is None or job.external or job.status != Status.QUEUED:
            return None
        if held.paused:
            return None
        kit = self._own_kit(held.kit_id)
        job = self._own_job(kit, command.job_id)
        self._begin_attempt(job)
        job.worker = command.worker
        self._record(
            kit,
            job,
            Status.RUNNING,
            metadata_json=json.dumps({"event": "GRANTED", "worker": command.worker}),
            actor=command.worker,
            reason=f"leased to {command.worker}",
        )
        self.ended.discard(job.job_id)
        self.leases[job.job_id] = NewLease(
            job_id=job.job_id,
            attempt=job.attempt,
            worker=command.worker,
            seconds=command.lease_seconds,
        )
        named = self._dependencies(kit).job_ids
        inputs = tuple(
            # Named as in `depends_on`, where a successor stands for the job that it replaces.
            same(kit.jobs[named[name]].copy(), name=name)
            for name in job.depends_on
            if name in named
        )
        return c.Granted(job=job.copy(), inputs=inputs)

    def _release(self, command: c.Release) -> bool:
        current = self._current(command.job_id, command.attempt, command.worker)
        if current is None:
            return False
        reason = command.reason or f"given back by {command.worker}"
        self._give_back(*current, "RELEASED", command.counts, reason, command.worker)
        return True

    def _lose(self, command: c.Lose) -> bool:
        current = self._current(command.job_id, command.attempt)
        if current is None:
            return False
        kit, job = current
        self._record(
            kit,
            job,
            Status.FAILED,
            task_name=f"attempt-{job.attempt}",
            metadata_json=json.dumps({"event": "LOST", "worker": command.worker}),
            actor=ACTOR,
            reason="lease expired",
        )
        reason = f"attempt {job.attempt} was lost: worker {command.worker} sent no heartbeats"
        self._give_back(kit, job, "LOST", True, reason, ACTOR)
        return True


def piece_jobs(reason: str) -> int:
    """How many jobs one commit cancels or retries with this reason, which each row holds."""
    return max(1, min(PIECE_JOBS, PIECE_BYTES // (len(reason.encode()) or 1)))


def _check_needs(new: c.NewJob, names: Container[str]) -> None:
    """Raises `InvalidError` if a new job depends on a name that its kit does not have."""
    unknown = [
        FieldViolation(
            field=f"job.depends_on[{place}]",
            description=f"the kit has no job named {name!r}; name one of its jobs",
        )
        for place, name in enumerate(new.depends_on)
        if name not in names
    ]
    if unknown:
        descriptions = ", ".join(violation.description for violation in unknown)
        raise InvalidError(f"job.depends_on: {descriptions}", violations=unknown)


def _moves(status: str, *, retry: bool) -> bool:
    """Whether a job in a status can be retried, or canceled."""
    return status in RETRYABLE if retry else status not in TERMINAL
