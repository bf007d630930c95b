"""query, queries."""

from __future__ import annotations

import asyncio
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from vistaflow.aio._data.query_result import AsyncQueryResult
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.cli.arguments import Labels, Since, Statuses, Until, labels_of, statuses_of, time_of
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.live import follow as follow_kit
from vistaflow.cli.output import (
    DETACHED,
    FAILED,
    STYLES,
    USAGE,
    Address,
    AsJson,
    console,
    errors,
    print_json,
    stop,
)
from vistaflow.errors import InvalidArgumentError, VistaError

app = typer.Typer(
    help="List queries, newest first; show, cancel and fetch them.", invoke_without_command=True
)

OTHER_COLUMNS: Final = 68
"""Width of a list of queries without their texts."""

SHOWN_ROWS: Final = 50
"""Rows of a table on a terminal unless `--rows` says otherwise."""


class Dialect(StrEnum):
    """What a query is written in."""

    TRINO = "trino"
    DUCKDB = "duckdb"


class QueryOutput(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"
    DB = "db"


How = Annotated[QueryOutput, typer.Option("-o", "--output", help="How to write the rows.")]
To = Annotated[
    Path | None, typer.Option("--to", help="The file to write; for db an SQLite database.")
]
IntoTable = Annotated[str, typer.Option("--table", help="For db: the table.")]
RowCount = Annotated[int, typer.Option("--rows", help="Rows of a table that are shown.", min=1)]
QueryId = Annotated[str, typer.Argument(help="The query's id.", metavar="ID")]


def query(
    sql: Annotated[str, typer.Argument(help="One SELECT; - reads it from stdin.", metavar="SQL")],
    address: Address = "",
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            "-p", "--param", help="The value of :NAME: a number, or text.", metavar="NAME=VALUE"
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Most rows of the result.", min=0)] = None,
    dialect: Annotated[Dialect, typer.Option(help="What it is written in.")] = Dialect.TRINO,
    engine: Annotated[Dialect, typer.Option(help="What runs it.")] = Dialect.DUCKDB,
    reuse: Annotated[bool, typer.Option(help="Allow an earlier result of the same data.")] = True,
    label: Labels = None,
    register_as: Annotated[
        str,
        typer.Option(help="A dataset that the result becomes a version of.", metavar="DATASET"),
    ] = "",
    output: How = QueryOutput.TABLE,
    to: To = None,
    table: IntoTable = "result",
    rows: RowCount = SHOWN_ROWS,
    follow: Annotated[bool, typer.Option("--follow", help="Show how far it is.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print its id and return.")] = False,
) -> None:
    """Run SQL over datasets, files and results of kits, and print the rows.

    Ctrl-C detaches: the query goes on, and `vistaflow queries fetch ID` prints its rows. For
    example:

    vistaflow query "select stars, count(*) from reviews group by stars" -o csv
    """
    text = sys.stdin.read() if sql == "-" else sql
    values = {name: _value(value) for name, value in labels_of(parameter, "--param").items()}

    async def run(client: CommandClient) -> None:
        try:
            submitted = await client.submit_query(
                text,
                values,
                limit=limit,
                dialect=dialect,
                engine=engine,
                reuse=reuse,
                labels=labels_of(label),
                register_as=register_as,
            )
        except InvalidArgumentError as error:
            _point(text, error)
        info = submitted.query
        if detach:
            print(info.query_id)
            return
        if info.queue_place > 1:
            errors.print(f"query {info.query_id} waits at place {info.queue_place}")
        if follow and not submitted.reused:
            await follow_kit(client, info.kit_id)
        try:
            result = await client.query_result(info.query_id)
        except VistaError as error:
            failed = (await client.query_info(info.query_id)).error
            _caret(text, failed.line, failed.column)
            stop(error.message, FAILED)
        except asyncio.CancelledError:
            errors.print(f"query {info.query_id} goes on")
            raise typer.Exit(DETACHED) from None
        if submitted.reused:
            errors.print(f"the result is that of query {info.query_id}; --no-reuse runs it again")
        await _write(result, output, to, table, rows)

    answer_of(address, run)


@app.callback()
def queries(
    context: typer.Context,
    address: Address = "",
    as_json: AsJson = False,
    text: Annotated[str, typer.Option(help="Only queries with this in their text.")] = "",
    status: Statuses = None,
    label: Labels = None,
    since: Since = "",
    until: Until = "",
    limit: Annotated[int, typer.Option(help="Most of them; 0 for all.", min=0)] = 30,
) -> None:
    """List queries, newest first; show, cancel and fetch them."""
    if context.invoked_subcommand:
        return

    async def run(client: CommandClient) -> list[query_pb2.Query]:
        listing = client.queries(
            text=text,
            statuses=statuses_of(status),
            created_after=time_of("--since", since),
            created_before=time_of("--until", until),
            labels=labels_of(label),
            limit=limit,
        )
        return [entry async for entry in listing]

    listed = answer_of(address, run)
    if as_json:
        for entry in listed:
            print_json(entry)
        return
    shown = Table(box=None)
    for heading in ("query", "status", "submitted", "rows", "text"):
        shown.add_column(heading, justify="right" if heading == "rows" else "left", no_wrap=True)
    for entry in listed:
        word, query = _word(entry), Text(" ".join(entry.user_query.split()))
        # The text alone gives way in a narrow terminal: an id that is cut finds no query.
        query.truncate(max(8, console.width - OTHER_COLUMNS), overflow="ellipsis")
        shown.add_row(
            entry.query_id,
            Text(word, STYLES.get(word, "")),
            f"{entry.created_at.ToDatetime():%m-%d %H:%M}",
            f"{entry.row_count:,}" if word == "FINISHED" else "",
            query,
        )
    console.print(shown)


@app.command()
def show(query_id: QueryId, address: Address = "", as_json: AsJson = False) -> None:
    """Show what became of a query."""
    entry = answer_of(address, lambda client: client.query_info(query_id))
    if as_json:
        print_json(entry)
        return
    word = _word(entry)
    lines = [f"{entry.query_id}  {word}  kit {entry.kit_id}"]
    if entry.queue_place:
        lines.append(f"waits at place {entry.queue_place}")
    if word == "FINISHED":
        gone = "; the result was removed" if entry.result_removed else ""
        cut = ", cut by a limit" if entry.limited else ""
        lines.append(f"{entry.row_count:,} rows{cut}, {entry.size_bytes:,} bytes{gone}")
    lines += [
        f"reads {source.name}: {source.kind} {source.target}, version {source.version[:20]}"
        for source in entry.sources
    ]
    console.print("\n".join([*lines, "", entry.user_query]), markup=False, soft_wrap=True)
    if entry.HasField("error"):
        _caret(entry.user_query, entry.error.line, entry.error.column)
        stop(entry.error.message, FAILED)


@app.command()
def cancel(
    query_id: QueryId,
    address: Address = "",
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
) -> None:
    """Cancel a query that waits or runs."""
    entry = answer_of(address, lambda client: client.cancel_query(query_id, reason=reason))
    console.print(f"query {entry.query_id} is {_word(entry)}")


@app.command()
def fetch(
    query_id: QueryId,
    address: Address = "",
    output: How = QueryOutput.TABLE,
    to: To = None,
    table: IntoTable = "result",
    rows: RowCount = SHOWN_ROWS,
) -> None:
    """Print the rows of a query, once it has ended."""

    async def run(client: CommandClient) -> None:
        await _write(await client.query_result(query_id), output, to, table, rows)

    answer_of(address, run)


async def _write(
    result: AsyncQueryResult, output: QueryOutput, to: Path | None, table: str, rows: int
) -> None:
    """Writes the rows of a result as asked for."""
    if output is QueryOutput.DB:
        if to is None:
            stop("--to: name the SQLite database to write", USAGE)
        count = await result.to_sqlite(to, table)
        errors.print(f"{count:,} rows in table {table} of {to}", markup=False)
    elif output is QueryOutput.TABLE and to is None:
        await _show(result, rows)
    elif to is not None:
        await result.save(to, "" if output is QueryOutput.TABLE else output)
        errors.print(f"{len(result):,} rows in {to}", markup=False)
    elif output is QueryOutput.PARQUET and sys.stdout.isatty():
        stop("-o parquet: add --to FILE, or send it to a file or a program", USAGE)
    else:
        async for block in result.blocks(output):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()


async def _show(result: AsyncQueryResult, rows: int) -> None:
    """Prints the first rows as a table."""
    shown = Table(box=None)
    for column in result.query.columns:
        shown.add_column(Text(column.name), overflow="fold")
    for row in await result.first(rows):
        shown.add_row(*(Text("" if value is None else str(value)) for value in row))
    console.print(shown)
    left = len(result) - rows
    more = f"; {left:,} more, -o csv prints all" if left > 0 else ""
    cut = ", cut by a limit" if result.query.limited else ""
    errors.print(f"{len(result):,} rows{cut}{more}")


def _value(text: str) -> str | int | float:
    """The value of a parameter: a number if the text is one."""
    if re.fullmatch(r"-?(0|[1-9]\d{0,17})", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+\.\d+([eE][+-]?\d+)?", text) else text


def _word(entry: query_pb2.Query) -> str:
    return common_pb2.Status.Name(entry.status).removeprefix("STATUS_")


def _point(text: str, error: InvalidArgumentError) -> NoReturn:
    """Says what is wrong, below the place in the query."""
    place = re.search(r"line (\d+), column (\d+): ", error.message)
    if place:
        _caret(text, int(place[1]), int(place[2]))
    raise error


def _caret(text: str, line: int, column: int) -> None:
    """Prints a line of a query with a caret below the place of a mistake."""
    lines = text.splitlines()
    if not 1 <= line <= len(lines):
        return
    shown: Any = Text(lines[line - 1].expandtabs(1))
    width = shown[: max(0, column - 1)].cell_len
    errors.print(shown, soft_wrap=True)
    errors.print(" " * width + "^", soft_wrap=True)
