"""A process dies while it publishes a file: the file is there whole, or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from pathlib import Path
from vistaflow_services.core.work.artifacts import ArtifactStore
store = ArtifactStore(Path(sys.argv[1]))
store.write(store.open_prefix("job", 1) / "model.bin", b"x" * 3_000_000)
"""


@pytest.mark.parametrize(
    ("point", "there"), [("artifact.before_rename", False), ("artifact.after_rename", True)]
)
def test_a_death_at_the_rename_leaves_no_half_file(point: str, there: bool, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "VISTAFLOW_FAILPOINT": f"{point}=kill"},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    published = list(tmp_path.rglob("[!.]*.bin"))
    assert [each.stat().st_size for each in published] == ([3_000_000] if there else [])
