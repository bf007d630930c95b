"""Arguments of commands: filters, times and numbers, with messages for mistakes."""

from __future__ import annotations

import asyncio
import difflib
import math
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Final

import typer

from vistaflow.aio.client import AsyncClient
from vistaflow.api.common.v1 import common_pb2
from vistaflow.cli.output import STYLES, USAGE, stop
from vistaflow.errors import VistaError


def _completed(
    question: Callable[[AsyncClient], Awaitable[Iterable[str]]], incomplete: str
) -> list[str]:
    """What a shell completes a word to; nothing if nobody answers."""

    async def ask() -> list[str]:
        async with AsyncClient(timeout=1) as client:
            return [word for word in await question(client) if word.startswith(incomplete)]

    try:
        return asyncio.run(ask())
    except (VistaError, OSError, TimeoutError):
        return []


def complete_kits(incomplete: str) -> list[str]:
    """The latest kits, for the shell's completion."""

    async def kits(client: AsyncClient) -> list[str]:
        return [str(kit.kit_id) async for kit in client.kits(limit=200)]

    return _completed(kits, incomplete)


def complete_decks(incomplete: str) -> list[str]:
    """The names of the decks, for the shell's completion."""

    async def decks(client: AsyncClient) -> list[str]:
        return sorted({deck.name for deck in await client.decks()})

    return _completed(decks, incomplete)


def complete_statuses(incomplete: str) -> list[str]:
    """The statuses, for the shell's completion."""
    words = [status.lower() for status in STYLES]
    return [word for word in words if word.startswith(incomplete.lower())]


KitId = Annotated[
    int,
    typer.Argument(help="The kit.", metavar="KIT", min=1, autocompletion=complete_kits),
]
DeckName = Annotated[
    str, typer.Argument(help="A deck's name or id.", autocompletion=complete_decks)
]
AnyKit = Annotated[
    int,
    typer.Argument(
        help="The kit; every kit if left out.",
        metavar="KIT",
        min=0,
        autocompletion=complete_kits,
    ),
]
JobIds = Annotated[
    list[str] | None,
    typer.Option("--job", help="Only rows of this job; may be repeated.", metavar="JOB"),
]
Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        help="Only in this status; may be repeated.",
        metavar="STATUS",
        autocompletion=complete_statuses,
    ),
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
    value.name.removeprefix("JOB_TYPE_")
    for value in common_pb2.JobType.DESCRIPTOR.values
    if value.number
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


def statuses_of(words: Iterable[str] | None, name: str = "--status") -> list[str]:
    """Statuses in capitals; `name` is the option in messages."""
    return [_word(name, word, STATUSES) for word in words or ()]


def types_of(words: Iterable[str] | None) -> list[str]:
    """Job types in capitals."""
    return [_word("--type", word, TYPES) for word in words or ()]


def labels_of(texts: Iterable[str] | None, option: str = "--label") -> dict[str, str]:
    """Labels by key, from texts such as `owner=ana`; `option` is named in messages."""
    labels: dict[str, str] = {}
    for text in texts or ():
        key, sign, value = text.partition("=")
        if not key or not sign:
            stop(f"{option}: {text!r} has no `=`; give it as KEY=VALUE, such as owner=ana", USAGE)
        labels[key] = value
    return labels


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


def span_of(option: str, text: str) -> timedelta:
    """A span such as `90m`, `12h`, `7d`; 0 is none."""
    if text != "0" and not (text[:-1].isdecimal() and text[-1] in _SPANS):
        stop(f"{option}: {text!r} is no span; give one such as 90m, 12h or 7d", USAGE)
    return timedelta(seconds=int(text[:-1] or 0) * _SPANS.get(text[-1], 0))


def moment_of(option: str, text: str) -> int | datetime | None:
    """A revision, or a time as `time_of` takes it."""
    if text.isdecimal() and int(text):
        return int(text)
    if text and not text[0].isdecimal():
        stop(f"{option}: {text!r} is neither a revision nor a time such as 2026-01-31T09:30", USAGE)
    return time_of(option, text)


def _word(option: str, text: str, words: tuple[str, ...]) -> str:
    word = text.upper()
    if word not in words:
        near = difflib.get_close_matches(word, words, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        stop(f"{option}: {text!r} is none of {', '.join(words)}{meant}", USAGE)
    return word
