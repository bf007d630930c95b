"""The registry as a process of its own, to be killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from traffic import until


@dataclass
class RegistryProcess:
    """`python -m vistaflow_services.registry` on a database that is there already."""

    dsn: str
    home: Path
    listen: str = "127.0.0.1:0"
    settings: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ("-m", "vistaflow_services.registry")
    """What the interpreter is told to run."""
    variables: dict[str, str] = field(default_factory=dict)
    """More of its environment, such as its failpoints."""
    address: str = ""
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> RegistryProcess:
        """Starts it and waits until it listens; after the first time on the same port."""
        address_file = self.home / "address"
        address_file.unlink(missing_ok=True)
        told = {
            "DATABASE": self.dsn,
            "LISTEN": self.address or self.listen,
            "ADDRESS_FILE": str(address_file),
            **self.settings,
        }
        environment = {f"VISTAFLOW_REGISTRY_{name}": value for name, value in told.items()}
        with (self.home / "registry.err").open("ab") as errors:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.arguments,
                env={
                    **os.environ,
                    "VISTAFLOW_HOME": str(self.home),
                    **environment,
                    **self.variables,
                },
                stdout=errors,
                stderr=errors,
            )
        process = self.process
        await until(lambda: address_file.exists() or process.returncode is not None, seconds=120)
        assert process.returncode is None, (self.home / "registry.err").read_text()[-2000:]
        self.address = address_file.read_text()
        return self

    async def kill(self) -> None:
        """As a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    def freeze(self) -> None:
        """As a machine that swaps would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    async def stop(self) -> int:
        """As an operator would."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()

    def resident_bytes(self) -> int:
        """Memory it holds now."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
