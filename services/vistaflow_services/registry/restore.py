"""Puts a backup back: `python -m vistaflow_services.registry.restore FILE`.

The registry must be down. What is there is put aside under another name, not removed. The restored
log gets a new epoch, so that watchers who know the old one are told, and its revisions and kit ids
go on above all that were ever used, so that none means two things. Tokens that may have been
revoked since the backup was made are revoked: those that the log put aside does not know as valid.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from vistaflow.encoding import degrade_output
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.checksums import check_checksum
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.dumping import DumpError, run
from vistaflow_services.registry.local import Connection, connected, database
from vistaflow_services.registry.reading import QUERIES
from vistaflow_services.registry.schema_check import check_schema

APPLICATION = "vistaflow restore"

REVISIONS_SKIPPED = 1_000_000
"""Revisions left out where nobody knows how far the lost log went: the one that is there, if any,
neither is the one of the backup nor was restored from it."""

_DROP: Final = "DROP SCHEMA IF EXISTS {} CASCADE"

KITS_SKIPPED = 1_000
"""The same for kit ids."""

_TOKEN_COLUMNS = sql.SQL(", ").join(
    sql.Identifier(each)
    for each in (
        "token_id", "name", "project", "role", "secret_sha256", "created_at", "created_by",
        "expires_at", "revoked_at",
    )
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A log that was put back."""

    epoch: str
    """The new one."""
    revision: int
    """The last revision of the backup."""
    next_revision: int
    """Where the log goes on."""
    aside: str
    """The schema that what was there is in now; empty if there was nothing."""
    revoked: tuple[str, ...]
    """Tokens, by name, that were valid in the backup and are revoked now."""
    checked: bool
    """Whether the file had a checksum; those of the first release have none."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Used:
    """What the log that is there has used."""

    revision: int = 0
    kit_id: int = 0
    epochs: frozenset[uuid.UUID] = frozenset()
    """Its own, and those of the logs it was restored from."""


def restore(
    conninfo: str,
    schema: str,
    file: Path,
    *,
    beyond: int | None = None,
    keep_tokens: bool = False,
) -> Restored:
    """Puts a backup back.

    Args:
        conninfo: Where the database is.
        schema: The schema of the registry's tables, as it was when they were saved.
        file: The backup.
        beyond: The last revision that the lost log is known to have used.
        keep_tokens: Whether tokens of which only the backup knows stay valid.

    Raises:
        DumpError: A registry is at work on the database, or the file is damaged or no backup of
            the schema. What was there is as it was.
    """
    file = file.absolute()
    if not file.is_file():
        raise DumpError(f"there is no file {file}")
    began = time.monotonic()
    checked = check_checksum(file)
    with connected(conninfo, schema, name="restore") as connection:
        _check_quiet(connection)
        used = _used(connection)
        aside = _put_aside(connection, schema)
        try:
            arguments = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
            run("pg_restore", [*arguments, str(file)], conninfo, application=APPLICATION)
            row = connection.execute("SELECT last_id, last_kit_id, epoch FROM head").fetchone()
            check_schema(connection, schema)
        except BaseException as error:
            # Also when it is interrupted: the registry would begin a new log in its place.
            connection.execute(sql.SQL(_DROP).format(sql.Identifier(schema)))
            if aside:
                _rename(connection, aside, schema)
            if isinstance(error, psycopg.errors.UndefinedTable):
                raise DumpError(f"{file} holds no registry in schema {schema}") from error
            raise
        assert row is not None
        saved, saved_kits, epoch = row
        known = epoch in used.epochs
        if beyond is None:
            beyond = saved if known else saved + REVISIONS_SKIPPED
        kits = saved_kits if known else saved_kits + KITS_SKIPPED
        with connection.transaction():
            settled = connection.execute(
                QUERIES["settle_restored"],
                {"last_id": max(beyond, used.revision), "last_kit_id": max(kits, used.kit_id)},
            ).fetchone()
            assert settled is not None
            revoked = _settle_tokens(connection, aside, keep_tokens)
        connection.execute("ANALYZE")
    return Restored(
        epoch=str(settled[0]),
        revision=saved,
        next_revision=settled[2],
        aside=aside,
        revoked=revoked,
        checked=checked,
        seconds=time.monotonic() - began,
    )


def _check_quiet(connection: Connection) -> None:
    row = connection.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name LIKE 'vistaflow registry%'"
    ).fetchone()
    if row is not None and row[0]:
        raise DumpError("a registry is at work on this database; stop it first: `vistaflow down`")


def _used(connection: Connection) -> _Used:
    if not _is_there(connection, "head"):
        return _Used()
    row = connection.execute("SELECT last_id, last_kit_id, epoch FROM head").fetchone()
    assert row is not None
    epochs = {row[2]}
    if _is_there(connection, "restores"):
        epochs.update(each for (each,) in connection.execute("SELECT from_epoch FROM restores"))
    return _Used(revision=row[0], kit_id=row[1], epochs=frozenset(epochs))


def _put_aside(connection: Connection, schema: str) -> str:
    """Gives the schema that is there another name, and returns that."""
    query = "SELECT 1 FROM pg_namespace WHERE nspname = %s"
    if connection.execute(query, [schema]).fetchone() is None:
        return ""
    name = aside = f"{schema[:38]}_until_{datetime.now(UTC):%Y%m%d_%H%M%S}"
    number = 1
    while connection.execute(query, [aside]).fetchone() is not None:
        number += 1
        aside = f"{name}_{number}"
    _rename(connection, schema, aside)
    return aside


def _settle_tokens(connection: Connection, aside: str, keep: bool) -> tuple[str, ...]:
    """Revokes what may have been revoked since, and takes over what the log put aside knows."""
    if not _is_there(connection, "tokens"):
        return ()
    known: sql.Composable = sql.SQL("SELECT NULL::uuid AS token_id WHERE false")
    if aside and _is_there(connection, f'"{aside}".tokens'):
        names = {"aside": sql.Identifier(aside, "tokens"), "columns": _TOKEN_COLUMNS}
        known = sql.SQL("SELECT token_id FROM {aside}").format(**names)
        for statement in (
            # Where an older backup was put in place meanwhile, this one may know better.
            "UPDATE tokens SET revoked_at = coalesce(tokens.revoked_at, there.revoked_at) "
            "FROM {aside} there WHERE there.token_id = tokens.token_id",
            "INSERT INTO tokens ({columns}) SELECT {columns} FROM {aside} "
            "WHERE token_id NOT IN (SELECT token_id FROM tokens) ORDER BY number",
        ):
            connection.execute(sql.SQL(statement).format(**names))
    if keep:
        return ()
    query = sql.SQL(
        "UPDATE tokens SET revoked_at = clock_timestamp() WHERE revoked_at IS NULL "
        "AND coalesce(expires_at > clock_timestamp(), true) AND token_id NOT IN ({}) "
        "RETURNING name"
    ).format(known)
    return tuple(sorted(row[0] for row in connection.execute(query).fetchall()))


def _is_there(connection: Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s)", [table]).fetchone() != (None,)


def _rename(connection: Connection, old: str, new: str) -> None:
    rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
    connection.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))


def main() -> int:
    """Puts a backup back into the registry's database that is configured."""
    degrade_output()
    parser = argparse.ArgumentParser(description="Puts a backup of the registry back.")
    parser.add_argument("file", type=Path, help="what `vistaflow backup` wrote")
    parser.add_argument(
        "--beyond",
        type=int,
        metavar="REVISION",
        help="the last revision the lost log is known to have used; revisions go on after it",
    )
    parser.add_argument(
        "--keep-tokens",
        action="store_true",
        help="leave tokens valid that may have been revoked after the backup was made",
    )
    arguments = parser.parse_args()
    try:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        with database(config) as conninfo:
            made = restore(
                conninfo,
                config.schema,
                arguments.file,
                beyond=arguments.beyond,
                keep_tokens=arguments.keep_tokens,
            )
    except (ServiceError, psycopg.Error, OSError) as error:
        print(f"nothing was restored: {error}", file=sys.stderr)
        return 1
    print(f"restored everything up to revision {made.revision} in {made.seconds:.1f} s")
    if not made.checked:
        print(
            f"warning: {arguments.file} is of a release whose backups have no checksum, so damage "
            "cannot be detected; `python -m vistaflow_services.registry.rebuild "
            "--check` compares the restored tables with the log",
            file=sys.stderr,
        )
    print(
        f"the log goes on at revision {made.next_revision}, under the new epoch {made.epoch}: "
        "watchers that know the old one are told, and begin anew"
    )
    if made.aside:
        print(f"what was there is in schema {made.aside}; drop it when you no longer need it")
    if made.revoked:
        count = len(made.revoked)
        print(
            f"{count} token{'s' if count > 1 else ''} of the backup may have been revoked since "
            f"and {'are' if count > 1 else 'is'} no longer valid: {', '.join(made.revoked[:10])}"
            f"{', ...' if count > 10 else ''}\n"
            "make new ones, the first with `python -m vistaflow_services.registry.tokens create "
            "--role admin --name NAME`, or restore with --keep-tokens"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
