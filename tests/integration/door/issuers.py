"""A small OpenID Connect issuer: discovery, keys, and the tokens that it signs."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vistaflow_services.suite.ports import free_port

AUDIENCE = "vistaflow"


class LocalIssuer:
    """An issuer on a port of this machine.

    Args:
        port: Where it listens.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.keys: list[Any] = []
        self.served = 0
        """How often its keys were fetched."""
        self.names_itself = self.url
        self.add_key("rsa", RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig"}))
        self.add_key("ec", ECKey.generate_key("P-256", {"kid": "ec", "use": "sig"}))

    def add_key(self, kid: str, key: Any) -> None:
        """Publishes another key."""
        assert key.kid == kid
        self.keys.append(key)

    def key(self, kid: str) -> Any:
        return next(key for key in self.keys if key.kid == kid)

    def claims(self, **others: Any) -> dict[str, Any]:
        """The claims of a valid token of an editor of the project `lab`."""
        now = int(time.time())
        return {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "kim@lab",
            "iat": now,
            "exp": now + 300,
            "realm_access": {"roles": ["offline", "editors"]},
            "project": "lab",
            **others,
        }

    def token(self, kid: str = "rsa", key: Any = None, **others: Any) -> str:
        """A token that a key signs; a claim of None is left out."""
        claims = {name: value for name, value in self.claims(**others).items() if value is not None}
        key = key or self.key(kid)
        algorithm = {"RSA": "RS256", "EC": "ES256"}[key.key_type]
        return jwt.encode({"alg": algorithm, "kid": kid}, claims, key, algorithms=[algorithm])

    def signed_with_public_key(self) -> str:
        """A token whose shared secret is the text of the public key."""
        # joserfc refuses to make such a token.
        headers = {"alg": "HS256", "kid": "rsa"}
        parts = [_encoded(json.dumps(part).encode()) for part in (headers, self.claims())]
        secret = self.key("rsa").as_pem(private=False)
        signature = hmac.digest(secret, ".".join(parts).encode(), "sha256")
        return ".".join([*parts, _encoded(signature)])

    def unsigned(self, signature: str = "AA") -> str:
        """A token of the algorithm `none`."""
        parts = ({"alg": "none", "kid": "rsa"}, self.claims())
        return ".".join([_encoded(json.dumps(part).encode()) for part in parts] + [signature])

    def with_header(self, **header: Any) -> str:
        """A token with a valid signature and other fields in its header."""
        headers = {"alg": "RS256", "kid": "rsa", **header}
        parts = [_encoded(json.dumps(part).encode()) for part in (headers, self.claims())]
        signed = ".".join(parts).encode()
        signature = self.key("rsa").private_key.sign(signed, PKCS1v15(), SHA256())
        return ".".join([*parts, _encoded(signature)])

    async def discovery(self, request: Any) -> Response:
        return JSONResponse({"issuer": self.names_itself, "jwks_uri": f"{self.url}/keys"})

    async def published(self, request: Any) -> Response:
        self.served += 1
        return JSONResponse({"keys": [key.as_dict(private=False) for key in self.keys]})

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Answers for as long as the block runs."""
        routes = [
            Route("/.well-known/openid-configuration", self.discovery),
            Route("/keys", self.published),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=self.port, log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def local_issuer() -> LocalIssuer:
    """An issuer that does not answer yet."""
    return LocalIssuer(free_port())
