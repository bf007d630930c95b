"""Messages for connections that fail, with the remedy; those of gRPC name sockets and calls."""

from __future__ import annotations

from typing import Final

from vistaflow._rpc.credentials import CA, CLIENT_CERT, CLIENT_KEY

_WHY: Final = (
    ("WRONG_VERSION_NUMBER", f"it speaks no TLS; unset {CA}, or give the address of one that does"),
    (
        "certificate has expired",
        "its certificate has expired; renew it, and look at the clock of this machine",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        f"its certificate is not signed by whom {CA} names; ask for the right file",
    ),
    (
        "Hostname Verification",
        "its certificate is for another name; use an address that the certificate names",
    ),
    (
        "CERTIFICATE_REQUIRED",
        f"it asks for a certificate; set {CLIENT_CERT} and {CLIENT_KEY}",
    ),
    ("Name not found", "no such host is known; look for a mistake in the address"),
    ("errors resolving", "no such host is known; look for a mistake in the address"),
    ("Connection refused", ""),
)


def why(details: str, *, secured: bool) -> str:
    """Why a channel cannot reach its service, and the remedy; empty if nothing listens there.

    Args:
        details: The message of gRPC.
        secured: Whether the channel speaks TLS.
    """
    for sign, advice in _WHY:
        if sign.lower() in details.lower():
            return advice
    if "Socket closed" in details or "Connection reset" in details:
        if secured:
            return (
                "it ends the connection: it may ask for a certificate that it knows; set "
                f"{CLIENT_CERT} and {CLIENT_KEY}"
            )
        return f"it ends the connection: it may ask for TLS; set {CA}"
    return ""
