"""Where the parts of results are: beside their list, or in the stores that the operator declares.

In the stores, parts are blobs by their content, in as many copies as all blobs have. The list stays
in the artifact store; sweeps, repairs and backups read it there, so a part without a list is swept
after the grace time. No two attempts write the same bytes, as files name query and attempt: a part
is always young until it is listed, and no sweep meets it before.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from vistaflow_services.core import config as configuration
from vistaflow_services.core import files
from vistaflow_services.core.errors import NotFoundError, ServiceError, UnavailableError
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import PARTS, Part, note_result, parts_of
from vistaflow_services.core.work.uris import DOWNLOADS, SCHEME
from vistaflow_services.datasets.manifest import to_json
from vistaflow_services.query.engines.contract import ResultPart
from vistaflow_services.query.results.pages import PagePart
from vistaflow_services.query.tables.cache import DownloadCache
from vistaflow_services.query.tables.columns import parquet_columns
from vistaflow_services.stores.blobs import BlobStore, describe
from vistaflow_services.stores.opening import declared_stores

MAX_FILES: Final = 200
"""Most files that the published result lists; `parts.json` has all."""

STORING_SECONDS: Final = 3_600.0
"""Longest time to store a result: less than the shortest grace time."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Stores results and opens them."""

    artifacts: ArtifactStore
    scratch: Path
    """The folder for downloads, on the file system of the artifact store; it need not exist."""

    cache_bytes: int
    """Most that downloads take which stay for later."""

    @functools.cached_property
    def blobs(self) -> BlobStore:
        """The stores."""
        return declared_stores(
            configuration.stores(), configuration.copies(), self.artifacts.root / "blobs"
        )

    @functools.cached_property
    def _cache(self) -> DownloadCache:
        return DownloadCache(self.artifacts.root / DOWNLOADS, self.cache_bytes)

    def keep(
        self, folder: Path, parts: Sequence[ResultPart], about: Mapping[str, Any], project: str
    ) -> dict[str, Any]:
        """Stores the parts of a result, then its list, which holds `about`, too.

        The result is noted before it has a list: one of a job that is killed then is removed, too.

        Args:
            folder: Has the parts; it is in the artifact store.
            parts: The parts.
            about: What else the list says; `query_id` is that of the query.
            project: On whose quota the result counts.

        Returns:
            What the job publishes of them: `files`, and `stores` if they are in some.

        Raises:
            UnavailableError: Too few stores answer, or not in time.
            ExhaustedError: A store is full.
        """
        is_stored = bool(configuration.stores())
        listed: list[dict[str, Any]] = [
            {"name": part.path.name, "rows": part.rows, "bytes": part.bytes} for part in parts
        ]
        if is_stored:
            about = {**about, "table_columns": to_json(parquet_columns(parts[0].path))}
            try:
                hashes = self._stored(folder, parts)
            except ServiceError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            for entry, blob in zip(listed, hashes, strict=True):
                entry["blob"] = blob
        else:
            for part in parts:
                files.sync(part.path)
        content = {**about, "parts": listed}
        size = sum(part.bytes for part in parts)
        note_result(self.artifacts, about["query_id"], project, size)
        files.write(folder / PARTS, json.dumps(content, ensure_ascii=False).encode())
        # The list is on disk, and with it what its folder lists; where the folder is as well.
        files.sync(folder.parent)
        if is_stored:
            published = [
                {key: entry[key] for key in ("blob", "bytes", "rows")}
                for entry in listed[:MAX_FILES]
            ]
            return {"files": published, "stores": self.blobs.name}
        self.artifacts.note_settled(folder)
        return {"files": [self.artifacts.describe(part.path) for part in parts[:MAX_FILES]]}

    def _stored(self, folder: Path, parts: Sequence[ResultPart]) -> list[str]:
        """Moves parts into the stores; their hashes."""
        give_up, hashes = time.monotonic() + STORING_SECONDS, list[str]()
        for part in parts:
            blob = describe(part.path)
            self.blobs.place(blob, part.path)
            reached("result.part_stored")
            if time.monotonic() > give_up:
                raise UnavailableError(
                    "the stores take more than an hour for the result; ask for fewer rows",
                    reason="STORE_UNAVAILABLE",
                )
            stored = Part(part.path.name, part.rows, part.bytes, blob.sha256)
            # A fetch right after the query downloads nothing.
            copy: AbstractContextManager[Path] = contextlib.nullcontext(part.path)
            with self._cache.file(
                stored.identity, ".parquet", folder, functools.partial(_same, copy)
            ):
                pass
            part.path.unlink(missing_ok=True)
            hashes.append(blob.sha256)
        return hashes

    def parts(self, query_id: str, result: Mapping[str, Any]) -> list[PagePart]:
        """The parts of a query's result, in the order of the rows.

        Args:
            query_id: The query.
            result: What its job published.

        Raises:
            NotFoundError: They were removed.
        """
        folder = folder_of(self.artifacts, query_id, result)
        return [
            PagePart(rows=part.rows, open=functools.partial(self._opened, folder, part))
            for part in parts_of(folder)
        ]

    def _opened(self, folder: Path, part: Part) -> pa.NativeFile:
        if not part.blob:
            return pa.OSFile(str(folder / part.name))
        self.scratch.mkdir(parents=True, exist_ok=True)
        # It stays readable when its name is gone.
        with (
            tempfile.TemporaryDirectory(dir=self.scratch) as scratch,
            self.local(part, Path(scratch)) as path,
        ):
            return pa.OSFile(str(path))

    def local(self, part: Part, scratch: Path) -> AbstractContextManager[Path]:
        """A part that is in the stores as a file of this machine.

        Raises:
            NotFoundError: It is in no store.
            DataLossError: It is damaged in every store.
            UnavailableError: A store does not answer.
        """
        return self._cache.file(
            part.identity, ".parquet", scratch, lambda: self.blobs.fetch(part.blob, scratch)
        )


def _same(copy: AbstractContextManager[Path]) -> AbstractContextManager[Path]:
    return copy


def folder_of(artifacts: ArtifactStore, query_id: str, result: Mapping[str, Any]) -> Path:
    """The folder with the list of a query's parts.

    Raises:
        NotFoundError: The result was removed.
    """
    # Its owner can publish any result of a job made by hand: only its own files are read.
    if not result["result_path"].startswith(f"{SCHEME}jobs/{query_id}/"):
        raise ValueError("the result is that of another job")
    folder = artifacts.existing(result["result_path"])
    if not (folder / PARTS).exists():
        raise NotFoundError(f"the result of query {query_id} was removed; run the query again")
    return folder
