"""Pages of lists: their sizes, and tokens of where the next one starts, bound to the filters.

A token consists of the place and a digest of the request without its fields of pages. It is no
secret: a place that a caller makes up is as good as one that was given out.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any, Final, Protocol

from vistaflow_services.core.errors import Violations


class PagedRequest(Protocol):
    """A request for a page of a list."""

    page_size: int
    page_token: str


_DIGEST_BYTES: Final = 12
_KEY_BYTES: Final = 8
_UNKNOWN: Final = "is not one that was given out; leave it empty to start"


def encode(key: int, request: PagedRequest) -> str:
    """The token of the page that starts after `key`."""
    return encode_keys((key,), request)


def encode_keys(keys: Sequence[int], request: PagedRequest) -> str:
    """The token of the page that starts after a place of several numbers, each below 2^63."""
    return _encode(b"".join(key.to_bytes(_KEY_BYTES, "big") for key in keys), request)


def encode_text(key: str, request: PagedRequest) -> str:
    """The token of the page that starts after an entry with a text as its key."""
    return _encode(key.encode(), request)


def decode(request: PagedRequest, violations: Violations) -> int | None:
    """The key that the request's token holds; None for the first page."""
    keys = decode_keys(request, 1, violations)
    return keys[0] if keys else None


def decode_keys(request: PagedRequest, count: int, violations: Violations) -> tuple[int, ...]:
    """The numbers that the request's token holds; none for the first page."""
    raw = _decode(request, violations)
    if not raw:
        return ()
    keys = tuple(
        int.from_bytes(raw[start : start + _KEY_BYTES], "big")
        for start in range(0, len(raw), _KEY_BYTES)
    )
    if len(raw) != count * _KEY_BYTES or max(keys) >= 2**63:
        violations.add("page_token", _UNKNOWN)
        return ()
    return keys


def decode_text(request: PagedRequest, violations: Violations) -> str:
    """The text that the request's token holds; empty for the first page."""
    try:
        return _decode(request, violations).decode()
    except UnicodeError:
        violations.add("page_token", _UNKNOWN)
        return ""


def size(request: PagedRequest, default: int, most: int, violations: Violations) -> int:
    """How many entries the page may hold.

    Args:
        request: Asks for the page.
        default: The number if it does not say; 0: as many as fit a message.
        most: The largest number that it may ask for.
        violations: Receives what is wrong.
    """
    count = request.page_size
    if not 0 <= count <= most:
        usual = f"{default:,}" if default else "as many as fit"
        violations.add("page_size", f"is {count:,}; give 1 to {most:,}, or 0 for {usual}")
        return default
    return count or default


def _encode(key: bytes, request: PagedRequest) -> str:
    return base64.urlsafe_b64encode(key + _digest(request)).decode().rstrip("=")


def _decode(request: PagedRequest, violations: Violations) -> bytes:
    """The key in the request's token; empty for the first page or if there is a mistake."""
    token = request.page_token
    if not token:
        return b""
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    key, digest = raw[:-_DIGEST_BYTES], raw[-_DIGEST_BYTES:]
    if not key:
        violations.add("page_token", _UNKNOWN)
        return b""
    if digest != _digest(request):
        violations.add("page_token", "was given out for other filters; leave it empty to start")
        return b""
    return key


def _digest(request: Any) -> bytes:
    """A digest of all fields that must be the same for every page."""
    lasting = type(request)()
    lasting.CopyFrom(request)
    for field in ("page_token", "page_size", "min_revision"):
        if field in lasting.DESCRIPTOR.fields_by_name:
            lasting.ClearField(field)
    text = type(request).__name__.encode() + lasting.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()[:_DIGEST_BYTES]
