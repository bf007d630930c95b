"""What the database's errors mean for whoever asked, and which of them are worth another try."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg import errors
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from vistaflow_services.core.errors import (
    DataLossError,
    ExhaustedError,
    ServiceError,
    TooSlowError,
    UnavailableError,
)

CONFLICTS: Final = (errors.SerializationFailure, errors.DeadlockDetected)
"""Of two that stood in each other's way this one was told to step back and do it again."""

_AWAY: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, and those opened with it most likely as well."""
    if isinstance(error, PoolTimeout | PoolClosed | TooManyRequests):
        # There was no connection at all.
        return False
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        state = error.sqlstate
        return state is None or state.startswith("08") or isinstance(error, _AWAY)
    return isinstance(error, _AWAY)


def is_blocked(error: psycopg.Error) -> bool:
    """Whether a row that the registry did not write has the id of its next one."""
    table = error.diag.table_name or ""
    return isinstance(error, errors.UniqueViolation) and table.startswith("mlops_totalstate_")


def told(error: psycopg.Error) -> ServiceError | psycopg.Error:
    """What to tell who asked; the error itself if it is a bug of ours."""
    match error:
        case TooManyRequests():
            return ExhaustedError(
                "too many requests wait for the database; try again later",
                reason="TOO_BUSY",
                retry_after=1.0,
            )
        case errors.QueryCanceled():
            return TooSlowError("the database took too long; narrow the filters, or try again")
        case errors.LockNotAvailable():
            return UnavailableError(
                "others keep what is asked for locked; try again", reason="LOCKED"
            )
        case errors.UniqueViolation() if is_blocked(error):
            return UnavailableError(
                "the log has rows beyond its end, so nothing can be recorded; `vistaflow doctor` "
                "tells the operator what to do",
                reason="LOG_BLOCKED",
            )
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return DataLossError(
                "the database found its files damaged: what is asked for cannot be read. Restore "
                "a backup, or mend the database; its log tells which file it is"
            )
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, *_AWAY)):
        return UnavailableError("the database is not there now; try again")
    return error
