"""Files in memory that hold pieces of the input: engines read them as files, nobody finds them.

Fresh memory costs several times what it costs to write to it, so that a file is used again when the
piece in it is gone.
"""

from __future__ import annotations

import mmap
import os
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

_SLACK = 1 << 12


class MemoryFile:
    """A file without a name, mapped into memory.

    Args:
        capacity: Bytes that it has room for.
    """

    def __init__(self, capacity: int) -> None:
        self.descriptor = os.memfd_create("piece")
        weakref.finalize(self, os.close, self.descriptor)
        self._map(capacity)

    def _map(self, capacity: int) -> None:
        os.ftruncate(self.descriptor, capacity)
        self.capacity = capacity
        self.map = mmap.mmap(self.descriptor, capacity)
        self.view = memoryview(self.map)
        self.data = np.frombuffer(self.map, np.uint8)

    def content(self, size: int) -> npt.NDArray[np.uint8]:
        """The first bytes of the file, which another process may have made longer."""
        if size > self.capacity:
            self._map(size)
        return self.data[:size]

    @property
    def path(self) -> str:
        """Where this process finds it."""
        return f"/proc/self/fd/{self.descriptor}"


class MemoryFiles:
    """Memory files to use again. Threads may use them at once."""

    def __init__(self) -> None:
        self._free: list[MemoryFile] = []

    def take(self, capacity: int) -> MemoryFile:
        """A file with room for so many bytes, whatever else is in it."""
        try:
            file = self._free.pop()
        except IndexError:
            return MemoryFile(capacity + _SLACK)
        if file.capacity < capacity:
            return MemoryFile(capacity + _SLACK)
        os.ftruncate(file.descriptor, file.capacity)
        return file

    def of(self, content: bytes) -> tuple[MemoryFile, memoryview]:
        """A file of some content, and a view of it."""
        file = self.take(len(content))
        file.view[: len(content)] = content
        os.ftruncate(file.descriptor, len(content))
        return file, file.view[: len(content)]

    def give_back_after(self, user: Any, file: MemoryFile) -> None:
        """Lets the file be used again when the user of its content is gone."""
        weakref.finalize(user, self._free.append, file).atexit = False
