"""Keys of encrypted inputs: sealed into specs, or kept by the operator under a name.

A spec is recorded in the database, so a key that a caller gives is sealed before: encrypted with a
key of the service that lies outside of the database and of its backups. The seal also proves that
the service itself made the spec: nobody can have the files of another project read by a job that
was created past ConvertJson.

Sealing is deterministic (AES-SIV, RFC 5297), because a repeated request must have the same body.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from vistaflow_services.core import files
from vistaflow_services.core.errors import ConflictError, InvalidError, NotFoundError, Violations
from vistaflow_services.tables.sources import Aes

_KEY_BYTES = 64
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """What only the service itself may say of a job."""

    project: str
    """The project whose data roots are read; empty: those of every project."""

    key: str = ""
    """AES-256 key in hex, if the caller gave one."""

    iv: str = ""
    keys: tuple[tuple[str, ...], ...] = ()
    """Keys of records to be forgotten."""


class Seal:
    """Seals and opens what is recorded of a conversion.

    Args:
        key: 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._cipher = AESSIV(key)

    @classmethod
    def load(cls, home: Path, text: str = "") -> Seal:
        """The seal of this installation.

        Args:
            home: `$VISTAFLOW_HOME`; the key lies in `keys/ingestion`, made when it is missing.
            text: The key in hex, if it comes from the environment instead.

        Raises:
            InvalidError: The key has another form.
        """
        if not text:
            text = files.secret(home / "keys" / "ingestion", _KEY_BYTES)
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise InvalidError(
                f"the sealing key must be {2 * _KEY_BYTES} hexadecimal digits; make one with "
                f"`openssl rand -hex {_KEY_BYTES}`"
            )
        return cls(key)

    def close(self, content: Sealed) -> bytes:
        """The sealed form; the same for the same content."""
        document = asdict(content)
        if not content.keys:  # as before there were any
            del document["keys"]
        text = json.dumps(document, sort_keys=True).encode()
        return self._cipher.encrypt(text, None)

    def open(self, sealed: bytes) -> Sealed:
        """The content.

        Raises:
            ConflictError: It was not sealed with this key.
        """
        try:
            document = json.loads(self._cipher.decrypt(sealed, None))
            keys = tuple(map(tuple, document.pop("keys", ())))
            return Sealed(**document, keys=keys)
        except (InvalidTag, ValueError, TypeError):
            raise ConflictError(
                "the job was not sealed by this installation, or its sealing key is gone; start it "
                "again with ConvertJson or ForgetRecords, with the same keys",
                reason="NOT_SEALED",
            ) from None


def aes_of(key: str, iv: str, reference: str, folder: Path | None) -> Aes | None:
    """The key of an input, given or kept by the operator; None for one in clear.

    Args:
        key: `aes256cbckey` of the request.
        iv: `iv` of the request.
        reference: `key_ref` of the request.
        folder: Folder of the operator's keys.

    Raises:
        InvalidError: A value is malformed, or both ways are used at once.
        NotFoundError: There is no such secret.
    """
    if not reference:
        return Aes(key=key, iv=iv) if key or iv else None
    violations = Violations()
    if key or iv:
        violations.add("key_ref", "must be empty when aes256cbckey or iv is given")
    if not _REFERENCE.fullmatch(reference):
        violations.add("key_ref", "must be 1 to 100 of A-Z a-z 0-9 _ . - and begin with no sign")
    violations.check()
    with contextlib.suppress(OSError, ValueError, TypeError):
        if folder is not None:
            secret = json.loads((folder / reference).read_text("utf-8"))
            return Aes(key=secret["aes256cbckey"], iv=secret["iv"])
    raise NotFoundError(
        "key_ref: there is no such secret; its operator puts a file of this name with "
        '{"aes256cbckey": …, "iv": …} in the folder VISTAFLOW_INGESTION_KEY_FOLDER'
    )
