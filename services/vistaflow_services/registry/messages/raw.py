"""Checks of requests in wire form, before they are parsed.

The time to parse a message depends less on its size than on the number of its entries: a map of
300,000 short keys, which fits the largest request, takes seconds. So the entries of requests that
could hold so many are counted in their bytes, up to the limit of each field. Rows to append are
parsed one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from vistaflow.api.common.v1 import common_pb2 as common
from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.errors import field_error
from vistaflow_services.core.names import MAX_LABELS
from vistaflow_services.core.rpc.request_size import Check, check_size, fields, unread_message
from vistaflow_services.registry.domain import (
    MAX_CAPACITY,
    MAX_JOBS_A_REQUEST,
    MAX_KIT_SPEC_BYTES,
    MAX_METADATA_BYTES,
    MAX_STATES_AN_APPEND,
)

SMALL_BYTES = 256 * 1024
"""Requests up to this size are parsed without checks; most methods refuse larger ones."""

STRUCT_BYTES_A_JSON_BYTE = 6
"""A Struct takes at most about so many bytes for one of JSON: `0,` takes 11."""

MAX_ENTRIES = 30_000
"""Entries of one object in a Struct: more JSON of 256 KiB cannot hold, less the keys repeat."""

_OBJECTS = re.compile(rb"\x2a[\x80-\xff]{2}[\x01-\x7f]").finditer
"""The tag of an object in a Value, and a length of 16 KiB or more."""

_METADATA = common.State.METADATA_FIELD_NUMBER
_JOBS = pb.CreateKitRequest.JOBS_FIELD_NUMBER
_KIT_LABELS = pb.CreateKitRequest.LABELS_FIELD_NUMBER
_KIT_SPEC = pb.CreateKitRequest.SPEC_FIELD_NUMBER
_JOB = pb.CreateJobRequest.JOB_FIELD_NUMBER
_JOB_LABELS = pb.NewJob.LABELS_FIELD_NUMBER
_REPLACEMENTS = pb.RetryKitRequest.REPLACEMENTS_FIELD_NUMBER
_HEARTBEAT = pb.LeaseJobsRequest.HEARTBEAT_FIELD_NUMBER
_SERVICE = pb.DESCRIPTOR.services_by_name["RegistryService"].full_name


Append = TypeVar("Append", pb.AppendStatesRequest, pb.StreamStatesRequest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows(Generic[Append]):
    """A large request to append: its rows are parsed one by one, and not in the event loop."""

    head: Append
    """The request without its rows."""
    data: bytes
    """The request in wire form."""
    places: tuple[tuple[int, int], ...]
    """Where its rows begin and end there."""

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.places)

    def states(self) -> Iterator[common.State]:
        """The rows.

        Raises:
            InvalidError: One is not a row, or its metadata is too large to be parsed.
        """
        for place, (start, end) in enumerate(self.places):
            for number, _, begin, over in fields(self.data, start, end):
                if number == _METADATA:
                    name = f"states[{place}].metadata"
                    _check_struct(self.data, begin, over, name, MAX_METADATA_BYTES)
            try:
                yield common.State.FromString(self.data[start:end])
            except DecodeError:
                name = f"states[{place}]"
                row = unread_message(common.State.DESCRIPTOR, self.data, start, end, name)
                raise row from None


def read_rows(kind: type[Append]) -> Callable[[bytes], Append | Rows[Append]]:
    """A parser of requests to append; it leaves the rows of a large request unparsed."""
    states = kind.DESCRIPTOR.fields_by_name["states"].number

    def read(data: bytes) -> Append | Rows[Append]:
        if len(data) <= SMALL_BYTES:
            return kind.FromString(data)
        places: list[tuple[int, int]] = []
        head = bytearray()
        copied = 0
        for number, place, start, end in fields(data):
            if number == states:
                if len(places) == MAX_STATES_AN_APPEND:
                    most = f"{MAX_STATES_AN_APPEND:,}"
                    raise field_error("states", f"has more than {most} rows; append 1 to {most}")
                head += data[copied:place]
                copied = end
                places.append((start, end))
        head += data[copied:]
        return Rows(head=kind.FromString(bytes(head)), data=data, places=tuple(places))

    return read


def checks() -> dict[str, Check]:
    """The check of the requests of each method of the service."""
    service = pb.DESCRIPTOR.services_by_name["RegistryService"]
    large: dict[str, Check] = {
        # These are parsed row by row; see `read_rows`.
        "AppendStates": lambda data: None,
        "StreamStates": lambda data: None,
        "CreateKit": _check_kit,
        "CreateJob": _check_job_request,
        "LeaseJobs": _check_lease,
        "RetryKit": _check_retry,
    }
    return {
        f"/{_SERVICE}/{method.name}": large.get(method.name) or _small(method.name)
        for method in service.methods
    }


def _small(name: str) -> Check:
    return lambda data: check_size(f"/{_SERVICE}/{name}", data, SMALL_BYTES)


def _check_kit(data: bytes) -> None:
    if len(data) <= SMALL_BYTES:
        return
    labels = jobs = 0
    for number, _, start, end in fields(data):
        if number == _KIT_LABELS:
            labels += 1
            _check_labels(labels, "labels")
        elif number == _KIT_SPEC:
            _check_struct(data, start, end, "spec", MAX_KIT_SPEC_BYTES)
        elif number == _JOBS:
            if jobs == MAX_JOBS_A_REQUEST:
                raise field_error("jobs", f"has more jobs than {jobs:,}; create fewer at once")
            _check_job(data, start, end, f"jobs[{jobs}]")
            jobs += 1


def _check_job_request(data: bytes) -> None:
    if len(data) <= SMALL_BYTES:
        return
    for number, _, start, end in fields(data):
        if number == _JOB:
            _check_job(data, start, end, "job")


def _check_retry(data: bytes) -> None:
    """Replacements of jobs may have specs of their own, such as a deck."""
    if len(data) <= SMALL_BYTES:
        return
    jobs = 0
    for number, _, start, end in fields(data):
        if number == _REPLACEMENTS:
            jobs += 1
            if jobs > MAX_JOBS_A_REQUEST:
                most = f"{MAX_JOBS_A_REQUEST:,}"
                raise field_error(
                    "replacements", f"has more jobs than {most}; replace fewer at once"
                )
        elif end - start > SMALL_BYTES:
            check_size(f"/{_SERVICE}/RetryKit", data, SMALL_BYTES)


def _check_lease(data: bytes) -> None:
    """A heartbeat of as many attempts as a worker may run is larger than most requests."""
    if len(data) <= SMALL_BYTES:
        return
    for number, _, start, end in fields(data):
        if number != _HEARTBEAT:
            check_size(f"/{_SERVICE}/LeaseJobs", data, SMALL_BYTES)
        for attempts, _ in enumerate(fields(data, start, end)):
            if attempts == MAX_CAPACITY:
                raise field_error("heartbeat.attempts", f"has more than {MAX_CAPACITY:,} entries")


def _check_job(data: bytes, start: int, end: int, field: str) -> None:
    # Each pair of labels has its tag: without many such bytes there are not many of them.
    if data.count(bytes([_JOB_LABELS << 3 | 2]), start, end) <= MAX_ENTRIES:
        return
    labels = 0
    for number, _, _, _ in fields(data, start, end):
        if number == _JOB_LABELS:
            labels += 1
            _check_labels(labels, f"{field}.labels")


def _check_labels(count: int, field: str) -> None:
    if count > MAX_LABELS:
        raise field_error(field, f"has more pairs than {MAX_LABELS}, which is the limit")


def _check_struct(data: bytes, start: int, end: int, field: str, limit: int) -> None:
    if end - start > limit * STRUCT_BYTES_A_JSON_BYTE:
        raise field_error(field, f"is larger than {limit // 1024} KiB as JSON")
    # A nested object begins with its tag and length; other bytes of this form hold no entries.
    objects = [(start, end)] + [(match.end(), end) for match in _OBJECTS(data, start, end)]
    if any(_has_many_entries(data, first, last) for first, last in objects):
        raise field_error(field, f"holds an object of more than {MAX_ENTRIES:,} entries")


def _has_many_entries(data: bytes, start: int, end: int) -> bool:
    """Whether there are more entries of a map in a row than are allowed."""
    expected = start
    for count, (number, place, _, over) in enumerate(fields(data, start, end)):
        if number != 1 or place != expected:
            return False
        if count == MAX_ENTRIES:
            return True
        expected = over
    return False
