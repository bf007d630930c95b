"""Ids of jobs: what is one, and which a packed spec names.

The registry asks this before it lets a caller of one project refer to jobs, and the workers ask it
to find what they hand to an attempt: both must find the same ids in the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

SLICE_BYTES = 256 * 1024
"""How much of a spec is searched at a time, in about 30 ms at worst."""

_ID_LENGTH = 36
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Within a lookahead, so that no match hides another one that begins inside it.
_IDS = re.compile(rb"(?=([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}))")


def is_job_id(text: str) -> bool:
    """Whether a text is a job's id as the registry writes it."""
    return _ID.fullmatch(text) is not None


def slices(spec: bytes) -> Iterator[bytes]:
    """A packed spec in slices to be searched one by one; no id is cut apart."""
    for start in range(0, len(spec), SLICE_BYTES):
        yield spec[start : start + SLICE_BYTES + _ID_LENGTH - 1]


def job_ids_in(spec: bytes) -> set[str]:
    """Whatever may be a job's id in a packed spec, whichever case its letters have.

    The strings of a message lie in its bytes as they are, so its type need not be known.
    """
    return {match[1].decode().lower() for match in _IDS.finditer(spec)}
