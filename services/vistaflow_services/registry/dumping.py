"""PostgreSQL's own programs for backups: where they are and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.core.postgres import session_conninfo
from vistaflow_services.registry.embedded import EmbeddedError, find_binaries


class DumpError(UnavailableError):
    """A program of PostgreSQL failed; the message is its own."""

    reason = "BACKUP"


def program(name: str) -> str:
    """The path of one of PostgreSQL's programs: of the embedded one, or else from PATH.

    Raises:
        DumpError: It is nowhere.
    """
    try:
        shipped = find_binaries() / name
        if shipped.exists():
            return str(shipped)
    except EmbeddedError:
        pass
    found = shutil.which(name)
    if found is None:
        raise DumpError(
            f"no {name}: pip install 'vistaflow[registry]', or put PostgreSQL's programs on PATH"
        )
    return found


def run(name: str, arguments: Sequence[str], conninfo: str, *, application: str) -> None:
    """Runs a program on a database to its end.

    Args:
        name: Such as `pg_dump`.
        arguments: Its arguments but for the database.
        conninfo: Where the database is; a password in it is kept off the command line.
        application: What the connection is called in pg_stat_activity.

    Raises:
        DumpError: It failed.
    """
    told = conninfo_to_dict(session_conninfo(conninfo, name=application))
    password = told.pop("password", None)
    environment = dict(os.environ)
    if password:
        environment["PGPASSWORD"] = str(password)
    _run(name, [*arguments, f"--dbname={make_conninfo('', **told)}"], environment)


def read(name: str, arguments: Sequence[str]) -> str:
    """What a program prints that needs no database.

    Raises:
        DumpError: It failed.
    """
    return _run(name, arguments, {**os.environ})


def _run(name: str, arguments: Sequence[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        [program(name), *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        cwd="/",
    )
    if done.returncode:
        raise DumpError(f"{name} failed: {done.stderr.strip()[-1000:]}")
    return done.stdout
