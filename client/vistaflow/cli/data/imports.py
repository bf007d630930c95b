"""dataset import."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vistaflow.aio._data.datasets import AsyncDataset
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.data.datasets import made_by
from vistaflow.cli.data.figures import print_dataset
from vistaflow.cli.data.uploads import UploadBar
from vistaflow.cli.output import (
    DETACHED,
    USAGE,
    Address,
    AsJson,
    console,
    errors,
    print_json,
    reported,
    stop,
)
from vistaflow.errors import InvalidArgumentError
from vistaflow.models import Job

_NAMED: Final = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):\s+(.+)", re.DOTALL)
"""A rule with its name: `positive: price > 0`."""


class RowFormat(StrEnum):
    """What is in the files."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"
    ARROW = "arrow"


def import_(
    dataset: Annotated[str, typer.Argument(help="The dataset's name.", metavar="NAME")] = "",
    source: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files of this machine or of a data root, a job, or dataset:NAME@VERSION.",
            metavar="SOURCE…",
        ),
    ] = None,
    address: Address = "",
    spec: Annotated[
        Path | None, typer.Option(help="A YAML file with tables and rules instead.")
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option(help="A column of the primary key.", metavar="COLUMN")
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(help="What every row fulfils.", metavar="[NAME: ]EXPRESSION"),
    ] = None,
    dedupe: Annotated[
        str, typer.Option(help="first, newest:COLUMN or best:EXPRESSION.", metavar="RULE")
    ] = "",
    type_: Annotated[
        list[str] | None, typer.Option("--type", help="A column's type.", metavar="COLUMN=TYPE")
    ] = None,
    from_table: Annotated[
        str | None, typer.Option(help="The table of a job or dataset that is read.")
    ] = None,
    format_: Annotated[
        RowFormat | None, typer.Option("--format", help="What is in the files.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="Between cells of CSV: , ; | or \\t.")] = "",
    null: Annotated[
        list[str] | None, typer.Option(help="A text in CSV that means a missing value.")
    ] = None,
    alias: Annotated[str, typer.Option(help="A name for the new version.")] = "",
    deck: Annotated[
        str,
        typer.Option(
            help="Check that the rows of one CSV file are points of this deck.", metavar="DECK"
        ),
    ] = "",
    profile: Annotated[bool, typer.Option(help="Compute the figures of the columns.")] = True,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it is started.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import a dataset: reject rows by rules, drop duplicates, record a version, and show it.

    Ctrl-C detaches: the import goes on. For example:

    vistaflow dataset import whisky ./x.csv --key id --rule "price > 0" --dedupe newest:updated_at
    vistaflow dataset import --spec import.yaml
    vistaflow dataset import bench ./bench.csv --deck opamp
    """
    of_deck = Path(deck) if "/" in deck or Path(deck).is_dir() else deck
    if deck and (spec or len(source or []) != 1 or key or rule or dedupe or type_ or alias):
        stop("--deck: takes one CSV file and no other options of the import", USAGE)
    file = None
    arguments: dict[str, Any] = {}
    if spec is not None:
        # It imports a YAML library, which other commands need not wait for.
        from vistaflow.cli.data.import_file import ImportFile

        with reported():
            file = ImportFile(spec)
        arguments = dict(file.arguments)
        if source or key or rule or dedupe or type_:
            stop("--spec: has the source and its rules; leave them out here", USAGE)
    elif not source:
        stop("give NAME and SOURCE, or --spec FILE", USAGE)
    else:
        delimiter = "\t" if delimiter == "\\t" else delimiter
        options = {"format": format_, "delimiter": delimiter, "null_texts": null}
        arguments = {
            "source": _source(source, from_table, {k: v for k, v in options.items() if v}),
            "primary_key": key or [],
            "rules": _rules(rule or []),
            "dedupe": dedupe,
            "types": _types(type_ or []),
        }
    arguments |= {"alias": alias} if alias else {}
    arguments |= {} if profile else {"profile": False}
    name = dataset or str(arguments.get("dataset") or "")
    arguments.pop("dataset", None)
    if not name:
        stop("give the NAME of the dataset, or `dataset:` in the file", USAGE)

    started: list[Job] = []

    async def run(client: CommandClient) -> tuple[Job, AsyncDataset | None]:
        try:
            if deck:
                job = await client.import_points(name, (source or [""])[0], of_deck)
                started.append(job)
                return (job, None) if detach else await made_by(client, job, name, as_json)
            with UploadBar() as bar:
                job = await client.import_dataset(name, **arguments, on_upload=bar)
        except InvalidArgumentError as error:
            raise (file.located(error) if file else error) from None
        started.append(job)
        return (job, None) if detach else await made_by(client, job, name, as_json)

    try:
        job, version = answer_of(address, run)
    except typer.Exit as stopped:
        if stopped.exit_code == DETACHED and started:
            errors.print(f"detached; kit {started[0].kit_id} goes on")
        raise
    if as_json:
        print_json(version.document if version else job)
    elif version:
        print_dataset(version)
    else:
        console.print(f"import {job.job_id} is started, kit {job.kit_id}")


def _source(sources: list[str], table: str | None, options: dict[str, Any]) -> Any:
    """What the arguments name as `import_dataset` takes it."""
    (first, *rest) = sources
    if first.startswith("dataset:") and not rest:
        return {"dataset": first.removeprefix("dataset:"), "table": table or ""}
    if table is not None:
        return {"job": first, "table": table}
    # A lone job is known by its id.
    return {"files": sources, **options} if options or rest else first


def _rules(texts: list[str]) -> list[Any]:
    matches = [(text, _NAMED.fullmatch(text)) for text in texts]
    return [
        {"name": match[1], "expression": match[2]} if match else text for text, match in matches
    ]


def _types(texts: list[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    if wrong := [name for name, _, kind in pairs if not kind]:
        stop(f"--type: {wrong[0]!r} has no type; give COLUMN=TYPE, such as price=DOUBLE", USAGE)
    return {name: kind for name, _, kind in pairs}
