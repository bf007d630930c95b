"""A collection: one thread a host, pages in order, rows in the order of the pages.

    fetch     the page, or the one of the collection before if the host says that it is unchanged
    keep      its content, by its SHA-256
    extract   its rows, and the next page
    journal   that it is done; a process that is killed after this does not fetch it again

Memory: the records of all pages (about 1 KiB each), and one page that is parsed at a time.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from vistaflow_services.pages.documents import DocumentError, Extractor
from vistaflow_services.pages.fetcher import Fetcher, FetchError
from vistaflow_services.pages.folder import PARTS, Folder, line_of
from vistaflow_services.pages.hosts import Hosts, Place, RefusedError
from vistaflow_services.pages.plan import MAX_URL, PAGES, Page, Plan, failures, read_pages

HOSTS_AT_ONCE: Final = 8
MAX_BLANK_PAGES: Final = 20
"""Pages without a row at the beginning, after which the selector is known to be wrong."""

MAX_SILENT_PAGES: Final = 3
"""Pages one after the other that a host does not answer, after which it is left alone."""

_GONE: Final = (404, 410)


class CollectError(Exception):
    """A collection that failed as a whole.

    Args:
        message: What failed.
        reason: What kind of failure, for programs.
        hint: What to do about it.
        details: The first pages that failed.
    """

    def __init__(
        self, message: str, reason: str, hint: str, details: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.message, self.reason, self.hint, self.details = message, reason, hint, list(details)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a collection is."""

    pages: int
    total: int
    """Pages that are known of; 0 if their number is unknown."""

    rows: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a collection calls, from several threads."""

    progress: Callable[[Progress], None] = lambda progress: None
    host: Callable[[Place, list[Page] | None], None] = lambda place, pages: None
    """Called when a host begins, with None, and when it ends, with its pages."""


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection has."""

    pages: list[Page]
    parts: list[dict[str, Any]]
    is_limited: bool
    """Whether there were more pages than `max_pages`."""

    @property
    def failed(self) -> list[dict[str, str]]:
        """The pages that failed."""
        return failures(self.pages)


def collect(plan: Plan, hosts: Hosts, folder: Folder, version: str, hooks: Hooks) -> Collected:
    """Does a collection, or the rest of one whose process was killed.

    Raises:
        CollectError: Too many pages failed, or a selector matches nothing.
        ConflictError: An earlier attempt is running still.
    """
    with folder.sole_use():
        if (folder.path / PAGES).exists():  # all was done when the process was killed
            written = json.loads((folder.path / PARTS).read_bytes())
            pages = list(read_pages(folder.path / PAGES))
            folder.clear()
            return Collected(pages=pages, parts=written["parts"], is_limited=written["is_limited"])
        run = _Run(plan, hosts, folder, version, hooks)
        pages = run.pages()
        _check(plan, pages)
        columns = plan.content.columns if plan.content else ()
        parts = folder.write_rows(pages, plan.format, columns)
        folder.finish(pages, {"version": 1, "is_limited": run.is_limited, "parts": parts})
        return Collected(pages=pages, parts=parts, is_limited=run.is_limited)


def _check(plan: Plan, pages: Sequence[Page]) -> None:
    """Raises `CollectError` if a collection is not what was asked for."""
    failed = failures(pages)
    if len(failed) > plan.max_failed_share * len(pages) or len(failed) == len(pages):
        first = f"; the first is {failed[0]['url']}: {failed[0]['error']}" if failed else ""
        raise CollectError(
            f"{len(failed):,} of {len(pages):,} pages failed{first}",
            "PAGES_FAILED",
            "correct what is listed, or raise max_failed_share",
            failed[:20],
        )
    if plan.content is None:
        return
    if not any(page.rows for page in pages):
        raise _no_rows(plan, len(pages))
    for index, column in enumerate(plan.content.columns):
        is_optional = column.optional or column.type == "page"
        if not is_optional and not any(page.matches.get(column.name) for page in pages):
            raise CollectError(
                f"{plan.content.kind}.columns[{index}]: `{column.name}` has no value in any of the "
                f"{sum(page.rows for page in pages):,} rows",
                "NO_VALUES",
                "correct its selector, attribute, type or pattern, or make it `optional`",
            )


def _no_rows(plan: Plan, count: int) -> CollectError:
    assert plan.content is not None
    content = plan.content
    field = "html.rows" if content.kind == "html" else "json.records"
    return CollectError(
        f"{field}: `{content.rows[:200]}` has no row on any of {count:,} pages",
        "NO_ROWS",
        "compare it with the pages as they are fetched, without their scripts",
    )


class _Run:
    """What the threads of a collection share."""

    def __init__(
        self, plan: Plan, hosts: Hosts, folder: Folder, version: str, hooks: Hooks
    ) -> None:
        self.plan, self.hosts, self.folder, self.version = plan, hosts, folder, version
        self.hooks = hooks
        self.former = folder.former_pages()
        self.extractor = Extractor(plan.content) if plan.content else None
        self.stop = threading.Event()
        self.parsing = threading.Lock()
        self.is_limited = False
        self._lock = threading.Lock()
        self._taken = self._done = self._rows = self._failed = self._bytes = 0
        self._total = len(plan.urls)
        numbers = plan.numbers
        if numbers is not None:
            self._total = numbers.last - numbers.first + 1 if numbers.last is not None else 0

    def pages(self) -> list[Page]:
        """The pages of all hosts."""
        first = [self.plan.numbers.page(self.plan.numbers.first)] if self.plan.numbers else []
        by_place: dict[Place, list[str]] = {}
        for text in (*self.plan.urls, *first):
            url = self.hosts.parse(text)
            by_place.setdefault(Place.of(url), []).append(str(url))
        walks = [
            _Walk(self, number, place, urls)
            for number, (place, urls) in enumerate(by_place.items())
        ]
        with ThreadPoolExecutor(HOSTS_AT_ONCE) as pool:
            futures = [pool.submit(walk.pages) for walk in walks]
            return [page for future in futures for page in future.result()]

    def take(self) -> bool:
        """Whether one more page is within the limit."""
        with self._lock:
            self.is_limited = self._taken >= self.plan.max_pages
            self._taken += not self.is_limited
            return not self.is_limited

    def done(self, page: Page) -> None:
        """A page is done.

        Raises:
            CollectError: None of the first pages has a row, or the pages are too large.
        """
        with self._lock:
            self._done += 1
            self._rows += page.rows
            self._bytes += page.bytes
            self._failed += bool(page.error)
            self._total += bool(page.next and self._total)
            total = min(max(self._total, self._done), self.plan.max_pages) if self._total else 0
            is_blank = self._done - self._failed >= MAX_BLANK_PAGES and not self._rows
            progress = Progress(pages=self._done, total=total, rows=self._rows, failed=self._failed)
        self.hooks.progress(progress)
        if self._bytes > self.plan.max_bytes:
            raise CollectError(
                f"the pages have more than {self.plan.max_bytes:,} bytes together",
                "TOO_LARGE",
                "collect fewer pages at once, or ask the operator for a larger quota",
            )
        if is_blank and self.extractor:
            raise _no_rows(self.plan, MAX_BLANK_PAGES)


class _Walk:
    """The pages of one host."""

    def __init__(self, run: _Run, number: int, place: Place, urls: Sequence[str]) -> None:
        self._run, self._number, self._place = run, number, place
        self._waiting = deque(urls)
        self._temporary = run.folder.path / f"page-{number}"
        self._failures = self._outages = 0  # one after the other

    def pages(self) -> list[Page]:
        """Fetches them all."""
        run = self._run
        run.hooks.host(self._place, None)
        try:
            fetcher = Fetcher(self._place, run.hosts, run.plan, run.version, run.stop)
            done, journal = run.folder.journal(self._number)
            with fetcher, journal:
                pages = list(self._walk(fetcher, done, journal))
        except BaseException:
            run.stop.set()
            raise
        finally:
            self._temporary.unlink(missing_ok=True)
        run.hooks.host(self._place, pages)
        return pages

    def _walk(
        self, fetcher: Fetcher, done: Mapping[str, Page], journal: IO[bytes]
    ) -> Iterator[Page]:
        numbers, number = self._run.plan.numbers, 0
        visited = set[str]()
        while self._waiting and not self._run.stop.is_set():
            url = self._waiting.popleft()
            if url in visited:
                continue
            visited.add(url)
            if not self._run.take():
                return
            page = done.get(url)
            if page is None:
                page = self._page(fetcher, url)
                if not page.error:
                    journal.write(line_of(page.to_dict()))
                    journal.flush()
            self._failures = self._failures + 1 if page.error else 0
            is_open = numbers is not None and numbers.last is None
            if is_open and number and page.status in _GONE:
                return
            self._run.done(page)
            yield page
            if page.next:
                self._waiting.appendleft(page.next)
            if numbers is not None:
                number += 1
                after = numbers.first + number
                if numbers.last is None:
                    is_over = not page.rows and (
                        not page.error or self._failures >= MAX_SILENT_PAGES
                    )
                else:
                    is_over = after > numbers.last
                if not is_over:
                    self._waiting.append(str(self._run.hosts.parse(numbers.page(after))))

    def _page(self, fetcher: Fetcher, url: str) -> Page:
        """Fetches a page and reads it; what is wrong with it is recorded in it."""
        run = self._run
        if self._outages >= MAX_SILENT_PAGES:
            problem = f"was not tried: {self._place} failed {MAX_SILENT_PAGES} times in a row"
            return Page(url=url, error=problem)
        former = run.former.get(url)
        if former is not None and not run.folder.has_former(former.sha256):
            former = None
        page = Page(url=url)
        try:
            target = run.hosts.parse(url)
            if Place.of(target) != self._place:
                host = Place.of(target)
                raise RefusedError(f"is the next page at {host}; name pages of that host instead")
            page = fetcher.fetch(target, self._temporary, former)
            if page.unchanged and not run.folder.take_former(page.sha256):
                # The stores have lost it.
                page = fetcher.fetch(target, self._temporary)
            self._outages = 0
            if not page.unchanged:
                run.folder.put(self._temporary, page.sha256)
            self._extract(page)
        except FetchError as error:
            self._outages = self._outages + 1 if error.is_outage else 0
            page.status, page.error = error.status, str(error)
        except (RefusedError, DocumentError) as error:
            page.error = str(error)
        return page

    def _extract(self, page: Page) -> None:
        run = self._run
        path: Path = run.folder.extract(page.url)
        rows: list[dict[str, Any]] = []
        if run.extractor is not None:
            with run.parsing:
                content = run.folder.content(page.sha256).read_bytes()
                extract = run.extractor.extract(content, page)
            # A longer one is refused when its turn comes.
            rows, page.next = extract.rows, extract.next[: MAX_URL + 1]
        page.rows = len(rows)
        columns = run.plan.content.columns if run.plan.content else ()
        page.matches = {
            column.name: sum(row[column.name] is not None for row in rows) for column in columns
        }
        with path.open("wb") as file:
            file.writelines(map(line_of, rows))
