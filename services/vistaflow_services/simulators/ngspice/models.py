"""Libraries of models that netlists name in the folders that the operator has registered."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vistaflow_services.decks.deck import DECK_FILE, Deck
from vistaflow_services.simulators.bridges.registered import MODELS, in_folders, model_folders

_NAMED: Final = re.compile(r"\$\{?([A-Za-z][A-Za-z0-9_]*)\}?/")


def folders_of(deck: Deck) -> dict[str, Path]:
    """The registered folders that a deck's files name, by `$NAME/` or by their path."""
    netlists = [
        content
        for path, content in deck.files.items()
        if path != DECK_FILE and not path.endswith(".py")
    ]
    return {
        name: folder
        for name, folder in model_folders().items()
        if any(
            in_folders(content, {name: folder}) != content or f"{folder}/".encode() in content
            for content in netlists
        )
    }


def library_problem(name: str) -> str:
    """Why a file outside the deck cannot be read, or nothing: registered folders have it."""
    folders = model_folders()
    if (match := _NAMED.match(name)) and match[1] not in folders:
        return f"{_cut(name)} is outside the deck, and {_unregistered(f'${match[1]}', folders)}"
    path = in_folders(name.encode(), folders).decode()
    if not path.startswith("/"):
        return f"{_cut(name)} is outside the deck; put the file into its folder, name it relatively"
    real = os.path.realpath(path)
    if not any(Path(real).is_relative_to(folder) for folder in folders.values()):
        return (
            f"{_cut(name)} is outside the deck: put the file into its folder and name it "
            f"relatively; of model libraries, {_unregistered('its folder', folders)}"
        )
    return "" if os.path.isfile(real) else f"{_cut(name)} is no file of the registered folder"


def _unregistered(what: str, folders: Mapping[str, Path]) -> str:
    known = f"; registered are {', '.join(f'${name}/' for name in folders)}" if folders else ""
    return f"{what} is not registered by the operator in {MODELS}{known}"


def _cut(name: str) -> str:
    return f"`{name[:80]}`"
