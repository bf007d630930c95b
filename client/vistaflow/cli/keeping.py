"""backup, restore, retention: looking after what is kept on this machine."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from vistaflow.cli.local import DEFAULT_HOME, Home, folder_of, holder
from vistaflow.cli.output import FAILED, USAGE, stop
from vistaflow.interpreter import module_command


def backup(
    file: Annotated[Path, typer.Argument(help="The file to write; must not be there yet.")],
    home: Home = DEFAULT_HOME,
) -> None:
    """Save the registry's log and tables to a file, also while everything is up."""
    _run(home, "backup", str(file.expanduser().absolute()))


def restore(
    file: Annotated[Path, typer.Argument(help="What `vistaflow backup` wrote.")],
    home: Home = DEFAULT_HOME,
    beyond: Annotated[
        int, typer.Option(help="The last revision the lost log is known to have used.", min=0)
    ] = 0,
    keep_tokens: Annotated[
        bool,
        typer.Option("--keep-tokens", help="Trust tokens that may have been revoked meanwhile."),
    ] = False,
) -> None:
    """Put a backup back. What is there is put aside. Everything must be down."""
    if holder(folder_of(home)) is not None:
        stop("vistaflow is up; stop it first: `vistaflow down`", FAILED)
    more = [
        *([f"--beyond={beyond}"] if beyond else []),
        *(["--keep-tokens"] if keep_tokens else []),
    ]
    _run(home, "restore", str(file.expanduser().absolute()), *more)


def retention(
    home: Home = DEFAULT_HOME,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be dropped.")
    ] = False,
    days: Annotated[
        float, typer.Option(help="Keep what is over for so long, not as configured.", min=0)
    ] = 0.0,
) -> None:
    """Drop old partitions of the log that the policy does not keep."""
    more = [*(["--dry-run"] if dry_run else []), *([f"--days={days}"] if days else [])]
    _run(home, "retention", *more)


def _run(home: Path, command: str, *arguments: str) -> None:
    if importlib.util.find_spec("vistaflow_services") is None:
        stop("the services are not installed: pip install 'vistaflow\\[all]'", USAGE)
    done = subprocess.run(
        [*module_command(f"vistaflow_services.registry.{command}"), *arguments],
        env={
            **os.environ,
            "VISTAFLOW_HOME": str(folder_of(home)),
            "PYTHONIOENCODING": f"{sys.stdout.encoding or 'utf-8'}:backslashreplace",
        },
        # Told from here, so that a reader who stops reading, such as `head`, interrupts no work.
        stdout=subprocess.PIPE,
        encoding=sys.stdout.encoding or "utf-8",
        errors="replace",
        check=False,
    )
    sys.stdout.write(done.stdout)
    if done.returncode:
        raise typer.Exit(FAILED)
