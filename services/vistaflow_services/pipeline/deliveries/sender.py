"""One delivery: a POST to a host that the operator allows, and what became of it.

    answer              outcome
    2xx                 sent
    3xx                 failed: redirects are not followed
    410                 dead at once: the receiver wants no more
    400, 413, 422       of lineage dead at once: the event itself is refused
    others, or none     failed, and sent again later

The address is checked at the connection, as `pages.hosts` does it for collecting.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

import httpx

from vistaflow.api.outbox.v1 import outbox_pb2 as pb
from vistaflow_services.core import config
from vistaflow_services.core.errors import cut
from vistaflow_services.pages.hosts import (
    MALFORMED,
    CheckedTransport,
    Hosts,
    Place,
    RefusedError,
)

SETTING: Final = "VISTAFLOW_WEBHOOK_HOSTS"
MAX_SECONDS: Final = 10.0
ANSWER_BYTES: Final = 2_048
"""How much of an answer is read."""

_SHOWN: Final = 200
_REFUSED_EVENT: Final = (400, 413, 422)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a delivery."""

    sent: bool = False
    status: int = 0
    error: str = ""
    permanent: bool = False
    retry_after: int = 0


class Sender:
    """Sends deliveries, each over a connection of its own.

    Args:
        version: The version of the product, which receivers get.

    Raises:
        ValueError: A setting is malformed.
    """

    def __init__(self, version: str) -> None:
        self._hosts = Hosts(config.webhook_hosts(), SETTING)
        self._version = version
        self._lineage_url = config.openlineage_url()
        self._lineage_hosts = Hosts([])
        self._lineage_headers: dict[str, str] = {}
        if self._lineage_url:
            malformed = ValueError("VISTAFLOW_OPENLINEAGE_URL is no http(s):// address")
            try:
                url = httpx.URL(self._lineage_url)
            except MALFORMED:
                raise malformed from None
            if url.scheme not in ("http", "https") or not url.host:
                raise malformed
            place = Place.of(url)
            host = f"[{place.host}]" if ":" in place.host else place.host
            # The operator's own setting: its address may be private.
            self._lineage_hosts = Hosts([f"{host}:{place.port}"], "VISTAFLOW_OPENLINEAGE_URL")
            if not url.path.strip("/"):
                self._lineage_url += "/api/v1/lineage"
            if key := os.environ.get("VISTAFLOW_OPENLINEAGE_API_KEY"):
                self._lineage_headers["Authorization"] = f"Bearer {key}"

    def send(self, delivery: pb.LeasedDelivery) -> Outcome:
        """Sends a delivery; blocks until it is answered or its time is over."""
        is_lineage = delivery.kind == pb.DELIVERY_KIND_LINEAGE
        if is_lineage and not self._lineage_url:
            return Outcome(error="this pipeline service has no VISTAFLOW_OPENLINEAGE_URL")
        hosts = self._lineage_hosts if is_lineage else self._hosts
        headers = {
            **(self._lineage_headers if is_lineage else {}),
            **delivery.headers,
            "Content-Type": "application/json",
            "User-Agent": f"vistaflow/{self._version}",
        }
        seconds = min(MAX_SECONDS, delivery.timeout.ToNanoseconds() / 1e9)
        try:
            url = hosts.parse(self._lineage_url if is_lineage else delivery.url)
            with _answer(hosts, url, headers, delivery.body, seconds) as answer:
                return _outcome(answer, is_lineage=is_lineage)
        except RefusedError as error:
            return Outcome(error=str(error))
        except TimeoutError:
            return Outcome(error=f"did not answer within {seconds:g} s")
        except (httpx.TransportError, httpx.StreamError) as error:
            # Its text would name the address; the kind of error says enough.
            return Outcome(error=f"cannot be reached ({type(error).__name__})")


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates of the library, which are slow to read."""
    return httpx.create_ssl_context(trust_env=False)


@contextmanager
def _answer(
    hosts: Hosts, url: httpx.URL, headers: dict[str, str], body: bytes, seconds: float
) -> Iterator[httpx.Response]:
    """The beginning of an answer; ended as a whole after some seconds.

    Raises:
        TimeoutError: It took longer.
    """
    transport, late = CheckedTransport(hosts, _trusted()), threading.Event()

    def end() -> None:
        late.set()
        transport.abort()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        with (
            httpx.Client(transport=transport, trust_env=False, timeout=seconds) as client,
            client.stream("POST", url, headers=headers, content=body) as answer,
        ):
            yield answer
    except httpx.TimeoutException:
        raise TimeoutError from None
    except (httpx.TransportError, httpx.StreamError):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()


def _outcome(answer: httpx.Response, *, is_lineage: bool) -> Outcome:
    status = answer.status_code
    if 200 <= status < 300:
        return Outcome(sent=True, status=status)
    text = f"answered {status}"
    if 300 <= status < 400:
        text += "; redirects are not followed"
    elif shown := _shown(answer):
        text += f": {shown}"
    after = answer.headers.get("retry-after", "").strip()
    return Outcome(
        status=status,
        error=text,
        permanent=status == 410 or (is_lineage and status in _REFUSED_EVENT),
        retry_after=int(after[:6]) if after.isascii() and after.isdecimal() else 0,
    )


def _shown(answer: httpx.Response) -> str:
    """The beginning of a text that a receiver answers with, as one line."""
    if answer.headers.get("content-encoding", "identity") != "identity":
        return ""
    data = b""
    for block in answer.iter_raw(ANSWER_BYTES):
        data += block
        if len(data) >= ANSWER_BYTES:
            break
    text = data[:ANSWER_BYTES].decode("utf-8", "replace")
    line = "".join(character if character.isprintable() else " " for character in text)
    return cut(" ".join(line.split()), _SHOWN)
