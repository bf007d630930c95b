"""decks, design, points, try, predict."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from google.protobuf import json_format
from rich.table import Table
from rich.text import Text

from vistaflow._machine.encoding import read_text
from vistaflow._rows import guarded
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.cli.arguments import DeckName, KitId, complete_decks, number_of
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.files.decks import export_deck
from vistaflow.cli.live import evaluation_text, follow
from vistaflow.cli.output import (
    FAILED,
    USAGE,
    Address,
    AsJson,
    console,
    number,
    print_json,
    reported,
    stop,
)
from vistaflow.cli.results import (
    WORDS,
    Failures,
    design_job,
    failures_of,
    failures_text,
)
from vistaflow.errors import NotFoundError
from vistaflow.models import Kit, Prediction
from vistaflow.results import Deck

TRIED_LINES: Final = 24
"""Lines of the input and of the output of one run that are shown."""

LOG_LINES: Final = 8
"""Lines of the end of what each failed run printed that a list shows."""

GENERATORS = {
    name.removeprefix("GENERATOR_").lower(): value
    for name, value in doe_pb2.Generator.items()
    if value
}


def decks(
    deck: Annotated[
        str,
        typer.Argument(help="One deck; all of them if left out.", autocompletion=complete_decks),
    ] = "",
    address: Address = "",
    as_json: AsJson = False,
    export: Annotated[
        Path | None, typer.Option("--export", help="A new folder for the files of the deck.")
    ] = None,
) -> None:
    """List the decks, or show one with its parameters and responses, or copy it to a folder."""
    if export is not None:
        export_deck(address, deck, export, as_json=as_json)
        return

    async def ask(client: CommandClient) -> list[Deck]:
        return [await client.deck(deck)] if deck else await client.decks()

    listed = answer_of(address, ask)
    if as_json:
        for item in listed:
            print_json(item.pb)
    elif deck:
        _show_deck(listed[0])
    else:
        table = Table(box=None, expand=True)
        for name in ("deck", "version", "simulator", "parameters"):
            table.add_column(name, no_wrap=True)
        table.add_column("responses", no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column("description", no_wrap=True, overflow="ellipsis", ratio=3)
        for item in listed:
            table.add_row(
                item.name,
                item.version,
                item.simulator,
                str(len(item.parameters)),
                ", ".join(response.name for response in item.responses),
                item.description.strip().split("\n")[0].split(": ")[0],
            )
        console.print(table)


def design(
    deck: DeckName,
    address: Address = "",
    size: Annotated[int, typer.Option("-n", "--size", help="Points.", min=0, max=2**31 - 1)] = 0,
    generator: Annotated[str, typer.Option(help=f"One of {', '.join(GENERATORS)}.")] = "",
    seed: Annotated[int, typer.Option(help="Makes it repeatable.", min=0, max=2**63 - 1)] = 0,
    levels: Annotated[int, typer.Option(help="For full_factorial.", min=0, max=2**31 - 1)] = 0,
    evaluate: Annotated[bool, typer.Option("--evaluate", help="Run it, too.")] = False,
    output: Annotated[Path | None, typer.Option("-o", help="A CSV file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a design over a deck's parameters, and run it if asked; prints it as CSV."""
    if generator and generator not in GENERATORS:
        stop(f"--generator: `{generator}` is unknown; known are {', '.join(GENERATORS)}", USAGE)
    spec = doe_pb2.DesignSpec(size=size, seed=seed, levels=levels)
    if generator:
        spec.generator = GENERATORS[generator]

    async def ask(client: CommandClient) -> list[dict[str, Any]]:
        job = await client.generate_design(deck, spec)
        await client.wait(job.kit_id)
        if evaluate:
            job = await client.evaluate_design(job.job_id)
            if console.is_terminal:
                await follow(client, job.kit_id)
            else:
                await client.wait(job.kit_id)
        if not as_json:
            job = await client.job(job.job_id)
            typer.echo(
                ": ".join(filter(None, (f"design {job.job_id}", evaluation_text(job)))), err=True
            )
        return await client.design_rows(job.job_id)

    rows = answer_of(address, ask)
    if as_json:
        for row in rows:
            print_json(row)
        return
    _write_csv([{k: v for k, v in row.items() if k != "log"} for row in rows], output)


def _write_csv(rows: Sequence[Mapping[str, Any]], output: Path | None) -> None:
    target = output.open("w", encoding="utf-8", newline="") if output else sys.stdout
    try:
        names = list(rows[0]) if rows else []
        writer = csv.writer(target)
        writer.writerow(map(guarded, names))
        writer.writerows([guarded(row[name]) for name in names] for row in rows)
    finally:
        if output:
            target.close()


def points(
    kit: KitId,
    address: Address = "",
    failed: Annotated[
        bool, typer.Option("--failed", help="Only those that failed, with reasons and output.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", help="A CSV file to write.")] = None,
    point: Annotated[
        int | None, typer.Option("--point", help="One of them, with its output and files.", min=0)
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="With --point: a folder for the files of its run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print the points of a kit's design as CSV, or why those that failed did.

    Of a design under way, those that were run so far.

    For example: vistaflow points 7 -o points.csv; vistaflow points 7 --failed; vistaflow points 7
    --point 3 --keep run3
    """
    if point is not None:
        _show_stored(address, kit, point, keep, as_json=as_json)
        return

    async def ask(client: CommandClient) -> tuple[Kit, list[Mapping[str, Any]], Failures | None]:
        asked = await client.kit(kit)
        job = design_job(asked)
        if job is None:
            raise NotFoundError(f"kit {kit} has no design")
        if failed:
            failures = await failures_of(client, asked, rows=True)
            return asked, list(failures.rows) if failures else [], failures
        rows = await client.design_rows(job.job_id, allow_unfinished=True)
        if job.status in ("QUEUED", "RUNNING"):
            typer.echo(f"{len(rows)} points were run so far", err=True)
        return asked, list(rows), None

    asked, rows, failures = answer_of(address, ask)
    if as_json:
        for row in rows:
            print_json(row)
    elif failures is not None and output is None:
        for row in rows:
            values = " ".join(
                f"{name}={number(value)}"
                for name, value in row.items()
                if name not in ("row_id", *WORDS) and value is not None
            )
            lines = [f"point {row['row_id']}  {values}", f"  {row['failure']}: {row['message']}"]
            lines += [f"  | {line}" for line in row["log"].splitlines()[-LOG_LINES:]]
            console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
        if len(rows) < failures.count:
            console.print(f"{failures.count - len(rows)} more failed points are not recorded")
        text = failures_text(asked, failures, log=False)
        console.print(text, markup=False, highlight=False, soft_wrap=True)
    elif failed and output is None:
        console.print(f"no point of kit {kit} failed")
    else:
        _write_csv([{k: v for k, v in row.items() if k != "log"} for row in rows], output)


def _show_stored(address: str, kit: int, point: int, keep: Path | None, *, as_json: bool) -> None:
    """Shows what is stored of the run of one point."""

    async def ask(client: CommandClient) -> doe_pb2.GetRunResponse:
        job = design_job(await client.kit(kit))
        if job is None:
            raise NotFoundError(f"kit {kit} has no design")
        return await client.stored_run(job.job_id, point)

    stored = answer_of(address, ask)
    if keep is not None:
        _keep(stored.run, keep)
    if as_json:
        print_json(stored)
        return
    _show_tried(stored.run, keep)
    if not stored.keeps_files:
        console.print("its deck has no `keep_files: true`: files are not stored", style="dim")


def try_(
    deck: Annotated[str, typer.Argument(help="A deck's folder, name or id; or a kit's number.")],
    values: Annotated[
        list[str] | None, typer.Argument(help="The point, as name=value …", metavar="NAME=VALUE…")
    ] = None,
    address: Address = "",
    point: Annotated[
        int | None, typer.Option("--point", help="Of a kit: the point of its design.", min=0)
    ] = None,
    keep: Annotated[
        Path | None, typer.Option("--keep", help="A folder for the files of the run.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Longest time, in seconds.", min=1)] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Run one point now and show what the simulator was given, printed and returned.

    Parameters without a value have their default or their middle. Nothing is stored.

    For example: vistaflow try ./amp w=10 l=0.5 --keep run1; vistaflow try 7 --point 3
    """
    chosen = _values(values or [])
    source = Path(deck) if Path(deck).exists() or "/" in deck else deck

    async def ask(client: CommandClient) -> doe_pb2.TryPointResponse:
        if not deck.isdigit():
            return await client.try_point(source, chosen, timeout=timeout)
        if point is None:
            stop(f"give the point of kit {deck}, such as --point 0", USAGE)
        kit = await client.kit(int(deck))
        job = design_job(kit)
        if job is not None and job.status == "FINISHED":
            return await client.try_point(
                parameters=chosen, design_id=job.job_id, row_id=point, timeout=timeout
            )
        failures = await failures_of(client, kit)
        for row in failures.rows if failures else ():
            if row["row_id"] == point:
                own = {k: v for k, v in row.items() if k not in ("row_id", *WORDS)}
                decks = [one for job in kit.jobs for one in job.result.get("decks") or ()]
                return await client.try_point(
                    decks[0]["deck_id"], {**own, **chosen}, timeout=timeout
                )
        raise NotFoundError(f"kit {deck} has no finished design and no failed point {point}")

    answer_and_show(address, ask, as_json=as_json, keep=keep)


def answer_and_show(
    address: str,
    ask: Callable[[CommandClient], Awaitable[doe_pb2.TryPointResponse]],
    *,
    as_json: bool,
    keep: Path | None = None,
) -> None:
    """Shows one run; the exit code is 1 if it failed."""
    tried = answer_of(address, ask)
    if keep is not None:
        _keep(tried, keep)
    if as_json:
        print_json(tried)
    else:
        _show_tried(tried, keep)
    if tried.failure:
        raise typer.Exit(FAILED)


def _keep(tried: doe_pb2.TryPointResponse, folder: Path) -> None:
    """Writes the files of a run and what it printed."""
    for file in tried.files:
        path = folder / file.path
        if not path.resolve().is_relative_to(folder.resolve()):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.content)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "output.txt").write_text(tried.log, "utf-8")


def _show_tried(tried: doe_pb2.TryPointResponse, keep: Path | None) -> None:
    point = json_format.MessageToDict(tried.parameters)
    written = [file.path for file in tried.files if not file.input]
    for file in tried.files:
        if file.input and b"\0" not in file.content:
            _show_text(f"input {file.path}", file.content.decode("utf-8", "replace"), first=True)
            break
    _show_text("output", tried.log, first=False)
    table = Table(box=None)
    for name in ("", "value", "unit"):
        table.add_column(name, justify="right" if name == "value" else "left")
    for parameter in tried.parameter_infos:
        title = f"{parameter.name} {parameter.title}".strip()
        table.add_row(title, number(point[parameter.name]), parameter.unit)
    for response in tried.response_infos:
        title = f"{response.name} {response.title}".strip()
        if response.name in tried.responses:
            value = Text(number(tried.responses[response.name]), style="green")
            table.add_row(title, value, response.unit)
    console.print(table)
    if tried.failure:
        console.print(f"✘ {tried.failure}: {tried.message}", markup=False, style="red")
    else:
        count = len(tried.responses)
        console.print(f"✔ {count} response{'s' * (count != 1)}", style="green")
    console.print(f"{tried.deck}, {tried.simulator}, {tried.seconds:.2f} s", markup=False)
    if written:
        console.print(f"it wrote {', '.join(written[:10])}", markup=False)
    if keep is not None:
        console.print(f"all files are in {keep}", markup=False)


def _show_text(title: str, text: str, *, first: bool) -> None:
    """The beginning or the end of a text."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    left = len(lines) - TRIED_LINES
    shown = lines[:TRIED_LINES] if first else lines[-TRIED_LINES:]
    console.print(f"{title}:" if lines else f"{title}: none", markup=False, style="bold")
    more = f"  … {left} more lines; --keep DIR writes all" if left > 0 else ""
    if more and not first:
        console.print(more, markup=False)
    for line in shown:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
    if more and first:
        console.print(more, markup=False)


def predict(
    model: Annotated[str, typer.Argument(help="A kit that trained a model, or a model id.")],
    values: Annotated[
        list[str] | None, typer.Argument(help="The point, as name=value …", metavar="NAME=VALUE…")
    ] = None,
    address: Address = "",
    points: Annotated[Path | None, typer.Option("--csv", help="A CSV file of points.")] = None,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Allow points outside the ranges trained over.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Predict a deck's responses at a point, with their uncertainty."""
    point_rows = _points(values or [], points)

    async def ask(client: CommandClient) -> tuple[str, list[dict[str, Prediction]]]:
        model_id, source = model, ""
        if model.isdigit():
            model_id, source = await _model_of(client, await client.kit(int(model)))
        predictions = await client.predict(model_id, point_rows, allow_extrapolation=extrapolate)
        about = await client.model(model_id)
        rows = f"{about.training_row_count} rows"
        return f"model {model_id}{source}, trained on {rows}", predictions

    about, predictions = answer_of(address, ask)
    # On stderr, so that stdout has the predictions only.
    typer.echo(about, err=True)
    if as_json:
        for one in predictions:
            print_json(one)
        return
    table = Table(box=None)
    for name in ("point", "response", "mean", "± 1 sd", "95 % interval", "unit"):
        table.add_column(name, justify="left" if name in ("response", "unit") else "right")
    for index, one in enumerate(predictions):
        for name, prediction in one.items():
            table.add_row(
                str(index),
                name,
                number(prediction.mean),
                number(prediction.standard_deviation),
                f"{number(prediction.low95)} … {number(prediction.high95)}",
                prediction.unit,
            )
    console.print(table)


async def _model_of(client: CommandClient, kit: Kit) -> tuple[str, str]:
    """The kit's model with the most rows: that of its study, else the one of its training job."""
    finished = [job for job in kit.jobs if job.status == "FINISHED"]
    for job in reversed(finished):
        if job.job_type == "OPTIMIZE" and (study := await client.study(job.job_id)).model_id:
            return study.model_id, f" of kit {kit.kit_id}, made by its optimisation"
    for job in reversed(finished):
        if job.job_type == "ML_TRAIN":
            return job.job_id, f" of kit {kit.kit_id}, made from its design alone"
    raise NotFoundError(f"kit {kit.kit_id} has no trained model")


def _points(values: list[str], points: Path | None) -> list[dict[str, Any]]:
    if points is not None:
        if not points.is_file():
            stop(f"--csv: {points}: no such file", USAGE)
        with reported():
            lines = io.StringIO(read_text(points), newline="")
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(lines)]
    if not values:
        stop("give the point as name=value, such as `gate_length=30`", USAGE)
    return [_values(values)]


def _values(texts: list[str]) -> dict[str, Any]:
    pairs = [text.partition("=") for text in texts]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong:
        stop(f"give the point as name=value, such as `gate_length=30`: {' '.join(wrong)}", USAGE)
    return {name: _value(text) for name, _, text in pairs}


def _value(text: str) -> float | str:
    if text in ("true", "false"):
        return float(text == "true")
    try:
        return number_of(text)
    except ValueError:
        return text


def _show_deck(deck: Deck) -> None:
    console.print(f"{deck.name} {deck.version}  {deck.simulator}  {deck.deck_id}", markup=False)
    console.print(deck.description.strip(), markup=False)
    table = Table(box=None)
    for name in ("parameter", "low", "high", "unit", "description"):
        table.add_column(name)
    for parameter in deck.parameters:
        ends = (
            (", ".join(map(number, parameter.choices)), "")
            if parameter.choices
            else (number(parameter.low or 0.0), number(parameter.high or 0.0))
        )
        about = ": ".join(filter(None, (parameter.pb.title, parameter.description)))
        table.add_row(parameter.name, *ends, parameter.unit, about)
    console.print(table)
    table = Table(box=None)
    for name in ("response", "unit", "description"):
        table.add_column(name)
    for response in deck.responses:
        about = ": ".join(filter(None, (response.pb.title, response.description)))
        table.add_row(response.name, response.unit, about)
    console.print(table)
    if deck.constraints:
        console.print("constraints: " + ", ".join(deck.constraints), markup=False)
