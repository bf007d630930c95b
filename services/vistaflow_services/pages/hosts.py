"""The hosts that pages may be collected from, and connections to them.

A name is resolved and its address checked each time that a connection is made, and the connection
goes to the address that was checked: a name that leads to another address a moment later (DNS
rebinding) gains nothing.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from vistaflow_services.core.errors import cut
from vistaflow_services.pages.plan import MAX_URL

SETTING = "VISTAFLOW_INGESTION_COLLECT_HOSTS"

MALFORMED: Final = (httpx.InvalidURL, ValueError)
"""What reading an address may raise, which includes names that IDNA does not allow."""

_ENTRY = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]@]+)(?::(\d{1,5}))?")
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedError(Exception):
    """A page that must not be fetched; the message says why and what would help."""


@dataclass(frozen=True)
class Place:
    """A host and a port."""

    host: str
    port: int

    @classmethod
    def of(cls, url: httpx.URL) -> Place:
        """Where a page is."""
        return cls(url.raw_host.decode().lower().rstrip("."), url.port or _PORTS[url.scheme])

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port in _PORTS.values() else f"{host}:{self.port}"


class Hosts:
    """The operator's list: `HOST` (ports 80 and 443 at public addresses) and `HOST:PORT`.

    Args:
        entries: Its entries; none allows no host.
        setting: Where the operator lists them, for errors.

    Raises:
        ValueError: An entry is malformed.
    """

    def __init__(self, entries: Iterable[str], setting: str = SETTING) -> None:
        self._setting = setting
        self._public, self._exact = set[str](), set[Place]()
        for entry in entries:
            match = _ENTRY.fullmatch(entry)
            if match is None or not 0 < int(match[2] or 1) < 1 << 16:
                raise ValueError(f"`{cut(entry, 60)}` is neither HOST nor HOST:PORT")
            try:
                host = Place.of(httpx.URL(f"https://{match[1]}/")).host
            except MALFORMED:
                raise ValueError(f"`{cut(entry, 60)}` is no name of a host") from None
            if match[2]:
                self._exact.add(Place(host, int(match[2])))
            else:
                self._public.add(host)

    def parse(self, text: str) -> httpx.URL:
        """The address of a page, if it may be collected.

        Raises:
            RefusedError: It is malformed, or its host is not allowed.
        """
        if len(text) > MAX_URL:
            raise RefusedError(f"is an address of more than {MAX_URL:,} characters")
        try:
            url = httpx.URL(text)
            host = url.host  # decoded here
        except MALFORMED:
            raise RefusedError(f"`{cut(text, 100)}` is no address of a page") from None
        if url.scheme not in _PORTS or not host or url.port == 0:
            raise RefusedError(f"`{cut(text, 100)}` is no address that begins with http(s)://")
        if url.userinfo:
            raise RefusedError("has a user or password; give it without")
        place = Place.of(url)
        if place in self._exact or (place.host in self._public and place.port in _PORTS.values()):
            return url.copy_with(fragment=None)
        raise RefusedError(
            f"{place} is no host that the operator lets be called; ask for an entry in "
            f"{self._setting}"
        )

    def address(self, place: Place) -> str:
        """An address of a host that may be connected to.

        Raises:
            RefusedError: It has only private ones, and the operator did not list its port.
            httpx.ConnectError: The name is not known.
        """
        try:
            entries = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise httpx.ConnectError(f"the name {place.host} is not known") from None
        addresses = [str(entry[4][0]).partition("%")[0] for entry in entries]
        for address in addresses:
            if place in self._exact or _is_public(address):
                return address
        raise RefusedError(
            f"{place} has no public address; the operator would have to list it as "
            f"{place.host}:{place.port} in {self._setting}"
        )


def _is_public(address: str) -> bool:
    value = ipaddress.ip_address(address)
    if isinstance(value, ipaddress.IPv6Address):
        inner = value.ipv4_mapped or value.sixtofour
        if value in _NAT64:
            inner = ipaddress.IPv4Address(int(value) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(str(inner))
    return value.is_global and not value.is_multicast


class CheckedTransport(httpx.HTTPTransport):
    """Connections to one host, at addresses that `Hosts` allows.

    One host only: connections are kept by address, and two hosts may share one.

    Args:
        hosts: The hosts.
        tls: The certificates that are trusted; those of the library if None.
    """

    def __init__(self, hosts: Hosts, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(
            verify=tls or True, trust_env=False, limits=httpx.Limits(max_connections=1)
        )
        self._hosts = hosts
        self._socket: socket.socket | None = None

    def abort(self) -> None:
        """Ends the connection, also while another thread waits for it."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The method of a TLS socket would change what the other thread reads from.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _trace(self, event: str, details: Mapping[str, Any]) -> None:
        if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._socket = details["return_value"].get_extra_info("socket")

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; its header and TLS have the name, the connection the address."""
        place = Place.of(request.url)
        address = self._hosts.address(place)
        # The request itself stays as it is: redirects and cookies go by its name.
        pinned = httpx.Request(
            request.method,
            request.url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": place.host, "trace": self._trace},
        )
        return super().handle_request(pinned)
