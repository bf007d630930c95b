"""Client for the vistaflow services.

    with vistaflow.connect() as client:
        kit = client.run("kit.yaml")
        for event in client.watch(kit_ids=[kit.kit_id]):
            ...

`vistaflow.aio.connect()` is the same for asyncio.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# gRPC reads this when it is imported. Its own fork handlers run concurrently with its threads and
# crash some children, even those that do not use gRPC; see `forks`.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

if TYPE_CHECKING:
    from vistaflow.aio.client import AsyncClient
    from vistaflow.client import Client, connect
    from vistaflow.errors import (
        AbortedError,
        AlreadyExistsError,
        CanceledError,
        DeadlineExceededError,
        FailedPreconditionError,
        FieldViolation,
        ForkedError,
        InternalError,
        InvalidArgumentError,
        KitFailedError,
        NotFoundError,
        OutOfRangeError,
        PermissionDeniedError,
        RefusedRow,
        ResourceExhaustedError,
        RowsRefusedError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
        VistaError,
    )
    from vistaflow.models import (
        Appended,
        AppendResult,
        Bookmark,
        Counts,
        Delta,
        Job,
        Kit,
        KitDiff,
        ManyJobs,
        Prediction,
        Progress,
        Snapshot,
        State,
        StateChange,
        Synced,
        WatchEvent,
    )
    from vistaflow.streaming import StateStream

_HOMES = {
    "AbortedError": "vistaflow.errors",
    "AlreadyExistsError": "vistaflow.errors",
    "AppendResult": "vistaflow.models",
    "Appended": "vistaflow.models",
    "AsyncClient": "vistaflow.aio.client",
    "Bookmark": "vistaflow.models",
    "CanceledError": "vistaflow.errors",
    "Client": "vistaflow.client",
    "Counts": "vistaflow.models",
    "DeadlineExceededError": "vistaflow.errors",
    "Delta": "vistaflow.models",
    "FailedPreconditionError": "vistaflow.errors",
    "FieldViolation": "vistaflow.errors",
    "ForkedError": "vistaflow.errors",
    "InternalError": "vistaflow.errors",
    "InvalidArgumentError": "vistaflow.errors",
    "Job": "vistaflow.models",
    "Kit": "vistaflow.models",
    "KitDiff": "vistaflow.models",
    "KitFailedError": "vistaflow.errors",
    "ManyJobs": "vistaflow.models",
    "NotFoundError": "vistaflow.errors",
    "OutOfRangeError": "vistaflow.errors",
    "PermissionDeniedError": "vistaflow.errors",
    "Prediction": "vistaflow.models",
    "Progress": "vistaflow.models",
    "RefusedRow": "vistaflow.errors",
    "ResourceExhaustedError": "vistaflow.errors",
    "RowsRefusedError": "vistaflow.errors",
    "Snapshot": "vistaflow.models",
    "State": "vistaflow.models",
    "StateChange": "vistaflow.models",
    "StateStream": "vistaflow.streaming",
    "Synced": "vistaflow.models",
    "UnauthenticatedError": "vistaflow.errors",
    "UnavailableError": "vistaflow.errors",
    "UnimplementedError": "vistaflow.errors",
    "VistaError": "vistaflow.errors",
    "WatchEvent": "vistaflow.models",
    "connect": "vistaflow.client",
}
"""Where each name is defined: the protos alone are to be had without the whole client."""


def __getattr__(name: str) -> Any:
    if name == "aio":
        return importlib.import_module("vistaflow.aio")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "AppendResult",
    "Appended",
    "AsyncClient",
    "Bookmark",
    "CanceledError",
    "Client",
    "Counts",
    "DeadlineExceededError",
    "Delta",
    "FailedPreconditionError",
    "FieldViolation",
    "ForkedError",
    "InternalError",
    "InvalidArgumentError",
    "Job",
    "Kit",
    "KitDiff",
    "KitFailedError",
    "ManyJobs",
    "NotFoundError",
    "OutOfRangeError",
    "PermissionDeniedError",
    "Prediction",
    "Progress",
    "RefusedRow",
    "ResourceExhaustedError",
    "RowsRefusedError",
    "Snapshot",
    "State",
    "StateChange",
    "StateStream",
    "Synced",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "VistaError",
    "WatchEvent",
    "connect",
]
