"""Collections of pages: requests checked before anything is queued, and the COLLECT job.

The job checks its spec in the same way, as it may have been created past CollectPages; the hosts
are those that its own service allows. Its environment has no credentials; it knows of the
collection before by a file in the artifact store that only such jobs write.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core import config as configuration
from vistaflow_services.core import files
from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import (
    ExhaustedError,
    ServiceError,
    UnavailableError,
    Violations,
)
from vistaflow_services.core.names import is_dataset_name, is_job_id
from vistaflow_services.core.stage import version
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt, JobError
from vistaflow_services.core.work.uris import SCHEME
from vistaflow_services.ingestion.config import Config
from vistaflow_services.ingestion.datasets.registrar import Registrar
from vistaflow_services.ingestion.datasets.stores import PAGES_LOCK, stores_of
from vistaflow_services.ingestion.datasets.table_specs import NAME_HINT
from vistaflow_services.pages.contents import Contents
from vistaflow_services.pages.documents import (
    DocumentError,
    compiled_pattern,
    compiled_selector,
)
from vistaflow_services.pages.folder import Folder
from vistaflow_services.pages.hosts import Hosts, Place, RefusedError
from vistaflow_services.pages.plan import (
    PAGES,
    Column,
    Content,
    Kind,
    Numbers,
    Page,
    Plan,
    failures,
)
from vistaflow_services.pages.run import CollectError, Hooks, Progress, collect

MAX_URLS: Final = 10_000
MAX_HOSTS: Final = 100
MAX_COLUMNS: Final = 200
MAX_PAGES: Final = 100_000
MAX_PAGE_BYTES: Final = 100_000_000
MAX_DELAY_SECONDS: Final = 3_600.0
MAX_SELECTOR: Final = 1_000
"""Most characters of a selector or a pattern."""

MAX_LISTED: Final = 20
"""Failed pages that a task and the result list; the manifest has all."""

CREDENTIALS: Final = re.compile(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|AWS_|_KEY|PROXY", re.IGNORECASE)
"""Variables that the job removes from its environment before it reads the first page."""

KINDS: Final[dict[int, Kind]] = {
    pb.PAGE_VALUE_UNSPECIFIED: "text",
    pb.PAGE_VALUE_TEXT: "text",
    pb.PAGE_VALUE_NUMBER: "number",
    pb.PAGE_VALUE_URL: "url",
    pb.PAGE_VALUE_PAGE: "page",
}
FORMATS: Final[dict[int, Literal["jsonl", "parquet"]]] = {
    pb.ROW_FORMAT_UNSPECIFIED: "jsonl",
    pb.ROW_FORMAT_JSON: "jsonl",
    pb.ROW_FORMAT_PARQUET: "parquet",
}


def plan_of(spec: pb.CollectSpec, config: Config) -> Plan:
    """What a spec asks for.

    Raises:
        InvalidError: One violation for each mistake.
    """
    violations = Violations()

    def check(ok: bool, field: str, problem: str) -> None:
        if not ok:
            violations.add(f"spec.{field}", problem)

    check(not spec.name or is_dataset_name(spec.name), "name", NAME_HINT)
    _check_urls(spec, Hosts(config.collect_hosts), violations)
    content = _content(spec, violations)
    numbers = None
    if spec.HasField("pages"):
        first = spec.pages.first if spec.pages.HasField("first") else 1
        last = spec.pages.last if spec.pages.HasField("last") else None
        numbers = Numbers(url=spec.pages.url, first=first, last=last)
        check(first >= 0, "pages.first", "is below 0")
        check(last is None or last >= first, "pages.last", f"is below the first number, {first}")
        hint = "must be set: without html or json nobody knows which page is the last one"
        check(last is not None or content is not None, "pages.last", hint)
        follows = content is not None and (content.next or content.next_link)
        check(not follows, "pages", "are numbered; leave out `next`, or give `urls`")
    is_known = spec.format in FORMATS
    check(is_known, "format", "is neither JSON nor PARQUET")
    format = FORMATS.get(spec.format, "jsonl")
    has_columns = content is not None and bool(content.columns)
    check(format != "parquet" or has_columns, "format", "PARQUET needs columns")
    for field, most in (("max_pages", MAX_PAGES), ("max_page_bytes", MAX_PAGE_BYTES)):
        check(0 <= getattr(spec, field) <= most, field, f"is not from 1 to {most:,}")
    share = spec.max_failed_share if spec.HasField("max_failed_share") else Plan.max_failed_share
    check(0 <= share <= 1, "max_failed_share", "is not from 0 to 1")
    delay = spec.delay.seconds + spec.delay.nanos / 1e9
    check(0 <= delay <= MAX_DELAY_SECONDS, "delay", "is not from 0 s to an hour")
    violations.check()
    return Plan(
        urls=tuple(spec.urls),
        numbers=numbers,
        content=content,
        format=format,
        max_pages=spec.max_pages or Plan.max_pages,
        max_page_bytes=spec.max_page_bytes or Plan.max_page_bytes,
        max_bytes=config.collect_quota_bytes,
        max_failed_share=share,
        delay=max(delay, config.collect_delay_seconds),
        timeout=config.collect_timeout_seconds,
    )


def _check_urls(spec: pb.CollectSpec, hosts: Hosts, violations: Violations) -> None:
    if bool(spec.urls) == spec.HasField("pages"):
        violations.add("spec.urls", "give the addresses of pages, or `pages`, and not both")
    if len(spec.urls) > MAX_URLS:
        violations.add("spec.urls", f"{len(spec.urls):,} given; at most {MAX_URLS:,} may be")
    named = [(f"spec.urls[{index}]", url) for index, url in enumerate(spec.urls[:MAX_URLS])]
    if spec.HasField("pages"):
        url = spec.pages.url
        named = [("spec.pages.url", url.replace("{page}", "1"))]
        if "{page}" not in url.partition("://")[2].partition("/")[2]:
            violations.add("spec.pages.url", "has no `{page}` in its path or query")
    places, refused = set[Place](), 0
    for field, url in named:
        try:
            places.add(Place.of(hosts.parse(url)))
        except RefusedError as error:
            refused += 1
            if refused <= MAX_LISTED:
                violations.add(field, str(error))
    if len(places) > MAX_HOSTS:
        violations.add("spec.urls", f"are of {len(places):,} hosts; at most {MAX_HOSTS} may be")


def _content(spec: pb.CollectSpec, violations: Violations) -> Content | None:
    kind = spec.WhichOneof("content")
    if kind is None:
        return None

    def check(field: str, text: str, compiled: Callable[[str], object] | None) -> None:
        try:
            if len(text) > MAX_SELECTOR:
                raise DocumentError(f"is longer than {MAX_SELECTOR:,} characters")
            if text and compiled:
                compiled(text)
        except DocumentError as error:
            violations.add(f"spec.{kind}.{field}", str(error))

    rows = spec.html if kind == "html" else spec.json
    selector = compiled_selector if kind == "html" else None
    if kind == "html":
        if not spec.html.rows:
            violations.add("spec.html.rows", "is empty; give the CSS selector of the rows")
        if not rows.columns:
            violations.add("spec.html.columns", "is empty; give at least one column")
    elif spec.json.next_parameter and not spec.json.next:
        violations.add("spec.json.next_parameter", "needs `next`, the field with its value")
    source = spec.html.rows if kind == "html" else spec.json.records
    check("rows" if kind == "html" else "records", source, selector)
    check("next", rows.next, selector)
    if len(rows.columns) > MAX_COLUMNS:
        violations.add(f"spec.{kind}.columns", f"are more than {MAX_COLUMNS}")
    names = set[str]()
    for index, column in enumerate(rows.columns[:MAX_COLUMNS]):
        field = f"columns[{index}]"
        if not 1 <= len(column.name) <= 100 or column.name.casefold() in names:
            problem = "is empty, longer than 100 characters, or there twice"
            violations.add(f"spec.{kind}.{field}.name", problem)
        names.add(column.name.casefold())
        if column.type not in KINDS:
            violations.add(f"spec.{kind}.{field}.type", "is no value of the enum")
        if kind == "json" and column.attribute:
            violations.add(f"spec.json.{field}.attribute", "is for HTML; leave it out")
        check(f"{field}.selector", column.selector, selector)
        check(f"{field}.pattern", column.pattern, compiled_pattern)
    return Content(
        kind=kind,
        rows=source,
        columns=tuple(
            Column(
                name=column.name,
                selector=column.selector,
                attribute=column.attribute,
                type=KINDS.get(column.type, "text"),
                pattern=column.pattern,
                optional=column.optional,
            )
            for column in rows.columns
        ),
        next=rows.next,
        next_parameter="" if kind == "html" else spec.json.next_parameter,
        next_link=kind == "json" and spec.json.next_link,
    )


def collect_pages(attempt: Attempt) -> dict[str, Any]:
    """Collects the pages of a `CollectSpec`; the result counts them and names their files."""
    spec = attempt.unpack(pb.CollectSpec)
    config = read_config(Config, "VISTAFLOW_INGESTION_")
    latest, previous = _latest(attempt, spec.name)
    home = configuration.home()
    # The clients of the stores keep the credentials that they need.
    contents = Contents(stores_of(home), home / PAGES_LOCK)
    for name in filter(CREDENTIALS.search, list(os.environ)):
        del os.environ[name]
    path = attempt.artifacts.path(f"{SCHEME}jobs/{attempt.job_id}/collection")
    try:
        plan = plan_of(spec, config)
        hooks = Hooks(progress=_progress(attempt), host=_host(attempt))
        hosts = Hosts(config.collect_hosts)
        collected = collect(plan, hosts, Folder(path, contents, previous), version(), hooks)
    except CollectError as error:
        raise JobError(error.message, error.reason, error.hint, {"pages": error.details}) from None
    except ServiceError as error:
        is_of_stores = isinstance(error, UnavailableError | ExhaustedError)
        raise JobError(
            error.message,
            error.reason,
            "see to the stores, then retry the job: what it fetched is there"
            if is_of_stores
            else "correct the request, and collect again",
            {"violations": [vars(violation) for violation in error.violations[:50]]},
        ) from None
    if latest is not None:
        latest.parent.mkdir(parents=True, exist_ok=True)
        files.write(latest, json.dumps({"job_id": attempt.job_id}).encode())
    pages, uri = collected.pages, attempt.artifacts.uri(path)
    return {
        "result_path": uri,
        "pages": len(pages),
        "rows": sum(page.rows for page in pages),
        "unchanged": sum(page.unchanged for page in pages),
        "failed": len(collected.failed),
        "failures": collected.failed[:MAX_LISTED],
        "limited": collected.is_limited,
        "bytes": sum(page.bytes for page in pages),
        "files": [part["name"] for part in collected.parts[:1_000]],
        "manifest": f"{uri}/{PAGES}",
    }


def _latest(attempt: Attempt, name: str) -> tuple[Path | None, Path | None]:
    """The file that names the latest collection of a name, and the folder of that collection.

    The project is that of the job's kit, as the registry has it: no spec leads to the pages of
    another one.
    """
    if not is_dataset_name(name):
        return None, None
    with Registrar(attempt.registry) as registrar:
        project = registrar.project_of(attempt.kit_id)
    store: ArtifactStore = attempt.artifacts
    latest = store.root / "collections" / project / f"{name}.json"
    with suppress(OSError, ValueError, KeyError):
        job_id = json.loads(latest.read_bytes())["job_id"]
        if is_job_id(job_id) and job_id != attempt.job_id:
            return latest, store.path(f"{SCHEME}jobs/{job_id}/collection")
    return latest, None


def _host(attempt: Attempt) -> Callable[[Place, list[Page] | None], None]:
    """Records a task for each host."""

    def report(place: Place, pages: list[Page] | None) -> None:
        name = str(place)[-100:]
        if pages is None:
            attempt.task(name, "RUNNING")
            return
        failed = failures(pages)
        metadata = {
            "pages": len(pages),
            "rows": sum(page.rows for page in pages),
            "unchanged": sum(page.unchanged for page in pages),
            "bytes": sum(page.bytes for page in pages),
            "failed": len(failed),
            "failures": failed[:MAX_LISTED],
        }
        has_failed = bool(pages) and len(failed) == len(pages)
        reason = failed[0]["error"] if has_failed else ""
        attempt.task(name, "FAILED" if has_failed else "FINISHED", metadata, reason)

    return report


def _progress(attempt: Attempt) -> Callable[[Progress], None]:
    """Reports how far a collection is, with the time that is left at its speed so far."""
    began = time.monotonic()

    def report(progress: Progress) -> None:
        attempt.progress(
            "collect",
            progress.pages,
            progress.total,
            unit="pages",
            message=", ".join(_words(progress, time.monotonic() - began)),
        )

    return report


def _words(progress: Progress, seconds: float) -> Iterator[str]:
    yield f"{progress.rows:,} rows"
    if progress.failed:
        yield f"{progress.failed:,} pages failed"
    left = progress.total - progress.pages
    if left > 0:
        yield f"{left * seconds / progress.pages:,.0f} s left"
