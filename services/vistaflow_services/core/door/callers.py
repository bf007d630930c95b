"""Who makes the call that is being served, and what that caller may see.

The door (`core/door/interceptor.py`) `enter`s the caller; what serves the call asks
`current()`. Work that no call asked for, such as a service's own loops, has the caller
`EVERYBODY`, with all rights, as has every call where no tokens are required.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do in a project; the words of the database."""

    VIEWER = "VIEWER"
    EDITOR = "EDITOR"
    ADMIN = "ADMIN"
    WORKER = "WORKER"
    READER = "READER"


_RANK = {Role.VIEWER: 1, Role.EDITOR: 2, Role.ADMIN: 3}
"""Each role includes the rights of those of lower rank; workers and readers have none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """Who may make a call."""

    role: Role | None
    """The least role; None admits no caller."""

    worker: bool = False
    """Whether a worker may make it, too."""

    reader: bool = False
    """Whether a reader may make it, too."""

    def admits(self, role: Role) -> bool:
        """Whether a caller of this role may make the call."""
        if role is Role.READER:
            return self.reader
        if role is Role.WORKER or self.role is Role.WORKER:
            return self.role is role or (self.worker and role is Role.WORKER)
        return self.role is not None and _RANK[role] >= _RANK[self.role]


class Validity:
    """Whether a token is still valid; streams of its bearer are notified when it ends.

    Args:
        seconds: How long it is valid at most; None for good.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._ends = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._revoked = False
        self._listeners: dict[int, Callable[[], None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def over(self) -> bool:
        """Whether the token is no longer valid."""
        if self._revoked:
            return True
        return self._ends is not None and asyncio.get_running_loop().time() >= self._ends

    @property
    def seconds(self) -> float | None:
        """How long it is valid from now on at most; None for good."""
        if self._ends is None:
            return None
        return max(0.0, self._ends - asyncio.get_running_loop().time())

    @property
    def listened(self) -> bool:
        """Whether a listener waits for the end."""
        return bool(self._listeners)

    def end(self) -> None:
        """The token is no longer valid."""
        self._revoked = True
        self._tell()

    @contextlib.contextmanager
    def notifying(self, listener: Callable[[], None]) -> Iterator[None]:
        """Calls `listener` once the token is no longer valid, for as long as the block runs."""
        key = id(listener)
        self._listeners[key] = listener
        if self._ends is not None and self._timer is None:
            # A little late rather than early: `over` has to be true by then.
            self._timer = asyncio.get_running_loop().call_at(self._ends + 0.01, self._tell)
        if self.over:
            listener()
        try:
            yield
        finally:
            self._listeners.pop(key, None)
            if not self._listeners and self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _tell(self) -> None:
        for listener in list(self._listeners.values()):
            listener()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who makes a call."""

    token_id: str = ""
    """The token shown; empty where none is required."""

    name: str = ""
    """What the token is for."""

    project: str = ""
    """The only project that there is for this caller; empty: every project."""

    role: Role = Role.ADMIN
    """What the caller may do."""

    scopes: tuple[str, ...] = ()
    """What a reader reads; see `core.names.dataset_scope`."""

    secret: str = field(default="", repr=False)
    """The token's text, to ask other services in the caller's name."""

    validity: Validity | None = None
    """Whether the token is still valid; None if its validity never ends."""

    @property
    def over(self) -> bool:
        """Whether the token is no longer valid."""
        return self.validity is not None and self.validity.over

    def sees(self, project: str) -> bool:
        """Whether things of a project exist for this caller."""
        return not self.project or self.project == project

    @contextlib.contextmanager
    def notifying(self, listener: Callable[[], None]) -> Iterator[None]:
        """Calls `listener` once the token is no longer valid, for as long as the block runs."""
        if self.validity is None:
            yield
            return
        with self.validity.notifying(listener):
            yield


EVERYBODY = Caller()
"""Every caller where no tokens are required, and the services' own work."""

_current: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller", default=EVERYBODY)


def current() -> Caller:
    """Who makes the call that is being served by this task."""
    return _current.get()


_peer: contextvars.ContextVar[str] = contextvars.ContextVar("peer", default="")


def came_from(peer: str) -> None:
    """From here on this task serves a call from that address."""
    _peer.set(peer)


def describe_current() -> str:
    """A text for people: who makes the call that this task serves."""
    caller = current()
    token = f"token {caller.name!r}" if caller.name else ""
    project = f"of project {caller.project}" if caller.project else ""
    return " ".join(filter(None, (token, project, f"from {_peer.get() or 'here'}")))


def enter(caller: Caller) -> None:
    """From here on this task serves a call of `caller`."""
    _current.set(caller)


@contextlib.contextmanager
def serving(caller: Caller) -> Iterator[None]:
    """Serves a call of `caller` for as long as the block runs."""
    token = _current.set(caller)
    try:
        yield
    finally:
        _current.reset(token)
