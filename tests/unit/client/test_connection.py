"""The client of one command."""

from __future__ import annotations

import asyncio
import socket

import pytest

from vistaflow.cli.connection import CommandClient
from vistaflow.errors import UnavailableError


async def test_a_command_gives_up_on_nobody_long_before_its_timeout() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with asyncio.timeout(60):
        with pytest.raises(UnavailableError):
            async with CommandClient(f"127.0.0.1:{port}", timeout=600):
                pytest.fail("nobody is there")
