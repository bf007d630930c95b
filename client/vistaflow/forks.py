"""Processes forked from one that has used gRPC, in which gRPC waits for threads that are not there.

A process that was started by spawn, a fork server or `exec` is none of them. In a fork a client
raises `ForkedError`, and what the parent had open is never finalized: to destroy a channel or a
call means to wait for gRPC's threads, so that a child that has nothing to do with vistaflow would
not end.
"""

from __future__ import annotations

import ctypes
import gc
import os

from vistaflow.errors import ForkedError

_PRESERVED = frozenset({"grpc", "vistaflow", "asyncio", "_asyncio"})

_user = 0
"""The process that has opened the first channel; 0 if none has."""


def note_use() -> None:
    """Notes that this process uses gRPC from now on.

    Raises:
        ForkedError: It was forked from one that does.
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
    """Raises `ForkedError` where gRPC cannot be used."""
    if in_fork():
        raise ForkedError(
            "this process was forked from one that had used vistaflow, and gRPC does not survive "
            "that; start it another way, such as multiprocessing.get_context('spawn') or "
            "get_context('forkserver'), or connect only after the fork",
            reason="FORKED",
        )


def _keep_all() -> None:
    """Keeps gRPC's objects, and whatever may call them when it ends, to the end of this process."""
    for item in gc.get_objects():
        module = getattr(type(item), "__module__", None)
        if isinstance(module, str) and module.partition(".")[0] in _PRESERVED:
            # One reference more than there is, which nobody gives back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(item))
