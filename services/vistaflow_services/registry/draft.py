"""What each command does. Pure: no clock, no database.

A `Draft` applies commands on top of a board without changing it, so that it can be thrown away
and made again; once its rows are on disk, `Board.adopt` takes it over.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
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
from vistaflow_services.registry.changes import (
    ACTOR,
    Changes,
    Lease,
    Recorded,
    content_of,
    successor,
)
from vistaflow_services.registry.dependencies import dependents
from vistaflow_services.registry.domain import (
    MAX_JOBS_A_KIT,
    MAX_JOBS_TOLD,
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
from vistaflow_services.registry.verdicts import illegal, repeated, starts_attempt, unfit

PIECE_JOBS = 200
"""Jobs that one commit cancels or retries at most."""

PIECE_BYTES = 1 << 20
"""Bytes of reasons that one commit writes at most, but for one job's."""


class Draft(Changes):
    """What a batch of commands would change. One command after another, or not at all."""

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
        held = self._kit(command.kit_id) if command.kit_id else None
        dependencies = self._dependencies(held) if held is not None else None
        if held is not None and dependencies is not None:
            if new.name in dependencies.job_ids:
                raise ExistsError(f"kit {held.kit_id} has a job named {new.name!r}")
            if len(held.jobs) >= MAX_JOBS_A_KIT:
                raise ExhaustedError(f"a kit has at most {MAX_JOBS_A_KIT:,} jobs")
            if dependencies.count + len(new.depends_on) > MAX_NEEDS_A_KIT:
                raise ExhaustedError(
                    f"the jobs of a kit have at most {MAX_NEEDS_A_KIT:,} dependencies together, "
                    f"and {dependencies.count:,} exist already"
                )
        names = dependencies.job_ids.keys() if dependencies is not None else set()
        unknown = [
            FieldViolation(
                field=f"job.depends_on[{place}]",
                description=f"the kit has no job named {name!r}; name one of its jobs",
            )
            for place, name in enumerate(new.depends_on)
            if name not in names
        ]
        if unknown:
            told = ", ".join(each.description for each in unknown)
            raise InvalidError(f"job.depends_on: {told}", violations=unknown)
        if held is None:
            kit = self._new_kit(new.name, command.project, new.labels, "", command.actor)
        else:
            kit = self._own_kit(held.kit_id)
        # After the largest order there is, jobs of the same order are in the order they were made.
        order = new.current_order or min(self._dependencies(kit).last_order + 1, MAX_ORDER)
        job = self._add(kit, new, order, command.actor)
        if job.status == Status.INIT:
            self._unexplained.add(kit.kit_id)
            self.explain()
        return c.JobChange(job=job.copy(), revision=job.revision)

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
        # First: what is retried waits for the successors of what it depends on.
        for replaced, new in successors:
            self._replace(kit, replaced, new, command.reason, command.actor)
        return self._change(command, again, retry=True, whole=True, moved=len(successors))

    def _successors(
        self, held: Kit, replacements: Sequence[c.Replacement]
    ) -> list[tuple[Job, c.NewJob]]:
        """The successors of jobs that are replaced, and of FINISHED ones that depend on these."""
        if not replacements:
            return []
        current = held.current_jobs()
        specs = {each.name: each for each in replacements}
        unknown = [
            FieldViolation(
                field=f"replacements[{place}].name",
                description=f"the kit has no job named {each.name!r}",
            )
            for place, each in enumerate(replacements)
            if each.name not in current
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
        wanted = set(command.job_ids)
        chosen = [
            job.job_id
            for job in held.ordered_jobs()
            if job.job_id in wanted
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
            command: What asks for it.
            job_ids: The jobs, in the order of their turns.
            retry: Whether they are queued again.
            whole: Whether the kit is the answer.
            moved: Jobs that were made in the place of others, before.
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
        """Makes the next piece of a change."""
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
        told = [kit.jobs[job_id].copy() for job_id in change.job_ids[:MAX_JOBS_TOLD]]
        return c.JobsChange(jobs=told, revision=revision, count=count)

    def _append(self, command: c.Append) -> c.Appended:
        results = tuple(self._append_one(item) for item in command.items)
        return c.Appended(
            results=results, revision=max((each.revision for each in results), default=0)
        )

    def _append_one(self, item: c.Item) -> c.Result:
        kit_id = self._kit_id_of(item.job_id)
        held = self._held(kit_id) if kit_id is not None else None
        if held is None or (item.within and held.project != item.within):
            return c.Result(verdict=Verdict.REJECTED, detail=f"there is no job {item.job_id}")
        job = held.jobs[item.job_id]
        refusal = unfit(job, item)
        if refusal is not None:
            return refusal
        starts = starts_attempt(job, item)
        key = (job.job_id, job.attempt, item.seq)
        if item.seq and not starts and item.seq <= job.last_seq:
            recorded = self._seqs.get(key) or self._known.get(key)
            if recorded is not None:
                return repeated(item, job.attempt, recorded)
        refusal = illegal(job, item)
        if refusal is not None:
            return refusal
        kit = self._own_kit(held.kit_id)
        job = self._own_job(kit, job.job_id)
        if starts:
            self._begin_attempt(job)
        row = self._record(
            kit,
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
            if item.status == Status.FINISHED:
                job.result_json = item.result_json
                self.results.add(job.job_id)
                self._queue_ready(kit, first_name(job.name))
            else:
                self._unexplained.add(kit.kit_id)
        return c.Result(verdict=Verdict.ACCEPTED, revision=row.revision)

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
        self.leases[job.job_id] = Lease(
            job_id=job.job_id,
            attempt=job.attempt,
            worker=command.worker,
            seconds=command.lease_seconds,
        )
        named = self._dependencies(kit).job_ids
        inputs = tuple(
            # Under the name in `depends_on`: a successor replaces the job of that name.
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
        reason = f"attempt {job.attempt} was lost: worker {command.worker} fell silent"
        self._give_back(kit, job, "LOST", True, reason, ACTOR)
        return True


def piece_jobs(reason: str) -> int:
    """How many jobs one commit cancels or retries for a reason: each row holds it."""
    return max(1, min(PIECE_JOBS, PIECE_BYTES // (len(reason.encode()) or 1)))


def _moves(status: str, *, retry: bool) -> bool:
    """Whether a job in a status can be retried, or canceled."""
    return status in RETRYABLE if retry else status not in TERMINAL
