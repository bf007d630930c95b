"""Bearer tokens: their text, and who their bearers are, remembered for a few seconds.

A token is `vf1.<id>.<secret>`: the id names its row in the registry, the secret is 256 random
bits. Only the SHA-256 of the whole text is kept anywhere, and compared in constant time.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import re
import secrets
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from vistaflow_services.core.callers import Caller
from vistaflow_services.core.errors import ExhaustedError, ServiceError, UnauthenticatedError

logger = logging.getLogger(__name__)

SECRET_BYTES = 32

KEPT_SECONDS = 2.0
"""How long what was learned of a token is believed: a revocation is noticed after as much."""

KEPT_TOKENS = 10_000
KEPT_REFUSALS = 1_000
"""Tokens remembered that are not valid; forgotten sooner than the others, which they never push
out."""

MOST_ASKED = 200
"""Tokens asked for at once that were not known to be valid."""

_TEXT = re.compile(r"vf1\.([0-9a-f]{32})\.[A-Za-z0-9_-]{43}")

Find = Callable[[str], Awaitable[Caller]]
"""Finds out whose a token's text is; `UnauthenticatedError` if it is not valid."""


def new_token() -> tuple[uuid.UUID, str]:
    """The id and the text of a token that was never used before."""
    token_id = uuid.uuid4()
    return token_id, text_of(token_id)


def text_of(token_id: uuid.UUID) -> str:
    """A text for a token that was never used before."""
    return f"vf1.{token_id.hex}.{secrets.token_urlsafe(SECRET_BYTES)}"


def digest_of(text: str) -> bytes:
    """The SHA-256 of a token's text: what is kept of it."""
    return hashlib.sha256(text.encode()).digest()


def id_of(text: str) -> uuid.UUID | None:
    """The id in a token's text; None if it is no token."""
    match = _TEXT.fullmatch(text)
    return uuid.UUID(match[1]) if match else None


def invalid() -> UnauthenticatedError:
    """What the bearer of a token that is unknown, expired or revoked is told."""
    return UnauthenticatedError(
        "the token is not valid: it is unknown, expired or revoked; ask an administrator for "
        "another and set VISTAFLOW_TOKEN, or unset it if none is needed",
        reason="TOKEN_INVALID",
    )


@dataclass(slots=True)
class _Known:
    """What was learned of a token."""

    text: str
    learned: float
    caller: Caller | None
    """None: it is not valid."""
    holders: int = 0
    """Streams that its bearer has open."""


class Tokens:
    """Who the bearers of tokens are.

    Args:
        find: Asked for what is not known, or was learned too long ago.
        seconds: How long an answer is believed.
    """

    def __init__(self, find: Find, *, seconds: float = KEPT_SECONDS) -> None:
        self._find = find
        self._seconds = seconds
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Caller]] = {}
        self._rounds: asyncio.Task[None] | None = None

    async def caller(self, text: str) -> Caller:
        """The bearer of a token.

        Raises:
            UnauthenticatedError: The token is not valid.
            UnavailableError: Nobody who knows can be asked now.
        """
        if id_of(text) is None:
            raise invalid()
        key = digest_of(text)
        known = self._known.get(key)
        now = asyncio.get_running_loop().time()
        if known is not None and now - known.learned < self._seconds:
            if known.caller is None or known.caller.over:
                raise invalid()
            return known.caller
        if now - self._refused.get(key, -self._seconds) < self._seconds:
            raise invalid()
        asking = self._asking.get(key)
        if asking is None:
            if known is None and len(self._asking) >= MOST_ASKED:
                raise ExhaustedError(
                    "too many tokens are being looked up; try again",
                    reason="TOO_MANY_TOKENS",
                    retry_after=1.0,
                )
            # Of many calls at once one asks for all; that its caller hangs up must not end it.
            asking = self._asking[key] = asyncio.create_task(self._ask(key, text))
            asking.add_done_callback(lambda done: self._asked(key, done))
        return await asyncio.shield(asking)

    def knows(self, text: str) -> bool:
        """Whether a token was valid when last looked at."""
        known = self._known.get(digest_of(text))
        return known is not None and known.caller is not None

    def forget(self, token_id: str) -> None:
        """Ends what goes on with a token that was revoked here."""
        for known in self._known.values():
            if known.caller is not None and known.caller.token_id == token_id:
                _end(known)

    @contextlib.contextmanager
    def held(self, caller: Caller) -> Iterator[None]:
        """Looks again and again whether the token is valid, for as long as the block runs."""
        known = self._known.get(digest_of(caller.secret))
        if known is None:
            yield
            return
        known.holders += 1
        if self._rounds is None or self._rounds.done():
            self._rounds = asyncio.create_task(self._look_again())
        try:
            yield
        finally:
            known.holders -= 1

    async def _ask(self, key: bytes, text: str) -> Caller:
        known = self._known.get(key)
        loop = asyncio.get_running_loop()
        try:
            caller = await self._find(text)
        except UnauthenticatedError:
            if known is not None:
                _end(known)
                self._known.pop(key, None)
            self._refused[key] = loop.time()
            self._refused.move_to_end(key)
            if len(self._refused) > KEPT_REFUSALS:
                self._refused.popitem(last=False)
            raise
        if known is not None and known.caller is not None and not known.caller.over:
            # The same bearer, whose streams listen to the validity that they know.
            known.learned = loop.time()
            return known.caller
        self._remember(key, _Known(text=text, learned=loop.time(), caller=caller))
        return caller

    def _asked(self, key: bytes, done: asyncio.Task[Caller]) -> None:
        self._asking.pop(key, None)
        if not done.cancelled():
            done.exception()  # Whoever waits gets it; nobody waiting is no fault.

    def _remember(self, key: bytes, known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        if len(self._known) > KEPT_TOKENS:
            idle = (each for each, it in self._known.items() if not it.holders)
            del self._known[next(idle, key)]

    async def _look_again(self) -> None:
        """Asks for the tokens with open streams, for as long as there are any."""
        while held := [(key, it) for key, it in self._known.items() if it.holders and it.caller]:
            for key, known in held:
                try:
                    await self._ask(key, known.text)
                except UnauthenticatedError:
                    logger.info("a token with %d open streams has ended", known.holders)
                except ServiceError as error:
                    logger.debug("tokens cannot be checked now: %s", error)
            await asyncio.sleep(self._seconds)


def _end(known: _Known) -> None:
    if known.caller is not None and known.caller.validity is not None:
        known.caller.validity.end()
    known.caller = None
