"""The commands and what they share."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from vistaflow.cli import changes, keeping, kits, lists, local, reporting, stages, tokens
from vistaflow.cli.output import USAGE, stop
from vistaflow.encoding import degrade_output
from vistaflow.settings import misspelt

app = typer.Typer(
    name="vistaflow",
    help="From simulator decks to an optimised design, every step watched live.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
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
    kits.watch,
    kits.show,
    lists.kits,
    lists.jobs,
    lists.states,
    changes.pause,
    changes.resume,
    changes.diff,
    changes.cancel,
    changes.retry,
    reporting.create,
    reporting.append,
    local.logs,
    keeping.backup,
    keeping.restore,
    keeping.retention,
    stages.decks,
    stages.design,
    stages.predict,
):
    app.command(name=command.__name__)(command)
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
            # Whoever reads has read enough. Nothing is left to be flushed, loudly, at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
