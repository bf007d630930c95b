"""Decks from folders, from archives, and from those that come with vistaflow."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

from vistaflow_services.core.errors import NotFoundError
from vistaflow_services.decks.archives import read_archive_files, read_folder
from vistaflow_services.decks.definition import (
    DECK_FILE,
    SIMULATORS,
    Deck,
    FailurePolicy,
    Policy,
    Response,
)
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.files.loading import parse_deck

__all__ = [
    "DECK_FILE",
    "SHIPPED",
    "SIMULATORS",
    "Deck",
    "FailurePolicy",
    "Policy",
    "Response",
    "load_deck",
    "parse_deck",
    "read_archive",
    "shipped_deck",
    "shipped_decks",
]

SHIPPED: Final = Path(__file__).parent / "shipped"
"""The folder of the decks that come with vistaflow, each in a folder of its own name."""


def load_deck(folder: Path) -> Deck:
    """The deck in a folder with a deck.yaml.

    Raises:
        InvalidError: With every mistake, its field such as `deck.yaml:12 parameters[2].range`.
    """
    return parse_deck(read_folder(folder))


def read_archive(archive: bytes) -> Deck:
    """The deck in a zip, tar or tar.gz file.

    Raises:
        InvalidError: With every mistake, its field such as `deck.yaml:12 parameters[2].range`.
    """
    return parse_deck(read_archive_files(archive))


def shipped_decks() -> list[str]:
    """The names of the decks that come with vistaflow."""
    return sorted(file.parent.name for file in SHIPPED.glob(f"*/{DECK_FILE}"))


@cache
def shipped_deck(name: str) -> Deck:
    """A deck that comes with vistaflow.

    Raises:
        NotFoundError: If there is none of that name.
    """
    if name not in shipped_decks():
        raise NotFoundError(f"no shipped deck is called `{name}`{suggest(name, shipped_decks())}")
    return load_deck(SHIPPED / name)
