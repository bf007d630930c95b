"""How large a message may be, in and out: one rule for every service.

By default a gRPC client refuses messages of more than 4 MiB. So no message that the suite sends is
larger than `MESSAGE_BYTES`, which leaves a margin for the enclosing message, and requests that
could lead to a larger one are refused. docs/limits.md has the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

KIBIBYTE = 1024
MEBIBYTE = 1024 * KIBIBYTE

STOCK_BYTES = 4 * MEBIBYTE
"""Largest message that a gRPC client accepts by default."""

MESSAGE_BYTES = STOCK_BYTES - 256 * KIBIBYTE
"""Largest message sent. The rest is for the enclosing message, such as the name of a watch."""

RECEIVE_BYTES = 20 * MEBIBYTE
"""Largest message received. So the suite itself refuses a request beyond its limit, under the
field; the gRPC library knows neither the field nor the remedy."""

REQUEST_BYTES = MESSAGE_BYTES
"""Largest request."""

NESTING = 31
"""Levels of objects and lists in JSON, the outermost included. Protobuf readers give up after 100
nested messages; a level takes up to three, and the messages around it up to six."""

METADATA_BYTES = 64 * KIBIBYTE
"""Metadata of one row, as JSON. As a Struct it takes up to 5.5 times as much."""

KIT_SPEC_BYTES = 256 * KIBIBYTE
"""The spec of a kit, as JSON."""

JOB_SPEC_BYTES = 2 * MEBIBYTE
"""The spec of a job."""

JOB_BYTES = JOB_SPEC_BYTES + 512 * KIBIBYTE
"""A job as it is made, with the names of what it depends on. Beside it in a message there is room
for its result and, in a grant, for those of the jobs it depends on."""

KIT_BYTES = MESSAGE_BYTES - 64 * KIBIBYTE
"""A kit as it is made, with its jobs and what the registry adds to them."""

APPEND_BYTES = MESSAGE_BYTES - 64 * KIBIBYTE
"""Rows of one append as they are delivered, in one message, together with the counts of kits."""

ROW_BYTES = 64
"""What the registry adds to a row, beside its actor: revision, kit, order, attempt, time."""

MANIFEST_BYTES = 2 * MEBIBYTE
"""The manifest of a version of a dataset, as JSON, in and out."""

PROFILE_BYTES = MEBIBYTE + 256 * KIBIBYTE
"""The profile of a version, as JSON. A manifest, a profile and a report fit one request."""

REPORT_BYTES = 256 * KIBIBYTE
"""The report on a version, as JSON."""

ANSWER_BYTES = 128 * KIBIBYTE
"""The answer to a change, which is made and kept, for repeats of the request, with its commit."""

ENTRY_BYTES = 12
"""What a part of a message takes beside its own bytes: its tag and length, with room to spare."""

Entry = TypeVar("Entry")
Part = TypeVar("Part", bound=Message)


def fitting(
    entries: Sequence[Entry], make: Callable[[Entry], Part], limit: int = MESSAGE_BYTES
) -> list[Part]:
    """The messages of the first entries, as many as fit one message; the first in any case.

    Args:
        entries: What to send, in order.
        make: Makes the message of one.
        limit: Bytes there are for all of them.
    """
    parts: list[Part] = []
    room = limit
    for entry in entries:
        part = make(entry)
        room -= part.ByteSize() + ENTRY_BYTES
        if room < 0 and parts:
            break
        parts.append(part)
    return parts


def size_of(texts: Iterable[str]) -> int:
    """Bytes that texts take in a message, each with its tag and length."""
    return sum(len(text.encode()) + 6 for text in texts)


def is_deep(value: Any, levels: int = NESTING) -> bool:
    """Whether objects and lists of JSON are nested more than so many levels deep."""
    if isinstance(value, dict):
        return not levels or any(is_deep(item, levels - 1) for item in value.values())
    if isinstance(value, list):
        return not levels or any(is_deep(item, levels - 1) for item in value)
    return False
