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

import psycopg

from vistaflow.encoding import degrade_output
from vistaflow_services.core import files
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.registry.checksums import add_checksum
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.dumping import DumpError, run
from vistaflow_services.registry.local import connected, database, megabytes

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
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = connection.execute(
                "SELECT last_id, epoch::text, pg_export_snapshot() FROM head"
            ).fetchone()
            assert row is not None
            revision, epoch, snapshot = row
            arguments = [
                "--format=custom",
                f'--schema="{schema}"',
                "--no-owner",
                "--no-privileges",
                "--lock-wait-timeout=20s",
                f"--snapshot={snapshot}",
                f"--file={partial}",
            ]
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
        revision=revision,
        epoch=epoch,
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
            made = backup(conninfo, config.schema, arguments.file)
    except (ServiceError, psycopg.Error, OSError) as error:
        print(f"no backup was made: {error}", file=sys.stderr)
        return 1
    print(
        f"saved everything up to revision {made.revision} to {made.file}: "
        f"{megabytes(made.size)} in {made.seconds:.1f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
