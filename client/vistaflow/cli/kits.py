"""run, extend, validate, schema, watch, show, report."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer

from vistaflow._report import report as report_of
from vistaflow._spans import span_text
from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.cli.arguments import (
    AnyKit,
    JobIds,
    KitId,
    Labels,
    Project,
    Statuses,
    Types,
    labels_of,
    moment_of,
    number_of,
    statuses_of,
    types_of,
)
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.data.lineage import print_lineage
from vistaflow.cli.files.kit_text import kit_text, kit_values
from vistaflow.cli.live import follow, print_rows_of, queue_places, reason_text, tree
from vistaflow.cli.output import (
    DETACHED,
    FAILED,
    USAGE,
    Address,
    AsJson,
    console,
    plain,
    print_json,
    reported,
    stop,
    user,
)
from vistaflow.cli.results import (
    Failures,
    failures_of,
    failures_text,
    folded,
    held_out_table,
    pictures,
    result_dict,
    result_table,
    study_of,
    taken_text,
)
from vistaflow.cli.stages import answer_and_show
from vistaflow.models import Kit

KitFile = Annotated[
    Path, typer.Argument(help="A kit.yaml, or the name of a shipped deck.", metavar="KIT.yaml")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A value in place of the file's, such as design.size=40; may be repeated.",
        metavar="KEY=VALUE",
    ),
]
NewLabels = Annotated[
    list[str] | None,
    typer.Option("--label", help="Labels the kit, too; may be repeated.", metavar="KEY=VALUE"),
]


class SchemaOf(StrEnum):
    """The files that have a schema."""

    DECK = "deck"
    KIT = "kit"


_Result = tuple[Kit, optimize_pb2.Study | None, list[Path], Failures | None]
"""A kit, its study, its pictures, and its failed points."""

Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]


def run(
    kit: KitFile,
    address: Address = "",
    as_json: AsJson = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    set_: Settings = None,
    label: NewLabels = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start it however long its runs may take.")
    ] = False,
) -> None:
    """Validate a kit, start it, and follow it to its result.

    What its runs may take is estimated from stored runs of its deck. Above the operator's limit
    (VISTAFLOW_PIPELINE_CONFIRMATION_HOURS) it is started with --yes, or once you confirm it.

    For example: vistaflow run kit.yaml --set optimize.budget=40 --set "goals=minimize power"

    Ctrl-C detaches: the kit goes on. Exit codes: 0 finished, 1 failed, 2 mistakes in the kit, 3
    nobody answers, 130 detached.
    """
    kit = kit_file(kit)
    settings, labels = labels_of(set_, "--set"), labels_of(label)
    answer = answer_of(address, lambda client: client.validate(kit, settings=settings))
    if answer.HasField("estimate"):
        if not as_json:
            console.print(estimate_text(answer.estimate), markup=False, soft_wrap=True)
        confirm(answer.estimate, yes=yes)
    started = answer_of(
        address,
        lambda client: client.run(kit, settings=settings, labels=labels, actor=user()),
    )
    _follow_started(address, started, as_json=as_json, detach=detach)


def extend(
    kit: KitId,
    address: Address = "",
    budget: Annotated[
        str, typer.Option(help="Further runs, such as +20; the kit's own if left out.")
    ] = "",
    goal: Annotated[
        list[str] | None,
        typer.Option("--goal", help="What is wanted now; may be repeated.", metavar="GOAL"),
    ] = None,
    narrow: Annotated[
        list[str] | None,
        typer.Option(
            "--narrow", help="Another range, value or choices; may be repeated.", metavar="NAME=…"
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="The name of the new kit.")] = "",
    label: NewLabels = None,
    as_json: AsJson = False,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start it however long its runs may take.")
    ] = False,
) -> None:
    """Go on from all that a kit knows, as a new kit that refers to it; no point is run again.

    Of a kit that stopped after a stage, the rest is run. What takes longer than the operator's
    limit is started with --yes, or once you confirm it, as by `vistaflow run`.

    For example: vistaflow extend 7 --budget +20; vistaflow extend 7 --goal "minimize power"
    --goal "gain >= 40" --narrow width=2:5 --narrow material=Si,Ge
    """
    runs = budget.removeprefix("+")
    if runs and not runs.isdecimal():
        stop(f"--budget: {budget!r} is no number of runs, such as +20", USAGE)
    ranges = {key: _narrowed(text) for key, text in labels_of(narrow, "--narrow").items()}
    labels = labels_of(label)
    changes: dict[str, Any] = {
        "budget": int(runs or 0), "goals": "\n".join(goal or []), "narrow": ranges
    }  # fmt: skip
    estimate = answer_of(address, lambda client: client.estimate_extension(kit, **changes))
    if not as_json:
        console.print(estimate_text(estimate), markup=False, soft_wrap=True)
    confirm(estimate, yes=yes)
    started = answer_of(
        address,
        lambda client: client.extend_kit(
            kit,
            **changes,
            name=name,
            labels=labels,
            actor=user(),
        ),
    )
    _follow_started(address, started, as_json=as_json, detach=detach)


def _narrowed(text: str) -> Any:
    """What `--narrow` says of a parameter: `2:5`, `Si,Ge` or one value."""

    def value(word: str) -> int | float | str:
        try:
            return number_of(word)
        except ValueError:
            return word

    low, sign, high = text.partition(":")
    if sign:
        return [value(low), value(high)]
    return {"choices": [value(word) for word in text.split(",")]} if "," in text else value(text)


def _follow_started(address: str, started: Kit, *, as_json: bool, detach: bool) -> None:
    """Follows a kit that was started to its result."""
    if detach:
        print_json(started) if as_json else console.print(f"kit {started.kit_id} is started")
        return
    if not as_json:
        console.print(
            f"kit {started.kit_id} is started; watch it elsewhere with "
            f"`vistaflow watch {started.kit_id}`",
            markup=False,
        )

    async def follow_to_result(client: CommandClient) -> _Result:
        ended = await follow(client, started.kit_id, as_json=as_json)
        return await _result_of(client, ended, as_json=as_json)

    try:
        result = answer_of(address, follow_to_result)
    except typer.Exit as stopped:
        if stopped.exit_code == DETACHED:
            console.print(f"detached; kit {started.kit_id} goes on")
        raise
    _tell_result(*result, as_json)
    if result[0].status != "FINISHED":
        raise typer.Exit(FAILED)


def confirm(estimate: pipeline_pb2.RunEstimate, *, yes: bool) -> None:
    """Ends the command, before anything is started, unless what takes long is confirmed."""
    span, limit = estimate.duration.ToTimedelta(), estimate.confirmation_limit.ToTimedelta()
    if yes or not limit or span <= limit:
        return
    takes = f"its runs take about {span_text(span.total_seconds())}"
    above = f"more than the limit of {span_text(limit.total_seconds())}"
    if not (sys.stdin.isatty() and console.is_terminal):
        stop(
            f"{takes}, {above} (VISTAFLOW_PIPELINE_CONFIRMATION_HOURS): nothing was started; add "
            "--yes to start it",
            USAGE,
        )
    if not typer.confirm(f"{takes}, {above}. Start it?"):
        stop("nothing was started", USAGE)


def estimate_text(estimate: pipeline_pb2.RunEstimate) -> str:
    """Such as `≈ 6 d on 2 cores: 65 runs of 4 h; 40 known`."""
    runs = f"{estimate.run_count} run{'s' * (estimate.run_count != 1)}"
    known = f"; {estimate.known_count} known" if estimate.known_count else ""
    if not estimate.HasField("duration"):
        return f"at most {runs}; no run of this deck is stored to estimate the time from"
    cores = f"{estimate.core_count} core{'s' * (estimate.core_count != 1)}"
    one = span_text(estimate.run_duration.ToTimedelta().total_seconds())
    whole = span_text(estimate.duration.ToTimedelta().total_seconds())
    return f"≈ {whole} on {cores}: at most {runs} of {one}{known}"


def validate(
    kit: KitFile,
    address: Address = "",
    as_json: AsJson = False,
    try_: Annotated[
        bool, typer.Option("--try", help="Run the point in the middle of the ranges, too.")
    ] = False,
    set_: Settings = None,
) -> None:
    """Find every mistake of a kit without starting it; with --try also run one point."""
    kit = kit_file(kit)
    settings = labels_of(set_, "--set")
    answer = answer_of(address, lambda client: client.validate(kit, settings=settings))
    if as_json:
        print_json(answer)
    else:
        for warning in answer.warnings:
            console.print(
                f"warning: {warning.field}: {warning.description}", markup=False, soft_wrap=True
            )
        for mistake in answer.mistakes:
            console.print(
                f"mistake: {mistake.field}: {mistake.description}", markup=False, soft_wrap=True
            )
        for origin in answer.reused if not answer.mistakes else ():
            outside = f", {origin.outside_count} outside the space" * bool(origin.outside_count)
            console.print(f"takes {origin.count} points of {origin.origin}{outside}", markup=False)
        if not answer.mistakes:
            jobs = f"{len(answer.jobs)} jobs: " + ", ".join(job.name for job in answer.jobs)
            runs = f"at most {answer.max_simulation_count} simulator runs"
            parts = [jobs] * bool(answer.jobs)
            parts += [runs] * bool(answer.max_simulation_count or not answer.jobs)
            console.print(f"valid; {'; '.join(parts)}", markup=False, soft_wrap=True)
        if answer.HasField("estimate"):
            console.print(estimate_text(answer.estimate), markup=False, soft_wrap=True)
    if answer.mistakes:
        raise typer.Exit(USAGE)
    if try_:
        # The spec as it was validated has the deck itself, where it was a file.
        deck = answer.spec.deck
        answer_and_show(
            address,
            lambda client: client.try_point(
                archive=deck.archive, deck=deck.name, ranges=answer.spec.design.parameters
            ),
            as_json=as_json,
        )


def schema(
    file: Annotated[SchemaOf, typer.Argument(help="Of which file.", metavar="deck|kit")],
) -> None:
    """Print the JSON Schema of deck.yaml or kit.yaml, with which editors complete and check it.

    That of kit.yaml covers design kits and data kits.
    """
    print((files("vistaflow") / "_schemas" / f"{file}.json").read_text("utf-8"), end="")


def watch(
    kit: AnyKit = 0,
    address: Address = "",
    as_json: AsJson = False,
    forever: Annotated[bool, typer.Option("--forever", help="Go on after it has ended.")] = False,
    status: Statuses = None,
    type_: Types = None,
    label: Labels = None,
    project: Project = "",
    job: JobIds = None,
    start: Annotated[
        int | None,
        typer.Option("--from", help="Begin after this revision; 0: all that was.", metavar="REV"),
    ] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="Begin with what is now.")] = False,
    latest: Annotated[
        bool, typer.Option("--latest", help="Of rows that wait, only the latest of each task.")
    ] = False,
    left: Annotated[
        bool, typer.Option("--left", help="Tell, too, what leaves the --status given.")
    ] = False,
) -> None:
    """Watch live; survives restarts of the suite. Ctrl-C ends it with exit code 130.

    One KIT alone is shown as a tree, with the progress of its jobs, until it ends. With no kit, or
    any of the options below, every matching row is a line, without end; Ctrl-C then prints the
    revision to go on --from.

    For example: vistaflow watch 7; vistaflow watch --status failed --label owner=ana --from 0
    """
    criteria: dict[str, Any] = {
        "kit_ids": [kit] if kit else [],
        "job_ids": job or [],
        "statuses": statuses_of(status),
        "job_types": types_of(type_),
        "labels": labels_of(label),
        "project": project,
    }
    picky = any(value for name, value in criteria.items() if name != "kit_ids")
    if snapshot and start is not None:
        stop("--snapshot: leave out --from, or begin with what is now", USAGE)
    if left and not status:
        stop("--left: give the --status whose leaving is to be shown", USAGE)
    if kit and not (picky or snapshot or latest or left or start is not None):
        _follow_kit(address, kit, as_json=as_json, forever=forever)
        return
    criteria |= {"mode": "latest" if latest else "every", "include_left": left}
    answer_of(
        address,
        lambda client: print_rows_of(
            client, criteria, after_revision=start, snapshot=snapshot, as_json=as_json
        ),
    )


def _follow_kit(address: str, kit: int, *, as_json: bool, forever: bool) -> None:
    """Shows a kit until it ends, and why it failed."""

    async def ask(client: CommandClient) -> tuple[Kit, Failures | None]:
        ended = await follow(client, kit, as_json=as_json, until_done=not forever)
        return ended, None if as_json else await failures_of(client, ended)

    ended, failures = answer_of(address, ask)
    if ended.status == "FAILED" and not as_json:
        _tell_failure(ended, failures)
    if ended.status != "FINISHED":
        raise typer.Exit(FAILED)


def show(
    kit: KitId,
    address: Address = "",
    as_json: AsJson = False,
    as_of: Annotated[
        str,
        typer.Option(
            help="The kit as it was: a revision, or a time such as 2026-01-31T09:30.",
            metavar="REV|TIME",
        ),
    ] = "",
    lineage: Annotated[
        bool, typer.Option("--lineage", help="Show what its results were made from.")
    ] = False,
    as_kit: Annotated[
        bool, typer.Option("--kit", help="Print the kit.yaml that ran, defaults filled in.")
    ] = False,
) -> None:
    """Show a kit: its jobs, what they took, and its result.

    For example: vistaflow show 7; vistaflow show 7 --as-of 2026-01-31T09:30; vistaflow show 7 --kit
    """
    if lineage:
        answer = answer_of(address, lambda client: client.lineage(kit_id=kit))
        print_lineage(answer, back=True, as_json=as_json)
        return
    moment = moment_of("--as-of", as_of)
    if as_kit:
        shown = answer_of(address, lambda client: client.kit(kit, as_of=moment))
        with reported():
            if as_json:
                print_json(kit_values(shown))
            else:
                typer.echo(kit_text(shown), nl=False)
        return

    async def ask(client: CommandClient) -> _Result:
        shown = await client.kit(kit, as_of=moment)
        return await _result_of(client, shown, as_json=as_json)

    async def places_of(client: CommandClient) -> dict[str, str]:
        return {} if moment else await queue_places(client, result[0])

    result = answer_of(address, ask)
    places = answer_of(address, places_of) if result[0].status == "QUEUED" else {}
    if as_json:
        jobs = [{**plain(job), "queue_place": places.get(job.job_id)} for job in result[0].jobs]
        print_json({**plain(result[0]), "jobs": jobs})
        return
    console.print(tree(result[0], places=places))
    _tell_result(*result, as_json)


def kit_file(name: Path) -> Path:
    """The file of a name, or that of a shipped deck where the services are installed here."""
    if name.is_file():
        return name
    services = importlib.util.find_spec("vistaflow_services")
    for folder in (services.submodule_search_locations or ()) if services else ():
        shipped = Path(folder) / "decks" / "shipped" / name / "kit.yaml"
        if shipped.is_file() and name.name == str(name):
            return shipped
    stop(f"{name}: no such file", USAGE)


async def _result_of(client: CommandClient, kit: Kit, *, as_json: bool) -> _Result:
    """The result of a kit, with its pictures unless it is for programs."""
    study = await study_of(client, kit)
    if as_json:
        return kit, study, [], None
    failures = await failures_of(client, kit)
    return kit, study, await pictures(client, kit), failures


def _tell_result(
    kit: Kit,
    study: optimize_pb2.Study | None,
    files: Sequence[Path],
    failures: Failures | None,
    as_json: bool,
) -> None:
    if study is not None:
        if as_json:
            print_json(result_dict(kit, study))
            return
        console.print(result_table(kit, study))
    if as_json:
        return
    if text := taken_text(kit):
        console.print(text, markup=False, soft_wrap=True)
    if (table := held_out_table(kit)) is not None:
        console.print(table)
    if kit.status == "FAILED":
        _tell_failure(kit, failures)
        return
    if failures is not None:
        text = failures_text(kit, failures, log=False)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for picture in files:
        console.print(f"picture: {picture}", markup=False, soft_wrap=True)


def _tell_failure(kit: Kit, failures: Failures | None) -> None:
    """One reason, what the points say of it, and what to do, on one screen with the tree."""
    width = console.width - 1 if console.is_terminal or "COLUMNS" in os.environ else 0
    if failures is not None:
        text = failures_text(kit, failures, width=width)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    for job in kit.jobs:
        if job.status != "FAILED":
            continue
        # The reasons of failed points are above, with what helps.
        explained = failures is not None and job.job_type == "DOE"
        if not explained:
            why = "\n".join(folded(f"{job.name} failed: {reason_text(job)}", "  ", width))
            console.print(why, markup=False, soft_wrap=True)
        console.print(f"its log:     vistaflow logs {job.job_id}", markup=False, soft_wrap=True)
        if not (explained and failures and failures.hint):
            corrected = "" if "jobs" in kit.spec else "   (with a corrected deck: --deck FOLDER)"
            retry = f"go on with:  vistaflow retry {kit.kit_id}{corrected}"
            console.print(retry, markup=False, soft_wrap=True)


def report(
    kit_id: KitId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file; kit-KIT.html if unset.")
    ] = None,
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Write a kit as one HTML file that needs no network: to read, print and archive."""
    path = output or Path(f"kit-{kit_id}.html")

    async def collect(client: CommandClient) -> str:
        async def call(service: str, method: str, request: Any) -> Any:
            return await client._call(service, method, request)

        async def read(uri: str, most_bytes: int) -> bytes:
            content = await client.read_artifact(uri)
            if len(content) > most_bytes:
                raise ValueError(uri)
            return content

        return await report_of(kit_id, call, read)

    text = answer_of(address, collect)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        stop(f"{path} cannot be written: {error.strerror}; name another file with -o", USAGE)
    if as_json:
        print_json({"kit_id": kit_id, "path": str(path.absolute()), "bytes": len(text.encode())})
    else:
        console.print(f"kit {kit_id} is in {path}", markup=False)
