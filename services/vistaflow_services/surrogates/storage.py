"""Files of a model on disk: arrays and JSON under one manifest of hashes.

Nothing here executes what it reads: arrays are loaded with pickling forbidden, and not before the
bytes in memory have the hash that the manifest names.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import ConflictError, NotFoundError
from vistaflow_services.surrogates.surrogate import Arrays

MANIFEST = "manifest.json"
_FORMAT = 1


def arrays_to_bytes(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """The arrays as an `.npz` file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **dict(sorted(arrays.items())))
    return buffer.getvalue()


def arrays_from_bytes(content: bytes) -> Arrays:
    """The arrays of an `.npz` file; objects in it are refused."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def to_json(value: Any) -> bytes:
    """The value as JSON with sorted keys, for people and hashes alike."""
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_folder(folder: Path, files: Mapping[str, bytes]) -> str:
    """Writes the files and their manifest; returns the SHA-256 of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    manifest = to_json(
        {
            "format": _FORMAT,
            "files": {
                name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                for name, content in files.items()
            },
        }
    )
    (folder / MANIFEST).write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()


def read_folder(folder: Path, sha256: str | None = None) -> dict[str, bytes]:
    """The files that the manifest names.

    Args:
        folder: Where `write_folder` wrote.
        sha256: What it returned; the manifest is believed as it is if None.

    Raises:
        NotFoundError: If there is no manifest or a file is gone.
        ConflictError: If the manifest or a file is not what was written.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise NotFoundError("the model's files are gone", reason="MODEL_GONE") from None
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged(MANIFEST)
    try:
        listing = json.loads(content)
        is_known = listing["format"] == _FORMAT
        listed = {str(name): str(entry["sha256"]) for name, entry in listing["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(MANIFEST) from None
    if not is_known:
        raise ConflictError("the model was saved by another version", reason="MODEL_FORMAT")
    files = {}
    for name, expected in listed.items():
        if Path(name).name != name or name in ("", ".", ".."):
            raise _damaged(MANIFEST)
        try:
            files[name] = (folder / name).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"the model's file {name} is gone", reason="MODEL_GONE") from None
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise _damaged(name)
    return files


def _damaged(name: str) -> ConflictError:
    return ConflictError(
        f"{name} of the model is not what was saved, so it is not loaded; train the model again",
        reason="MODEL_DAMAGED",
    )
