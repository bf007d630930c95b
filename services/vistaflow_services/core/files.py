"""Files that are there whole or not at all, and stay after a power cut."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def is_full(error: OSError) -> bool:
    """Whether an error says that a disk or a quota of it is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


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
        sync_tree(temporary)
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


def sync_tree(path: Path) -> None:
    """Makes sure that a file, or everything in a folder, is on disk; not what its parent lists."""
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                sync(Path(folder, name))
            sync(Path(folder))
    else:
        sync(path)


def secret(path: Path, size: int) -> str:
    """The secret in a file, made when it is missing: `size` random bytes in hexadecimal."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        # Written whole under another name first: a second process must not read half of it.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(os.urandom(size).hex())
            sync(temporary)
            os.link(temporary, path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return path.read_text("ascii").strip()
