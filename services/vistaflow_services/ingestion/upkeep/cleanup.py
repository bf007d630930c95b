"""The CLEANUP job: removes what is no longer needed, and says what went and how many bytes.

    staged   pieces of conversions and pages of collections that never finished, temporary files
    uploads  expired uploads
    logs     logs of attempts, of jobs that are over
    results  results of queries that are older than VISTAFLOW_QUERY_RESULT_DAYS
    blobs    files that no version of a dataset refers to

Services remove expired uploads, results and blobs by themselves, too, so that their limits hold;
what they removed before is not counted here. All files of an installation are in its home, so one
job sees them all. Rows of the log stay: they go by its own retention.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core import config as configuration
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import ServiceError
from vistaflow_services.core.names import is_job_id
from vistaflow_services.core.work import hold
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.core.work.query_results import SCRATCH, Removed, remove_results
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.registrar import Registrar
from vistaflow_services.ingestion.datasets.stores import abandoned, scratch_folder, tidy
from vistaflow_services.ingestion.upkeep.requests import days_of
from vistaflow_services.ingestion.uploads import FOLDER, Uploads

RESULT_DAYS: Final = "VISTAFLOW_QUERY_RESULT_DAYS"
"""The setting of the query service, which shares the environment of the installation."""

DEFAULT_RESULT_DAYS: Final = 30

_UNFINISHED: Final = {"conversion": "*.manifest.json", "collection": "pages.jsonl"}
"""Folders of jobs that go on after a kill, and the file that each has once it is finished."""

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}(\..*)?")
"""Names of files that `core.files` writes, until they have theirs."""


def clean_up(attempt: Attempt) -> dict[str, Any]:
    """Does what a `CleanUpSpec` asks for; the result counts what went, by kind."""
    spec, home = attempt.unpack(pb.CleanUpSpec), configuration.home()
    config = read_config(Config, "VISTAFLOW_INGESTION_")
    problems = list[str]()
    try:
        age = timedelta(days=days_of(spec))
    except ServiceError as error:
        raise JobError(error.message, error.reason) from None
    with Registrar(attempt.registry) as registrar:

        def blobs() -> Removed:
            grace = max(age, timedelta(seconds=config.grace_seconds))
            tidied = tidy(home, registrar, grace, timedelta(days=config.collect_days))
            problems.extend(tidied.errors)
            if tidied.busy:
                problems.append("blobs: the stores are being tidied already")
            return Removed(tidied.swept, tidied.swept_bytes)

        def results() -> Removed:
            days = int(os.environ.get(RESULT_DAYS) or DEFAULT_RESULT_DAYS)
            return remove_results(attempt.artifacts, days) if days else Removed()

        live = registrar.live_jobs()
        root = attempt.artifacts.root
        kinds: dict[str, Callable[[], Removed]] = {
            "staged": lambda: _removed(_staged(root, home, age, live)),
            "uploads": lambda: Removed(*Uploads(home / FOLDER, config).remove_expired()),
            "logs": lambda: _removed(_logs(home, age, live)),
            "results": results,
            "blobs": blobs,
        }
        counts = dict[str, dict[str, int]]()
        for place, (kind, work) in enumerate(kinds.items()):
            attempt.progress("cleanup", place, len(kinds), unit="kinds")
            with attempt.part(kind) as metadata:
                if kind in ("staged", "results", "blobs") and hold.held(root):
                    problems.append(f"{kind}: a backup is being made, which needs all files")
                    removed = Removed()
                else:
                    removed = work()
                counts[kind] = {"count": removed.files, "bytes": removed.size_bytes}
                metadata |= counts[kind]
    result = {
        "removed": counts,
        "count": sum(removed["count"] for removed in counts.values()),
        "bytes": sum(removed["bytes"] for removed in counts.values()),
    }
    if problems:
        raise JobError(
            f"not everything could be removed: {'; '.join(problems)}"[:3_000],
            "CLEANUP_INCOMPLETE",
            "clean up again later",
            result,
        )
    return result


def repair_stores(attempt: Attempt) -> dict[str, Any]:
    """Does what a `RepairSpec` asks for; the result counts the copies that were restored."""
    spec = attempt.unpack(pb.RepairSpec)
    config = read_config(Config, "VISTAFLOW_INGESTION_")
    grace = timedelta(seconds=config.grace_seconds)
    with Registrar(attempt.registry) as registrar:
        pages = timedelta(days=config.collect_days)
        tidied = tidy(configuration.home(), registrar, grace, pages, verify=spec.verify)
    result = {
        "restored": tidied.restored,
        "lost_count": len(tidied.lost),
        "lost": tidied.lost[:100],
        "purged": tidied.purged,
        "swept": {"count": tidied.swept, "bytes": tidied.swept_bytes},
    }
    problems = list(tidied.errors)
    if tidied.lost:
        problems.append(f"{len(tidied.lost):,} files have no undamaged copy: {tidied.lost[0]}")
    if tidied.busy:
        problems.append("another process tidies the stores already")
    if problems:
        raise JobError(
            "; ".join(problems)[:3_000],
            "REPAIR_INCOMPLETE",
            "see to the stores, and repair again",
            result,
        )
    return result


def _staged(root: Path, home: Path, age: timedelta, live: set[str]) -> Iterator[Path]:
    """What jobs that are over left in the artifact store and in the scratch folders."""
    for job in _old_jobs(root / "jobs", live):
        for name, finished in _UNFINISHED.items():
            folder = job / name
            if folder.is_dir() and _is_old(folder, age) and not any(folder.glob(finished)):
                yield folder
        if any((job / "collection").glob(_UNFINISHED["collection"])):
            for name in ("content", "extracts"):
                if _is_old(job / "collection" / name, age):
                    yield job / "collection" / name
        for path in job.rglob(".*"):
            if _TEMPORARY.fullmatch(path.name) and path.is_file() and _is_old(path, age):
                yield path
    for parent in (scratch_folder(home), home / "scratch" / "backups", home / SCRATCH):
        for folder in parent.iterdir() if parent.is_dir() else ():
            with contextlib.suppress(OSError):
                if folder.is_dir() and abandoned(folder, age):
                    yield folder


def _logs(home: Path, age: timedelta, live: set[str]) -> Iterator[Path]:
    """Old logs of the attempts of jobs that are over."""
    for job in _old_jobs(home / "logs" / "jobs", live):
        yield from (path for path in job.iterdir() if path.is_file() and _is_old(path, age))
        with contextlib.suppress(OSError):  # others are there still
            job.rmdir()


def _old_jobs(folder: Path, live: set[str]) -> Iterator[Path]:
    for job in folder.iterdir() if folder.is_dir() else ():
        if is_job_id(job.name) and job.name not in live and job.is_dir():
            yield job


def _is_old(path: Path, age: timedelta) -> bool:
    """Whether nothing in a folder, or a file, has changed for so long."""
    oldest = time.time() - age.total_seconds()
    try:
        inner = path.rglob("*") if path.is_dir() else ()
        return all(entry.lstat().st_mtime < oldest for entry in (path, *inner))
    except FileNotFoundError:
        return False


def _removed(paths: Iterator[Path]) -> Removed:
    """Removes files and folders."""
    count, size = 0, 0
    for path in paths:
        every = [path, *path.rglob("*")] if path.is_dir() else [path]
        files = [entry for entry in every if entry.is_file() and not entry.is_symlink()]
        total = sum(entry.stat().st_size for entry in files)
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            count, size = count + len(files), size + total
    return Removed(count, size)
