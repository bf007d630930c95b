"""Text, JSON and exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, NoReturn

import typer
from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console

from vistaflow._machine.encoding import encodable
from vistaflow.errors import InvalidArgumentError, UnavailableError, VistaError

FAILED: Final = 1
"""Exit code: the kit did not finish, or the call was refused."""
USAGE: Final = 2
"""Exit code: the command or what it was given is wrong."""
UNREACHABLE: Final = 3
"""Exit code: nobody answers."""
DETACHED: Final = 130
"""Exit code: Ctrl-C; what was started goes on."""

STYLES: Final = {
    "INIT": "dim",
    "QUEUED": "cyan",
    "RUNNING": "yellow",
    "FINISHED": "green",
    "FAILED": "red",
    "CANCELED": "magenta",
}
MARKS: Final = {
    "INIT": "·",
    "QUEUED": "○",
    "RUNNING": "▶",
    "FINISHED": "✔",
    "FAILED": "✘",
    "CANCELED": "■",
}
"""A sign for each status."""

Address = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="VISTAFLOW_REGISTRY",
        help="The registry's address.",
        metavar="HOST:PORT",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one value a line.")]

# `:x:` in a text of anyone is no picture.
console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)


def print_json(value: Any) -> None:
    """Prints one value as one line of JSON."""
    text = json.dumps(plain(value), ensure_ascii=False)
    # Characters that stdout cannot encode must not be replaced in data.
    sys.stdout.write((text if encodable(text) else json.dumps(plain(value))) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    """A value as what JSON knows."""
    if isinstance(value, Message):
        return json_format.MessageToDict(value, preserving_proto_field_name=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = (field.name for field in dataclasses.fields(value) if field.name != "pb")
        return {name: plain(getattr(value, name)) for name in fields}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    return value.isoformat() if isinstance(value, datetime) else value


def number(value: float, unit: str = "") -> str:
    """A number as people write it, with its unit."""
    # JSON has one kind of number: a doping of 5e15 arrives as a whole one.
    is_real = isinstance(value, float) or (isinstance(value, int) and abs(value) >= 10**9)
    text = f"{value:.5g}" if is_real else str(value)
    return f"{text} {unit}" if unit else text


def size_text(size: int) -> str:
    """A size in bytes as people write it."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size} B"


def visible(text: str) -> str:
    """A text of anyone in one line: a terminal must not run what is in it."""
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in text
    )


def stop(message: str, code: int) -> NoReturn:
    """Says what is wrong on stderr and ends."""
    errors.print(message, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def user() -> str:
    """Who asks, for the record; empty if the system does not know."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


@contextlib.contextmanager
def reported() -> Iterator[None]:
    """Turns what a service refuses into a message with the fix and an exit code."""
    try:
        yield
    except InvalidArgumentError as error:
        lines = [f"  {violation.field}: {violation.description}" for violation in error.violations]
        count = len(lines)
        head = f"{count} mistake{'s' if count > 1 else ''}:" if lines else error.message
        stop("\n".join([head, *lines]), USAGE)
    except UnavailableError as error:
        if error.reason not in ("", "UNAVAILABLE", "DRAINING", "NOT_REACHED"):
            stop(error.message, FAILED)  # it answers: something else is missing
        hint = "" if error.reason else "\nStart the suite with `vistaflow up`, or set --address."
        stop(f"{error.message}{hint}", UNREACHABLE)
    except VistaError as error:
        where = f" (error {error.error_id}; see `vistaflow logs`)" if error.error_id else ""
        stop(f"{error.message}{where}", FAILED)
    except UnicodeEncodeError as error:
        # An argument whose bytes are not valid in the encoding of this terminal.
        stop(f"{error.object!a}: is not text; type it in this terminal's encoding", USAGE)
    except KeyboardInterrupt:
        raise typer.Exit(DETACHED) from None
