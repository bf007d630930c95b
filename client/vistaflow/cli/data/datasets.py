"""datasets, dataset show, versions, profile, alias, pin, update, delete, forget."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from vistaflow._datasets import full_name
from vistaflow._machine.encoding import read_text
from vistaflow.aio._data.datasets import AsyncDataset
from vistaflow.cli.arguments import Labels, Project, labels_of, span_of
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.data.figures import print_dataset, profile_table
from vistaflow.cli.lists import Columns, How, Limit, Output, collected, minute, print_list
from vistaflow.cli.live import follow_to_end
from vistaflow.cli.output import (
    FAILED,
    USAGE,
    Address,
    AsJson,
    console,
    errors,
    print_json,
    reported,
    size_text,
    stop,
)
from vistaflow.errors import VistaError
from vistaflow.models import Job

app = typer.Typer(help="Show, read, import, change and delete datasets.", no_args_is_help=True)

_SIZES: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _names(incomplete: str) -> list[str]:
    """The datasets whose names begin so, for the shell's completion; none if nobody answers."""

    async def ask() -> list[str]:
        async with CommandClient(timeout=1) as client:
            return [full_name(entry) async for entry in client.datasets(limit=200)]

    try:
        return [name for name in asyncio.run(ask()) if name.startswith(incomplete)]
    except (VistaError, OSError, TimeoutError):
        return []


Name = Annotated[
    str,
    typer.Argument(
        help="The dataset: NAME, NAME@3 or NAME@ALIAS.",
        metavar="NAME[@VERSION]",
        autocompletion=_names,
    ),
]
InTable = Annotated[
    str, typer.Option("--table", help="Which table; the first or only one if left out.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

SUMMARY_COLUMNS: Columns = {
    "dataset": lambda entry: full_name(entry),
    "version": lambda entry: entry.latest.version if entry.latest else "",
    "rows": lambda entry: entry.latest.rows if entry.latest else "",
    "rejected": lambda entry: entry.latest.rejected_rows if entry.latest else "",
    "size": lambda entry: size_text(entry.size_bytes),
    "aliases": lambda entry: " ".join(f"{key}={value}" for key, value in entry.aliases.items()),
    "updated": lambda entry: minute(entry.latest.created_at if entry.latest else None),
    "description": lambda entry: entry.description,
}
VERSION_COLUMNS: Columns = {
    "version": lambda entry: entry.version,
    "created": lambda entry: minute(entry.created_at),
    "rows": lambda entry: entry.rows,
    "rejected": lambda entry: entry.rejected_rows,
    "size": lambda entry: size_text(entry.size_bytes),
    "pinned": lambda entry: "pinned" if entry.pinned else "",
    "aliases": lambda entry: " ".join(entry.aliases),
    "source": lambda entry: entry.source,
}


def datasets(
    address: Address = "",
    as_json: AsJson = False,
    project: Project = "",
    name: Annotated[str, typer.Option(help="Only those whose name has this in it.")] = "",
    limit: Limit = 100,
    output: How = Output.TABLE,
) -> None:
    """List the datasets."""
    listed = answer_of(
        address,
        lambda client: collected(client.datasets(project=project, name_contains=name, limit=limit)),
    )
    print_list(listed, SUMMARY_COLUMNS, Output.JSON if as_json else output)


@app.command()
def show(dataset: Name, address: Address = "", as_json: AsJson = False) -> None:
    """Show a version: its tables, their columns, and what the rules did.

    For example: vistaflow dataset show whisky; vistaflow dataset show whisky@3
    """
    shown = answer_of(address, lambda client: client.dataset(dataset))
    if as_json:
        print_json(shown.document)
    else:
        print_dataset(shown)


@app.command()
def versions(
    dataset: Name,
    address: Address = "",
    as_json: AsJson = False,
    limit: Limit = 30,
    output: How = Output.TABLE,
) -> None:
    """List the versions of a dataset, newest first."""
    listed = answer_of(
        address, lambda client: collected(client.dataset_versions(dataset, limit=limit))
    )
    print_list(listed, VERSION_COLUMNS, Output.JSON if as_json else output)


@app.command()
def profile(
    dataset: Name, address: Address = "", table: InTable = "", as_json: AsJson = False
) -> None:
    """Show the figures of a table's columns: missing and different values, ranges, histograms."""
    shown = answer_of(address, lambda client: client.dataset(dataset, table=table))
    (entry,) = (entry for entry in shown.tables if entry.name == shown.table_name)
    if as_json:
        print_json(entry)
    elif not entry.profiled:
        stop(f"{shown.name} has no profile: it was imported with --no-profile", FAILED)
    else:
        console.print(f"{shown.name} {entry.name}  rows: {entry.rows:,}", markup=False)
        console.print(profile_table(entry, console.width))


@app.command()
def alias(
    dataset: Name,
    alias: Annotated[str, typer.Argument(help="Its new name.")],
    address: Address = "",
    remove: Annotated[bool, typer.Option("--remove", help="Remove the alias instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a version a name, such as `production`; it is then kept until the name is removed.

    For example: vistaflow dataset alias whisky@3 production
    """
    summary = answer_of(
        address, lambda client: client.set_dataset_alias(dataset, alias, remove=remove)
    )
    version = summary.aliases.get(alias)
    what = f"{summary.name}@{version}" if version else f"no version of {summary.name}"
    _tell(summary, as_json, f"{alias} is now {what}")


@app.command()
def pin(
    dataset: Name,
    address: Address = "",
    unpin: Annotated[bool, typer.Option("--unpin", help="Let retention remove it again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pin a version, so that retention never removes it."""
    version = answer_of(address, lambda client: client.pin_dataset(dataset, pinned=not unpin))
    state = "pinned" if version.pinned else "not pinned"
    _tell(version, as_json, f"version {version.version} is {state}")


@app.command()
def update(
    dataset: Name,
    address: Address = "",
    description: Annotated[str | None, typer.Option(help="What it is.")] = None,
    label: Labels = None,
    quota: Annotated[
        str | None, typer.Option(help="Most bytes of all versions: 100GB; 0 for none.")
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Most versions; 0 for all.", min=0, max=2**31 - 1)
    ] = None,
    max_age: Annotated[
        str | None, typer.Option(help="Remove older versions: 90d, 12h; 0 for none.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Change the limits, the description and the labels of a dataset; makes it if it is not there.

    For example: vistaflow dataset update whisky --quota 100GB --keep 5
    """
    changes: dict[str, Any] = {
        "description": description,
        "labels": labels_of(label),
        "quota_bytes": None if quota is None else _size_of(quota),
        "max_versions": keep,
        "max_age": None if max_age is None else span_of("--max-age", max_age),
    }
    summary = answer_of(address, lambda client: client.update_dataset(dataset, **changes))
    _tell(summary, as_json, f"dataset {summary.name} is changed")


@app.command()
def delete(dataset: Name, address: Address = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a version, or with NAME alone the dataset with all its versions."""
    what = dataset if "@" in dataset else f"{dataset} with all its versions"
    _confirm(f"Delete {what}?", yes)
    count = answer_of(address, lambda client: client.delete_dataset(dataset))
    _tell({"version_count": count}, as_json, f"{count} version{'s' * (count != 1)} deleted")


@app.command()
def forget(
    dataset: Name,
    address: Address = "",
    keys: Annotated[
        Path | None, typer.Option(help="A CSV file; its header names the columns of the keys.")
    ] = None,
    key: Annotated[list[str] | None, typer.Option(help="A key; may be repeated.")] = None,
    table: InTable = "",
    purge_after: Annotated[
        str, typer.Option(help="How long older files stay: 0, 12h, 7d.", metavar="SPAN")
    ] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Make a version without some persons' rows, and purge older versions that hold them.

    Keys in a file are not in the history of the shell. For example:

    vistaflow dataset forget users --keys leavers.csv --purge-after 7d
    """
    columns, values = _keys_of(keys) if keys else ([], [])
    values += [[text] for text in key or ()]
    if not values:
        stop("--keys: give a CSV file with the keys, or each one by --key", USAGE)
    _confirm(f"Remove the rows of {len(values)} keys from {dataset} and its versions?", yes)
    span = span_of("--purge-after", purge_after) if purge_after else None

    async def ask(client: CommandClient) -> tuple[Job, AsyncDataset]:
        job = await client.forget_records(
            dataset, values, table=table, columns=columns, purge_after=span
        )
        return await made_by(client, job, dataset, as_json)

    job, version = answer_of(address, ask)
    _tell(job.pb, as_json, _erasure_text(job.result, version))


async def made_by(
    client: CommandClient, job: Job, dataset: str, as_json: bool
) -> tuple[Job, AsyncDataset]:
    """The version that a job makes, once it is finished; a live tree is shown until then."""
    await follow_to_end(client, job.kit_id, quiet=as_json)
    job = await client.job(job.job_id)
    if job.status != "FINISHED":
        hint = f"\n  its log: vistaflow logs {job.job_id}"
        stop(f"job {job.job_id} is {job.status}: {job.reason}{hint}", FAILED)
    version = job.result.get("version")
    return job, await client.dataset(f"{dataset}@{version}" if version else dataset)


def _erasure_text(result: Mapping[str, Any], version: AsyncDataset) -> str:
    """What was forgotten."""
    removed = result.get("removed")
    if "version" not in result or not isinstance(removed, Mapping):
        return "no version has rows with these keys"
    rows = ", ".join(f"{count:,} of {table}" for table, count in removed.items() if count)
    count = len(result.get("versions") or ())
    lost = ", ".join(map(str, result.get("removed_aliases") or ()))
    unchanged = ", ".join(map(str, result.get("collections") or ()))
    lines = [
        f"{version.name} is without them; rows removed: {rows or 'none'}",
        f"{count:,} older version{'s' * (count != 1)} deleted, files purged after "
        f"{result.get('purge_at', '')}",
    ]
    if lost:
        lines.append(f"aliases removed with their versions: {lost}")
    if unchanged:
        lines.append(f"unchanged: pages and rows of collections {unchanged}")
    return "\n".join(lines)


def _keys_of(file: Path) -> tuple[list[str], list[list[str]]]:
    """The columns and the values of the keys in a file."""
    with reported():
        rows = [row for row in csv.reader(io.StringIO(read_text(file), newline="")) if row]
    if len(rows) < 2:
        stop(f"--keys: {file} has no keys below its header", USAGE)
    return rows[0], rows[1:]


def _size_of(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text.strip().upper())
    if not match:
        stop(f"--quota: {text!r} is no size; give one such as 100GB", USAGE)
    return int(float(match[1]) * _SIZES[match[2]])


def _confirm(question: str, yes: bool) -> None:
    """Asks before something is gone; a program has to say so."""
    if yes:
        return
    if not (console.is_terminal and errors.is_terminal):
        stop(f"{question} Say so by --yes", USAGE)
    if not typer.confirm(question, err=True):
        raise typer.Exit(FAILED)


def _tell(value: Any, as_json: bool, text: str) -> None:
    if as_json:
        print_json(value)
    else:
        console.print(text, markup=False, soft_wrap=True)
