"""The files of a deck from a folder or an archive, and back; nothing outside is ever read.

Archives are read in memory and never unpacked onto the disk. What is refused: paths that leave the
deck, links that do, anything but plain files, and more or larger files than a deck may have.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Final

from vistaflow_services.core.errors import InvalidError, Violations

MAX_FILES: Final = 64
"""Most files in one deck."""

MAX_BYTES: Final = 1024 * 1024
"""Most bytes in all files of a deck together."""

MAX_ARCHIVE_BYTES: Final = 4 * MAX_BYTES
"""Largest archive that is opened at all."""

MAX_ENTRIES: Final = 1024
"""Most entries, left-out ones included, that are looked at."""

SPICE_SETTINGS: Final = ".spiceinit"
"""The one hidden file that is a part of decks: ngspice reads it before a netlist."""

_CORRUPT: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises over archives that are broken, encrypted or of odd methods."""


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a deck's folder, by their path in it with `/` between folders.

    Left out are hidden files except `.spiceinit`, `__pycache__`, `*.pyc`, `*.md` and `kit.yaml`:
    they are no part of what is simulated.

    Raises:
        InvalidError: With every file that is refused.
    """
    if not folder.is_dir():
        raise InvalidError(f"{folder.name}: no such folder; give the folder that holds deck.yaml")
    violations = Violations()
    collected = _Collected(violations)
    root = folder.resolve()
    for path in _walk(root, collected, violations):
        relative = path.relative_to(root).as_posix()
        if not path.resolve().is_relative_to(root):
            violations.add(relative, "a link out of the deck's folder; put the file itself there")
            continue
        # A pipe would keep a reader waiting, and a link may have changed since it was looked at.
        try:
            handle = os.open(path.resolve(), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            violations.add(relative, f"cannot be read: {error.strerror}")
            continue
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                violations.add(relative, "is no plain file")
                continue
            collected.take(relative, file)
    violations.check()
    return collected.files


def read_archive_files(archive: bytes) -> dict[str, bytes]:
    """The files in a zip, tar or tar.gz; a single folder around them all is taken off.

    Raises:
        InvalidError: If it is no such archive, or with every entry that is refused.
    """
    if len(archive) > MAX_ARCHIVE_BYTES:
        raise InvalidError(
            f"the archive has {len(archive)} bytes, at most {MAX_ARCHIVE_BYTES} are opened"
        )
    violations = Violations()
    collected = _Collected(violations)
    try:
        if zipfile.is_zipfile(io.BytesIO(archive)):
            _read_zip(archive, collected, violations)
        else:
            _read_tar(archive, collected, violations)
    except _CORRUPT as error:
        raise InvalidError(
            "the archive cannot be read as a zip or tar.gz file; pack the deck's folder again"
        ) from error
    if not collected.files and not violations:
        violations.add(
            "", "the archive holds no file of a deck; pack the folder with deck.yaml in it"
        )
    violations.check()
    return _without_folder(collected.files)


def write_archive(files: Mapping[str, bytes]) -> bytes:
    """Files as a zip; equal files give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(files):
            # The oldest date that zip knows: when the deck was packed is no part of it.
            entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, files[path])
    return buffer.getvalue()


def path_problem(path: str) -> str:
    """Why a path may not name a file of a deck, or nothing."""
    parts = PurePosixPath(path).parts
    if not 1 <= len(path) <= 200:
        return "a path has 1 to 200 characters"
    if path.startswith(("/", "~")) or "\\" in path or ":" in path:
        return "is no relative path with / between folders"
    if ".." in parts:
        return "leaves the deck's folder; a deck's files lie in its folder"
    if not path.isprintable():
        return "has characters that cannot be printed"
    return ""


class _Collected:
    """Files up to the limits of a deck; what is over is noted once."""

    def __init__(self, violations: Violations) -> None:
        self.files: dict[str, bytes] = {}
        self._violations = violations
        self._bytes = 0
        self._entries = 0
        self._reported: set[str] = set()

    def entry(self) -> bool:
        """Counts an entry, also of what is left out; false once there are too many."""
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            self._once("", f"more than {MAX_ENTRIES} entries; a deck has a folder of its own")
        return self._entries <= MAX_ENTRIES

    def take(self, path: str, file: IO[bytes]) -> None:
        """Reads one file, never more of it than still fits."""
        if len(self.files) >= MAX_FILES:
            self._once(
                "", f"more than {MAX_FILES} files; keep what the simulator does not need out"
            )
            return
        content = file.read(MAX_BYTES - self._bytes + 1)
        if self._bytes + len(content) > MAX_BYTES:
            self._once(path, f"with it the files have more than {MAX_BYTES} bytes together")
            return
        if path in self.files:
            self._violations.add(path, "is in the archive twice")
            return
        self._bytes += len(content)
        self.files[path] = content

    def _once(self, field: str, problem: str) -> None:
        kind = problem.split(";")[0]
        if kind not in self._reported:
            self._reported.add(kind)
            self._violations.add(field, problem)


def _left_out(path: str) -> bool:
    """Whether a file is no part of a deck; only asked of paths that stay in the deck."""
    parts = PurePosixPath(path).parts
    if path == SPICE_SETTINGS:
        return False
    hidden = any(part.startswith(".") or part in ("__pycache__", "__MACOSX") for part in parts)
    return hidden or path.endswith((".pyc", ".md")) or parts[-1:] == ("kit.yaml",)


def _walk(folder: Path, collected: _Collected, violations: Violations) -> Iterator[Path]:
    """Every file below a folder in a fixed order; folders that are links are refused."""
    root = folder
    pending = [folder]
    while pending:
        try:
            entries = sorted(pending.pop(0).iterdir())
        except OSError as error:
            violations.add("", f"a folder cannot be read: {error.strerror}")
            continue
        for path in entries:
            relative = path.relative_to(root).as_posix()
            if _left_out(relative):
                continue
            if not collected.entry():
                return
            if path.is_symlink() and path.is_dir():
                violations.add(relative, "is a link to a folder; put the files themselves there")
            elif path.is_dir():
                pending.append(path)
            elif problem := path_problem(relative):
                violations.add(relative, problem)
            else:
                yield path


def _read_zip(archive: bytes, collected: _Collected, violations: Violations) -> None:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for entry in opened.infolist():
            # `orig_filename` is what was stored; `filename` is already corrected on some systems.
            path = entry.orig_filename
            if not collected.entry():
                return
            mode = entry.external_attr >> 16
            if problem := path_problem(path):
                violations.add(path, problem)
            elif entry.is_dir() or _left_out(path):
                continue
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                violations.add(path, "is a link or a device; a deck holds plain files")
            elif entry.flag_bits & 0x1:
                violations.add(path, "is encrypted")
            else:
                with opened.open(entry) as file:
                    collected.take(_plain(path), file)


def _read_tar(archive: bytes, collected: _Collected, violations: Violations) -> None:
    plain: IO[bytes] = io.BytesIO(archive)
    if archive[:2] == b"\x1f\x8b":
        # Bounded before tarfile sees it: seeking over an entry unpacks all of it.
        limit = 2 * MAX_BYTES + 1024 * MAX_ENTRIES
        with gzip.open(plain) as unpacked:
            content = unpacked.read(limit + 1)
        if len(content) > limit:
            violations.add("", f"the archive unpacks to more than {limit} bytes")
            return
        plain = io.BytesIO(content)
    with tarfile.open(fileobj=plain, mode="r:") as opened:
        for entry in opened:
            if not collected.entry():
                return
            path = entry.name
            if problem := path_problem(path):
                violations.add(path, problem)
            elif entry.isdir() or _left_out(path):
                continue
            elif not entry.isreg():
                violations.add(path, "is a link or a device; a deck holds plain files")
            elif (file := opened.extractfile(entry)) is not None:
                collected.take(_plain(path), file)


def _plain(path: str) -> str:
    """`./deck.yaml`, as tar writes it, is `deck.yaml`."""
    return str(PurePosixPath(path))


def _without_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    """Takes off the one folder that archives are commonly packed in."""
    tops = {path.split("/", 1)[0] for path in files if "/" in path}
    if len(tops) != 1 or any("/" not in path for path in files):
        return files
    return {path.split("/", 1)[1]: content for path, content in files.items()}
