"""Results of queries, and how long they are kept: the files go, the query stays in the history.

A result is a folder with the list of its parts, `parts.json`, which is written last. The parts are
beside it, or in the stores of blobs: there the sweep removes them once their list is gone. Nothing
is removed while a backup holds removals back.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from vistaflow_services.core.errors import DataLossError
from vistaflow_services.core.names import is_job_id
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.hold import removing
from vistaflow_services.core.work.uris import DOWNLOADS, download_name

logger = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 3600.0
"""How often old results are looked for."""

QUOTA_SECONDS: Final = 10.0
"""How often results over the quota are: by as much as queries write meanwhile it is exceeded."""


PARTS: Final = "parts.json"
"""The file in the folder of a result that lists its parts."""


SCRATCH: Final = "scratch/results"
"""The folder of the home for parts that are being downloaded."""


class Part(NamedTuple):
    """A Parquet file of a result, as its list has it."""

    name: str
    rows: int
    bytes: int
    blob: str = ""
    """SHA-256 of a part that is in the stores; empty: it is the file beside the list."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What a copy of it in the cache of downloads is a copy of."""
        return ("blob", self.blob)


def parts_of(folder: Path) -> list[Part]:
    """The parts of a result, in the order of the rows.

    Raises:
        FileNotFoundError: The result was removed.
    """
    parts = json.loads((folder / PARTS).read_bytes())["parts"]
    return [
        Part(Path(part["name"]).name, part["rows"], part["bytes"], part.get("blob", ""))
        for part in parts
    ]


def stored_parts(root: Path) -> Iterator[Part]:
    """The parts of all results that are in the stores.

    Args:
        root: The artifact store.

    Raises:
        DataLossError: A list is damaged.
    """
    for path in root.glob(f"jobs/*/*/result/{PARTS}"):
        try:
            yield from (part for part in parts_of(path.parent) if part.blob)
        except FileNotFoundError:  # just removed
            continue
        except (ValueError, TypeError, LookupError):
            # Nobody knows which blobs it names: none may be removed.
            raise DataLossError(
                f"{PARTS} of query {path.parts[-4]} is damaged; restore it from a backup, or "
                "remove the folder of the job"
            ) from None


def note_result(artifacts: ArtifactStore, query_id: str, project: str, size: int) -> None:
    """Notes that a query has a result; its age is that of the note.

    Args:
        artifacts: Where the result is.
        query_id: The query.
        project: On whose quota it counts.
        size: Its bytes.
    """
    folder = _notes(artifacts)
    folder.mkdir(exist_ok=True)
    # Whole or not at all; not worth waiting for the disk.
    temporary = folder / f".{query_id}"
    temporary.write_text(f"{size} {project}", "utf-8")
    temporary.replace(folder / query_id)


class Removed(NamedTuple):
    """What was removed."""

    files: int = 0
    """Or results, or uploads."""
    size_bytes: int = 0


def remove_results(artifacts: ArtifactStore, older_than_days: float) -> Removed:
    """Removes the results that are older."""
    oldest = time.time() - older_than_days * 86_400
    removed = Removed()
    with removing(artifacts.root) as allowed:
        for note in _listed(artifacts) if allowed else ():
            if note.stat().st_mtime < oldest:
                files, size = _remove(artifacts, note.name)
                removed = Removed(removed.files + files, removed.size_bytes + size)
    return removed


class Quota:
    """Bounds what the results of each project hold; the oldest are removed first.

    Args:
        artifacts: Where the results are.
        most: Bytes of one project.
    """

    def __init__(self, artifacts: ArtifactStore, most: int) -> None:
        self._artifacts = artifacts
        self._most = most
        self._known: dict[str, _Stored] = {}

    def sweep(self) -> int:
        """Removes what is too much; returns how many results were removed.

        The newest result of a project stays, whatever its size. A note is read once.
        """
        with removing(self._artifacts.root) as allowed:
            return self._sweep() if allowed else 0

    def _sweep(self) -> int:
        notes = {note.name: note for note in _listed(self._artifacts)}
        self._known = {name: self._known.get(name) or _stored(note) for name, note in notes.items()}
        totals: dict[str, int] = {}
        over = []
        for name, stored in sorted(
            self._known.items(), key=lambda item: item[1].time, reverse=True
        ):
            newer = totals.get(stored.project)
            totals[stored.project] = (newer or 0) + stored.size
            if newer is not None and totals[stored.project] > self._most:
                over.append(name)
        return sum(_remove(self._artifacts, name).files for name in over)


class _Stored(NamedTuple):
    """What is known of a result."""

    time: float
    size: int
    project: str


def _stored(note: os.DirEntry[str]) -> _Stored:
    try:
        changed = note.stat().st_mtime
        # Former versions have left the notes empty.
        size, _, project = Path(note.path).read_text("utf-8").partition(" ")
    except FileNotFoundError:
        return _Stored(0.0, 0, "")
    return _Stored(changed, int(size or 0), project)


def _listed(artifacts: ArtifactStore) -> list[os.DirEntry[str]]:
    folder = _notes(artifacts)
    entries = os.scandir(folder) if folder.exists() else ()
    return [entry for entry in entries if is_job_id(entry.name)]


def _remove(artifacts: ArtifactStore, query_id: str) -> Removed:
    """Removes a result. One that cannot be removed keeps its note for later."""
    size = 0
    try:
        for result in (artifacts.root / "jobs" / query_id).glob("*/result"):
            size += sum(path.stat().st_size for path in result.rglob("*") if path.is_file())
            with contextlib.suppress(FileNotFoundError, ValueError, TypeError, LookupError):
                for part in parts_of(result):
                    size += part.bytes if part.blob else 0
                    copy = artifacts.root / DOWNLOADS / download_name(part.identity)
                    copy.unlink(missing_ok=True)
            # First what says that there is a result: a reader never meets half of one.
            (result / PARTS).unlink(missing_ok=True)
            shutil.rmtree(result)
        (_notes(artifacts) / query_id).unlink(missing_ok=True)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        logger.warning("the result of %s is not removed yet: %s", query_id, problem)
        return Removed()
    return Removed(1, size)


async def keep_removing(artifacts: ArtifactStore, days: int, most: int) -> None:
    """Removes old results, and those over the quota, for as long as the service runs.

    Args:
        artifacts: Where the results are.
        days: How long they are kept; 0: without limit.
        most: Bytes of one project's results; 0: any number.
    """
    quota, swept = Quota(artifacts, most), float("-inf")
    while days or most:
        try:
            count = await asyncio.to_thread(quota.sweep) if most else 0
            if days and time.monotonic() - swept >= SWEEP_SECONDS:
                swept = time.monotonic()
                count += (await asyncio.to_thread(remove_results, artifacts, days)).files
            if count:
                logger.info("removed %d results that are too old or over the quota", count)
        except OSError as error:
            logger.warning("old results are not removed: %s", error.strerror)
        await asyncio.sleep(QUOTA_SECONDS if most else SWEEP_SECONDS)


def _notes(artifacts: ArtifactStore) -> Path:
    return artifacts.root / "queries"
