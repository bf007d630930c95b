"""compare: the settings and results of kits side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from vistaflow.api.optimize.v1 import optimize_pb2
from vistaflow.cli.arguments import complete_kits
from vistaflow.cli.connection import CommandClient, answer_of
from vistaflow.cli.files.kit_text import kit_values
from vistaflow.cli.output import USAGE, Address, AsJson, console, number, print_json, stop
from vistaflow.cli.results import study_of
from vistaflow.errors import FailedPreconditionError
from vistaflow.models import Kit, struct_dict

MOST = 6
"""Kits that one table compares."""


def compare(
    kits: Annotated[
        list[int],
        typer.Argument(help="The kits.", metavar="KIT…", min=1, autocompletion=complete_kits),
    ],
    address: Address = "",
    as_json: AsJson = False,
) -> None:
    """Compare kits: the settings that differ, best points, responses, margins and cost.

    For example: vistaflow compare 10 18
    """
    if not 2 <= len(kits) <= MOST:
        stop(f"KIT: give 2 to {MOST} kits, such as `vistaflow compare 10 18`", USAGE)

    async def ask(client: CommandClient) -> list[dict[str, Any]]:
        compared = []
        for kit_id in kits:
            kit = await client.kit(kit_id)
            compared.append(summary(kit, await study_of(client, kit)))
        return compared

    compared = answer_of(address, ask)
    if as_json:
        for one in compared:
            print_json(one)
        return
    console.print(comparison_table(compared))


def summary(kit: Kit, study: optimize_pb2.Study | None) -> dict[str, Any]:
    """A kit as it is compared: what was set, and what came of it."""
    values: dict[str, Any] = {}
    with suppress(FailedPreconditionError):
        values = kit_values(kit)
    deck = kit.spec.get("deck")
    if isinstance(deck, Mapping):
        values["deck"] = f"{deck['name']} {deck.get('version', '')} {deck['deck_id'][:8]}"
    one: dict[str, Any] = {
        "kit_id": kit.kit_id,
        "status": kit.status,
        "settings": dict(_flat(values)),
        "units": dict(kit.spec.get("units") or {}),
    }
    if study is None:
        return one
    best = struct_dict(study.best.parameters)
    return one | {
        "parameters": dict(sorted(best.items())),
        "responses": {
            comparison.response.name: comparison.simulated for comparison in study.comparisons
        }
        or dict(sorted(study.best.responses.items())),
        "margins": {constraint.text: constraint.margin for constraint in study.constraints},
        "cost": {
            "objective": study.best.objective if study.best.HasField("objective") else None,
            "points": study.evaluation_count,
            "runs": study.simulated_count,
        },
    }


def comparison_table(compared: list[dict[str, Any]]) -> Table:
    """A row for each setting that differs and each result, a column for each kit."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    table.add_column("", overflow="fold", min_width=12)
    for one in compared:
        table.add_column(f"kit {one['kit_id']}", justify="right", overflow="fold")
    units = {name: unit for one in compared for name, unit in one["units"].items()}
    if len({one["status"] for one in compared}) > 1:
        table.add_row("status", *(one["status"] for one in compared))
    parts = {
        "settings": "settings that differ",
        "parameters": "best point",
        "responses": "simulated",
        "margins": "margins",
        "cost": "cost",
    }
    for part, title in parts.items():
        names = dict.fromkeys(name for one in compared for name in one.get(part, ()))
        rows = [(name, [one.get(part, {}).get(name) for one in compared]) for name in names]
        if part == "settings":
            rows = [(name, cells) for name, cells in rows if any(c != cells[0] for c in cells[1:])]
        if rows:
            table.add_section()
            table.add_row(Text(title, style="bold"))
        for name, cells in rows:
            unit = f" [{units[name]}]" if part != "settings" and units.get(name) else ""
            table.add_row(Text(f"  {name}{unit}"), *(_cell(cell) for cell in cells))
    return table


def _cell(value: Any) -> Text:
    if value is None:
        return Text("-", style="dim")
    return Text(number(value))


def _flat(values: Any, path: str = "") -> list[tuple[str, Any]]:
    """Values by path; a list is one value."""
    if not isinstance(values, Mapping):
        return [(path, values if isinstance(values, int | float) else str(values).strip())]
    flat = []
    for name, value in values.items():
        flat += _flat(value, f"{path}.{name}" if path else str(name))
    return flat
