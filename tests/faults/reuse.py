"""What the registry's own tests have already: its process, and the judge of watches."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "integration" / "registry"))

from process import RegistryProcess
from traffic import connect, external_job, key_of, until
from watch_checker import Faults, Message, Seen, judge

__all__ = [
    "Faults",
    "Message",
    "RegistryProcess",
    "Seen",
    "connect",
    "external_job",
    "judge",
    "key_of",
    "until",
]
