"""Recognises the ids of jobs, and finds them in packed specs.

The registry uses this to check the jobs that a caller of one project refers to, and workers use it
to find the results for an attempt: both must find the same ids in the same bytes.
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
    """All texts in a packed spec that may be a job's id, in upper or lower case.

    The bytes of a message contain its strings unchanged, so its type need not be known.
    """
    return {match[1].decode().lower() for match in _IDS.finditer(spec)}
