"""Pages of kits and jobs too large for the cache of kits, as they were answered.

The first page of a kit holds until a row of the kit comes. Those after it are as of the revision of
the first, and so hold for good: their tokens name it. What workers tell of running jobs beside the
log is in no row; a page that shows it is not kept.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.registry.domain import StateRow
from vistaflow_services.registry.hub import Hub

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
        self._pages: OrderedDict[Key, tuple[bytes, int]] = OrderedDict()
        self._first: dict[int, set[Key]] = {}
        self._bytes = 0
        self.hit_count = 0
        """Reads answered from memory."""
        hub.listen(self._advance, self.clear)

    def get(self, key: Key) -> bytes | None:
        """An answer in wire form, without its revision if it is a first page."""
        found = self._pages.get(key)
        if found is None:
            return None
        self.hit_count += 1
        self._pages.move_to_end(key)
        return found[0]

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
        self._pages[key] = page, kit_id
        self._bytes += len(page)
        if kit_id:
            self._first.setdefault(kit_id, set()).add(key)
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._pages)))

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
        page, kit_id = self._pages.pop(key, (b"", 0))
        self._bytes -= len(page)
        keys = self._first.get(kit_id)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._first[kit_id]


def key_of(request: pb.GetKitRequest | pb.GetJobRequest) -> Key:
    """What a request for a page is kept under: all of it but how new it must be."""
    asked = copy.deepcopy(request)
    asked.min_revision = 0
    return type(request).__name__.encode() + asked.SerializeToString(deterministic=True)
