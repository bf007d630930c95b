"""deliver."""

from __future__ import annotations

from typing import Annotated

import typer

from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.data.datasets import Name, made_by
from vistaflow.cli.output import USAGE, Address, AsJson, console, print_json, stop
from vistaflow.models import Job


def deliver(
    dataset: Name,
    address: Address = "",
    alias: Annotated[str, typer.Option(help="What names the version then.")] = "final",
    to: Annotated[
        str,
        typer.Option(
            help="Write its tables to a folder of a data root, or a URL below a root's.",
            metavar="ROOT/FOLDER|URL",
        ),
    ] = "",
    format: Annotated[str, typer.Option(help="csv, parquet or both.")] = "",
    require: Annotated[
        list[str] | None,
        typer.Option(help="A condition, such as 'accepted >= 100'; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Deliver a version: if it meets the conditions, its alias names it from then on.

    For example: vistaflow deliver whisky@3 --require "rejected_share <= 0.2" --to out/whisky
    """
    conditions = {}
    for text in require or ():
        figure = text.strip().split("<")[0].split(">")[0].split("=")[0].strip()
        if not figure or figure == text.strip():
            stop(f"--require: {text!r} is no condition, such as 'accepted >= 100'", USAGE)
        conditions[figure] = text.strip()[len(figure) :].strip()

    async def run(client: CommandClient) -> Job:
        job = await client.deliver_dataset(
            dataset, alias=alias, require=conditions, output=to, format=format
        )
        return (await made_by(client, job, dataset.partition("@")[0], as_json))[0]

    job = answer_of(address, run)
    if as_json:
        print_json(job)
        return
    result = job.result
    where = f", {result['files']} files in {result['output']}" if "output" in result else ""
    console.print(
        f"{result['alias']} is now {result['pinned']}: {result['rows']:,} rows{where}",
        markup=False,
        soft_wrap=True,
    )
