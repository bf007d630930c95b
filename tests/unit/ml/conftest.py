from __future__ import annotations

from collections.abc import Iterator

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """As an attempt runs: one thread, so that sums come out the same to the bit."""
    with threadpool_limits(1):
        yield
