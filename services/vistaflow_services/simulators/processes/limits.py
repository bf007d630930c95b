"""What one run of a simulator may use of the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MEBIBYTE: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one run; the kernel holds the first five, the supervisor the others too."""

    seconds: float
    """Wall clock."""
    memory_bytes: int = 2 * 1024 * MEBIBYTE
    """Address space of each process, and resident memory of all together."""
    file_bytes: int = 256 * MEBIBYTE
    """Largest file, the captured output included."""
    open_files: int = 256
    processes: int = 64
    """Processes and threads of one run."""
    folder_bytes: int = 1024 * MEBIBYTE
    """All files in the scratch folder."""

    @property
    def cpu_seconds(self) -> int:
        """Processor time of one process; a single-threaded run meets the wall clock first."""
        return max(1, math.ceil(self.seconds)) + 1
