"""Several stores as one, with a number of copies of every blob.

Rendezvous hashing: each pair of store and blob has a score, and a blob belongs to the stores with
the highest scores. Nothing is recorded about places: any reader computes them from the names, and
a store that is added or removed changes the places of its own share of the blobs only. A store's
name therefore must stay the same when its URL changes.

    a store is down   what happens
    write             the next store in the order of scores takes the copy
    read              the next copy is read, from the byte that was reached
    delete            the reachable copies are removed, then it is an error: delete again later
    list              an error: missing blobs would look removed
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from vistaflow_services.core.errors import (
    DataLossError,
    ExhaustedError,
    NotFoundError,
    ServiceError,
    UnavailableError,
    field_error,
)
from vistaflow_services.stores.blobs import (
    Blob,
    BlobStore,
    Probe,
    Stored,
    checked_sha256,
    missing,
    unavailable,
)
from vistaflow_services.stores.sweep import References, batches

_ABSENT = (NotFoundError, DataLossError, UnavailableError)
"""Why the next copy is read."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What a repair did."""

    blob_count: int = 0
    """Referenced blobs that were looked at."""

    restored_count: int = 0
    """Copies that were missing or damaged and are there again."""

    lost: tuple[str, ...] = ()
    """Blobs without an undamaged copy in any store."""


class CopiesStore(BlobStore):
    """A store over several others."""

    def __init__(self, stores: Sequence[BlobStore], copies: int) -> None:
        """Combines stores.

        Args:
            stores: At least one; names must differ.
            copies: How many stores have each blob, from 1 to the number of stores.

        Raises:
            InvalidError: The names or the number of copies are impossible.
        """
        names = [store.name for store in stores]
        if not names or len(set(names)) < len(names):
            raise field_error("stores", "must be one or more different names")
        if not 1 <= copies <= len(names):
            raise field_error(
                "copies", f"is {copies}; with {len(names)} stores it is 1 to {len(names)}"
            )
        self.name = "+".join(names)
        self._stores = tuple(stores)
        self._copies = copies

    def ranked(self, sha256: str) -> tuple[BlobStore, ...]:
        """The stores in the order in which they take a blob; the first `copies` are its places."""

        def score(store: BlobStore) -> bytes:
            return hashlib.sha256(f"{store.name}\n{sha256}".encode()).digest()

        return tuple(sorted(self._stores, key=score, reverse=True))

    def place(self, blob: Blob, path: Path, *, replace: bool = False) -> None:
        """Stores the copies; a store that is down is replaced by the next one in rank."""
        written, failures = 0, list[ServiceError]()
        for store in self.ranked(blob.sha256):
            try:
                store.place(blob, path, replace=replace)
            except (UnavailableError, ExhaustedError) as error:
                failures.append(error)
                continue
            written += 1
            if written == self._copies:
                return
        reasons = "; ".join(error.message for error in failures)
        raise unavailable(
            self.name, f"has {written} of {self._copies} copies of a new blob: {reasons}"
        )

    def _pieces(self, sha256: str, offset: int, count: int) -> Iterator[bytes]:
        for store in self._readers(sha256):
            with contextlib.suppress(*_ABSENT):
                for piece in store.read(sha256, offset=offset, length=count):
                    # A range is not verified by the store, `read` verifies the whole.
                    offset, count = offset + len(piece), count - len(piece)
                    yield piece
            if not count:
                return
        raise missing(sha256, self.name)

    def _readers(self, sha256: str) -> Iterator[BlobStore]:
        """The stores that have a blob of the size that most copies have."""
        copies = [(store, stored) for store, stored in self._copies_of(sha256) if stored]
        sizes = [stored.size_bytes for _, stored in copies]
        return (store for store, stored in copies if stored.size_bytes == _most_frequent(sizes))

    @contextlib.contextmanager
    def fetch(self, sha256: str, folder: Path) -> Iterator[Path]:
        """The first verified copy, by rank."""
        with contextlib.ExitStack() as stack:
            yield self._fetched(sha256, folder, stack)

    def _fetched(self, sha256: str, folder: Path, stack: contextlib.ExitStack) -> Path:
        failure: ServiceError = missing(sha256, self.name)
        for store in self.ranked(sha256):
            try:
                return stack.enter_context(store.fetch(sha256, folder))
            except _ABSENT as error:
                # That a copy is damaged, or a store down, says more than that one has no copy.
                failure = failure if isinstance(error, NotFoundError) else error
        raise failure

    def location(self, sha256: str, folder: Path) -> tuple[Path, ...]:
        """What any of the stores may yield."""
        paths = (store.location(sha256, folder) for store in self._stores)
        return tuple(dict.fromkeys(itertools.chain.from_iterable(paths)))

    def _copies_of(self, sha256: str) -> Iterator[tuple[BlobStore, Stored | None]]:
        """The stores that answer, by rank, each with what it has.

        Raises:
            UnavailableError: None answers.
        """
        failure, answered = None, False
        for store in self.ranked(checked_sha256(sha256)):
            try:
                stored = store.stat(sha256)
            except UnavailableError as error:
                failure = error
                continue
            answered = True
            yield store, stored
        if failure and not answered:
            raise failure

    def stat(self, sha256: str) -> Stored | None:
        """What the reachable copies say; the age is that of the youngest."""
        copies = [stored for _, stored in self._copies_of(sha256) if stored]
        return _merged(copies) if copies else None

    def delete(self, sha256: str) -> None:
        """Removes all copies; an error if a store is down, whose copy remains."""
        self._everywhere(lambda store: store.delete(sha256))

    def blobs(self) -> Iterator[Stored]:
        """The blobs of all stores, each once."""
        for group in self._listed():
            yield _merged([stored for _, stored in group])

    def _listed(self) -> Iterator[list[tuple[BlobStore, Stored]]]:
        """The copies of each blob, in the order of hashes; one listing of each store is open."""

        def listing(store: BlobStore) -> Iterator[tuple[BlobStore, Stored]]:
            return ((store, stored) for stored in store.blobs())

        merged = heapq.merge(*map(listing, self._stores), key=lambda copy: copy[1].sha256)
        for _, group in itertools.groupby(merged, key=lambda copy: copy[1].sha256):
            yield list(group)

    def probe(self) -> tuple[Probe, ...]:
        """Probes each store."""
        probes: list[Probe] = []
        self._everywhere(lambda store: probes.extend(store.probe()))
        return tuple(probes)

    def remove_leftovers(self, grace: timedelta) -> int:
        """Removes those of each store."""
        counts = list[int]()
        self._everywhere(lambda store: counts.append(store.remove_leftovers(grace)))
        return sum(counts)

    def repair(self, references: References, folder: Path, *, verify: bool = False) -> Repair:
        """Restores the missing copies of referenced blobs.

        Unreferenced blobs are left alone: among them may be records that were forgotten while
        their store was down. Copies in stores that are no longer a blob's places remain.

        Args:
            references: Which of a batch of blobs are referred to by a manifest.
            folder: Where blobs are downloaded to, one at a time.
            verify: Whether every copy is read and compared with its hash; otherwise only copies
                that are missing or of another size are found.

        Raises:
            UnavailableError: A store does not answer; copies restored before stay.
        """
        repair = Repair()
        for batch in batches(self._listed()):
            used = set(references([group[0][1].sha256 for group in batch]))
            for group in batch:
                if group[0][1].sha256 in used:
                    repair = self._restore(repair, group, folder, verify=verify)
        return repair

    def _restore(
        self,
        repair: Repair,
        group: list[tuple[BlobStore, Stored]],
        folder: Path,
        *,
        verify: bool,
    ) -> Repair:
        sha256 = group[0][1].sha256
        sizes = {store.name: stored.size_bytes for store, stored in group}
        complete = len(set(sizes.values())) == 1
        places = self.ranked(sha256)[: self._copies]
        count = repair.blob_count + 1
        if complete and not verify and all(store.name in sizes for store in places):
            return Repair(blob_count=count, restored_count=repair.restored_count, lost=repair.lost)
        restored, lost = 0, repair.lost
        try:
            with self.fetch(sha256, folder) as path:
                blob = Blob(sha256=sha256, size_bytes=path.stat().st_size)
                for store in places:
                    intact = sizes.get(store.name) == blob.size_bytes and (
                        not verify or _intact(store, sha256)
                    )
                    if not intact:
                        store.place(blob, path, replace=True)
                        restored += 1
        except DataLossError:
            lost = (*lost, sha256)
        return Repair(blob_count=count, restored_count=repair.restored_count + restored, lost=lost)

    def _everywhere(self, action: Callable[[BlobStore], None]) -> None:
        """Does the same in every store, then raises the first error of a store that is down."""
        failure = None
        for store in self._stores:
            try:
                action(store)
            except UnavailableError as error:
                failure = failure or error
        if failure:
            raise failure


def _intact(store: BlobStore, sha256: str) -> bool:
    try:
        for _ in store.read(sha256):
            pass
    except (NotFoundError, DataLossError):
        return False
    return True


def _most_frequent(sizes: list[int]) -> int:
    return max(sizes, key=sizes.count)


def _merged(copies: list[Stored]) -> Stored:
    newest = max(stored.modified_at for stored in copies)
    size = _most_frequent([stored.size_bytes for stored in copies])
    return Stored(sha256=copies[0].sha256, size_bytes=size, modified_at=newest)
