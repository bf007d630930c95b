"""What a collection is to do, and what is recorded of a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

PAGES: Final = "pages.jsonl"
"""The manifest of the pages of a collection."""

MAX_URL: Final = 8_000
"""Longest address of a page."""

MAX_LISTED_TEXT: Final = 500
"""Longest address, and longest reason, of a failed page in a list."""

Kind = Literal["text", "number", "url", "page"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of rows."""

    name: str
    selector: str = ""
    attribute: str = ""
    type: Kind = "text"
    pattern: str = ""
    optional: bool = False
    """Whether it may have no value on any page."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """Where the rows of a page are, and the next page."""

    kind: Literal["html", "json"]

    rows: str
    """HTML: a CSS selector. JSON: the path of the list of records."""

    columns: tuple[Column, ...] = ()
    next: str = ""
    """HTML: a CSS selector of a link. JSON: the path of a field."""

    next_parameter: str = ""
    next_link: bool = False


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbered pages."""

    url: str
    first: int = 1
    last: int | None = None

    def page(self, number: int) -> str:
        """The address of a page."""
        return self.url.replace("{page}", str(number))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a collection is to do."""

    urls: tuple[str, ...] = ()
    numbers: Numbers | None = None
    content: Content | None = None
    format: Literal["jsonl", "parquet"] = "jsonl"
    max_pages: int = 1_000
    max_page_bytes: int = 10_000_000
    max_bytes: int = 10_000_000_000
    """Bytes of all pages together."""

    max_failed_share: float = 0.1
    delay: float = 1.0
    """Least seconds between two requests to one host."""

    timeout: float = 30.0
    """Seconds that a host may be silent; a whole page may take four times as long."""


@dataclass(kw_only=True)
class Page:
    """A page as manifests have it, one a line of JSON."""

    url: str
    status: int = 0
    etag: str = ""
    last_modified: str = ""
    content_type: str = ""
    base: str = ""
    """Its address after redirects."""

    link: str = ""
    """The next page by the header `Link`."""

    sha256: str = ""
    bytes: int = 0
    """Its size, decompressed."""

    fetched_at: str = ""
    unchanged: bool = False
    """Whether it is as in the collection before."""

    rows: int = 0
    matches: Mapping[str, int] = field(default_factory=dict)
    """In how many rows each column has a value."""

    next: str = ""
    error: str = ""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """A page of a line; keys that another version wrote are ignored."""
        return cls(**{key: document[key] for key in cls.__dataclass_fields__ if key in document})

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def failures(pages: Sequence[Page]) -> list[dict[str, str]]:
    """The pages that failed, with the reason, as text that no terminal runs."""
    return [
        {"url": _printable(page.url), "error": _printable(page.error)}
        for page in pages
        if page.error
    ]


def _printable(text: str) -> str:
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for character in text[:MAX_LISTED_TEXT]
    )


def read_pages(path: Path) -> Iterator[Page]:
    """The pages of a manifest."""
    with path.open("rb") as file:
        for line in file:
            yield Page.read(json.loads(line))
