"""The tree of a kit that redraws itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vistaflow.aio.client import AsyncClient
from vistaflow.cli.output import MARKS, STYLES, console, errors, print_json
from vistaflow.errors import DeadlineExceededError, UnavailableError, VistaError
from vistaflow.models import Delta, Job, Kit, Snapshot, State
from vistaflow.watching import Watch

REDRAW_SECONDS = 0.25
TASKS_SHOWN = 4


async def follow(
    client: AsyncClient, kit_id: int, *, as_json: bool = False, until_done: bool = True
) -> Kit:
    """Shows a kit until nothing of it moves: a live tree on a terminal, else a line a row.

    Args:
        client: The client.
        kit_id: The kit.
        as_json: A line of JSON a row instead.
        until_done: Whether to return then; else it is shown for ever.
    """
    kit = await client.kit(kit_id)
    if as_json or not console.is_terminal:
        return await _print_rows(client, kit, as_json=as_json, until_done=until_done)
    return await _redraw(client, kit, until_done=until_done)


async def print_rows_of(
    client: AsyncClient,
    wanted: Mapping[str, Any],
    *,
    after_revision: int | None,
    snapshot: bool,
    as_json: bool,
) -> None:
    """Prints a line a row of what is wanted, for ever; tells where to go on once it is ended.

    Args:
        client: The client.
        wanted: What `AsyncClient.watch` takes.
        after_revision: Where to begin; now if None.
        snapshot: Whether to begin with what is now instead.
        as_json: A line of JSON a row instead.
    """
    if after_revision is None:
        after_revision = 0 if snapshot else (await client.server_info()).revision
    watch = client.watch(**wanted, after_revision=after_revision, include_snapshot=snapshot)
    try:
        async for event in watch:
            if isinstance(event, Delta | Snapshot):
                _print_states(event.states, {}, as_json=as_json)
            if isinstance(event, Delta) and not as_json:
                for each in event.left:
                    line = f"{state_line(each, {})} (left)"
                    console.print(line, markup=False, soft_wrap=True)
                if event.folded_count:
                    rows = "row" if event.folded_count == 1 else "rows"
                    console.print(f"… {event.folded_count} earlier {rows} of these tasks left out")
    finally:
        errors.print(f"go on from here with --from {watch.revision}", markup=False)


def tree(kit: Kit, *, note: str = "") -> RenderableType:
    """A kit with its jobs and their tasks as they are now."""
    title = Text.assemble(
        (f"{MARKS.get(kit.status, '?')} ", STYLES.get(kit.status, "")),
        (f"kit {kit.kit_id} ", "bold"),
        kit.name,
        (f"  {kit.status}", STYLES.get(kit.status, "")),
        ("  paused" if kit.paused else "", "yellow"),
        (f"  revision {kit.revision}", "dim"),
        (f"  {note}" if note else "", "yellow"),
    )
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(no_wrap=True, width=9)
    table.add_column(no_wrap=True, width=18)
    table.add_column(no_wrap=True, justify="right", width=8)
    table.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for job in kit.jobs:
        style = STYLES.get(job.status, "")
        table.add_row(
            Text(f"  {MARKS.get(job.status, '?')} {job.name}", style=style),
            Text(job.status, style=style),
            _bar(job),
            Text(clock(job.elapsed), style="dim"),
            Text(_said(job), style="" if job.status == "FAILED" else "dim"),
        )
        for task in _shown_tasks(job):
            task_style = STYLES.get(task.status, "")
            table.add_row(
                Text(f"      {task.task_name}", style="dim"),
                Text(task.status.lower(), style=task_style),
                "",
                "",
                Text(task.reason, style="dim"),
            )
    return Group(title, table)


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
    at = (state.created_at or datetime.now(UTC)).astimezone().strftime("%H:%M:%S")
    said = state.reason or _progress_text(state)
    return f"{at} {state.revision:>6} kit {state.kit_id} {what} {state.status} {said}".rstrip()


async def _redraw(client: AsyncClient, kit: Kit, *, until_done: bool) -> Kit:
    watch = client.watch(kit_ids=[kit.kit_id], after_revision=kit.revision)
    moved = asyncio.Event()
    listener = asyncio.create_task(_listen(watch, moved.set))
    note = ""
    try:
        with Live(tree(kit), console=console, refresh_per_second=8) as live:
            while not (until_done and kit.is_terminal):
                if listener.done():
                    listener.result()
                note = "" if watch.connected else "reconnecting …"
                if moved.is_set():
                    moved.clear()
                    try:
                        kit = await client.kit(kit.kit_id, min_revision=watch.revision)
                    except VistaError:
                        moved.set()
                live.update(tree(kit, note=note))
                await asyncio.sleep(REDRAW_SECONDS)
            live.update(tree(kit))
    finally:
        listener.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listener
    return kit


async def _listen(watch: Watch, moved: Callable[[], None]) -> None:
    async for event in watch:
        if isinstance(event, Delta):
            moved()


async def _print_rows(client: AsyncClient, kit: Kit, *, as_json: bool, until_done: bool) -> Kit:
    names = {each.job_id: each.name for each in kit.jobs}
    moved = False
    async for event in client.watch(kit_ids=[kit.kit_id]):
        if isinstance(event, Delta):
            _print_states(event.states, names, as_json=as_json)
            moved = moved or any(not each.task_name for each in event.states)
        if until_done and moved:
            with contextlib.suppress(UnavailableError, DeadlineExceededError):  # asked again later
                kit = await client.kit(kit.kit_id, min_revision=event.revision)
                moved = False
        if until_done and kit.is_terminal and event.revision >= kit.revision:
            return kit
    raise AssertionError("a watch has no end")


def _print_states(states: tuple[State, ...], names: dict[str, str], *, as_json: bool) -> None:
    for each in states:
        if as_json:
            print_json(each)
        else:
            console.print(state_line(each, names), markup=False, soft_wrap=True)


def _bar(job: Job) -> RenderableType:
    progress = job.progress
    if job.status == "RUNNING" and progress and progress.total:
        return ProgressBar(total=progress.total, completed=progress.completed, width=18)
    if job.status == "RUNNING":
        return ProgressBar(total=None, width=18, pulse=True)
    if job.status == "FINISHED":
        return ProgressBar(total=1, completed=1, width=18)
    return Text("")


def _said(job: Job) -> str:
    if job.status == "RUNNING" and job.progress:
        progress = job.progress
        count = f"{progress.completed}/{progress.total} {progress.unit}" if progress.total else ""
        return "  ".join(each for each in (progress.phase, count.strip(), progress.message) if each)
    if job.status == "FINISHED":
        return evaluation_text(job)
    again = f"attempt {job.attempt}  " if job.attempt > 1 and job.status == "RUNNING" else ""
    return again + (job.reason if job.status in ("FAILED", "CANCELED", "INIT", "QUEUED") else "")


def evaluation_text(job: Job) -> str:
    """Of a design that was run: how many points were in the store already, and how many failed."""
    count = int(job.result.get("evaluated_count") or 0)
    stored, failed = (int(job.result.get(key) or 0) for key in ("cached_count", "failed_count"))
    parts = [f"{stored} of {count} found in the store" if stored else ""]
    parts.append(f"{failed} of {count} failed" if failed else "")
    return ", ".join(each for each in parts if each) if count else ""


def _shown_tasks(job: Job) -> tuple[State, ...]:
    if job.status not in ("RUNNING", "FAILED"):
        return ()
    tasks = [each for each in job.tasks if each.task_name != "progress"]
    return tuple(tasks[-TASKS_SHOWN:])


def _progress_text(state: State) -> str:
    told = state.metadata.get("progress")
    if not isinstance(told, dict):
        return ""
    count = f"{told.get('completed', 0)}/{told['total']}" if told.get("total") else ""
    parts = (told.get("phase", ""), count, told.get("unit", ""), told.get("message", ""))
    return " ".join(str(each) for each in parts if each)
