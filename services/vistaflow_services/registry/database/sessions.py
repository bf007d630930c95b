"""Opens sessions with PostgreSQL, independent of the settings of the environment and the server.

libpq takes parameters that a connection string omits from `PG*` variables. The server takes
settings that a session omits from its own configuration, the role and the database. Neither may
change what the registry's statements mean. So a session sets everything itself, and a process with
an embedded database, which has one address only, removes the variables.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from vistaflow_services.core.errors import InvalidError

CONNECT_SECONDS: Final = 10
"""Seconds in which a connection must be made, unless its connection string sets another time."""

SETTINGS: Final[Mapping[str, str]] = {
    "datestyle": "ISO,YMD",
    "intervalstyle": "postgres",
    "timezone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Settings on which the meaning of statements depends. Sessions may add more and set timeouts."""

# libpq sends these as settings of the session, after those of the connection string.
_SESSION_VARIABLES: Final = ("PGDATESTYLE", "PGTZ", "PGGEQO")
# Where it looks for the service that PGSERVICE names.
_SERVICE_VARIABLES: Final = ("PGSERVICEFILE", "PGSYSCONFDIR")


def session_conninfo(
    database: str,
    *,
    name: str,
    schema: str = "",
    settings: Mapping[str, str] | None = None,
    **parameters: Any,
) -> str:
    """The connection string of a session.

    Args:
        database: A libpq connection string or URL.
        name: The session's name in pg_stat_activity.
        schema: The schema of its tables; empty for the server's search path.
        settings: Settings of the session in addition to `SETTINGS` or in place of them.
        parameters: More of libpq's parameters, such as `keepalives_idle`.

    Raises:
        InvalidError: The connection string is malformed.
    """
    for variable in _SESSION_VARIABLES:
        os.environ.pop(variable, None)
    try:
        stated = conninfo_to_dict(database)
    except psycopg.ProgrammingError as error:
        raise InvalidError(f"the database's connection string: {str(error).strip()}") from None
    pinned = {**SETTINGS, **({"search_path": quoted(schema)} if schema else {}), **(settings or {})}
    # Set even if empty: the parameter keeps libpq from using PGOPTIONS.
    options = " ".join(
        [str(stated.pop("options", "")), *(f"-c {key}={_escaped(pinned[key])}" for key in pinned)]
    ).strip()
    return make_conninfo(
        "",
        **{
            "connect_timeout": CONNECT_SECONDS,
            **stated,
            **parameters,
            "application_name": name,
            "client_encoding": "UTF8",
            "options": options,
        },
    )


def forget_environment() -> None:
    """Removes the variables that libpq reads from this process's environment.

    For processes with an embedded database: its address must not depend on the environment, and a
    connection string cannot override PGSERVICE.
    """
    for variable in (*libpq_variables(), *_SESSION_VARIABLES, *_SERVICE_VARIABLES):
        os.environ.pop(variable, None)


@functools.cache
def libpq_variables() -> tuple[str, ...]:
    """The names of the variables of libpq's parameters, from libpq's own table."""
    # `get_defaults` has the same table, but reads the variables and fails at an invalid one.
    table = psycopg.pq.Conninfo.parse(b"")
    return tuple(option.envvar.decode() for option in table if option.envvar)


def quoted(identifier: str) -> str:
    """An identifier quoted for SQL, with any characters."""
    return '"' + identifier.replace('"', '""') + '"'


def _escaped(value: str) -> str:
    """A value for `options`, where blanks separate the settings."""
    return re.sub(r"([\s\\])", r"\\\1", value)
