"""PostgreSQL's own programs for backups: where they are and how they are run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.registry.database.embedded import EmbeddedError, find_binaries
from vistaflow_services.registry.database.sessions import session_conninfo


class DumpError(UnavailableError):
    """A program of PostgreSQL failed; the message is that of the program."""

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
    path = shutil.which(name)
    if path is None:
        raise DumpError(
            f"no {name}: pip install 'vistaflow[registry]', or put PostgreSQL's programs on PATH"
        )
    return path


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
    database, environment = database_of(conninfo, application)
    _run(name, [*arguments, database], environment)


def database_of(conninfo: str, application: str) -> tuple[str, dict[str, str]]:
    """The argument of a program that names a database, and the environment with its password.

    Args:
        conninfo: Where the database is; a password in it is kept off the command line.
        application: What the connection is called in pg_stat_activity.
    """
    parameters = conninfo_to_dict(session_conninfo(conninfo, name=application))
    password = parameters.pop("password", None)
    environment = dict(os.environ)
    if password:
        environment["PGPASSWORD"] = str(password)
    return f"--dbname={make_conninfo('', **parameters)}", environment


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
