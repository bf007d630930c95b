"""Versions of datasets on a terminal: tables, columns, profiles, and what is weak about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from vistaflow._datasets import DatasetFigures, DatasetSummary, DatasetTable, bars
from vistaflow.cli.lists import minute
from vistaflow.cli.output import console, size_text, visible

WEAK_SHARE: Final = 0.1
"""Share of rejected rows from which on a table is called weak."""
MAX_COLUMNS: Final = 40
"""Columns that are listed on a terminal; `--json` has all."""
WIDE: Final = 110
"""Characters of a terminal on which a histogram has all its bins."""


def print_dataset(dataset: DatasetFigures) -> None:
    """Prints a version with its tables and columns, and says what is weak about it."""
    version, summary = dataset.version, dataset.summary
    names = ", ".join((*version.aliases, *(["pinned"] if version.pinned else [])))
    lines = [
        f"{dataset.name}  {minute(version.created_at)}  {names}".rstrip(),
        summary.description,
        f"from {version.source}" if version.source else "",
        " ".join(f"{key}={value}" for key, value in summary.labels.items()),
        _limits(summary),
    ]
    for line in filter(None, lines):
        console.print(visible(line), markup=False, soft_wrap=True)
    tables = _table("table", rows="right", rejected="right", dropped="right", size="right")
    columns = _table("table", column="left", type="left", remark="left")
    for entry in dataset.tables:
        tables.add_row(
            entry.name,
            f"{entry.rows:,}",
            f"{entry.rejected_rows:,}",
            f"{entry.dropped_rows:,}",
            size_text(entry.size_bytes),
        )
        remarks = _remarks(entry)
        for column in entry.columns:
            if columns.row_count < MAX_COLUMNS:
                columns.add_row(
                    entry.name,
                    Text(visible(column.name)),
                    Text(visible(column.type)),
                    Text(visible(remarks.get(column.name, ""))),
                )
    console.print(tables)
    console.print(columns)
    count = sum(len(entry.columns) for entry in dataset.tables)
    if count > MAX_COLUMNS:
        console.print(f"… and {count - MAX_COLUMNS:,} more columns; --json has all")
    print_weakness(dataset)


def print_weakness(dataset: DatasetFigures) -> None:
    """Says which rows a version lacks, and which refer to nothing."""
    for entry in dataset.tables:
        if count := entry.rejected_rows:
            rules = ", ".join(f"{rule}: {number:,}" for rule, number in entry.rejected.items())
            is_weak = count >= WEAK_SHARE * entry.read_rows
            console.print(
                f"{'weak: ' * is_weak}{count:,} of {entry.read_rows:,} rows of {entry.name} are "
                f"rejected ({rules})\n"
                f"  they are in: vistaflow dataset read {dataset.name} --table {entry.name} "
                "--rejects",
                style="yellow" if is_weak else "",
                markup=False,
                soft_wrap=True,
            )
        if not entry.rows:
            console.print(f"weak: {entry.name} has no rows", style="yellow", markup=False)
        for reference, count in entry.orphans.items():
            if count:
                console.print(
                    f"{count:,} of {entry.rows:,} rows of {entry.name} refer to no row: "
                    f"{visible(reference)}",
                    markup=False,
                    soft_wrap=True,
                )


def profile_table(entry: DatasetTable, width: int) -> Table:
    """The figures of a table's columns, for a terminal of a width."""
    bins = 20 if width >= WIDE else 10
    # What is left of the line for texts: the name, the smallest and the largest value.
    longest = (width - bins - 30) // 3
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("column", no_wrap=True, max_width=longest)
    table.add_column("type", no_wrap=True, min_width=8, max_width=9)
    table.add_column("nulls", no_wrap=True, justify="right", min_width=5)
    table.add_column("distinct", no_wrap=True, justify="right", min_width=8)
    table.add_column("smallest", no_wrap=True, max_width=longest)
    table.add_column("largest", no_wrap=True, max_width=longest)
    table.add_column("histogram", no_wrap=True, min_width=bins)
    for column in entry.columns:
        table.add_row(
            Text(visible(column.name)),
            Text(visible(column.type)),
            f"{column.null_count / entry.rows:.0%}" if column.null_count else "",
            f"{column.distinct_count:,}",
            Text(visible(column.minimum)),
            Text(visible(column.maximum)),
            bars(column.counts, bins),
        )
    return table


def _limits(summary: DatasetSummary) -> str:
    """How much of a dataset is stored; empty if it has no limits."""
    limits = [
        size_text(summary.quota_bytes) if summary.quota_bytes else "",
        f"{summary.max_versions} versions" if summary.max_versions else "",
        f"{summary.max_age.total_seconds() / 86400:.3g} days" if summary.max_age else "",
    ]
    text = ", ".join(filter(None, limits))
    return f"stored: at most {text}" if text else ""


def _table(first: str, **columns: Any) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name, justify in columns.items():
        table.add_column(name, justify=justify, no_wrap=True)
    return table


def _remarks(entry: DatasetTable) -> Mapping[str, str]:
    """Which columns are keys, and what they refer to."""
    remarks = dict.fromkeys(entry.primary_key, "primary key")
    for reference in entry.references:
        names, _, target = reference.partition(" -> ")
        remarks |= {name: f"-> {target}" for name in names.split(",")}
    return remarks
