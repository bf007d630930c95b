"""Kits as callers give them, put into requests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistaflow._machine.archive import JOB_WORDS, beside_path, deck_beside, files_beside, pack_deck
from vistaflow._machine.encoding import read_text
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.errors import invalid

KitSource = str | os.PathLike[str] | Mapping[str, Any] | pipeline_pb2.KitSpec
"""A kit: the path of its file, its text, its content as a mapping, or a message."""

MAX_FILE_CHARACTERS = 200
"""Longest end of a kit file's path that its mistakes are reported with."""


def fill_kit(request: Any, kit: KitSource, *, instead: str = "") -> None:
    """Puts a kit into a request, with the deck that it names beside itself, or another instead."""
    folder = Path()
    if isinstance(kit, pipeline_pb2.KitSpec):
        request.spec.CopyFrom(kit)
        return
    if isinstance(kit, Mapping):
        request.kit_yaml = _json_text(kit)
        deck = kit.get("deck")
        path = deck.get("path", "") if isinstance(deck, Mapping) else ""
        # As `deck_beside`: a plain name is that of a deck of the service.
        beside = path if isinstance(path, str) and path else beside_path(deck)
        named = [name for name in _options(kit.get("jobs")) if isinstance(name, str)]
    else:
        if isinstance(kit, str) and "\n" in kit:
            request.kit_yaml = kit
        elif isinstance(kit, str | os.PathLike):
            file = Path(kit)
            folder = file.parent
            request.kit_yaml = read_text(file)
            if str(file).isprintable():  # else mistakes name "kit.yaml"
                request.kit_file = str(file)[-MAX_FILE_CHARACTERS:]
        else:
            raise invalid(
                "kit", f"{type(kit).__name__} is not a path, a text, a mapping or a KitSpec"
            )
        beside = deck_beside(request.kit_yaml)
        named = files_beside(request.kit_yaml)
    if instead:
        beside = beside_path(instead)
    for name in named:
        # The service says which are missing, and at which line.
        if (folder / name).is_file():
            request.files[name] = read_text(folder / name)
    if beside:
        deck_folder = folder / beside
        # Any other path may lie below a deck folder of the service.
        if deck_folder.exists() or beside.startswith((".", "/")):
            request.deck_archive = pack_deck(deck_folder)


def _options(jobs: Any) -> list[Any]:
    """What the jobs of a data kit have under their kinds."""
    entries = jobs.values() if isinstance(jobs, Mapping) else ()
    return [
        value
        for entry in entries
        if isinstance(entry, Mapping)
        for word, value in entry.items()
        if word in JOB_WORDS
    ]


def _json_text(kit: Mapping[str, Any]) -> str:
    """A kit as JSON, which is YAML, too; a line for each part, as mistakes name lines."""
    try:
        return json.dumps(dict(kit), indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise invalid("kit", f"JSON cannot hold it: {error}") from None
