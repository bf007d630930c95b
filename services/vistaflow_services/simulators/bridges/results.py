"""Figures from what a run has written: JSON, CSV, lines `name = value`, patterns."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Any, Final

from vistaflow_services.decks.deck import Deck

MAX_BYTES: Final = 64 * 1024 * 1024
"""Most of a file of results that is read."""

_LINE: Final = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*[=:]\s*(\S+?)[,;]?(?:\s|$)", re.MULTILINE)


class NoResultsError(Exception):
    """The results are not there or cannot be read; its text says why, for people."""


def read_file(path: Path) -> str:
    """The text of a file that a run has written; never a link, nor more than fits.

    Raises:
        NoResultsError: If there is no such file.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        raise NoResultsError(f"the run wrote no file `{path.name}`") from None
    with open(handle, "rb") as file:
        try:
            content = file.read(MAX_BYTES + 1)
        except OSError:
            raise NoResultsError(f"`{path.name}` is no file") from None
    if len(content) > MAX_BYTES:
        raise NoResultsError(f"`{path.name}` has more than {MAX_BYTES // 2**20} MiB")
    return content.decode("utf-8-sig", "replace")


def figures(deck: Deck, text: str, name: str) -> dict[str, Any]:
    """What a text says of the deck's responses, by what the simulator calls them.

    A response with a pattern has what the pattern matched last, None without a match. Of the others
    the text is read by the file's name: a JSON object, with dots for objects in it; the last row of
    a CSV file with a header; else the last line `name = value`.

    Raises:
        NoResultsError: If the text is not of its form.
    """
    values: dict[str, Any] = {}
    if not all(response.pattern for response in deck.responses):
        if name.endswith(".json"):
            values = _json(text, name)
        elif name.endswith(".csv"):
            values = _csv(text, name)
        else:
            values = {match[1]: match[2] for match in _LINE.finditer(text)}
    for response in deck.responses:
        if response.pattern:
            matches = re.findall(response.pattern, text, re.MULTILINE)
            last = matches[-1] if matches else None
            values[response.extract] = last[0] if isinstance(last, tuple) else last
    return values


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NoResultsError(f"`{name}` is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise NoResultsError(f"`{name}` holds no JSON object with the responses")
    return dict(_flat(parsed, ""))


def _flat(value: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, inner in value.items():
        if isinstance(inner, dict) and prefix.count(".") < 8:
            pairs += _flat(inner, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", inner))
    return pairs


def _csv(text: str, name: str) -> dict[str, Any]:
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if any(row)]
    if len(rows) < 2:
        raise NoResultsError(f"`{name}` has no row below its header")
    cells = [cell.strip() or None for cell in rows[-1]]
    return dict(zip((cell.strip() for cell in rows[0]), cells, strict=False))
