"""Page tokens: where the next page starts, bound to the filters of the first."""

from __future__ import annotations

import base64
import binascii
import hashlib

from google.protobuf.message import Message

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import Violations

ListRequest = pb.ListKitsRequest | pb.ListJobsRequest | pb.ListStatesRequest | pb.ListTokensRequest

_DIGEST_BYTES = 12
_KEY_BYTES = 8


def encode(key: int, request: ListRequest) -> str:
    """The token of the page that starts after `key`."""
    raw = key.to_bytes(_KEY_BYTES, "big") + _digest(request)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode(request: ListRequest, violations: Violations) -> int | None:
    """The key that the request's token holds; None for the first page."""
    token = request.page_token
    if not token:
        return None
    try:
        raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES + _DIGEST_BYTES:
        violations.add("page_token", "is not one that was given out; leave it empty to start")
        return None
    if raw[_KEY_BYTES:] != _digest(request):
        violations.add("page_token", "was given out for other filters; leave it empty to start")
        return None
    return int.from_bytes(raw[:_KEY_BYTES], "big")


def size(request: ListRequest, default: int, most: int, violations: Violations) -> int:
    """How many entries the page may hold."""
    asked = request.page_size
    if asked < 0 or asked > most:
        violations.add("page_size", f"is {asked:,}; give 1 to {most:,}, or 0 for {default:,}")
        return default
    return asked or default


def _digest(request: Message) -> bytes:
    """Of everything that must stay the same from page to page."""
    kept = type(request)()
    kept.CopyFrom(request)
    for field in ("page_token", "page_size", "min_revision"):
        if field in kept.DESCRIPTOR.fields_by_name:
            kept.ClearField(field)
    text = type(request).__name__.encode() + kept.SerializeToString(deterministic=True)
    return hashlib.sha256(text).digest()[:_DIGEST_BYTES]
