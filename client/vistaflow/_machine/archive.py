"""The files that a kit file names beside itself, and the deck, which is packed."""

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
_DECK = re.compile(r"""^(["']?)deck\1[ \t]*:(?:[ \t]+|$)(.*)$""", re.MULTILINE)
_PATH = re.compile(r"""(?:^|[{\s,])(["']?)path\1[ \t]*:\s+(.*)""", re.DOTALL)
_BESIDE = re.compile(r"^\.{0,2}/|/|\.(zip|tar|tar\.gz|tgz)$")

_JOBS = re.compile(r"""^(["']?)jobs\1[ \t]*:""", re.MULTILINE)
JOB_WORDS: Final = ("collect", "convert", "import", "query", "design", "deliver")
"""The kinds of jobs of a data kit."""

_NAMED = re.compile(
    rf"""(?:^[ \t]+|[{{,][ \t]*)({"|".join(JOB_WORDS)})[ \t]*:[ \t]+"""
    r"""(["']?)([^\s"'{}\[\]#|>&*!,][^"'\n{},#]*)\2[ \t]*(?=[},#]|$)""",
    re.MULTILINE,
)


def deck_beside(kit_yaml: str) -> str:
    """The path of the deck that the text of a kit file names beside itself, or nothing.

    Reads that one key only, so that the client needs no YAML library; the service reads the file.
    """
    kit_yaml = kit_yaml.replace("\r\n", "\n")
    key = _DECK.search(kit_yaml)
    if key is None:
        return ""
    value = key.group(2).strip()
    if value.startswith("{"):
        path = _PATH.search(kit_yaml[key.start(2) :].partition("}")[0])
        return _scalar(path.group(2), ",}") if path else ""
    if not value or value.startswith("#"):
        path = _PATH.search(_indented(kit_yaml[key.end() :]))
        return _scalar(path.group(2)) if path else ""
    return "" if value.startswith("[") else beside_path(_scalar(value))


def files_beside(kit_yaml: str) -> list[str]:
    """The names of other files that the text of a data kit has in place of a job's options."""
    text = kit_yaml.replace("\r\n", "\n")
    if not _JOBS.search(text):
        return []
    return list(dict.fromkeys(match.group(3).strip() for match in _NAMED.finditer(text)))


def beside_path(deck: object) -> str:
    """A deck of a kit if it is a path, and not a name or an id; else nothing."""
    return deck if isinstance(deck, str) and _BESIDE.search(deck) else ""


def _indented(text: str) -> str:
    """The lines up to the next key."""
    lines = []
    for line in text.splitlines():
        if line.strip() and not line.startswith((" ", "#")):
            break
        if not line.strip().startswith("#"):
            lines.append(line)
    return "\n".join(lines)


def _scalar(text: str, ends: str = "") -> str:
    """What a YAML scalar at the beginning of a text says."""
    line = text.strip().partition("\n")[0]
    if line[:1] in ("'", '"'):
        return line[1:].partition(line[0])[0]
    for end in ends:
        line = line.partition(end)[0]
    return re.split(r"\s#", f" {line}")[0].strip()


def pack_deck(path: Path) -> bytes:
    """A deck's folder as a zip; an archive as it is.

    Raises:
        InvalidArgumentError: If there is no deck, or it is too large to send.
    """
    if path.is_dir():
        content = _zip(path)
    elif path.is_file() and path.name.endswith(_ARCHIVES):
        content = _content(path)
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
            if (
                (hidden and name.as_posix() != ".spiceinit")
                or not file.is_file()
                or file.suffix == ".pyc"
            ):
                continue
            if not _is_text(name.as_posix()):
                raise InvalidArgumentError(
                    f"{str(file)!a}: the file's name is not UTF-8; rename the file"
                )
            size += file.stat().st_size
            if size > 8 * MAX_BYTES:
                raise InvalidArgumentError(f"{folder}: more than {8 * MAX_BYTES} bytes of files")
            archive.writestr(zipfile.ZipInfo(name.as_posix()), _content(file))
    return buffer.getvalue()


def _is_text(name: str) -> bool:
    """Whether the name of a file is valid in the encoding of file names."""
    return not any("\udc80" <= character <= "\udcff" for character in name)


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InvalidArgumentError(f"{file}: {error.strerror or 'cannot be read'}") from None
