"""Opens sessions with PostgreSQL, independent of the settings of the environment and the server.

libpq takes what a connection string leaves out from `PG*` variables, and the server takes what a
session leaves out from its own configuration and from that of the role and the database. Neither
may change what our statements mean. So a session states its settings itself, and an embedded
database, which is reached in one way only, has no variables at all.
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
"""How long a connection may take to be made, unless its connection string says otherwise."""

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
"""Settings that the meaning of statements depends on. Sessions may set more, and other timeouts."""

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
        name: What the session is called in pg_stat_activity.
        schema: Where its statements find their tables; where the server says if empty.
        settings: More settings of the session, or others than `SETTINGS`.
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
    # Stated even where it adds nothing: an empty parameter still keeps PGOPTIONS out.
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
    """Takes what libpq reads out of this process's environment.

    For processes with an embedded database: where that is, is no question of the environment, and
    PGSERVICE for one cannot be overridden by a connection string.
    """
    for variable in (*libpq_variables(), *_SESSION_VARIABLES, *_SERVICE_VARIABLES):
        os.environ.pop(variable, None)


@functools.cache
def libpq_variables() -> tuple[str, ...]:
    """The variables of libpq's parameters, as its own table has them."""
    # Not `get_defaults`, which has the same table: it reads the variables, and fails at a bad one.
    table = psycopg.pq.Conninfo.parse(b"")
    return tuple(option.envvar.decode() for option in table if option.envvar)


def quoted(identifier: str) -> str:
    """An identifier quoted for SQL, with any characters."""
    return '"' + identifier.replace('"', '""') + '"'


def _escaped(value: str) -> str:
    """A value as the server reads it in `options`, where blanks divide."""
    return re.sub(r"([\s\\])", r"\\\1", value)
