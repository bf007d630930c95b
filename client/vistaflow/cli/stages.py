"""decks, design, predict."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.cli.dialing import CommandClient, asked
from vistaflow.cli.given import number_of
from vistaflow.cli.live import evaluation_text, follow
from vistaflow.cli.output import USAGE, Address, AsJson, console, number, print_json, stop, told
from vistaflow.encoding import read_text
from vistaflow.errors import NotFoundError
from vistaflow.models import Kit, Prediction

GENERATORS = {
    each.removeprefix("GENERATOR_").lower(): value
    for each, value in doe_pb2.Generator.items()
    if value
}


def decks(
    deck: Annotated[str, typer.Argument(help="One deck; all of them if left out.")] = "",
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """List the decks, or show one with its parameters and responses."""

    async def ask(client: CommandClient) -> list[Any]:
        return [await client.deck(deck)] if deck else await client.decks()

    found = asked(address, ask)
    if as_json:
        for each in found:
            print_json(each)
    elif deck:
        _show_deck(found[0])
    else:
        table = Table(box=None, expand=True)
        for name in ("deck", "version", "simulator", "parameters"):
            table.add_column(name, no_wrap=True)
        table.add_column("responses", no_wrap=True, overflow="ellipsis", ratio=2)
        table.add_column("description", no_wrap=True, overflow="ellipsis", ratio=3)
        for each in found:
            table.add_row(
                each.name,
                each.version,
                each.simulator,
                str(len(each.parameters)),
                ", ".join(one.name for one in each.responses),
                each.description.strip().split("\n")[0].split(": ")[0],
            )
        console.print(table)


def design(
    deck: Annotated[str, typer.Argument(help="A deck's name or id.")],
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

    rows = asked(address, ask)
    if as_json:
        for each in rows:
            print_json(each)
        return
    target = output.open("w", encoding="utf-8", newline="") if output else sys.stdout
    try:
        writer = csv.DictWriter(target, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
    finally:
        if output:
            target.close()


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
    wanted = _points(values or [], points)

    async def ask(client: CommandClient) -> tuple[str, list[dict[str, Prediction]]]:
        model_id, source = model, ""
        if model.isdigit():
            model_id, source = await _model_of(client, await client.kit(int(model)))
        found = await client.predict(model_id, wanted, allow_extrapolation=extrapolate)
        about = await client.model(model_id)
        rows = f"{about.training_row_count} rows"
        return f"model {model_id}{source}, trained on {rows}", found

    about, found = asked(address, ask)
    # On stderr, so that stdout has the predictions only.
    typer.echo(about, err=True)
    if as_json:
        for one in found:
            print_json(one)
        return
    table = Table(box=None)
    for name in ("point", "response", "mean", "± 1 sd", "95 % interval", "unit"):
        table.add_column(name, justify="left" if name in ("response", "unit") else "right")
    for at, one in enumerate(found):
        for name, each in one.items():
            table.add_row(
                str(at),
                name,
                number(each.mean),
                number(each.standard_deviation),
                f"{number(each.low95)} … {number(each.high95)}",
                each.unit,
            )
    console.print(table)


async def _model_of(client: CommandClient, kit: Kit) -> tuple[str, str]:
    """The kit's model with the most rows: that of its study, else the one of its training job."""
    finished = [each for each in kit.jobs if each.status == "FINISHED"]
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
        with told():
            lines = io.StringIO(read_text(points), newline="")
        return [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(lines)]
    pairs = [each.partition("=") for each in values]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong or not pairs:
        stop(f"give the point as name=value, such as `gate_length=30`: {' '.join(wrong)}", USAGE)
    return [{name: _value(text) for name, _, text in pairs}]


def _value(text: str) -> float | str:
    try:
        return number_of(text)
    except ValueError:
        return text


def _show_deck(deck: Any) -> None:
    console.print(f"{deck.name} {deck.version}  {deck.simulator}  {deck.deck_id}", markup=False)
    console.print(deck.description.strip(), markup=False)
    table = Table(box=None)
    for name in ("parameter", "low", "high", "unit", "description"):
        table.add_column(name)
    for each in deck.parameters:
        choices = [one.string_value or number(one.number_value) for one in each.choices]
        ends = (number(each.low), number(each.high)) if not choices else (", ".join(choices), "")
        table.add_row(each.name, *ends, each.unit, each.description)
    console.print(table)
    table = Table(box=None)
    for name in ("response", "unit", "description"):
        table.add_column(name)
    for each in deck.responses:
        table.add_row(each.name, each.unit, each.description)
    console.print(table)
    if deck.constraints:
        console.print("constraints: " + ", ".join(deck.constraints), markup=False)
