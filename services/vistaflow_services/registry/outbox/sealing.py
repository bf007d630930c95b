"""Secrets of webhooks: sealed in the database, used for signatures, never given out."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from vistaflow_services.core import files

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

PREFIX: Final = "whsec_"
LEAST_BYTES, MOST_BYTES = 24, 64
"""Sizes of a secret, by the specification Standard Webhooks."""

FORM: Final = f"give `{PREFIX}` and {LEAST_BYTES} to {MOST_BYTES} bytes in base64"

_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_USE: Final = b"vistaflow webhook secret"


class SealedError(ValueError):
    """A secret that was sealed by another key."""


class Seal:
    """Seals secrets by a key that lies beside the database, not in it.

    Args:
        path: The file of the key, which is made at the first use.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self, secret: bytes) -> bytes:
        """A secret as it is stored."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher().encrypt(nonce, secret, _USE)

    def open(self, sealed: bytes) -> bytes:
        """The secret.

        Raises:
            SealedError: It was sealed by another key.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher().decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _USE)
        except InvalidTag:
            raise SealedError("the secret was sealed by another key") from None

    def _cipher(self) -> AESGCM:
        # Imported at its first use: most registries have no webhooks.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(bytes.fromhex(files.secret(self._path, _KEY_BYTES)))


def read_secret(text: str) -> bytes | None:
    """The bytes of a secret as people write it; None for what is none."""
    if not text.startswith(PREFIX):
        return None
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if LEAST_BYTES <= len(secret) <= MOST_BYTES else None


def signed_headers(
    secrets: Sequence[bytes], event_id: str, now: datetime, body: bytes
) -> dict[str, str]:
    """The headers of a message: its id, its time and a signature by each secret.

    See the specification Standard Webhooks, version 1.
    """
    timestamp = str(int(now.timestamp()))
    content = f"{event_id}.{timestamp}.".encode() + body
    signatures = (
        base64.b64encode(hmac.digest(secret, content, "sha256")).decode() for secret in secrets
    )
    return {
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
