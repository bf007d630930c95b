"""A deck from wherever a request says it is: the library, a folder below a root, an archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from vistaflow_services.core.errors import InvalidError, NotFoundError, Violations
from vistaflow_services.decks.deck import Deck, load_deck, read_archive
from vistaflow_services.decks.library import DeckLibrary

MAX_SOURCES = 100
"""Most decks in one request."""

MAX_ARCHIVE_BYTES = 1024 * 1024
"""Largest archive that a request may carry."""

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def check_path(path: str) -> None:
    """Raises `InvalidError` unless `path` stays below the folder it is relative to."""
    violations = Violations()
    parts = PurePosixPath(path).parts
    if not path or len(path) > 500 or not path.isprintable():
        violations.add("path", "give 1 to 500 printable characters")
    elif path.startswith(("/", "~", "-")) or "\\" in path or ".." in parts:
        violations.add("path", "give a path below a deck folder of the service, without `..`")
    violations.check()


def deck_at(path: str, roots: Sequence[Path]) -> Deck:
    """The deck in a folder or archive below one of `roots`; the first that has it counts.

    Raises:
        InvalidError: If the path leaves its root, or with every mistake of the deck.
        NotFoundError: If it is below none of them.
    """
    check_path(path)
    for root in roots:
        file = root / path
        if not file.exists():
            continue
        if not file.resolve().is_relative_to(root.resolve()):
            raise InvalidError(
                f"`{path}` is a link out of the deck folder; put the deck itself there"
            )
        if file.is_dir():
            return load_deck(file)
        if file.name.endswith(_ARCHIVES):
            if file.stat().st_size > MAX_ARCHIVE_BYTES:
                raise InvalidError(f"`{path}` has more than {MAX_ARCHIVE_BYTES} bytes")
            return read_archive(file.read_bytes())
        raise InvalidError(f"`{path}` is neither a folder nor one of {', '.join(_ARCHIVES)}")
    hint = (
        "put it there, or send the archive itself"
        if roots
        else ("no deck folders are set (VISTAFLOW_<SERVICE>_DECK_FOLDERS); send the archive")
    )
    raise NotFoundError(f"no deck folder has `{path}`; {hint}")


def deck_of(
    *,
    name: str = "",
    path: str = "",
    archive: bytes = b"",
    library: DeckLibrary,
    roots: Sequence[Path],
) -> Deck:
    """The deck of one source, read and valid.

    Raises:
        InvalidError: With every mistake of the deck, or if no source is given.
        NotFoundError: If there is no such deck.
    """
    if archive:
        if len(archive) > MAX_ARCHIVE_BYTES:
            raise InvalidError(f"the archive has more than {MAX_ARCHIVE_BYTES} bytes")
        return read_archive(archive)
    if path:
        return deck_at(path, roots)
    if name:
        return library.find(name).deck
    raise InvalidError("give a name, a path or an archive")
