"""The files of a run: those that its folder has at the end, and those that are stored of it."""

from __future__ import annotations

import contextlib
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vistaflow_services.decks.deck import DECK_FILE, Deck

MAX_FILES: Final = 64
MAX_FILE: Final = 256 * 1024
MAX_BYTES: Final = 1024 * 1024
"""Most files of a run that are read, and most bytes of one and of all."""

_OWN: Final = ("point.json", "result.json")
"""Files by which Python functions are called."""

_CUT: Final = b"truncated"
"""The comment in an archive of a file of which there was more."""


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A file of a run."""

    path: str
    content: bytes
    input: bool
    """Whether it is of the deck; else the run wrote it."""
    truncated: bool


def files_of(deck: Deck, work: Path, *, inputs: bool = True) -> list[RunFile]:
    """The deck's templates first, then what the run wrote, then the deck's other files.

    Args:
        deck: What was run.
        work: The folder of the run.
        inputs: Whether the deck's files are read, too.
    """
    own = {path for path in deck.files if path != DECK_FILE}
    paths = {
        path.relative_to(work).as_posix(): path
        for path in sorted(work.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
    written = [path for path in paths if path not in own and path not in _OWN]
    order = [
        *(path for path in deck.templates if inputs and path in paths),
        *written,
        *(path for path in paths if inputs and path in own and path not in deck.templates),
    ]
    files: list[RunFile] = []
    left = MAX_BYTES
    for path in order[:MAX_FILES]:
        with paths[path].open("rb") as file:
            content = file.read(min(MAX_FILE, left) + 1)
        cut = content[: min(MAX_FILE, left)]
        left -= len(cut)
        files.append(
            RunFile(path=path, content=cut, input=path in own, truncated=len(cut) < len(content))
        )
    return files


def packed(files: Iterable[RunFile]) -> bytes:
    """Files as an archive."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            # Without a time, so that the same files are the same archive.
            entry = zipfile.ZipInfo(file.path)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.comment = _CUT if file.truncated else b""
            archive.writestr(entry, file.content)
    return data.getvalue()


def unpacked(data: bytes) -> list[RunFile]:
    """The files that a run wrote, of an archive; none of one that is damaged."""
    files: list[RunFile] = []
    with (
        contextlib.suppress(zipfile.BadZipFile, OSError, ValueError),
        zipfile.ZipFile(io.BytesIO(data)) as archive,
    ):
        files.extend(
            RunFile(
                path=entry.filename,
                content=archive.read(entry),
                input=False,
                truncated=entry.comment == _CUT,
            )
            for entry in archive.infolist()
        )
    return files
