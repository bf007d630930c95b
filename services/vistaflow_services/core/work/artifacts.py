"""The artifact store: files named by `artifact://` URIs, one folder an attempt.

Every attempt writes below a prefix of its own, `artifact://jobs/<job_id>/<attempt>/`, so a late
attempt cannot touch what a newer one wrote. A file appears whole or not at all, and survives a
crash of the machine once its writing has returned. What a job wrote there by other means is put on
disk before its result, which describes it, is published.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from vistaflow_services.core import files
from vistaflow_services.core.errors import InvalidError, NotFoundError
from vistaflow_services.core.failpoints import reached
from vistaflow_services.core.work.uris import SCHEME, plain_parts, uri_error

_BLOCK = 1 << 20


class Described(TypedDict):
    """What a manifest says of one file or folder."""

    uri: str
    bytes: int
    sha256: str


class ArtifactStore:
    """Artifacts below one folder of the file system."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root.resolve()
        self._settled = set[Path]()
        """What this object has put on disk."""

    def open_prefix(self, job_id: str, attempt: int) -> Path:
        """The folder of one attempt, made if need be."""
        folder = self.path(f"{SCHEME}jobs/{job_id}/{attempt}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def path(self, uri: str) -> Path:
        """Where an artifact lies, whether or not it exists.

        Raises:
            InvalidError: The URI is malformed or leads out of the store.
        """
        path = self.root.joinpath(*plain_parts(uri))
        if not path.resolve().is_relative_to(self.root):
            raise uri_error(uri, "leads out of the artifact store")
        return path

    def existing(self, uri: str) -> Path:
        """Where an artifact lies.

        Raises:
            InvalidError: The URI is malformed or leads out of the store.
            NotFoundError: There is no such artifact.
        """
        path = self.path(uri)
        if not path.exists():
            raise NotFoundError(f"no artifact {uri}; was it deleted from the artifact store?")
        return path

    def uri(self, path: Path) -> str:
        """The URI of a path in the store.

        Raises:
            InvalidError: The path is not in the store, or its name makes no URI.
        """
        try:
            relative = path.resolve().relative_to(self.root)
        except ValueError:
            raise InvalidError(f"{path.name} does not lie in the artifact store") from None
        uri = SCHEME + relative.as_posix()
        self.path(uri)
        return uri

    def describe(self, path: Path) -> Described:
        """URI, size and SHA-256 of a file, or of a folder's files by name and content."""
        if path.is_dir():
            digest, size = hashlib.sha256(), 0
            for file in sorted(path.rglob("*")):
                if file.is_file():
                    inner, length = _hash(file)
                    name = file.relative_to(path).as_posix()
                    digest.update(f"{inner}  {name}\n".encode())
                    size += length
            return Described(uri=self.uri(path), bytes=size, sha256=digest.hexdigest())
        sha256, size = _hash(path)
        return Described(uri=self.uri(path), bytes=size, sha256=sha256)

    def verified(self, uri: str, sha256: str) -> Path:
        """Where an artifact lies whose content is what its manifest says.

        Raises:
            NotFoundError: There is no such artifact.
            InvalidError: Its content is another.
        """
        path = self.existing(uri)
        if self.describe(path)["sha256"] != sha256:
            raise uri_error(uri, "is not what was published; it was altered or damaged")
        return path

    def write(self, path: Path, data: bytes) -> Described:
        """Writes one file, whole or not at all, and describes it."""
        with self.writing(path) as temporary:
            temporary.write_bytes(data)
        return self.describe(path)

    @contextlib.contextmanager
    def writing(self, path: Path) -> Iterator[Path]:
        """A temporary path with the same suffix that becomes `path` when the block ends well."""
        self.uri(path)
        with files.appearing(path, suffix="".join(path.suffixes)) as temporary:
            yield temporary
            reached("artifact.before_rename")
        self._settled.add(path.resolve())
        reached("artifact.after_rename")

    def settle(self, path: Path) -> None:
        """Makes sure that a file or folder is on disk that was written without `writing`.

        What lies in a settled folder is settled, too, and nothing is written to it any more.
        """
        path = path.resolve()
        if self._settled.isdisjoint((path, *path.parents)):
            files.sync_tree(path)
            files.sync(path.parent)
            self._settled.add(path)

    def note_settled(self, path: Path) -> None:
        """Notes that a file or folder is on disk."""
        self._settled.add(path.resolve())

    def settle_described(self, value: Any) -> None:
        """Settles all that a result describes, as `describe` does, and that is there."""
        if isinstance(value, Mapping):
            if "uri" in value:
                with contextlib.suppress(InvalidError, NotFoundError):
                    self.settle(self.existing(value["uri"]))
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                self.settle_described(item)


def _hash(path: Path) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size
