"""Files that are there whole or not at all, and stay after a power cut."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def appearing(path: Path, *, suffix: str = "") -> Iterator[Path]:
    """A path beside `path` that becomes `path` when the block ends well.

    Args:
        path: Where the file will be. Its folder is made if it is not there.
        suffix: What the name of the temporary file ends with; it begins with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(8)}{suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with appearing(path) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Makes sure that a file's content, or what a folder lists, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
