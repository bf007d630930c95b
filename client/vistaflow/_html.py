"""Parts of the HTML by which notebooks show kits, decks and studies. All text is escaped."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from vistaflow._machine.local import home_of

MAX_PICTURES: Final = 6
"""Pictures of one object."""

MAX_PICTURE_BYTES: Final = 1024 * 1024
"""Largest picture that is embedded; a notebook stores it with its output."""


def heading(name: str, remark: str = "") -> str:
    """A line with the name of an object."""
    return f"<p><b>{html.escape(name)}</b> {html.escape(remark)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; empty if it has no rows."""
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    return f"<table><tr>{head}</tr>{body}</table>" if body else ""


def number(value: Any) -> str:
    """A number with five significant digits; another value as text."""
    return f"{value:.5g}" if isinstance(value, float) else "" if value is None else str(value)


def pictures(uris: Iterable[str]) -> str:
    """The pictures among artifacts that are on this machine, embedded.

    At most `MAX_PICTURES` pictures of at most `MAX_PICTURE_BYTES` bytes each.
    """
    images = []
    for path in picture_files(uris):
        try:
            if path.suffix != ".png" or path.stat().st_size > MAX_PICTURE_BYTES:
                continue
            content = base64.b64encode(path.read_bytes()).decode()
        except OSError:
            continue
        name = html.escape(path.name, quote=True)
        images.append(f'<img alt="{name}" src="data:image/png;base64,{content}">')
        if len(images) == MAX_PICTURES:
            break
    return "".join(images)


def picture_files(uris: Iterable[str]) -> list[Path]:
    """The files of artifacts that are in the home of this machine.

    Args:
        uris: Such as `artifact://jobs/…/convergence.png`. Others, and those that lead out of the
            store, are left out: they come from a service.
    """
    try:
        store = (home_of(os.environ) / "artifacts").resolve()
    except (OSError, RuntimeError):  # a user without a home folder
        return []
    files = []
    for uri in uris:
        scheme, _, name = uri.partition("://")
        try:
            path = (store / name).resolve()
            if scheme == "artifact" and path.is_relative_to(store) and path.is_file():
                files.append(path)
        except (OSError, ValueError):
            continue
    return files
