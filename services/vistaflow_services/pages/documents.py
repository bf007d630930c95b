"""Pages as HTML or JSON: their text, their rows, and the next page.

HTML is read by lxml. It knows the end tags that HTML lets out, such as those of `li` and `td`, and
takes time in proportion to a page; Python's own parser does neither.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urljoin

import httpx
import soupsieve
from bs4 import BeautifulSoup, Tag
from bs4.dammit import EncodingDetector

from vistaflow_services.pages.plan import Column, Content, Page

Row = dict[str, Any]

_LABELS: Final = {
    **dict.fromkeys(("euc-kr", "euckr", "ks_c_5601-1987", "ks_c_5601", "korean"), "cp949"),
    **dict.fromkeys(("iso-8859-1", "latin1", "ascii", "us-ascii"), "windows-1252"),
    **dict.fromkeys(("gb2312", "gbk"), "gb18030"),
    **dict.fromkeys(("shift_jis", "shift-jis", "sjis"), "cp932"),
}
"""The encodings that browsers take for a name (WHATWG Encoding): they have more characters than
the standards of these names."""

_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_SPACES = re.compile(r"\s+")


class DocumentError(Exception):
    """A page that is not what it should be; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Extract:
    """What a page has."""

    rows: list[Row]
    next: str
    """The address of the next page; empty if there is none."""


class Extractor:
    """Reads the rows of pages.

    Args:
        content: Where they are.

    Raises:
        DocumentError: A selector or pattern is malformed.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._patterns = {
            index: compiled_pattern(column.pattern)
            for index, column in enumerate(content.columns)
            if column.pattern
        }
        if content.kind == "html":
            self._rows = compiled_selector(content.rows)
            self._next = compiled_selector(content.next) if content.next else None
            self._selectors = {
                index: compiled_selector(column.selector)
                for index, column in enumerate(content.columns)
                if column.selector
            }

    def extract(self, data: bytes, page: Page) -> Extract:
        """The rows of a page.

        Args:
            data: The page.
            page: What is known of it.

        Raises:
            DocumentError: It cannot be read.
        """
        try:
            if self._content.kind == "html":
                return self._html(data, page)
            return self._json(data, page)
        except RecursionError:
            raise DocumentError("is nested too deep") from None

    def _html(self, data: bytes, page: Page) -> Extract:
        with warnings.catch_warnings():  # that a page may be XML, or just an address
            warnings.simplefilter("ignore")
            soup = BeautifulSoup(text_of(data, page.content_type), "lxml")
        anchor = soup.find("base", href=True)
        base = _joined(page.base, _attribute(anchor, "href")) if anchor else page.base
        rows = [self._html_row(element, base, page) for element in self._rows.select(soup)]
        link = self._next.select_one(soup) if self._next else None
        href = _attribute(link, "href") if link else ""
        return Extract(rows=rows, next=_joined(base, href) if href else "")

    def _html_row(self, row: Tag, base: str, page: Page) -> Row:
        values: Row = {}
        for index, column in enumerate(self._content.columns):
            selector = self._selectors.get(index)
            element = selector.select_one(row) if selector else row
            text = None
            if element is not None:
                name = column.attribute
                text = _attribute(element, name) if name else element.get_text(" ")
            values[column.name] = self._value(index, column, text, base, page)
        return values

    def _json(self, data: bytes, page: Page) -> Extract:
        try:
            document = json.loads(
                text_of(data, page.content_type), parse_constant=_refuse, parse_float=_finite
            )
        except ValueError:
            raise DocumentError("is no JSON") from None
        records = _field(document, self._content.rows)
        if isinstance(records, Mapping) and not self._content.rows:
            records = [records]
        if not isinstance(records, list):
            raise DocumentError(f"has no list at `{self._content.rows or 'its root'}`")
        rows = [self._json_row(record, page) for record in records if isinstance(record, Mapping)]
        if len(rows) < len(records):
            raise DocumentError(f"has records at `{self._content.rows}` that are no objects")
        return Extract(rows=rows, next=self._json_next(document, page))

    def _json_row(self, record: Mapping[str, Any], page: Page) -> Row:
        if not self._content.columns:
            return dict(record)
        values: Row = {}
        for index, column in enumerate(self._content.columns):
            value = _field(record, column.selector or column.name)
            if column.type != "text" or column.pattern:
                text = None if value is None else value if isinstance(value, str) else _json(value)
                value = self._value(index, column, text, page.base, page)
            values[column.name] = value
        return values

    def _json_next(self, document: Any, page: Page) -> str:
        content = self._content
        value = _field(document, content.next) if content.next else None
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            if content.next_parameter:
                parameters = {content.next_parameter: str(value)}
                try:
                    return str(httpx.URL(page.base).copy_merge_params(parameters))
                except ValueError:
                    raise DocumentError(
                        f"has a value at `{content.next}` that is no text"
                    ) from None
            return _joined(page.base, str(value))
        if content.next_link and page.link:
            return _joined(page.base, page.link)
        return ""

    def _value(
        self, index: int, column: Column, text: str | None, base: str, page: Page
    ) -> str | float | int | None:
        if column.type == "page":
            return page.url
        if text is None:
            return None
        text = _SPACES.sub(" ", text).strip()
        if pattern := self._patterns.get(index):
            match = pattern.search(text)
            text = str(match[1 if pattern.groups else 0] or "") if match else ""
        if not text:
            return None
        if column.type == "url":
            return _joined(base, text)
        return _number(text) if column.type == "number" else text


def compiled_selector(text: str) -> soupsieve.SoupSieve:
    """A CSS selector.

    Raises:
        DocumentError: It is malformed.
    """
    try:
        return soupsieve.compile(text)
    except (soupsieve.SelectorSyntaxError, NotImplementedError, ValueError) as error:
        problem = str(error).splitlines()[0] if str(error) else "is malformed"
        raise DocumentError(f"is no CSS selector: {problem}") from None


def compiled_pattern(text: str) -> re.Pattern[str]:
    """A regular expression.

    Raises:
        DocumentError: It is malformed.
    """
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise DocumentError(f"is no regular expression: {error}") from None


def text_of(data: bytes, content_type: str) -> str:
    """The text of a page, by its mark, its header, what it says itself, or what fits.

    What is not valid in its encoding becomes U+FFFD.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "replace")
    match = _CHARSET.search(content_type)
    for label in (match[1] if match else "", _declared(data)):
        encoding = _LABELS.get(label.lower(), label)
        try:
            # Codecs of Python such as `zip` and `rot13` are none of texts.
            if label and codecs.lookup(encoding)._is_text_encoding:
                return data.decode(encoding, "replace")
        except (LookupError, UnicodeError):
            continue
    for encoding in ("utf-8", "cp949"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return data.decode("windows-1252", "replace")


def _declared(data: bytes) -> str:
    return EncodingDetector.find_declared_encoding(data[:4096], is_html=True) or ""


def _joined(base: str, text: str) -> str:
    """An address from where it is named; as it is if it is none."""
    try:
        return urljoin(base, text)
    except ValueError:
        return text


def _attribute(element: Any, name: str) -> str:
    value = element.get(name) or ""
    return value if isinstance(value, str) else " ".join(value)


def _number(text: str) -> int | float | None:
    match = _NUMBER.search(text)
    if match is None:
        return None
    digits = match[0].replace(",", "")
    return float(digits) if "." in digits or len(digits) > 15 else int(digits)


def _field(value: Any, path: str) -> Any:
    """The value at a path; None if there is none."""
    for step in path.split(".") if path else ():
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and len(step) < 9:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _finite(text: str) -> float | str:
    """A number; as text if it is too large for one."""
    value = float(text)
    return value if math.isfinite(value) else text


def _refuse(word: str) -> NoReturn:
    raise ValueError(word)
