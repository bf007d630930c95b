"""One page of one host.

    status               outcome
    200                  the page, written while it arrives
    301 302 303 307 308  the page that it names, if it is of the same host
    304                  the page of the collection before, if that was asked for and the ETag fits
    429 500 502 503 504  tried again, later; so is a host that does not answer
    others               an error

Memory: two blocks of 64 KiB, whatever a page decompresses to.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Final, Self

import httpx
from protego import Protego

from vistaflow_services.pages.hosts import (
    MALFORMED,
    CheckedTransport,
    Hosts,
    Place,
    RefusedError,
)
from vistaflow_services.pages.plan import Page, Plan

PRODUCT: Final = "vistaflow"
BLOCK: Final = 64 << 10
ROBOTS_BYTES: Final = 512_000
TRIES: Final = 3
BACKOFF_SECONDS: Final = 0.5
MAX_REDIRECTS: Final = 5
MAX_WAIT_SECONDS: Final = 120.0
"""Longest `Retry-After` that is waited for."""

_AGAIN: Final = (429, 500, 502, 503, 504)
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_MAX_HEADER: Final = 1_000


class FetchError(Exception):
    """A page that could not be fetched; the message says why.

    Args:
        message: Why.
        status: The status of the answer; 0 if there was none.
        after: Seconds after which another try may succeed; None if none would.
    """

    def __init__(self, message: str, status: int = 0, after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.after = status, after

    @property
    def is_outage(self) -> bool:
        """Whether other pages of the host would fail, too."""
        return self.after is not None or self.status == 429 or self.status >= 500


class Fetcher:
    """Fetches pages of one host, one after the other.

    Args:
        place: The host.
        hosts: The hosts that are allowed.
        plan: The limits.
        version: The version of the product, which its name for hosts has.
        stop: Ends every wait.
    """

    def __init__(
        self, place: Place, hosts: Hosts, plan: Plan, version: str, stop: threading.Event
    ) -> None:
        self._place, self._hosts, self._plan, self._stop = place, hosts, plan, stop
        self._robots: Protego | FetchError | None = None
        self.delay = plan.delay
        self._next_at = 0.0
        self._transport = CheckedTransport(hosts)
        self._client = httpx.Client(
            transport=self._transport,
            trust_env=False,
            timeout=httpx.Timeout(plan.timeout, connect=min(plan.timeout, 10.0)),
            headers={
                "User-Agent": f"{PRODUCT}/{version}",
                "Accept": "*/*",
                "Accept-Encoding": "gzip",
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def fetch(self, url: httpx.URL, target: Path, former: Page | None = None) -> Page:
        """Fetches a page.

        Args:
            url: Its address, which `Hosts` allows.
            target: The file that it is written to; none is if the page is unchanged.
            former: The page in the collection before, whose content is there.

        Raises:
            RefusedError: It must not be fetched.
            FetchError: It could not be fetched.
        """
        self._check_robots(url, target)
        page = self._fetch(url, target, former, self._plan.max_page_bytes)
        if former is not None and page.status == 304 and not _is_of(page.etag, former.etag):
            # "Not modified", and the ETag of other content: it is not that of the former page.
            return self._fetch(url, target, None, self._plan.max_page_bytes)
        return page

    def _check_robots(self, url: httpx.URL, scratch: Path) -> None:
        if self._robots is None:
            self._robots = self._read_robots(url.join("/robots.txt"), scratch)
        if isinstance(self._robots, FetchError):
            raise self._robots
        if not self._robots.can_fetch(str(url), PRODUCT):
            raise RefusedError(
                f"robots.txt of {self._place} forbids {PRODUCT} this page; leave it out, or ask "
                "the site for permission"
            )

    def _read_robots(self, url: httpx.URL, scratch: Path) -> Protego | FetchError:
        """What the host allows, or why nobody can know; asked for once."""
        text = ""
        try:
            self._fetch(url, scratch, None, ROBOTS_BYTES, robots=True)
            text = scratch.read_text("utf-8", "replace")
        except (FetchError, RefusedError) as error:
            status = error.status if isinstance(error, FetchError) else 0
            if not 400 <= status < 500 or status == 429:  # RFC 9309, 2.3.1.3 and 2.3.1.4
                problem = f"{url} cannot be read ({error}), so nothing may be collected"
                return FetchError(problem, status)
        finally:
            scratch.unlink(missing_ok=True)
        robots = Protego.parse(text)
        self.delay = max(self._plan.delay, robots.crawl_delay(PRODUCT) or 0.0)
        return robots

    def _fetch(
        self,
        url: httpx.URL,
        target: Path,
        former: Page | None,
        limit: int,
        *,
        robots: bool = False,
    ) -> Page:
        for number in range(1, TRIES + 1):
            try:
                return self._try(url, target, former, limit, robots=robots)
            except FetchError as error:
                if error.after is None or number == TRIES:
                    raise
                backoff = BACKOFF_SECONDS * 2 ** (number - 1) * random.uniform(1, 1.5)
                self._wait(max(backoff, error.after))
        raise AssertionError  # the last try returns or raises

    def _try(
        self, url: httpx.URL, target: Path, former: Page | None, limit: int, *, robots: bool
    ) -> Page:
        original = url
        for _ in range(MAX_REDIRECTS + 1):
            with self._answer(url, former) as answer:
                if answer.status_code not in _REDIRECTS:
                    return self._page(original, answer, target, former, limit)
                url = self._redirected(url, answer.headers.get("location", ""))
            if not robots:
                self._check_robots(url, target)
        raise FetchError(f"is redirected more than {MAX_REDIRECTS} times")

    def _redirected(self, url: httpx.URL, location: str) -> httpx.URL:
        try:
            target = url.join(location)
        except MALFORMED:
            raise FetchError("is redirected to what is no address") from None
        target = self._hosts.parse(str(target))
        place, source = Place.of(target), Place.of(url)
        secured = place.host == source.host and (source.port, place.port) == (80, 443)
        if (place != source or url.scheme != target.scheme) and not secured:
            raise RefusedError(f"is redirected to {place}; name pages of that host instead")
        return target

    @contextmanager
    def _answer(self, url: httpx.URL, former: Page | None) -> Iterator[httpx.Response]:
        """The beginning of an answer, in the host's rate."""
        self._wait(self._next_at - time.monotonic())
        headers = {}
        if former is not None and former.etag:
            headers["If-None-Match"] = former.etag
        if former is not None and former.last_modified:
            headers["If-Modified-Since"] = former.last_modified
        try:
            with self._limited(), self._client.stream("GET", url, headers=headers) as answer:
                yield answer
        except httpx.TimeoutException:
            silent = f"{self._place} did not answer for {self._plan.timeout:g} s"
            raise FetchError(silent, after=0.0) from None
        except (httpx.TransportError, httpx.StreamError) as error:
            # Its text would name the address; the kind of error says enough.
            problem = str(error) if isinstance(error, httpx.ConnectError) else ""
            what = problem if problem.startswith("the name") else type(error).__name__
            raise FetchError(f"{self._place} cannot be reached ({what})", after=0.0) from None
        finally:
            self._next_at = time.monotonic() + self.delay

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Ends what takes too long although the host is never silent."""
        seconds, late = 4 * self._plan.timeout, threading.Event()

        def end() -> None:
            late.set()
            self._transport.abort()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            yield
        except (httpx.HTTPError, FetchError):
            if not late.is_set():
                raise
        finally:
            timer.cancel()
        # Also without an error: a page without a length ends where its connection does.
        if late.is_set():
            raise FetchError(f"took longer than {seconds:g} s", after=0.0)

    def _wait(self, seconds: float) -> None:
        if self._stop.wait(max(0.0, seconds)):
            raise FetchError("was not fetched: the collection ended before")

    def _page(
        self, url: httpx.URL, answer: httpx.Response, target: Path, former: Page | None, limit: int
    ) -> Page:
        status = answer.status_code
        if status in _AGAIN:
            after = _retry_after(answer.headers.get("retry-after", ""))
            if after > MAX_WAIT_SECONDS:
                raise FetchError(
                    f"answers {status} and asks to come back in {after:,.0f} s", status
                )
            raise FetchError(f"answers {status}", status, after)
        if status == 304 and former is None:
            raise FetchError(
                "answers 304 (not modified) to a request without a condition; its cache is broken",
                status,
            )
        if status not in (200, 304):
            raise FetchError(f"answers {status}", status)
        page = Page(
            url=str(url),
            status=status,
            etag=_header(answer, "etag"),
            last_modified=_settled(answer),
            content_type=_header(answer, "content-type"),
            base=str(answer.request.url),
            link=str(answer.links.get("next", {}).get("url", "")),
            fetched_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if former is not None and status == 304:
            page.sha256, page.bytes, page.unchanged = former.sha256, former.bytes, True
            page.etag = page.etag or former.etag
            page.last_modified = page.last_modified or former.last_modified
            # These belong to the content, which is the former one.
            page.content_type, page.base, page.link = former.content_type, former.base, former.link
            return page
        with target.open("wb") as file:
            page.sha256, page.bytes = self._receive(answer, file, limit)
        page.unchanged = former is not None and former.sha256 == page.sha256
        return page

    def _receive(self, answer: httpx.Response, file: IO[bytes], limit: int) -> tuple[str, int]:
        """Writes what arrives; its SHA-256 and size."""
        digest, size = hashlib.sha256(), 0
        too_large = FetchError(f"is larger than {limit:,} bytes (max_page_bytes)")
        if int(answer.headers.get("content-length", "0")) > limit:
            raise too_large
        for block in _decoded(answer):
            size += len(block)
            if size > limit:
                raise too_large
            digest.update(block)
            file.write(block)
        return digest.hexdigest(), size


def _decoded(answer: httpx.Response) -> Iterator[bytes]:
    """The content in blocks of bounded size, also of a gzip that is almost all zeros."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        yield from answer.iter_raw(BLOCK)
        return
    if encoding not in ("gzip", "x-gzip"):
        raise FetchError(f"is compressed by `{encoding[:40]}`, which was not asked for")
    inflate = zlib.decompressobj(wbits=31)
    try:
        for block in answer.iter_raw(BLOCK):
            while block and not inflate.eof:
                yield inflate.decompress(block, BLOCK)
                block = inflate.unconsumed_tail
        while not inflate.eof and (rest := inflate.decompress(b"", BLOCK)):
            yield rest
    except zlib.error:
        raise FetchError("says that it is gzip but is not") from None
    if not inflate.eof:
        raise FetchError("is cut off in the middle", after=0.0)


def _is_of(etag: str, former: str) -> bool:
    """Whether an ETag may be that of the former content; weak ones have a prefix."""
    return not former or etag.removeprefix("W/") == former.removeprefix("W/")


def _header(answer: httpx.Response, name: str) -> str:
    """A header that can be recorded and sent back."""
    value: str = answer.headers.get(name, "")
    return value if len(value) <= _MAX_HEADER and value.isascii() and value.isprintable() else ""


def _settled(answer: httpx.Response) -> str:
    """When the page was last modified, if that identifies its content (RFC 9110, 8.8.2.2).

    The header counts whole seconds: a page of the very second of its answer may change once more
    in that second, and would then be taken for unchanged without end.
    """
    header = _header(answer, "last-modified")
    try:
        modified = parsedate_to_datetime(header)
        age = parsedate_to_datetime(answer.headers.get("date", "")) - modified
        return header if age.total_seconds() >= 1 else ""
    except (ValueError, TypeError):  # no date, or only one of them has a time zone
        return ""


def _retry_after(text: str) -> float:
    """Seconds that a host asks to wait."""
    if text.strip().isdecimal():
        return float(text[:12])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
