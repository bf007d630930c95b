"""What commands are given: filters and times, and how their mistakes are told."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

import typer

from vistaflow.api.common.v1 import common_pb2
from vistaflow.cli.output import STYLES, USAGE, stop

AnyKit = Annotated[
    int, typer.Argument(help="The kit; every kit if left out.", metavar="KIT", min=0)
]
JobIds = Annotated[
    list[str] | None,
    typer.Option("--job", help="Only rows of this job; may be repeated.", metavar="JOB"),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option("--status", help="Only in this status; may be repeated.", metavar="STATUS"),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--type", help="Only jobs of this type, such as DOE; may be repeated.", metavar="TYPE"
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", help="Only what has this label; may be repeated.", metavar="KEY=VALUE"),
]
Project = Annotated[str, typer.Option("--project", help="Only what is of this project.")]
Since = Annotated[
    str,
    typer.Option(help="Only from then on: 2026-01-31T09:30, or 90m, 12h, 7d ago.", metavar="TIME"),
]
Until = Annotated[str, typer.Option(help="Only before then; as --since.", metavar="TIME")]

STATUSES: Final = tuple(STYLES)
TYPES: Final = tuple(
    each.name.removeprefix("JOB_TYPE_")
    for each in common_pb2.JobType.DESCRIPTOR.values
    if each.number
)

_SPANS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def number_of(text: str) -> int | float:
    """The number in a text: an integer if it is whole and a double would change it.

    A number with an exponent is a measurement, for which a double is precise enough.

    Raises:
        ValueError: It is no number.
    """
    number = float(text)
    if not math.isfinite(number) or abs(number) < 2**53 or "e" in text.lower():
        return number
    written = Decimal(text)
    is_whole = written == written.to_integral_value()
    return int(written) if is_whole and written != Decimal(number) else number


def statuses_of(given: Iterable[str] | None, name: str = "--status") -> list[str]:
    """The statuses given under a name, in capitals."""
    return [_word(name, each, STATUSES) for each in given or ()]


def types_of(given: Iterable[str] | None) -> list[str]:
    """The job types given, in capitals."""
    return [_word("--type", each, TYPES) for each in given or ()]


def labels_of(given: Iterable[str] | None) -> dict[str, str]:
    """The labels given."""
    found: dict[str, str] = {}
    for each in given or ():
        key, sign, value = each.partition("=")
        if not key or not sign:
            stop(f"--label: {each!r} has no `=`; give it as KEY=VALUE, such as owner=ana", USAGE)
        found[key] = value
    return found


def time_of(option: str, text: str) -> datetime | None:
    """A time in the local zone unless it names one, or a span back from now; None if empty."""
    if not text:
        return None
    if text[:-1].isdecimal() and text[-1] in _SPANS:
        return datetime.now(UTC) - timedelta(seconds=int(text[:-1]) * _SPANS[text[-1]])
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        stop(
            f"{option}: {text!r} is no time; give one such as 2026-01-31T09:30, or 12h for twelve "
            "hours ago",
            USAGE,
        )


def moment_of(option: str, text: str) -> int | datetime | None:
    """A revision, or a time as `time_of` takes it."""
    if text.isdecimal() and int(text):
        return int(text)
    if text and not text[0].isdecimal():
        stop(f"{option}: {text!r} is neither a revision nor a time such as 2026-01-31T09:30", USAGE)
    return time_of(option, text)


def _word(option: str, given: str, known: tuple[str, ...]) -> str:
    word = given.upper()
    if word not in known:
        near = difflib.get_close_matches(word, known, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        stop(f"{option}: {given!r} is none of {', '.join(known)}{meant}", USAGE)
    return word
