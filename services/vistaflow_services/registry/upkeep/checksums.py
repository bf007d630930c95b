"""The checksum at the end of a backup, so that a damaged backup is not restored.

`pg_restore` checks little of an archive's table of contents: one flipped bit there drops an index
or renames a column, with exit status 0. So a backup ends with a line of its own. `pg_restore` does
not read it: the file stays an archive that PostgreSQL's programs take as it is.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import BinaryIO, Final

from vistaflow_services.registry.upkeep.programs import DumpError, read

_LINE = re.compile(rb"\nvistaflow backup sha256 ([0-9a-f]{64})\n")
_LINE_BYTES: Final = 90
_BLOCK_BYTES: Final = 1 << 20

SEALED_SINCE: Final = "mlops_totalstate_seq"
"""An index of the first release whose backups end with a checksum."""


def add_checksum(file: Path) -> None:
    """Appends the checksum of an archive's content to it."""
    with file.open("rb") as content:
        digest = _digest(content, file.stat().st_size)
    with file.open("ab") as content:
        content.write(line_of(digest))


def line_of(digest: str) -> bytes:
    """The line at the end of a backup whose content has this SHA-256, in hex."""
    return b"\nvistaflow backup sha256 " + digest.encode() + b"\n"


def check_checksum(file: Path) -> bool:
    """Whether a backup has a checksum, which then is the right one.

    Raises:
        DumpError: It is damaged, or no backup.
    """
    size = file.stat().st_size - _LINE_BYTES
    with file.open("rb") as content:
        content.seek(max(0, size))
        line = _LINE.fullmatch(content.read())
        content.seek(0)
        if line is not None:
            if _digest(content, size) != line[1].decode():
                raise DumpError(
                    f"{file} is damaged: its content does not match its checksum; "
                    "restore another backup"
                )
            return True
    if SEALED_SINCE in read("pg_restore", ["--list", str(file)]):
        raise DumpError(
            f"{file} is damaged: the checksum at its end is missing or changed; "
            "restore another backup"
        )
    return False


def _digest(content: BinaryIO, size: int) -> str:
    """The SHA-256 of the next so many bytes, in hex."""
    digest = hashlib.sha256()
    while size > 0 and (block := content.read(min(size, _BLOCK_BYTES))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()
