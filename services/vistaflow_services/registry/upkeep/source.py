"""A target of BACKUP jobs, as `restore --from` reads it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vistaflow_services.backups import restoring
from vistaflow_services.backups.manifest import Manifest, chosen_backup
from vistaflow_services.backups.targets import Target, declared_targets, open_target
from vistaflow_services.core import config as configuration
from vistaflow_services.core.home import prepare_home
from vistaflow_services.registry.config import Config
from vistaflow_services.registry.upkeep.programs import DumpError
from vistaflow_services.stores.opening import declared_stores

UNDECLARED = "source"
"""What a target is called that is not declared: its credentials are those of AWS_*."""


@dataclass(frozen=True)
class Source:
    """A backup that was checked."""

    target: Target
    manifest: Manifest
    home: Path

    @classmethod
    def find(cls, named: str, backup_id: str, config: Config) -> Self:
        """The backup, once each of its files was read. Nothing is changed anywhere.

        Args:
            named: A URL, or the name of a declared target.
            backup_id: Its id; the newest if empty.
            config: The settings of the registry that it is for.

        Raises:
            ServiceError: There is none, it is damaged, or it is of another schema.
        """
        declared = declared_targets(configuration.backups())
        names = {url: name for name, url in declared.items()}
        name = named if named in declared else names.get(named, UNDECLARED)
        target = open_target(name, declared.get(name, named), existing=True)
        manifest = chosen_backup(target, backup_id)
        if manifest.database_schema != config.schema:
            raise DumpError(
                f"the backup is of a registry in schema {manifest.database_schema}, not "
                f"{config.schema}; set VISTAFLOW_REGISTRY_SCHEMA"
            )
        restoring.check(target, manifest)
        return cls(target, manifest, config.home)

    @contextmanager
    def put_back(self) -> Iterator[Path]:
        """Puts artifacts and datasets back; yields the dump of the log."""
        prepare_home(self.home)
        artifacts = self.home / "artifacts"
        artifacts.mkdir(exist_ok=True)
        store = declared_stores(configuration.stores(), configuration.copies(), artifacts / "blobs")
        restoring.put_back(self.target, self.manifest, artifacts, store)
        dump = self.home / "run" / "restored.dump"
        dump.unlink(missing_ok=True)
        restoring.fetch(self.target, self.manifest.dump, dump)
        try:
            yield dump
        finally:
            dump.unlink(missing_ok=True)

    @property
    def summary(self) -> str:
        """What was put back, for people."""
        manifest = self.manifest
        text = (
            f"restored backup {manifest.backup_id} of {manifest.created_at}: "
            f"{manifest.file_count:,} files"
        )
        if manifest.missing:
            text += (
                f"\nwarning: {len(manifest.missing):,} files of datasets were lost before it was "
                f"made, such as {manifest.missing[0]}"
            )
        return text
