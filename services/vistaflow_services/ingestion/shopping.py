"""Summaries of purchases, each made by a process of its own.

The process ends with the call: when the caller cancels, or the deadline is over, it is killed. So
a large file costs the service neither time nor memory. As a program the module reads one request
from standard input and writes one answer to standard output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import sys
from dataclasses import asdict
from typing import Any

from vistaflow._machine.interpreter import module_command
from vistaflow_services.core.errors import (
    InvalidError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from vistaflow_services.core.lru import Lru
from vistaflow_services.ingestion.inputs import opened, source_of
from vistaflow_services.stores.roots import Input
from vistaflow_services.tables.shopping import ShoppingSummary, summarize_shopping
from vistaflow_services.tables.sources import Aes

logger = logging.getLogger(__name__)

MAX_CALLS = 4
"""Summaries that are made at once; others wait."""

MAX_CACHED = 1_000
"""Summaries that are remembered, of files that have not changed since."""

Key = tuple[object, ...]


class Summaries:
    """Makes summaries, and remembers them for as long as their file does not change."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(MAX_CALLS)
        self._cache: Lru[Key, ShoppingSummary] = Lru(MAX_CACHED)

    async def summary(
        self, entry: Input, aes: Aes | None, user_id: str, proposal_id: str
    ) -> ShoppingSummary:
        """The summary of one user under one proposal.

        Args:
            entry: The file.
            aes: Its key, if it is encrypted.
            user_id: The user.
            proposal_id: The proposal.

        Raises:
            InvalidError: The file is no JSON, or its key is wrong.
            NotFoundError: The file, or the user in it, is not there.
        """
        key = (await asyncio.to_thread(_identity, entry), aes, user_id, proposal_id)
        summary = self._cache.get(key)
        if summary is None:
            async with self._places:
                summary = await _summarized(entry, aes, user_id, proposal_id)
            self._cache.put(key, summary)
        return summary


def _identity(entry: Input) -> Key:
    """What changes when the file does."""
    if entry.root.folder is None:
        return (entry.url, object())  # objects of buckets are read again each time
    with opened(entry):
        status = (entry.root.folder / entry.path).stat()
    return (entry.name, status.st_ino, status.st_size, status.st_mtime_ns)


async def _summarized(
    entry: Input, aes: Aes | None, user_id: str, proposal_id: str
) -> ShoppingSummary:
    process = await asyncio.create_subprocess_exec(
        *module_command(__name__),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        request = pickle.dumps((entry, aes, user_id, proposal_id))
        output, errors = await process.communicate(request)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        logger.error("a summary ended with status %s: %s", process.returncode, errors.decode())
        raise ServiceError("the summary could not be made; see the service's log")
    answer: dict[str, Any] = json.loads(output)
    if "error" in answer:
        kinds = {kind.code: kind for kind in (NotFoundError, UnavailableError)}
        raise kinds.get(answer["code"], InvalidError)(answer["error"], reason=answer["reason"])
    categories = {name: tuple(names) for name, names in answer["categories"].items()}
    return ShoppingSummary(months=tuple(answer["months"]), categories=categories)


def main() -> None:
    """Answers the request on standard input."""
    # Written by the service itself, so it is safe to unpickle.
    entry, aes, user_id, proposal_id = pickle.loads(sys.stdin.buffer.read())
    try:
        source = source_of(entry, aes)
        answer: dict[str, Any] = asdict(
            summarize_shopping(source, user_id=user_id, proposal_id=proposal_id)
        )
    except ServiceError as error:
        answer = {"error": error.message, "code": error.code, "reason": error.reason}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
