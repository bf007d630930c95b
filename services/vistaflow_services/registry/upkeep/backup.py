"""Saves the registry's tables to a file: `python -m vistaflow_services.registry.backup FILE`.

It may run while the registry serves: the file holds everything up to one revision and nothing
after it, and ends with a checksum. Artifacts are files and are saved as such.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psycopg

from vistaflow._machine.encoding import degrade_output
from vistaflow_services.core import files
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.database.connect import (
    Connection,
    connected,
    database,
    megabytes,
)
from vistaflow_services.registry.upkeep.checksums import add_checksum
from vistaflow_services.registry.upkeep.programs import DumpError, run

APPLICATION = "vistaflow backup"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A backup that was made."""

    file: Path
    size: int
    revision: int
    """Everything up to it, and nothing after it, is in the file."""
    epoch: str
    seconds: float


class DumpMoment(NamedTuple):
    """The moment that a dump is of."""

    revision: int
    epoch: str
    snapshot: str
    """Lets pg_dump see what its transaction sees, for as long as that is open."""


def exported(connection: Connection) -> DumpMoment:
    """The moment that the transaction, which has to be new, sees from now on."""
    connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    row = connection.execute(
        "SELECT last_id, epoch::text, pg_export_snapshot() FROM head"
    ).fetchone()
    assert row is not None
    return DumpMoment(*row)


def dump_arguments(schema: str, snapshot: str) -> list[str]:
    """The arguments of pg_dump, but for the database and the file."""
    return [
        "--format=custom",
        f'--schema="{schema}"',
        "--no-owner",
        "--no-privileges",
        "--lock-wait-timeout=20s",
        f"--snapshot={snapshot}",
    ]


def backup(conninfo: str, schema: str, file: Path) -> Backup:
    """Saves a schema to a file, which is there whole or not at all.

    Raises:
        DumpError: The file is there already, or the database cannot be saved.
    """
    if file.exists():
        raise DumpError(f"{file} is there already; give another name or remove it")
    file = file.absolute()
    if not file.parent.is_dir():
        raise DumpError(f"there is no folder {file.parent}")
    partial = file.with_name(f"{file.name}.new")
    began = time.monotonic()
    try:
        with connected(conninfo, schema, name="backup") as connection, connection.transaction():
            moment = exported(connection)
            arguments = [*dump_arguments(schema, moment.snapshot), f"--file={partial}"]
            run("pg_dump", arguments, conninfo, application=APPLICATION)
        partial.chmod(0o600)
        add_checksum(partial)
        files.sync(partial)
        partial.rename(file)
        files.sync(file.parent)
    finally:
        partial.unlink(missing_ok=True)
    return Backup(
        file=file,
        size=file.stat().st_size,
        revision=moment.revision,
        epoch=moment.epoch,
        seconds=time.monotonic() - began,
    )


def main() -> int:
    """Saves the registry that is configured."""
    degrade_output()
    parser = argparse.ArgumentParser(description="Saves the registry's tables to a file.")
    parser.add_argument("file", type=Path, help="the file to write; must not be there yet")
    arguments = parser.parse_args()
    try:
        config = read_config(Config, "VISTAFLOW_REGISTRY_")
        with database(config) as conninfo:
            written = backup(conninfo, config.schema, arguments.file)
    except (ServiceError, psycopg.Error, OSError) as error:
        print(f"no backup was made: {error}", file=sys.stderr)
        return 1
    print(
        f"saved everything up to revision {written.revision} to {written.file}: "
        f"{megabytes(written.size)} in {written.seconds:.1f} s"
    )
    return 0
