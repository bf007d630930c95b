"""Puts a backup back: `python -m vistaflow_services.registry.restore FILE`, or `--from TARGET`.

With a target of BACKUP jobs, all of its files are checked first; then artifacts and datasets are
put back, and last the log.

The registry must be down. The log that is there is put aside under another name, not removed. The
restored log gets a new epoch, so that watchers of the old one notice. Its revisions and kit ids go
on above all that were ever used, so that none has two meanings. Tokens that may have been revoked
since the backup was made are revoked: those that are not valid in the log that was put aside.
Versions of datasets that were deleted there because they hold rows to be forgotten stay deleted.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
from psycopg import sql

from vistaflow._machine.encoding import degrade_output
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import Connection, connected, database
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.upkeep.checksums import check_checksum
from vistaflow_services.registry.upkeep.programs import DumpError, run
from vistaflow_services.registry.upkeep.schema import check_schema
from vistaflow_services.registry.upkeep.source import Source

APPLICATION = "vistaflow restore"

REVISIONS_SKIPPED = 1_000_000
"""Revisions left out where it is unknown how far the lost log went; see `_last_used`."""

_DROP: Final = "DROP SCHEMA IF EXISTS {} CASCADE"

KITS_SKIPPED = 1_000
"""The same for kit ids."""

_TOKEN_COLUMNS = sql.SQL(", ").join(
    sql.Identifier(column)
    for column in (
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


class _Ends(NamedTuple):
    """Where a log ends: its head."""

    last_id: int
    last_kit_id: int
    epoch: uuid.UUID


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
            backup = _load(connection, conninfo, schema, file)
        except BaseException:
            # Also on KeyboardInterrupt: without its schema the registry would begin a new log.
            _put_back(connection, aside, schema)
            raise
        with connection.transaction():
            settled = connection.execute(
                QUERIES["settle_restored"], _last_used(backup, used, beyond)
            ).fetchone()
            assert settled is not None
            revoked = _settle_tokens(connection, aside, keep_tokens)
            _settle_datasets(connection, aside)
        connection.execute("ANALYZE")
    return Restored(
        epoch=str(settled[0]),
        revision=backup.last_id,
        next_revision=settled[2],
        aside=aside,
        revoked=revoked,
        checked=checked,
        seconds=time.monotonic() - began,
    )


def _load(connection: Connection, conninfo: str, schema: str, file: Path) -> _Ends:
    """Runs pg_restore; returns where the restored log ends.

    Raises:
        DumpError: The file is damaged, or no backup of the schema.
    """
    arguments = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction"]
    run("pg_restore", [*arguments, str(file)], conninfo, application=APPLICATION)
    try:
        ends = _ends(connection)
        check_schema(connection, schema)
    except psycopg.errors.UndefinedTable as error:
        raise DumpError(f"{file} holds no registry in schema {schema}") from error
    return ends


def _last_used(backup: _Ends, used: _Used, beyond: int | None) -> dict[str, int]:
    """The last revision and the last kit id that the restored log must not use again.

    =================================  ==========================  ==========================
    the log that was there             last revision               last kit id
    =================================  ==========================  ==========================
    is that of the backup, or was      its own                     its own
    restored from that
    none, or any other: how far the    `REVISIONS_SKIPPED` after   `KITS_SKIPPED` after
    log of the backup went is unknown  that of the backup          that of the backup
    =================================  ==========================  ==========================

    `beyond` replaces the revision of the table. The log that was there never counts for less than
    it has used.
    """
    if backup.epoch in used.epochs:
        last_id, last_kit_id = backup.last_id, backup.last_kit_id
    else:
        last_id = backup.last_id + REVISIONS_SKIPPED
        last_kit_id = backup.last_kit_id + KITS_SKIPPED
    if beyond is not None:
        last_id = beyond
    return {
        "last_id": max(last_id, used.revision),
        "last_kit_id": max(last_kit_id, used.kit_id),
    }


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
    ends = _ends(connection)
    epochs = {ends.epoch}
    if _is_there(connection, "restores"):
        epochs.update(epoch for (epoch,) in connection.execute("SELECT from_epoch FROM restores"))
    return _Used(revision=ends.last_id, kit_id=ends.last_kit_id, epochs=frozenset(epochs))


def _ends(connection: Connection) -> _Ends:
    row = connection.execute("SELECT last_id, last_kit_id, epoch FROM head").fetchone()
    assert row is not None
    return _Ends(*row)


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


def _put_back(connection: Connection, aside: str, schema: str) -> None:
    """Undoes `_put_aside` and what was restored since."""
    connection.execute(sql.SQL(_DROP).format(sql.Identifier(schema)))
    if aside:
        _rename(connection, aside, schema)


def _settle_tokens(connection: Connection, aside: str, keep: bool) -> tuple[str, ...]:
    """Revokes what may have been revoked since, and takes over what the log put aside knows."""
    if not _is_there(connection, "tokens"):
        return ()
    listed: sql.Composable = sql.SQL("SELECT NULL::uuid AS token_id WHERE false")
    if aside and _is_there(connection, f'"{aside}".tokens'):
        names = {"aside": sql.Identifier(aside, "tokens"), "columns": _TOKEN_COLUMNS}
        listed = sql.SQL("SELECT token_id FROM {aside}").format(**names)
        for statement in (
            # Where an older backup was put in place meanwhile, this one may know better.
            "UPDATE tokens SET revoked_at = coalesce(tokens.revoked_at, there.revoked_at) "
            "FROM {aside} there WHERE there.token_id = tokens.token_id",
            "INSERT INTO tokens ({columns}) SELECT {columns} FROM {aside} "
            "WHERE token_id NOT IN (SELECT token_id FROM tokens) AND role <> 'READER' "
            "ORDER BY number",
            # Readers are nothing without their scopes, which one of the logs may not know.
            *(
                [
                    "INSERT INTO tokens ({columns}, scopes) SELECT {columns}, scopes FROM {aside} "
                    "WHERE token_id NOT IN (SELECT token_id FROM tokens) AND role = 'READER' "
                    "ORDER BY number"
                ]
                if all(_has_scopes(connection, table) for table in ("tokens", f'"{aside}".tokens'))
                else []
            ),
        ):
            connection.execute(sql.SQL(statement).format(**names))
    if keep:
        return ()
    query = sql.SQL(
        "UPDATE tokens SET revoked_at = clock_timestamp() WHERE revoked_at IS NULL "
        "AND coalesce(expires_at > clock_timestamp(), true) AND token_id NOT IN ({}) "
        "RETURNING name"
    ).format(listed)
    return tuple(sorted(row[0] for row in connection.execute(query).fetchall()))


def _settle_datasets(connection: Connection, aside: str) -> None:
    """Takes over what is forgotten, and the numbers of versions, from the log put aside."""
    tables = ("datasets", "dataset_versions", "forgotten_blobs")
    if not aside or not all(
        _is_there(connection, name) for table in tables for name in (table, f'"{aside}".{table}')
    ):
        return
    for query in ("settle_dataset_numbers", "settle_forgotten_versions", "settle_forgotten_blobs"):
        names = {table: sql.Identifier(aside, table) for table in tables}
        connection.execute(sql.SQL(QUERIES[query]).format(**names))
    connection.execute(QUERIES["measure_datasets"], {"dataset_id": None})


def _has_scopes(connection: Connection, table: str) -> bool:
    return (
        connection.execute(
            "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attname = 'scopes'",
            [table],
        ).fetchone()
        is not None
    )


def _is_there(connection: Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s)", [table]).fetchone() != (None,)


def _rename(connection: Connection, old: str, new: str) -> None:
    rename = sql.SQL("ALTER SCHEMA {} RENAME TO {}")
    connection.execute(rename.format(sql.Identifier(old), sql.Identifier(new)))


def main() -> int:
    """Puts a backup back into the registry's database that is configured."""
    degrade_output()
    parser = argparse.ArgumentParser(description="Puts a backup of the registry back.")
    parser.add_argument("file", type=Path, nargs="?", help="what `vistaflow backup FILE` wrote")
    parser.add_argument("--from", dest="source", default="", help="a target of BACKUP jobs")
    parser.add_argument("--at", default="", help="the id of a backup there; the newest if left out")
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
    if (arguments.file is None) == (not arguments.source):
        parser.error("give a file or --from, and not both")
    if arguments.at and not arguments.source:
        parser.error("--at is for --from")
    try:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        chosen = Source.find(arguments.source, arguments.at, config) if arguments.source else None
        with ExitStack() as stack:
            conninfo = stack.enter_context(database(config))
            file = arguments.file
            if chosen is not None:
                with connected(conninfo, config.schema, name="restore") as connection:
                    _check_quiet(connection)
                file = stack.enter_context(chosen.put_back())
            restored = restore(
                conninfo,
                config.schema,
                file,
                beyond=arguments.beyond,
                keep_tokens=arguments.keep_tokens,
            )
    except (ServiceError, psycopg.Error, OSError) as error:
        print(f"nothing was restored: {error}", file=sys.stderr)
        return 1
    if chosen is not None:
        print(chosen.summary)
    print(f"restored everything up to revision {restored.revision} in {restored.seconds:.1f} s")
    if not restored.checked:
        print(
            f"warning: {file} is of a release whose backups have no checksum, so damage "
            "cannot be detected; `python -m vistaflow_services.registry.rebuild "
            "--check` compares the restored tables with the log",
            file=sys.stderr,
        )
    print(
        f"the log continues at revision {restored.next_revision}, under the new epoch "
        f"{restored.epoch}: watchers of the old one get an error and begin again"
    )
    if restored.aside:
        print(f"what was there is in schema {restored.aside}; drop it when you no longer need it")
    if restored.revoked:
        count = len(restored.revoked)
        names = ", ".join(restored.revoked[:10]) + (", ..." if count > 10 else "")
        print(
            f"{count} token{'s' if count > 1 else ''} of the backup may have been revoked since "
            f"and {'are' if count > 1 else 'is'} no longer valid: {names}\n"
            "make new ones, the first with `python -m vistaflow_services.registry.tokens create "
            "--role admin --name NAME`, or restore with --keep-tokens"
        )
    return 0
