"""dataset read."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table
from rich.text import Text

from vistaflow.aio._data.datasets import AsyncDataset
from vistaflow.aio._data.record_batches import write_batches
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.data.datasets import InTable, Name
from vistaflow.cli.output import FAILED, USAGE, Address, console, stop, visible

SHOWN_ROWS: Final = 20
"""Rows on a terminal if no number is given."""
MAX_ROWS: Final = 1_000
"""Most rows of a table on a terminal."""


def read(
    dataset: Name,
    address: Address = "",
    table: InTable = "",
    columns: Annotated[str, typer.Option(help="Which, divided by commas.", metavar="A,B")] = "",
    filter_: Annotated[
        str, typer.Option("--filter", help='An SQL expression, such as "price > 0".')
    ] = "",
    offset: Annotated[int, typer.Option(help="Rows to leave out first.", min=0)] = 0,
    limit: Annotated[int | None, typer.Option(help="Most rows; 0 for all.", min=0)] = None,
    rejects: Annotated[bool, typer.Option("--rejects", help="The rejected rows, and why.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV, as into a pipe.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a line.")] = False,
    as_arrow: Annotated[bool, typer.Option("--arrow", help="An Arrow IPC stream.")] = False,
    as_parquet: Annotated[bool, typer.Option("--parquet", help="Parquet.")] = False,
    formula_guard: Annotated[
        bool, typer.Option(help="In CSV, make cells harmless that a spreadsheet would run.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A file: .csv .json .parquet .arrow")
    ] = None,
) -> None:
    """Print the rows of a table: some as a table on a terminal, all as CSV into a pipe.

    For example: vistaflow dataset read whisky --csv | head; vistaflow dataset read whisky -o w.csv
    """
    flags = {"csv": as_csv, "json": as_json, "arrow": as_arrow, "parquet": as_parquet}
    formats = [name for name, is_set in flags.items() if is_set]
    if len(formats) > 1:
        stop(f"--{formats[1]}: give one format only", USAGE)
    kind = formats[0] if formats else ""
    if kind in ("arrow", "parquet") and output is None and sys.stdout.isatty():
        stop(f"--{kind} is binary: write it to a file with -o FILE, or into a pipe", USAGE)
    if not kind and not console.is_terminal:
        kind = "csv"
    selection: dict[str, Any] = {
        "columns": [name.strip() for name in columns.split(",")] if columns else [],
        "filter": filter_,
        "offset": offset,
        "limit": limit or 0,
        "formula_guard": formula_guard,
    }

    async def write(client: CommandClient) -> None:
        shown = await client.dataset(dataset, table=table)
        shown = shown.rejects if rejects else shown
        if output is not None:
            await shown.download(output, formats[0] if formats else "", **selection)
        elif kind == "parquet":
            async with shown.reader(**selection) as reader:
                await asyncio.to_thread(write_batches, reader, kind, sys.stdout.buffer)
        elif kind:
            async for block in shown.blocks(kind, **selection):
                sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()
        else:
            await _print_table(
                shown, {**selection, "limit": SHOWN_ROWS if limit is None else limit}
            )

    try:
        answer_of(address, write)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is left must not fail at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        stop(f"the output cannot be written: {error.strerror}", FAILED)


async def _print_table(dataset: AsyncDataset, selection: dict[str, Any]) -> None:
    """Prints rows as a table."""
    content = b"".join([block async for block in dataset.blocks("json", **selection)])
    rows = [json.loads(line) for line in content.splitlines()]
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    for name in rows[0] if rows else ():
        is_number = all(isinstance(row[name], int | float) for row in rows)
        table.add_column(
            Text(visible(name)),
            overflow="ellipsis",
            no_wrap=True,
            justify="right" if is_number else "left",
        )
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    console.print(table)
    # Of rows that a filter selects, the number is not known.
    rest = dataset.rows - selection["offset"] - len(rows)
    if rest > 0 and not selection["filter"]:
        console.print(f"… and {rest:,} more rows; --csv has all", style="dim")
    elif not rows:
        console.print("no rows", style="dim")


def _cell(value: Any) -> Text:
    if value is None:
        return Text("null", style="dim")
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return Text(visible(text))
