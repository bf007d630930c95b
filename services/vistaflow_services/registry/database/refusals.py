"""What errors of the database mean for a caller, and which statements are worth a repeat."""

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
"""The database ended this one of two transactions that conflict; a repeat may succeed."""

_AWAY: Final = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)


def is_lost(error: BaseException) -> bool:
    """Whether the connection is lost, and most likely those opened at the same time as well."""
    if isinstance(error, PoolTimeout | PoolClosed | TooManyRequests):
        # No connection was opened, so none can be lost.
        return False
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        state = error.sqlstate
        return state is None or state.startswith("08") or isinstance(error, _AWAY)
    return isinstance(error, _AWAY)


def is_blocked(error: psycopg.Error) -> bool:
    """Whether a row that the registry did not write has the id of the registry's next row."""
    table = error.diag.table_name or ""
    return isinstance(error, errors.UniqueViolation) and table.startswith("mlops_totalstate_")


def error_for(error: psycopg.Error) -> ServiceError | psycopg.Error:
    """The error for the caller; the same error if it shows a bug of the registry."""
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
                "other transactions hold locks that this call needs; try again", reason="LOCKED"
            )
        case errors.UniqueViolation() if is_blocked(error):
            return UnavailableError(
                "the log has rows beyond its end, so nothing can be recorded; `vistaflow doctor` "
                "says what to do",
                reason="LOG_BLOCKED",
            )
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return DataLossError(
                "the database found its files damaged: what is asked for cannot be read. Restore "
                "a backup, or repair the database; its log tells which file it is"
            )
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError, *_AWAY)):
        return UnavailableError("the database is not there now; try again")
    return error
