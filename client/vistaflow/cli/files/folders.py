"""New folders that appear once they are complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vistaflow.cli.output import USAGE, stop
from vistaflow.errors import invalid


def check_new(folder: Path, option: str) -> None:
    """Ends the command if there is something in the folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        stop(f"{option}: {folder} exists; name a new folder", USAGE)


@contextlib.contextmanager
def new_folder(folder: Path, field: str) -> Iterator[Path]:
    """A folder to fill, beside the place that it takes once the block is done.

    Args:
        folder: The place.
        field: What names it, for the message.

    Raises:
        InvalidArgumentError: It cannot be written.
    """
    folder = folder.absolute()
    part = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.part")
    try:
        part.mkdir(parents=True)
        yield part
        os.replace(part, folder)
    except OSError as error:
        raise invalid(field, f"{folder} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
