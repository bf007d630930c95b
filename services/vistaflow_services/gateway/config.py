"""Settings of the gateway."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the gateway. Each field is read from `VISTAFLOW_GATEWAY_<FIELD>`."""

    listen: str = "127.0.0.1:8080"
    """Where it listens; port 0 takes a free one."""

    advertise: str = ""
    """The address others reach it by, if it is not the one it listens on."""

    address_file: Path | None = None
    """A file to write the address to once it is known, for the program that started the service."""

    hosts: tuple[str, ...] = ()
    """Names that it is reached by, beside `localhost`, the machine's and `advertise`; requests for
    other names are refused."""

    origins: tuple[str, ...] = ()
    """Origins whose pages may call it, such as `https://lab.example`; its own need no mention."""

    max_connections: int = 2_000
    """Connections at once; streams get three quarters of them, one token at most half of these."""

    upload_mib: int = 1024
    """Largest upload whose SHA-256 the caller does not send: it is kept on disk meanwhile."""

    metrics_listen: str = ""
    """Where metrics and health checks are served over HTTP, such as `127.0.0.1:9472`; empty:
    nowhere."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""

    def __post_init__(self) -> None:
        if self.max_connections < 10 or self.upload_mib < 0:
            raise ValueError("max_connections is at least 10 and upload_mib at least 0")
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"log_level is DEBUG, INFO, WARNING or ERROR, not {self.log_level}")
        for origin in self.origins:
            parts = urlsplit(origin)
            if origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc:
                raise ValueError(f"{origin} is no origin; write https://host or https://host:port")
