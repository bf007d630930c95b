"""The folder in which vistaflow keeps everything, and whether this user may do so there."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Final

from vistaflow_services.core.errors import InvalidError

FOLDERS: Final = ("artifacts", "logs", "run")


class HomeError(InvalidError):
    """The home cannot be used; the message says why, with its path."""

    reason = "HOME"


def prepare_home(path: Path) -> None:
    """Makes a home and the folders in it, readable by their owner only.

    Raises:
        HomeError: It belongs to another user, in which case nothing was changed, or cannot be
            made.
    """
    check_owner(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in FOLDERS:
            (path / name).mkdir(mode=0o700, exist_ok=True)
            if not os.access(path / name, os.W_OK | os.X_OK):
                raise PermissionError(0, "it cannot be written to", str(path / name))
    except OSError as error:
        reason = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
        what = Path(error.filename or path)
        raise HomeError(
            f"cannot store data in {path}: {what if what != path else 'the folder'}: {reason}; "
            "choose another folder with --home or VISTAFLOW_HOME"
        ) from None


def check_owner(path: Path) -> None:
    """Prevents root, who can write everywhere, from taking over another user's files.

    A home that is not there yet is that of who called sudo if it would lie in a folder of theirs.

    Raises:
        HomeError: It is another user's.
    """
    if os.geteuid() != 0:
        return
    try:
        owner = path.stat().st_uid
    except OSError:
        caller = os.environ.get("SUDO_UID", "")
        owner = int(caller) if caller.isdecimal() and _nearest_owner(path) == int(caller) else 0
    if owner != 0:
        name = _name(owner)
        raise HomeError(
            f"{path} belongs to {name}, and this is root: run vistaflow as {name}, without sudo, "
            "or choose another folder with --home or VISTAFLOW_HOME"
        )


def _nearest_owner(path: Path) -> int:
    for parent in path.absolute().parents:
        try:
            return parent.stat().st_uid
        except OSError:
            continue
    return 0


def _name(uid: int) -> str:
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
