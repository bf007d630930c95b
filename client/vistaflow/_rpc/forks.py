"""Processes forked from one that has used gRPC.

The child has none of gRPC's threads, so gRPC would wait for them without end. In a fork a client
raises `ForkedError`, and the parent's gRPC objects are never finalized: destroying a channel or
a call waits for those threads, so that even a child that does not use vistaflow would not exit.
Processes started by spawn, a fork server or `exec` are not affected.
"""

from __future__ import annotations

import ctypes
import gc
import os

from vistaflow.errors import ForkedError

_PRESERVED = frozenset({"grpc", "vistaflow", "asyncio", "_asyncio"})

_user = 0
"""The ID of the process that opened the first channel; 0 if none has."""


def note_use() -> None:
    """Records that this process uses gRPC.

    Raises:
        ForkedError: The process was forked from one that uses gRPC.
    """
    global _user
    check()
    if not _user:
        os.register_at_fork(after_in_child=_keep_all)
    _user = os.getpid()


def in_fork() -> bool:
    """Whether this process was forked from one that uses gRPC."""
    return _user not in (0, os.getpid())


def check() -> None:
    """Raises `ForkedError` if gRPC cannot be used in this process."""
    if in_fork():
        raise ForkedError(
            "this process was forked from one that had used vistaflow, and gRPC does not support "
            "that; start it with multiprocessing.get_context('spawn') or "
            "get_context('forkserver'), or connect only after the fork",
            reason="FORKED",
        )


def _keep_all() -> None:
    """Prevents that gRPC's objects, and objects that may use them, are finalized."""
    for item in gc.get_objects():
        module = getattr(type(item), "__module__", None)
        if isinstance(module, str) and module.partition(".")[0] in _PRESERVED:
            # An extra reference that is never released, so the count cannot become 0.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))
