"""Three folders as stores."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistaflow_services.stores.folder import FolderStore


@pytest.fixture
def folders(tmp_path: Path) -> list[FolderStore]:
    return [FolderStore(name, tmp_path / name) for name in "abc"]
