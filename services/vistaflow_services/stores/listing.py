"""Files of a folder or a pattern in a root of data, in the order of their partitions.

A folder such as `raw/reviews` has all files below it whose names end alike. In
`year=2024/month=3/day=01/a.parquet` each `key=value` is a partition key: files are ordered by the
values, as numbers where all values of a key are numbers, and by name within a partition. Names that
begin with `.` or `_` are left out, as other engines do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from vistaflow_services.core.errors import ExhaustedError, InvalidError, NotFoundError, field_error
from vistaflow_services.stores.bucket import failures
from vistaflow_services.stores.roots import Input, Roots, absent

MAX_FILES = 20_000
"""Most files of one listing."""

NULL = "__HIVE_DEFAULT_PARTITION__"
"""The value of a partition whose key is null."""

_WILD = re.compile(r"[*?\[]")
_KEY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)")


@dataclass(frozen=True, kw_only=True)
class ListedFile:
    """A file that is there."""

    input: Input
    size: int
    version: str
    """What changes when its content does: the time of its last change, or the ETag."""

    @property
    def partition(self) -> dict[str, str | None]:
        """The partition keys in its path, with their values."""
        matches = (_KEY.fullmatch(part) for part in self.input.path.parts[:-1])
        pairs = ((match[1], unquote(match[2])) for match in matches if match)
        return {key: None if value == NULL else value for key, value in pairs}


def list_files(
    roots: Roots, name: str, project: str, suffixes: tuple[str, ...], field: str = "input"
) -> list[ListedFile]:
    """The files that a name means, in the order of their partitions.

    Args:
        roots: The declared roots.
        name: A file, a folder or a pattern with `*`, `**`, `?` and `[…]`, as `Roots.resolve` takes
            names.
        project: The caller's.
        suffixes: Ends of the names of files that are listed in folders.
        field: Where it is in the request, for messages.

    Raises:
        InvalidError: The name is malformed, or a link leads out of the root.
        NotFoundError: There is no such file, or none with such a suffix.
        ExhaustedError: There are more than `MAX_FILES`.
    """
    for candidate in roots.candidates(name, project, field):
        is_pattern = bool(_WILD.search(str(candidate.path)))
        matches = []
        for listed in _listed(candidate, is_pattern, field):
            if is_pattern or listed.input == candidate or _ends(listed.input.path, suffixes):
                matches.append(listed)
            if len(matches) > MAX_FILES:
                raise ExhaustedError(
                    f"{field}: `{name}` has more than {MAX_FILES:,} files; name fewer",
                    reason="TOO_MANY_FILES",
                )
        if matches:
            return ordered(matches)
    raise absent(name)


def ordered(files: Iterable[ListedFile]) -> list[ListedFile]:
    """Files in the order of their partitions."""
    listed = list(files)
    keys = list(dict.fromkeys(key for file in listed for key in file.partition))
    numeric = {
        key
        for key in keys
        if all(value is None or _is_number(value) for value in _values(listed, key))
    }

    def place(file: ListedFile) -> tuple[object, ...]:
        partition = file.partition
        values = [_rank(partition.get(key), key in numeric) for key in keys]
        return (*values, str(file.input.path))

    return sorted(listed, key=place)


def partition_types(files: Iterable[ListedFile]) -> dict[str, str]:
    """The partition keys of files, with the type of their values: BIGINT, DATE or VARCHAR.

    Raises:
        InvalidError: Some files have other keys than others.
    """
    listed = list(files)
    keys = list(listed[0].partition) if listed else []
    for file in listed:
        if list(file.partition) != keys:
            raise InvalidError(
                f"`{file.input.name}` has the partition keys {list(file.partition)}, other files "
                f"have {keys}; name files of one layout"
            )
    return {key: _type_of([value for value in _values(listed, key) if value]) for key in keys}


def _type_of(values: list[str]) -> str:
    if values and all(map(_is_number, values)):
        return "BIGINT"
    is_date = re.compile(r"\d{4}-\d\d-\d\d").fullmatch
    return "DATE" if values and all(map(is_date, values)) else "VARCHAR"


def _values(files: Iterable[ListedFile], key: str) -> Iterator[str | None]:
    return (file.partition.get(key) for file in files)


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdecimal() and len(value) <= 18


def _rank(value: str | None, is_number: bool) -> tuple[object, ...]:
    if value is None:
        return (1,)
    return (0, int(value) if is_number else value)


def _ends(path: PurePosixPath, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)


def _hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _listed(candidate: Input, is_pattern: bool, field: str) -> Iterator[ListedFile]:
    """What is at a place, below it, or what fits it as a pattern."""
    parts = candidate.path.parts
    fixed = next((n for n, part in enumerate(parts) if _WILD.search(part)), len(parts))
    base = PurePosixPath(*parts[:fixed])
    fits = _pattern(str(candidate.path)).fullmatch if is_pattern else None
    folder = candidate.root.folder
    paths = _objects(candidate, base, field) if folder is None else _paths(folder, base)
    for path, size, version in paths:
        if fits is not None and not fits(str(path)):
            continue
        entry = Input(root=candidate.root, path=path)
        if folder is not None:
            # Opened for the check that no link leads out of the root.
            with entry.opened(field) as file:
                status = os.fstat(file.fileno())
                size, version = status.st_size, str(status.st_mtime_ns)
        yield ListedFile(input=entry, size=size, version=version)


def _paths(folder: Path, base: PurePosixPath) -> Iterator[tuple[PurePosixPath, int, str]]:
    start = folder / base
    if start.is_file():
        yield base, 0, ""
        return
    for parent, folders, names in os.walk(start):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            if not _hidden(name):
                yield PurePosixPath((Path(parent) / name).relative_to(folder)), 0, ""


def _objects(
    candidate: Input, base: PurePosixPath, field: str
) -> Iterator[tuple[PurePosixPath, int, str]]:
    # obstore takes long to import, and most roots are folders.
    import obstore

    from vistaflow_services.stores.inputs import client_of

    client = client_of(candidate, field)
    prefix = "" if str(base) == "." else str(base)
    with failures(candidate.root.name):
        try:
            entry = obstore.head(client, prefix) if prefix else None
        except FileNotFoundError:
            entry = None
        if entry is not None:
            yield base, entry["size"], entry["e_tag"] or str(entry["last_modified"])
            return
        for page in obstore.list(client, prefix or None):
            for entry in page:
                path = PurePosixPath(entry["path"])
                if not any(map(_hidden, path.relative_to(base).parts)):
                    yield path, entry["size"], entry["e_tag"] or str(entry["last_modified"])


def _pattern(text: str) -> re.Pattern[str]:
    """A glob as a regular expression: `**/` is any folders, `*` and `?` stay within a name.

    Raises:
        InvalidError: It is malformed.
    """
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", text)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    try:
        return re.compile(
            "".join(
                words.get(piece)
                or (f"[{_class(piece)}]" if piece.startswith("[") and piece.endswith("]") else "")
                or re.escape(piece)
                for piece in pieces
            )
        )
    except re.error:
        raise field_error("input", f"`{text[:200]}` is no pattern; write `[` as `[[]`") from None


def _class(piece: str) -> str:
    inner = piece[1:-1].replace("\\", "\\\\").replace("^", "\\^")
    return "^/" + inner[1:] if inner.startswith("!") else inner


def is_unchanged(file: ListedFile, field: str = "input") -> bool:
    """Whether a file is still the one that was listed."""
    if file.input.root.folder is None:
        objects = _objects(file.input, file.input.path, field)
        return (file.input.path, file.size, file.version) in objects
    try:
        with file.input.opened(field) as opened:
            status = os.fstat(opened.fileno())
    except NotFoundError:
        return False
    return (status.st_size, str(status.st_mtime_ns)) == (file.size, file.version)
