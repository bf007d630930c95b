"""The commands and what they share."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from vistaflow._machine.encoding import degrade_output
from vistaflow._machine.settings import misspelt
from vistaflow.cli import backups, changes, external, kits, lists, local, stages, tokens
from vistaflow.cli.data import (
    collections,
    conversions,
    datasets,
    delivery,
    imports,
    queries,
    rows,
    uploads,
)
from vistaflow.cli.files import comparison, export, picture
from vistaflow.cli.files import decks as deck_files
from vistaflow.cli.outbox import deliveries, webhooks
from vistaflow.cli.output import USAGE, stop
from vistaflow.cli.schedules import changes as schedules

app = typer.Typer(
    name="vistaflow",
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
        stop("\n".join(f"{name}: {problem}" for name, problem in mistakes.items()), USAGE)


for command in (
    local.up,
    local.down,
    local.status,
    local.doctor,
    kits.run,
    kits.validate,
    kits.schema,
    kits.watch,
    kits.show,
    kits.report,
    comparison.compare,
    export.export,
    picture.picture,
    lists.kits,
    lists.jobs,
    lists.states,
    lists.requests,
    changes.pause,
    changes.resume,
    changes.diff,
    changes.cancel,
    changes.retry,
    external.create,
    external.append,
    local.logs,
    backups.backup,
    backups.restore,
    backups.cleanup,
    backups.repair,
    backups.retention,
    stages.decks,
    stages.design,
    stages.predict,
    stages.points,
    conversions.convert,
    queries.query,
    collections.collect,
    uploads.upload,
    datasets.datasets,
    deliveries.deliveries,
    delivery.deliver,
):
    app.command(name=command.__name__)(command)
app.command(name="try")(stages.try_)
app.command(name="open")(local.open_)
app.add_typer(deck_files.app, name="new")
app.add_typer(queries.app, name="queries")
datasets.app.command(name="read")(rows.read)
datasets.app.command(name="import")(imports.import_)
app.add_typer(datasets.app, name="dataset")
app.add_typer(schedules.app, name="schedule")
app.add_typer(schedules.app, name="schedules", hidden=True)
app.add_typer(deliveries.app, name="delivery")
app.add_typer(webhooks.app, name="webhook")
app.add_typer(webhooks.app, name="webhooks", hidden=True)
app.add_typer(tokens.app, name="token")
app.add_typer(tokens.app, name="tokens", hidden=True)


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
