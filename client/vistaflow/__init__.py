"""Client for the vistaflow services.

    with vistaflow.connect() as client:
        kit = client.run("kit.yaml")
        for event in client.watch(kit_ids=[kit.kit_id]):
            ...

`vistaflow.aio.connect()` is the same for asyncio.
"""

from vistaflow.aio.client import AsyncClient
from vistaflow.client import Client, connect
from vistaflow.errors import (
    AbortedError,
    AlreadyExistsError,
    CanceledError,
    DeadlineExceededError,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    KitFailedError,
    NotFoundError,
    OutOfRangeError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    VistaError,
)
from vistaflow.models import (
    Bookmark,
    Counts,
    Delta,
    Job,
    Kit,
    Prediction,
    Progress,
    Snapshot,
    State,
    Synced,
    WatchEvent,
)

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AsyncClient",
    "Bookmark",
    "CanceledError",
    "Client",
    "Counts",
    "DeadlineExceededError",
    "Delta",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "Job",
    "Kit",
    "KitFailedError",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "Prediction",
    "Progress",
    "ResourceExhaustedError",
    "Snapshot",
    "State",
    "Synced",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "VistaError",
    "WatchEvent",
    "connect",
]
