"""Another user who sends a call, resets its connection and leaves the port to the owner.

    python -m tests.integration.door.taking_over PORT PATH UID ROUNDS

Runs as the owner, root. The two sockets of a round are made beforehand, each as its user's: so the
owner has the port before the service may have noticed that the other's connection is gone.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return (
        struct.pack("!I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack("!I", stream)
        + payload
    )


def header(name: str, value: str) -> bytes:
    """A header of HPACK that is written out."""
    return b"\0" + b"".join(bytes([len(each)]) + each.encode() for each in (name, value))


def call(path: str) -> bytes:
    """All that a client sends with a call whose request is an empty message."""
    headers = b"".join(
        header(name, value)
        for name, value in (
            (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "here"),
            ("te", "trailers"), ("content-type", "application/grpc"),
        )
    )  # fmt: skip
    settings = frame(4, 0, 0, b"")
    return PREFACE + settings + frame(1, 4, 1, headers) + frame(0, 1, 1, bytes(5))


def made_by(uid: int) -> socket.socket:
    """A socket of a user."""
    os.seteuid(uid)
    try:
        made = socket.socket()
    finally:
        os.seteuid(0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return made


def take_over(port: int, sent: bytes, uid: int) -> None:
    """One round."""
    theirs, ours = made_by(uid), made_by(0)
    theirs.bind(("127.0.0.1", 0))
    name = theirs.getsockname()
    theirs.connect(("127.0.0.1", port))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.sendall(sent)
    theirs.close()
    ours.bind(name)
    ours.connect(("127.0.0.1", port))
    time.sleep(0.004)  # as the owner's, which calls nothing
    ours.close()


if __name__ == "__main__":
    to, path, other, rounds = sys.argv[1:]
    for _ in range(int(rounds)):
        take_over(int(to), call(path), int(other))
