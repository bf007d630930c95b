"""TLS of a server: certificates in files, read again when they change.

`VISTAFLOW_TLS_CERT` and `VISTAFLOW_TLS_KEY` name the server's certificate chain and its private
key, in PEM. With `VISTAFLOW_TLS_CLIENT_CA` callers must show a certificate that it signed. A new
connection is served with what the files hold then; open ones go on with what they began with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

logger = logging.getLogger(__name__)

CERT = "VISTAFLOW_TLS_CERT"
KEY = "VISTAFLOW_TLS_KEY"
CLIENT_CA = "VISTAFLOW_TLS_CLIENT_CA"


class TlsError(Exception):
    """The files cannot be served with; the message is for the operator."""


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Where a server's certificates are."""

    cert: Path
    """Its certificate chain, in PEM."""

    key: Path
    """The private key of it, in PEM."""

    client_ca: Path | None = None
    """Who signs the certificates of callers; None: callers show none."""

    def credentials(self) -> grpc.ServerCredentials:
        """What a port is opened with.

        Raises:
            TlsError: A file cannot be read, or holds no PEM.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._read(),
            _Reread(self),  # type: ignore[arg-type]  # None means: as it was.
            require_client_authentication=self.client_ca is not None,
        )

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """What the files hold now."""
        cert, key = _pem(self.cert, "CERTIFICATE"), _pem(self.key, "PRIVATE KEY")
        ca = _pem(self.client_ca, "CERTIFICATE") if self.client_ca is not None else None
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)

    def stamp(self) -> tuple[tuple[int, int, int], ...]:
        """Changes when a file does."""
        files = [self.cert, self.key, *([self.client_ca] if self.client_ca else ())]
        stats = [file.stat() for file in files]
        return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


class _Reread:
    """Asked at each new connection for certificates that changed; called in a thread of gRPC's."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._stamp = files.stamp()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        try:
            stamp = self._files.stamp()
            if stamp == self._stamp:
                return None
            configuration = self._files._read()
        except (OSError, TlsError) as error:
            # Half of a rotation: serve on with what there was and look again next time.
            logger.warning("the TLS files cannot be read again: %s", error)
            return None
        self._stamp = stamp
        logger.info("serving with the certificate of %s as it is now", self._files.cert)
        return configuration


def tls_files(environment: Mapping[str, str] = os.environ) -> TlsFiles | None:
    """The files that the environment names; None for a server without TLS.

    Raises:
        TlsError: One is named and another that it needs is not.
    """
    cert, key = environment.get(CERT), environment.get(KEY)
    client_ca = environment.get(CLIENT_CA)
    if not cert and not key and not client_ca:
        return None
    if not cert or not key:
        raise TlsError(f"set both {CERT} and {KEY}, or neither and no {CLIENT_CA}")
    return TlsFiles(
        cert=Path(cert), key=Path(key), client_ca=Path(client_ca) if client_ca else None
    )


def _pem(path: Path, kind: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TlsError(f"{path}: {error.strerror}") from None
    if f"{kind}-----".encode() not in data:
        raise TlsError(f"{path} holds no {kind.lower()} in PEM")
    return data
