"""Answered pages of kits and jobs that are too large for the cache of kits.

The first page of a kit is valid until a row of the kit comes. Later pages show the revision of the
first, which their tokens name, and so stay valid. The progress of jobs that workers run is in no
row; a page that shows it is not cached.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.lru import Lru
from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.log.hub import Hub

Key = bytes
"""A request in wire form."""


class PageCache:
    """The pages answered lately.

    Args:
        hub: Whose rows make first pages outdated.
        max_bytes: About how much memory they may take.
    """

    def __init__(self, hub: Hub, *, max_bytes: int) -> None:
        self._hub = hub
        self._max_bytes = max_bytes
        self._pages: Lru[Key, tuple[bytes, int]] = Lru(max_bytes, on_evict=self._unlist)
        """Pages and, of first pages, their kits; weighed in bytes."""
        self._first: dict[int, set[Key]] = {}
        self.hit_count = 0
        """Reads answered from memory."""
        hub.listen(self._advance, self.clear)

    def get(self, key: Key) -> bytes | None:
        """An answer in wire form, without its revision if it is a first page."""
        entry = self._pages.get(key)
        if entry is None:
            return None
        self.hit_count += 1
        return entry[0]

    def put(
        self, key: Key, page: bytes, *, kit_id: int, revision: int, jobs: Sequence[common.Job]
    ) -> None:
        """Keeps an answer, if it will hold.

        Args:
            key: The request.
            page: The answer.
            kit_id: The kit of a first page; 0 for one that follows.
            revision: As of when the answer is.
            jobs: The jobs in it.
        """
        if len(page) > self._max_bytes // 4:
            return
        if any(job.status == common.STATUS_RUNNING and not job.external for job in jobs):
            return
        if kit_id:
            missed = self._hub.rows_after(revision)
            if missed is None or any(row.kit_id == kit_id for row in missed):
                return
        self._drop(key)
        self._pages.put(key, (page, kit_id), len(page))
        if kit_id:
            self._first.setdefault(kit_id, set()).add(key)

    def clear(self) -> None:
        """Lets first pages go: rows were missed."""
        for kit_id in list(self._first):
            self._drop_first(kit_id)

    def _advance(self, rows: Sequence[StateRow]) -> None:
        if self._first:
            for kit_id in {row.kit_id for row in rows}:
                self._drop_first(kit_id)

    def _drop_first(self, kit_id: int) -> None:
        for key in list(self._first.get(kit_id, ())):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        page = self._pages.pop(key)
        if page is not None:
            self._unlist(key, page)

    def _unlist(self, key: Key, page: tuple[bytes, int]) -> None:
        """Removes a page that left from the first pages of its kit."""
        keys = self._first.get(page[1])
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._first[page[1]]


def key_of(request: pb.GetKitRequest | pb.GetJobRequest) -> Key:
    """What a request for a page is kept under: all of it but how new it must be."""
    unversioned = copy.deepcopy(request)
    unversioned.min_revision = 0
    return type(request).__name__.encode() + unversioned.SerializeToString(deterministic=True)
