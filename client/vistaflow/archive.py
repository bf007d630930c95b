"""Packing the deck that a kit file names beside itself."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Final

from vistaflow.errors import InvalidArgumentError

MAX_BYTES: Final = 1024 * 1024
"""Largest archive that a request may carry."""

_ARCHIVES: Final = (".zip", ".tar", ".tar.gz", ".tgz")
_DECK = re.compile(r"""^deck:\s*(?:\{\s*path:\s*)?["']?([^"'\s#}]+)""", re.MULTILINE)
_BESIDE = re.compile(r"^\.{0,2}/|/|\.(zip|tar|tar\.gz|tgz)$")


def deck_beside(kit_yaml: str) -> str:
    """The path of the deck that the text of a kit file names beside itself, or nothing."""
    found = _DECK.search(kit_yaml)
    return found.group(1) if found and _BESIDE.search(found.group(1)) else ""


def pack_deck(path: Path) -> bytes:
    """A deck's folder as a zip; an archive as it is.

    Raises:
        InvalidArgumentError: If there is no deck, or it is too large to send.
    """
    if path.is_dir():
        content = _zip(path)
    elif path.is_file() and path.name.endswith(_ARCHIVES):
        content = path.read_bytes()
    else:
        raise InvalidArgumentError(
            f"{path}: no such deck; give a folder with a deck.yaml, or an archive of one"
        )
    if len(content) > MAX_BYTES:
        raise InvalidArgumentError(
            f"{path}: {len(content)} bytes; a deck has at most {MAX_BYTES}: keep results out of it"
        )
    return content


def _zip(folder: Path) -> bytes:
    buffer = io.BytesIO()
    size = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder)
            hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
            if hidden or not file.is_file() or file.suffix == ".pyc":
                continue
            size += file.stat().st_size
            if size > 8 * MAX_BYTES:
                raise InvalidArgumentError(f"{folder}: more than {8 * MAX_BYTES} bytes of files")
            archive.writestr(zipfile.ZipInfo(name.as_posix()), file.read_bytes())
    return buffer.getvalue()
