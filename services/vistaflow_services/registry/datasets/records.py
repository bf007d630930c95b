"""Datasets and their versions as values."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple


class Deletion(StrEnum):
    """Why a version was deleted; the words of the database."""

    REQUEST = "REQUEST"
    MAX_VERSIONS = "MAX_VERSIONS"
    MAX_AGE = "MAX_AGE"
    FORGOTTEN = "FORGOTTEN"


class Limits(NamedTuple):
    """How much of a dataset is stored."""

    quota_bytes: int = 0
    """0: what its project has left."""
    max_versions: int = 0
    """0: all."""
    max_age: timedelta | None = None


class Version(NamedTuple):
    """A version without what it holds: a row of the query `list_dataset_versions`."""

    version: int
    created_at: datetime
    parent: int
    source: str
    job_id: uuid.UUID
    row_count: int
    rejected_count: int
    size_bytes: int
    digest: str
    pinned: bool


class Dataset(NamedTuple):
    """A dataset with its latest version, from a row of the query `list_datasets`."""

    dataset_id: int
    project: str
    name: str
    description: str
    labels: Mapping[str, str]
    version_count: int
    size_bytes: int
    created_at: datetime
    aliases: Mapping[str, int]
    limits: Limits
    latest: Version | None

    def aliases_of(self, version: int) -> list[str]:
        """The names of a version."""
        return sorted(alias for alias, number in self.aliases.items() if number == version)


class RecordedVersion(NamedTuple):
    """A version that was recorded."""

    dataset: Dataset
    version: Version
    expired: list[int]
    """Versions that retention deleted at the same time."""


@dataclass(frozen=True, slots=True)
class Documents:
    """What a version holds, as JSON texts; empty where it holds none."""

    manifest: str
    report: str = ""
    profile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a version to record holds, and what follows from it."""

    documents: Documents
    digest: str
    row_count: int
    rejected_count: int
    blobs: Mapping[bytes, int]
    """The size of each file, by its SHA-256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewVersion:
    """A version to record."""

    job_id: uuid.UUID
    name: str
    content: Content
    source: str
    parent: int
    """The version that it was made from, which must be the latest; 0: none."""

    alias: str
    forgotten_versions: tuple[int, ...] = ()
    """Versions to delete with it."""

    forgotten_blobs: tuple[bytes, ...] = ()
    """Files to purge at `purge_at`."""

    purge_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetChange:
    """A change of a dataset; None: as it is."""

    limits: Limits | None = None
    description: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """An empty value removes a label."""
