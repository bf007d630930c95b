"""The commands and what they share.

A command's module is imported when the command is used: most import the whole client, which takes
longer than many commands do.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

import typer
import typer.core
import typer.main

from vistaflow._machine.encoding import degrade_output
from vistaflow._machine.settings import misspelt

COMMANDS: Final = {
    "up": ("local:up", "Start PostgreSQL and every service on this machine."),
    "down": (
        "local:down",
        "Stop every service and PostgreSQL, cleanly. Running jobs go on at the next start.",
    ),
    "status": (
        "local:status",
        "Tell whether the suite is up, where its services are, and how far its log is.",
    ),
    "doctor": (
        "local:doctor",
        "Look at what vistaflow needs on this machine, and say how to correct what is wrong.",
    ),
    "run": ("kits:run", "Validate a kit, start it, and follow it to its result."),
    "extend": (
        "kits:extend",
        "Go on from all that a kit knows, as a new kit that refers to it; no point is run again.",
    ),
    "validate": (
        "kits:validate",
        "Find every mistake of a kit without starting it; with --try also run one point.",
    ),
    "schema": (
        "kits:schema",
        "Print the JSON Schema of deck.yaml or kit.yaml, with which editors complete and check it.",
    ),
    "watch": (
        "kits:watch",
        "Watch live; survives restarts of the suite. Ctrl-C ends it with exit code 130.",
    ),
    "show": ("kits:show", "Show a kit: its jobs, what they took, and its result."),
    "report": (
        "kits:report",
        "Write a kit as one HTML file that needs no network: to read, print and archive.",
    ),
    "compare": (
        "files.comparison:compare",
        "Compare kits: the settings that differ, best points, responses, margins and cost.",
    ),
    "export": (
        "files.export:export",
        "Copy a kit to a folder: kit.yaml, deck, points, trials, best point, model and pictures.",
    ),
    "picture": (
        "files.picture:picture",
        "Draw a picture of a kit, such as effects or contours; without NAME list what there is.",
    ),
    "kits": ("lists:kits", "List kits, newest first."),
    "jobs": ("lists:jobs", "List jobs, newest first; labels are those of the jobs."),
    "states": (
        "lists:states",
        "List the rows of the log in the order of their revisions; labels are those of kits.",
    ),
    "requests": ("lists:requests", "List who asked for what, newest first. For administrators."),
    "pause": (
        "changes:pause",
        "Hold a kit back: no more of its jobs are started; what runs goes on to its end.",
    ),
    "resume": ("changes:resume", "Go on with a paused kit."),
    "diff": ("changes:diff", "Show what changed in a kit between two revisions."),
    "cancel": (
        "changes:cancel",
        "Cancel a kit, or every job that a filter selects: running work is stopped within seconds.",
    ),
    "retry": (
        "changes:retry",
        "Go on from failed or canceled jobs, of a kit or by a filter; what was computed is reused.",
    ),
    "create": (
        "external:create",
        "Create a kit of external jobs: no worker takes them, their owner reports their states.",
    ),
    "append": (
        "external:append",
        "Report one state of an external job; prints the revision of its row.",
    ),
    "logs": ("local:logs", "Print the logs of the services, or what the jobs of a kit printed."),
    "backup": (
        "backups:backup",
        "Save the registry's log and tables to a file, or everything to targets.",
    ),
    "restore": (
        "backups:restore",
        "Put a backup back. What is there is put aside. Everything must be down.",
    ),
    "cleanup": (
        "backups:cleanup",
        "Remove what is no longer needed now, as the schedule weekly-cleanup does.",
    ),
    "repair": (
        "backups:repair",
        "Restore copies of files that are missing or damaged in one of the stores.",
    ),
    "retention": (
        "backups:retention",
        "Drop old partitions of the log that the policy does not keep.",
    ),
    "decks": (
        "stages:decks",
        "List the decks, or show one with its parameters and responses, or copy it to a folder.",
    ),
    "design": (
        "stages:design",
        "Make a design over a deck's parameters, and run it if asked; prints it as CSV.",
    ),
    "predict": ("stages:predict", "Predict a deck's responses at a point, with their uncertainty."),
    "points": (
        "stages:points",
        "Print the points of a kit's design as CSV, or why those that failed did.",
    ),
    "convert": (
        "data.conversions:convert",
        "Convert JSON files of any size, encrypted or not, to CSV or Parquet, and follow it.",
    ),
    "query": (
        "data.queries:query",
        "Run SQL over datasets, files and results of kits, and print the rows.",
    ),
    "collect": (
        "data.collections:collect",
        "Collect pages from the web and the rows in them, and follow it.",
    ),
    "upload": (
        "data.uploads:upload",
        "Send a file to the services and print its name for other commands: `upload:ID`.",
    ),
    "datasets": ("data.datasets:datasets", "List the datasets."),
    "deliveries": (
        "outbox.deliveries:deliveries",
        "List events that were sent to other programs, or wait to be, newest first.",
    ),
    "deliver": (
        "data.delivery:deliver",
        "Deliver a version: if it meets the conditions, its alias names it from then on.",
    ),
    "try": (
        "stages:try_",
        "Run one point now and show what the simulator was given, printed and returned.",
    ),
    "open": ("local:open_", "Open the page in a browser, and print its address."),
    "new": ("files.decks:app", "Write the files of a new deck."),
    "queries": ("data.queries:app", "List queries, newest first; show, cancel and fetch them."),
    "dataset": ("data.dataset:app", "Show, read, import, change and delete datasets."),
    "schedule": ("schedules.changes:app", "Run kits again and again."),
    "delivery": ("outbox.deliveries:app", "Look after events that are sent to other programs."),
    "webhook": ("outbox.webhooks:app", "Have events of a project be sent to other programs."),
    "token": ("tokens:app", "Make, list and revoke tokens, as an administrator."),
}
"""The module and function of each command, or the app of a group, with its line in the help."""

ALIASES: Final = {"schedules": "schedule", "webhooks": "webhook", "tokens": "token"}
"""Other names of commands, which the help does not list."""

ONE_QUERY: Final = ("show", "fetch", "cancel")
"""Commands of `queries` that `query` has as well: none of these words is a SELECT."""


class _Commands(Mapping[str, Any]):
    """The commands by name, made when they are first asked for."""

    def __init__(self) -> None:
        self._cache: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._cache:
            home, _, attribute = COMMANDS[ALIASES.get(name, name)][0].partition(":")
            value = getattr(importlib.import_module(f"vistaflow.cli.{home}"), attribute)
            alone = typer.Typer()
            if isinstance(value, typer.Typer):
                alone.add_typer(value, name=name, hidden=name in ALIASES)
            else:
                alone.command(name)(value)
            self._cache[name] = typer.main.get_group(alone).commands[name]
        return self._cache[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*COMMANDS, *ALIASES))

    def __len__(self) -> int:
        return len(COMMANDS) + len(ALIASES)


class _Group(typer.core.TyperGroup):
    """The group of all commands: makes the one that is run, and lists the others as described."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands: Any = _Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What the help and the completion of the command's name show."""
        _, line = COMMANDS.get(ALIASES.get(cmd_name, cmd_name), (None, None))
        if line is None:
            return None
        return typer.core.TyperCommand(cmd_name, help=line, hidden=cmd_name in ALIASES)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is run, or whose arguments are completed."""
        name, listed, rest = super().resolve_command(ctx, args)
        if name == "query" and rest and rest[0] in ONE_QUERY:
            name = "queries"
        return name, None if listed is None else self.commands[name], rest


app = typer.Typer(
    name="vistaflow",
    cls=_Group,
    help="From simulator decks to an optimised design, every step watched live.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(is_set: bool) -> None:
    if is_set:
        from importlib.metadata import version

        typer.echo(version("vistaflow"))
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From simulator decks to an optimised design, every step watched live."""
    mistakes = misspelt(os.environ)
    if mistakes:
        from vistaflow.cli.output import USAGE, stop

        stop("\n".join(f"{name}: {problem}" for name, problem in mistakes.items()), USAGE)


def main() -> None:
    """The entry point of the `vistaflow` script."""
    degrade_output()
    try:
        app()
    finally:
        try:
            print(end="", flush=True)
        except BrokenPipeError:
            # The reader of the output is gone. Output that is left must not fail at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
