"""The tree of a kit that redraws itself."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import MappingProxyType
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vistaflow.aio._watch import Watch
from vistaflow.aio.client import AsyncClient
from vistaflow.cli.output import MARKS, STYLES, console, errors, print_json, size_text
from vistaflow.errors import (
    DeadlineExceededError,
    KitFailedError,
    ResourceExhaustedError,
    UnavailableError,
)
from vistaflow.models import Delta, Job, Kit, Progress, Snapshot, State

REDRAW_SECONDS = 0.25
QUEUE_SECONDS = 5.0
"""How often the place of a job in its queue is asked for."""
MOST_IN_QUEUE = 1000
"""Jobs that are looked at for it."""
TASKS_SHOWN = 4
PROGRESS_TASK = "progress"
"""The task whose rows sample the progress of a job."""
REMARK_CHARACTERS = 150
WIDE = 100
"""Columns of a terminal from which bars are long."""
WIDE_BAR, NARROW_BAR = 18, 8
READ_AGAIN = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)
"""Errors after which a kit is read again at the next redraw."""
MOST_PENDING = 1000
"""Events kept while a kit is read."""


async def follow(
    client: AsyncClient, kit_id: int, *, as_json: bool = False, until_done: bool = True
) -> Kit:
    """Shows a kit until nothing of it moves: a live tree on a terminal, else a line a row.

    Args:
        client: The client.
        kit_id: The kit.
        as_json: A line of JSON a row instead.
        until_done: Whether to return then; else it is shown until it is interrupted.
    """
    kit = await client.kit(kit_id)
    if as_json or not console.is_terminal:
        return await _print_rows(client, kit, as_json=as_json, until_done=until_done)
    return await _redraw(client, kit, until_done=until_done)


async def follow_to_end(client: AsyncClient, kit_id: int, *, quiet: bool) -> None:
    """Waits until nothing of a kit moves, with a live tree on a terminal unless it is `quiet`."""
    if console.is_terminal and not quiet:
        await follow(client, kit_id)
        return
    with contextlib.suppress(KitFailedError):
        await client.wait(kit_id)


async def print_rows_of(
    client: AsyncClient,
    criteria: Mapping[str, Any],
    *,
    after_revision: int | None,
    snapshot: bool,
    as_json: bool,
) -> None:
    """Prints a line for each matching row, without end; prints where to go on when interrupted.

    Args:
        client: The client.
        criteria: What `AsyncClient.watch` takes.
        after_revision: Where to begin; now if None.
        snapshot: Whether to begin with what is now instead.
        as_json: A line of JSON a row instead.
    """
    if after_revision is None:
        after_revision = 0 if snapshot else (await client.server_info()).revision
    watch = client.watch(**criteria, after_revision=after_revision, include_snapshot=snapshot)
    try:
        async for event in watch:
            if isinstance(event, Delta | Snapshot):
                _print_states(event.states, {}, as_json=as_json)
            if isinstance(event, Delta) and not as_json:
                for row in event.left:
                    line = f"{state_line(row, {})} (left)"
                    console.print(line, markup=False, soft_wrap=True)
                if event.folded_count:
                    rows = "row" if event.folded_count == 1 else "rows"
                    console.print(f"… {event.folded_count} earlier {rows} of these tasks left out")
    finally:
        errors.print(f"go on from here with --from {watch.revision}", markup=False)


async def queue_places(client: AsyncClient, kit: Kit) -> dict[str, str]:
    """Where the kit's queued jobs are in their queue, such as `2 of 5`, by job id.

    As the registry hands jobs out: kits take turns, those with less running first.
    """
    queued = [job for job in kit.jobs if job.status == "QUEUED" and not job.pb.external]
    if not queued:
        return {}
    jobs = [
        job
        async for job in client.jobs(statuses=["QUEUED", "RUNNING"], limit=MOST_IN_QUEUE)
        if not job.pb.external
    ]
    turns = Counter(job.kit_id for job in jobs if job.status == "RUNNING")
    queue = []
    for job in sorted(jobs, key=lambda job: (-job.pb.priority, job.kit_id, job.current_order)):
        if job.status == "QUEUED":
            turns[job.kit_id] += 1
            queue.append((turns[job.kit_id], job.kit_id, job))
    queue.sort(key=lambda waiting: waiting[:2])
    places = {}
    for job in queued:
        ids = [other.job_id for *_, other in queue if other.job_type == job.job_type]
        if job.job_id in ids:
            places[job.job_id] = f"{ids.index(job.job_id) + 1} of {len(ids)}"
    return places


def tree(
    kit: Kit, *, note: str = "", places: Mapping[str, str] = MappingProxyType({})
) -> RenderableType:
    """A kit with its jobs and their tasks as they are now.

    Args:
        kit: The kit.
        note: What is said behind its title.
        places: Of its queued jobs, as `queue_places` returns them.
    """
    title = Text.assemble(
        (f"{MARKS.get(kit.status, '?')} ", STYLES.get(kit.status, "")),
        (f"kit {kit.kit_id} ", "bold"),
        kit.name,
        (f"  {kit.status}", STYLES.get(kit.status, "")),
        ("  paused" if kit.paused else "", "yellow"),
        (f"  revision {kit.revision}", "dim"),
        (f"  {note}" if note else "", "yellow"),
    )
    # Expanded, the last column has what is left, and a long remark takes nothing from the others.
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(no_wrap=True, width=9)
    # Without a bar, the remarks of a kit that has ended are readable at 80 columns, too.
    moves = any(job.status == "RUNNING" for job in kit.jobs)
    bar_width = (WIDE_BAR if console.width >= WIDE else NARROW_BAR) if moves else 0
    if moves:
        table.add_column(no_wrap=True, width=bar_width)
    table.add_column(no_wrap=True, justify="right", width=8)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for job in kit.jobs:
        style = STYLES.get(job.status, "")
        waits = waiting_text(job, kit)
        if job.status == "QUEUED" and job.job_id in places:
            waits = f"in the queue: {places[job.job_id]}"
        table.add_row(
            Text(f"  {MARKS.get(job.status, '?')} {job.name}", style=style),
            Text(job.status, style=style),
            *([_bar(job, bar_width)] if moves else []),
            Text(clock(job.elapsed), style="dim"),
            Text(waits, style="dim") if waits else _remark_text(job),
        )
        for task in _shown_tasks(job) if moves else ():
            task_style = STYLES.get(task.status, "")
            table.add_row(
                Text(f"      {task.task_name}", style="dim"),
                Text(task.status.lower(), style=task_style),
                *([""] * (1 + moves)),
                Text(task.reason, style="dim"),
            )
    return Group(title, table)


def waiting_text(job: Job, kit: Kit) -> str:
    """What a job that has not begun waits for; nothing of any other job."""
    if job.status != "INIT":
        return ""
    ahead = [other for other in kit.jobs if other.name in job.depends_on]
    stopped = [other.name for other in kit.jobs if other.status in ("FAILED", "CANCELED")]
    if stopped and kit.is_terminal:
        return f"not run: waits for {', '.join(stopped[:2])}"
    open_ones = [other.name for other in ahead if other.status != "FINISHED"]
    return f"waits for {', '.join(open_ones[:2])}" if open_ones else ""


def clock(elapsed: timedelta | None) -> str:
    """A span as `1:02:03` or `4.2 s`."""
    if elapsed is None:
        return ""
    seconds = max(0.0, elapsed.total_seconds())
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def state_line(state: State, names: dict[str, str]) -> str:
    """A row of the log as one line of text."""
    # A kit's own rows are of no type: they tell of pauses.
    unknown = "kit" if state.job_type == "UNSPECIFIED" else state.job_type
    job = names.get(state.job_id, unknown)
    what = f"{job}/{state.task_name}" if state.task_name else job
    time = (state.created_at or datetime.now(UTC)).astimezone().strftime("%H:%M:%S")
    remark = state.reason or _progress_text(state)
    return f"{time} {state.revision:>6} kit {state.kit_id} {what} {state.status} {remark}".rstrip()


class LiveKit:
    """A kit that rows of the log keep up to date, so that it is not read again at each redraw.

    What a row means for its job:

        a task's row                       the task, or the progress of the job
        QUEUED, RUNNING, FINISHED          the job's status, times and result
        INIT, FAILED, CANCELED             reasons of other jobs may change, too: read the kit
        of an unknown job, or of the kit   it has new jobs, or was paused: read the kit

    Args:
        kit: The kit with its jobs and tasks.
    """

    def __init__(self, kit: Kit) -> None:
        self._pending: list[Delta] = []
        """Rows that came since the kit has to be read."""
        self.replace(kit)

    @property
    def whole(self) -> Kit:
        """The kit as it was last read, if `is_whole`."""
        return self._kit

    @property
    def is_terminal(self) -> bool:
        """Whether nothing of the kit moves."""
        return self._kit.is_terminal

    @property
    def kit(self) -> Kit:
        """The kit as it is, each job with its latest tasks only."""
        jobs = tuple(
            replace(
                job, tasks=tuple(reversed([*islice(reversed(tasks.values()), TASKS_SHOWN + 1)]))
            )
            for job, tasks in self._jobs.values()
        )
        return replace(self._kit, jobs=jobs)

    def replace(self, kit: Kit) -> None:
        """Takes over a kit that was read; rows that came during the reading are applied to it."""
        self._kit = kit
        self._jobs = {
            job.job_id: (job, {task.task_name: task for task in job.tasks}) for job in kit.jobs
        }
        self.must_be_read = len(self._pending) >= MOST_PENDING
        """Whether rows came that say too little."""
        self.is_whole = True
        """Whether no row was applied since it was read."""
        pending, self._pending = self._pending, []
        for delta in pending if not self.must_be_read else ():
            self.take(delta)

    def take(self, delta: Delta) -> None:
        """Applies new rows."""
        if self.must_be_read:
            # Their number is bounded: beyond it the kit is read once more.
            if len(self._pending) < MOST_PENDING:
                self._pending.append(delta)
            return
        if delta.revision <= self._kit.revision:
            return
        self.is_whole = False
        for row in delta.states:
            if row.revision > self._kit.revision and not self._take_row(row):
                self.must_be_read = True
        kit_id = self._kit.kit_id
        self._kit = replace(
            self._kit,
            revision=delta.revision,
            status=delta.kit_statuses.get(kit_id, self._kit.status),
            job_counts=delta.kit_counts.get(kit_id, self._kit.job_counts),
        )

    def _take_row(self, row: State) -> bool:
        """Applies a row; False if the kit has to be read instead."""
        if row.job_id not in self._jobs:
            return False
        job, tasks = self._jobs[row.job_id]
        if not row.task_name:
            if row.status not in ("QUEUED", "RUNNING", "FINISHED"):
                return False
            self._jobs[row.job_id] = _moved(job, row), tasks if row.attempt == job.attempt else {}
        elif row.attempt == job.attempt:
            tasks.pop(row.task_name, None)  # the latest row is the last one
            tasks[row.task_name] = row
            if (progress := _progress_of(row)) is not None:
                self._jobs[row.job_id] = replace(job, progress=progress), tasks
        return True


def _moved(job: Job, row: State) -> Job:
    """A job after a row of its own, as the registry applies it."""
    runs = row.status == "RUNNING"
    result = row.metadata.get("result")
    return replace(
        job,
        status=row.status,
        attempt=row.attempt,
        revision=row.revision,
        actor=row.actor,
        reason=row.reason,
        progress=None,
        worker=row.actor if runs and not job.pb.external else "",
        started_at=row.created_at if runs else job.started_at if row.status == "FINISHED" else None,
        finished_at=row.created_at if row.status == "FINISHED" else None,
        result=result if row.status == "FINISHED" and isinstance(result, dict) else job.result,
    )


def _progress_of(row: State) -> Progress | None:
    """The progress in a row of the task that samples it."""
    progress = row.metadata.get("progress")
    if row.task_name != PROGRESS_TASK or not isinstance(progress, dict):
        return None
    return Progress(
        phase=str(progress.get("phase", "")),
        completed=int(progress.get("completed", 0)),
        total=int(progress.get("total", 0)),
        unit=str(progress.get("unit", "")),
        message=str(progress.get("message", "")),
    )


async def _redraw(client: AsyncClient, kit: Kit, *, until_done: bool) -> Kit:
    shown = LiveKit(kit)
    watch = client.watch(kit_ids=[kit.kit_id], after_revision=kit.revision)
    listener = asyncio.create_task(_listen(watch, shown.take))
    places: Mapping[str, str] = {}
    look_at = 0.0
    try:
        with Live(tree(kit), console=console, refresh_per_second=8) as live:
            while True:
                if listener.done():
                    listener.result()
                ends = until_done and shown.is_terminal
                if shown.must_be_read or (ends and not shown.is_whole):
                    with contextlib.suppress(*READ_AGAIN):
                        shown.replace(await client.kit(kit.kit_id, min_revision=watch.revision))
                elif ends:
                    break
                note = "" if watch.connected else "reconnecting …"
                if time.monotonic() >= look_at and watch.connected:
                    look_at = time.monotonic() + QUEUE_SECONDS
                    with contextlib.suppress(*READ_AGAIN):
                        places = await queue_places(client, shown.kit)
                live.update(tree(shown.kit, note=note, places=places))
                await asyncio.sleep(REDRAW_SECONDS)
            live.update(tree(shown.kit))
    finally:
        listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener
    return shown.whole


async def _listen(watch: Watch, take: Callable[[Delta], None]) -> None:
    async for event in watch:
        if isinstance(event, Delta):
            take(event)


async def _print_rows(client: AsyncClient, kit: Kit, *, as_json: bool, until_done: bool) -> Kit:
    names = {job.job_id: job.name for job in kit.jobs}
    moved = False
    async for event in client.watch(kit_ids=[kit.kit_id]):
        if isinstance(event, Delta):
            _print_states(event.states, names, as_json=as_json)
            moved = moved or any(not state.task_name for state in event.states)
        if until_done and moved:
            with contextlib.suppress(UnavailableError, DeadlineExceededError):  # asked again later
                kit = await client.kit(kit.kit_id, min_revision=event.revision)
                moved = False
        if until_done and kit.is_terminal and event.revision >= kit.revision:
            return kit
    raise AssertionError("a watch has no end")


def _print_states(states: tuple[State, ...], names: dict[str, str], *, as_json: bool) -> None:
    for state in states:
        if as_json:
            print_json(state)
        else:
            console.print(state_line(state, names), markup=False, soft_wrap=True)


def _bar(job: Job, width: int) -> RenderableType:
    progress = job.progress
    if job.status == "RUNNING" and progress and progress.total:
        return ProgressBar(total=progress.total, completed=progress.completed, width=width)
    if job.status == "RUNNING":
        return ProgressBar(total=None, width=width, pulse=True)
    if job.status == "FINISHED":
        return ProgressBar(total=1, completed=1, width=width)
    return Text("")


def _remark_text(job: Job) -> Text:
    """The remark in its column: how far a job is takes the lines that it needs."""
    style = "" if job.status == "FAILED" else "dim"
    if job.status == "RUNNING" and job.progress:
        return Text(_remark(job)[:REMARK_CHARACTERS], style=style, overflow="fold", no_wrap=False)
    return Text(_remark(job), style=style)


def _remark(job: Job) -> str:
    if job.status == "RUNNING" and job.progress:
        progress, count = job.progress, ""
        if progress.total and progress.unit == "bytes":
            count = f"{size_text(progress.completed)} of {size_text(progress.total)}"
        elif progress.total == 100 and progress.unit == "%":
            count = f"{progress.completed} %"
        elif progress.total:
            count = f"{progress.completed}/{progress.total} {progress.unit}".strip()
        phase = progress.phase if progress.phase != job.name else ""
        return "  ".join(part for part in (phase, count, progress.message) if part)
    if job.status == "FINISHED":
        return data_text(job) or evaluation_text(job)
    again = f"attempt {job.attempt}  " if job.attempt > 1 and job.status == "RUNNING" else ""
    ended = job.status in ("FAILED", "CANCELED", "INIT", "QUEUED")
    return again + (reason_text(job) if ended else "")


def reason_text(job: Job) -> str:
    """The reason of a job for people: without its code, which is for programs."""
    return re.sub(r"^[A-Z][A-Z0-9_]+: ", "", job.reason)


def data_text(job: Job) -> str:
    """What a finished job on data has made: rows, and the version or the files that hold them."""
    result = job.result

    def count(key: str, unit: str) -> str:
        number = result.get(key)
        return f"{int(number):,} {unit}" if isinstance(number, int | float) and number else ""

    rows, files = count("rows", "rows") or "0 rows", count("files", "files")
    match job.job_type:
        case "COLLECT":
            pages, same = count("pages", "pages"), count("unchanged", "unchanged")
            parts = [f"{rows} of {pages}" if pages else rows, same, count("failed", "failed")]
        case "CONVERT":
            parts = [f"{rows} in {files}" if files else rows]
        case "IMPORT":
            parts = [f"{result.get('pinned', '')} {rows}".strip(), count("rejected", "rejected")]
        case "QUERY":
            parts = [rows, "limited" if result.get("limited") else ""]
        case "DELIVER":
            parts = [f"{result.get('alias')} is {result.get('pinned')}", rows]
            parts.append(f"{files} in {result.get('output')}" if files else "")
        case _:
            parts = []
    return ", ".join(part for part in parts if part)


def evaluation_text(job: Job) -> str:
    """Of a design that was run: how many points were in the store already, and how many failed."""
    count = int(job.result.get("evaluated_count") or 0)
    stored, failed = (int(job.result.get(key) or 0) for key in ("cached_count", "failed_count"))
    parts = [f"{stored} of {count} found in the store" if stored else ""]
    reasons = job.result.get("reasons") or ()
    why = f": {reasons[0]['count']} × {reasons[0]['message']}" if reasons else ""
    parts.append(f"{failed} of {count} failed{why}" if failed else "")
    return ", ".join(part for part in parts if part) if count else ""


def _shown_tasks(job: Job) -> tuple[State, ...]:
    if job.status not in ("RUNNING", "FAILED"):
        return ()
    tasks = [task for task in job.tasks if task.task_name != PROGRESS_TASK]
    return tuple(tasks[-TASKS_SHOWN:])


def _progress_text(state: State) -> str:
    progress = state.metadata.get("progress")
    if not isinstance(progress, dict):
        return ""
    count = f"{progress.get('completed', 0)}/{progress['total']}" if progress.get("total") else ""
    parts = (
        progress.get("phase", ""),
        count,
        progress.get("unit", ""),
        progress.get("message", ""),
    )
    return " ".join(str(part) for part in parts if part)
