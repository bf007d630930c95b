"""Tokens of an OpenID Connect issuer, such as Keycloak or Firebase.

The registry checks them for every service, as it does its own tokens (`core/vouching.py`). A token
is a JWT that the issuer signed, for this audience and in this time. Its keys are those that the
issuer publishes; a token names its key and nothing else about how it is checked:

    key known                     checked with it
    key unknown                   the keys are fetched again, at most every 10 s for all tokens
    keys older than 10 minutes    fetched again beside the checks, so that a withdrawn key ends
    the issuer does not answer    the keys that are there are used on; without any, UNAVAILABLE

Rules give the role and the project of a bearer by claims. The first rule that fits is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from vistaflow_services.core.config import read_config
from vistaflow_services.core.door.callers import Caller, Role, Validity
from vistaflow_services.core.door.tokens import invalid
from vistaflow_services.core.errors import InvalidError, UnavailableError, Violations, cut
from vistaflow_services.core.names import MAX_PROJECT
from vistaflow_services.core.server.metrics import Metrics
from vistaflow_services.core.server.shell import StartError, is_loopback
from vistaflow_services.registry.messages import translate

if TYPE_CHECKING:
    import httpx
    from joserfc.jwk import Key, KeySet

logger = logging.getLogger(__name__)

PREFIX: Final = "VISTAFLOW_OIDC_"

ALGORITHMS: Final = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519",
    "EdDSA",
)  # fmt: skip
"""Signatures with a private key. Those with a shared secret, and `none`, are never accepted."""

SKEW_SECONDS: Final = 60
"""How far the clocks of the issuer and of this machine may be apart."""

FETCH_SECONDS: Final = 10.0
"""How often the keys are fetched at most."""

FRESH_SECONDS: Final = 600.0
"""Age at which keys are fetched again."""

TIMEOUT_SECONDS: Final = 5.0
MOST_BYTES: Final = 1 << 20
"""Largest answer of an issuer."""

MOST_SUBJECT: Final = 255
"""Longest subject, as the standard has it."""

_RULE: Final = re.compile(r"([^=;]+)=([^;]*?):(viewer|editor|admin)(?::([^:;]+))?")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Gives a role to bearers with a claim.

    Written `CLAIM=VALUE:ROLE` for administrators and `CLAIM=VALUE:ROLE:PROJECT` for others. CLAIM
    may lead into objects (`realm_access.roles`), VALUE is one of its values or `*` for any, and
    PROJECT may be `$CLAIM`, the value of another claim.
    """

    claim: str
    value: str
    role: Role
    project: str

    def project_for(self, claims: Mapping[str, Any]) -> str | None:
        """The project of a bearer, empty for all; None if the rule does not fit."""
        values = list(_values(claims, self.claim))
        if not values or (self.value != "*" and self.value not in values):
            return None
        if not self.project.startswith("$"):
            return self.project
        names = list(_values(claims, self.project[1:]))
        violations = Violations()
        if len(names) == 1 and names[0]:
            translate.name_from_proto(names[0], "project", MAX_PROJECT, violations)
            with contextlib.suppress(InvalidError):
                violations.check()
                return names[0]
        return None


@dataclass(frozen=True, kw_only=True)
class IssuerConfig:
    """Whose tokens are accepted. Each field is read from `VISTAFLOW_OIDC_<FIELD>`."""

    issuer: str = ""
    """The issuer as its tokens name it, such as `https://login.example/realms/lab`."""

    audience: str = ""
    """Whom its tokens have to be for."""

    roles: str = ""
    """Rules from claims to roles, separated by `;`."""

    def __post_init__(self) -> None:
        if not self.issuer:
            if self.audience or self.roles:
                raise ValueError(f"{PREFIX}ISSUER is missing")
            return
        check_url(self.issuer, f"{PREFIX}ISSUER")
        if not self.audience:
            raise ValueError(f"{PREFIX}AUDIENCE is missing: whom the issuer's tokens are for")
        if not self.rules():
            raise ValueError(f"{PREFIX}ROLES is missing, such as `groups=lab:editor:photonics`")

    def rules(self) -> tuple[Rule, ...]:
        """The rules.

        Raises:
            ValueError: One is malformed.
        """
        rules = []
        for text in filter(None, map(str.strip, self.roles.split(";"))):
            match = _RULE.fullmatch(text)
            if match is None:
                raise ValueError(
                    f"{PREFIX}ROLES: `{cut(text, 100)}` is no CLAIM=VALUE:ROLE[:PROJECT] with a "
                    "role of viewer, editor or admin"
                )
            role, project = Role(match[3].upper()), match[4] or ""
            if (role is Role.ADMIN) == bool(project):
                raise ValueError(
                    f"{PREFIX}ROLES: `{cut(text, 100)}`: viewers and editors have one project, "
                    "administrators have all"
                )
            rules.append(Rule(claim=match[1], value=match[2], role=role, project=project))
        return tuple(rules)


def check_url(url: str, what: str) -> None:
    """Checks that an address is one URL that no one on the way can answer for.

    Raises:
        ValueError: It is not.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        parts, host = urlsplit(""), ""
    is_plain = not (parts.query or parts.fragment or parts.username or re.search(r"[\s,;]", url))
    is_safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    if not (host and is_plain and is_safe):
        raise ValueError(f"{what}: write one URL that begins with https://")


def read_issuer(*, required: bool) -> Issuer | None:
    """The issuer that the environment names; None without one.

    Args:
        required: Whether callers need tokens at all.

    Raises:
        StartError: The settings are wrong, or a package is missing.
    """
    try:
        config = read_config(IssuerConfig, PREFIX)
    except InvalidError as error:
        raise StartError(error.message) from None
    if not config.issuer:
        return None
    if not required:
        raise StartError(f"{PREFIX}ISSUER has no effect without VISTAFLOW_AUTH=required or owner")
    try:
        return Issuer(config)
    except ImportError:
        raise StartError(f"{PREFIX}ISSUER needs `pip install 'vistaflow[oidc]'`") from None


class Issuer:
    """Checks the tokens of an issuer.

    Args:
        config: Which issuer, and what its bearers may do.

    Raises:
        ImportError: The packages of `vistaflow[oidc]` are missing.
    """

    def __init__(self, config: IssuerConfig) -> None:
        import httpx
        from joserfc import errors, jwk, jwt

        self._jwk, self._jwt, self._errors = jwk, jwt, errors
        self._config = config
        self._rules = config.rules()
        # An issuer that answers elsewhere is not followed there.
        self._http: httpx.AsyncClient = httpx.AsyncClient(
            timeout=TIMEOUT_SECONDS, follow_redirects=False
        )
        self._keys: KeySet | None = None
        self._fetched_at = self._tried_at = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self.refused = 0
        """Tokens that were not valid."""
        self.failures = 0
        """Times that the issuer did not answer with keys."""

    def prepare(self) -> None:
        """Begins to fetch the keys."""
        self._start()

    def state(self) -> tuple[str, str, str]:
        """For `doctor`: `ok` or `wrong`, what was seen, and the fix."""
        if self._keys is None:
            seen, fix = "does not answer with keys", "the registry's log says why"
            return "wrong", f"{self._config.issuer} {seen}: its tokens are refused", fix
        text = f"tokens of {self._config.issuer} are accepted, keys {self._age_seconds():.0f} s old"
        if self._age_seconds() > 2 * FRESH_SECONDS:
            return "wrong", f"{text}: it does not answer", "the registry's log says why"
        return "ok", text, ""

    def measure(self, metrics: Metrics) -> None:
        """Adds its metrics."""
        for name, text, value in (
            ("key_age_seconds", "Age of the issuer's keys, -1 without any.", self._age_seconds),
            ("key_failures", "Times that the issuer had no keys.", lambda: float(self.failures)),
            ("refused", "Tokens of the issuer that were not valid.", lambda: float(self.refused)),
        ):
            metrics.gauge(f"vistaflow_registry_oidc_{name}", text, value)

    def _age_seconds(self) -> float:
        return -1.0 if self._keys is None else _now() - self._fetched_at

    async def close(self) -> None:
        """Ends the connections to the issuer."""
        if self._fetching is not None:
            self._fetching.cancel()
        await self._http.aclose()

    async def caller(self, text: str) -> Caller:
        """The bearer of a JWT.

        Raises:
            UnauthenticatedError: It is not valid here.
            UnavailableError: There are no keys yet, and the issuer does not answer.
        """
        try:
            return self._caller_of(await self._claims(text), text)
        except (self._errors.JoseError, ValueError, TypeError, KeyError, RecursionError) as error:
            self.refused += 1
            # The token's own text may be in the message of what could not parse it.
            why = error.args[0] if type(error) is _Refusal else type(error).__name__
            logger.info("a token of the issuer was refused: %s", why)
            raise invalid() from None

    async def _claims(self, text: str) -> dict[str, Any]:
        """The claims of a token with a valid signature, for this audience and this time."""
        from joserfc import jws

        header = jws.extract_compact(text.encode("ascii")).headers()
        if header.get("alg") not in ALGORITHMS:
            raise _Refusal("its algorithm is not accepted")
        kid = header.get("kid")
        if kid is not None and not isinstance(kid, str):
            raise _Refusal("its key has no name")
        key = await self._key(kid)
        token = self._jwt.decode(text, key, algorithms=list(ALGORITHMS))
        claims = token.claims
        rules = self._jwt.JWTClaimsRegistry(
            now=int(time.time()),
            leeway=SKEW_SECONDS,
            iss={"essential": True, "value": self._config.issuer},
            aud={"essential": True, "value": self._config.audience},
            sub={"essential": True},
            exp={"essential": True},
        )
        rules.validate(claims)
        return claims

    def _caller_of(self, claims: Mapping[str, Any], text: str) -> Caller:
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= MOST_SUBJECT:
            raise _Refusal("its subject is no text")
        if not subject.isprintable():
            raise _Refusal("its subject is not printable")
        for rule in self._rules:
            project = rule.project_for(claims)
            if project is not None:
                break
        else:
            raise _Refusal(f"no rule of {PREFIX}ROLES fits its claims")
        # Limits are of the person, who has many tokens in a day.
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{self._config.issuer} {subject}")
        return Caller(
            token_id=str(identity),
            name=subject,
            project=project,
            role=rule.role,
            secret=text,
            validity=Validity(float(claims["exp"]) + SKEW_SECONDS - time.time()),
        )

    async def _key(self, kid: str | None) -> Key:
        """The key of a name; without a name, the only one."""
        if self._keys is None:
            await self._fetch()
        elif _now() - self._fetched_at > FRESH_SECONDS:
            self._start()
        key = self._known(kid)
        if key is None:
            await self._fetch()
            key = self._known(kid)
        if key is None:
            if self._keys is None:
                raise UnavailableError("the issuer of the token does not answer; try again")
            raise _Refusal("its key is unknown")
        return key

    def _known(self, kid: str | None) -> Key | None:
        keys = self._keys.keys if self._keys is not None else []
        named = [key for key in keys if kid in (None, key.kid)]
        # Two of one name, or several without one: which it is cannot be known.
        return named[0] if len(named) == 1 else None

    async def _fetch(self) -> None:
        """Fetches the keys, or waits for who does; without effect soon after the last time."""
        self._start()
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def _start(self) -> None:
        if self._fetching is not None and not self._fetching.done():
            return
        if _now() - self._tried_at < FETCH_SECONDS:
            self._fetching = None
            return
        self._tried_at = _now()
        self._fetching = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        import httpx

        try:
            where = f"{self._config.issuer.rstrip('/')}/.well-known/openid-configuration"
            document = await self._get(where)
            if document.get("issuer") != self._config.issuer:
                raise ValueError("the document there is of another issuer")
            address = str(document.get("jwks_uri"))
            check_url(address, "jwks_uri")
            published = (await self._get(address)).get("keys")
            keys = [key for value in published or () if (key := self._imported(value)) is not None]
            if not keys:
                raise ValueError("there are no keys")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, AttributeError) as error:
            self.failures += 1
            logger.warning("the keys of the OpenID Connect issuer cannot be read: %s", error)
            return
        self._keys, self._fetched_at = self._jwk.KeySet(keys), _now()

    async def _get(self, url: str) -> dict[str, Any]:
        import json

        body = b""
        async with self._http.stream("GET", url) as answer:
            answer.raise_for_status()
            async for block in answer.aiter_bytes():
                body += block
                if len(body) > MOST_BYTES:
                    raise ValueError("the answer is too large")
        document = json.loads(body)
        if not isinstance(document, dict):
            raise ValueError("the answer is no JSON object")
        return document

    def _imported(self, value: Any) -> Key | None:
        """A key that signs; None for another one."""
        if not isinstance(value, dict) or value.get("use", "sig") != "sig":
            return None
        # A key of an issuer is a public one of these; a shared secret is none.
        if value.get("kty") not in ("RSA", "EC", "OKP"):
            return None
        with contextlib.suppress(self._errors.JoseError, ValueError, TypeError, KeyError):
            return self._jwk.import_key(value)
        return None


class _Refusal(ValueError):
    """A token that is not valid here; the text says why and has nothing of the token."""


def _values(claims: Mapping[str, Any], name: str) -> Iterator[str]:
    """The texts of a claim."""
    value: Any = claims.get(name)
    if value is None:
        value = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, bool):
            yield str(item).lower()
        elif isinstance(item, str | int):
            yield str(item)


def _now() -> float:
    return asyncio.get_running_loop().time()
