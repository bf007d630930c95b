"""The roots of data that the operator declares, and the inputs that callers name in them.

    VISTAFLOW_DATA_ROOTS=raw=/srv/data,lake=s3://lake/raw,hr@people=/srv/hr

`hr@people` is a root that only the project `people` can see. A caller names an input in one of
four ways, and no message contains a path of the server that the caller did not write:

    raw/2024/x.json           a root's name and a path in it
    2024/x.json, /x.json      a path in the only root that the project sees
    /srv/data/2024/x.json     an absolute path in a root, as scripts on the server have it
    s3://lake/raw/x.json      a URL below a root's
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from vistaflow_services.core.errors import InvalidError, NotFoundError, Violations, cut, field_error
from vistaflow_services.stores.opening import NAME, bucket_of, folder_of

VARIABLE = "VISTAFLOW_DATA_ROOTS"

MAX_NAME = 4096
"""Most characters of an input's name."""


@dataclass(frozen=True, kw_only=True)
class Root:
    """A place that inputs are read from."""

    name: str
    project: str
    """The only project that sees it; every project does if empty."""

    url: str
    """`s3://bucket/prefix`, or an absolute path."""

    @property
    def folder(self) -> Path | None:
        """The folder, if the root is one."""
        return folder_of(self.url)


@dataclass(frozen=True, kw_only=True)
class Input:
    """An input that a caller may read."""

    root: Root
    path: PurePosixPath
    """Relative to the root; never leads out of it."""

    @property
    def name(self) -> str:
        """What messages and manifests call it."""
        return f"{self.root.name}/{self.path}"

    @property
    def url(self) -> str:
        """Where it is, for an input in a bucket."""
        return f"{self.root.url.rstrip('/')}/{self.path}"

    @contextlib.contextmanager
    def opened(self, field: str = "input") -> Iterator[BinaryIO]:
        """The file, of an input in a folder.

        It is opened first and checked afterwards: the check is about the file that is read, even
        if a link is exchanged meanwhile.

        Args:
            field: Where the input's name is in the request, for messages.

        Raises:
            NotFoundError: There is no such file.
            InvalidError: It is not a regular file, or a link leads out of the root.
        """
        folder = self.root.folder
        if folder is None:
            raise field_error(field, f"`{self.name}` is in a bucket; download it with `local_file`")
        path = folder / self.path
        try:
            # Without O_NONBLOCK a named pipe blocks until another process writes to it.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            raise absent(self.name) from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise field_error(field, f"`{self.name}` is not a file")
            if not _within(path, folder, status):
                raise field_error(field, f"`{self.name}` is a link that leads out of its root")
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)


def _within(path: Path, folder: Path, status: os.stat_result) -> bool:
    """Whether the opened file is the one that `path` means, and that lies in the folder."""
    try:
        real = path.resolve(strict=True)
        inside = real.is_relative_to(folder.resolve(strict=True))
        return inside and os.path.samestat(os.lstat(real), status)
    except (OSError, RuntimeError):
        return False


class Roots:
    """The declared roots."""

    def __init__(self, roots: tuple[Root, ...] = ()) -> None:
        self._roots = roots

    @classmethod
    def parse(cls, text: str) -> Roots:
        """The roots of `VISTAFLOW_DATA_ROOTS`.

        Raises:
            InvalidError: One violation for each entry that is malformed. Values are not repeated,
                as they may contain credentials.
        """
        violations, roots = Violations(), dict[tuple[str, str], Root]()
        for number, entry in enumerate(filter(None, map(str.strip, text.split(",")))):
            field = f"{VARIABLE}[{number}]"
            key, equals, url = entry.partition("=")
            name, sign, project = key.partition("@")
            if not equals or not NAME.fullmatch(name) or bool(sign) != bool(project):
                violations.add(
                    field, "is not name=/path, name=s3://bucket/prefix or name@project=…"
                )
            elif (name, project) in roots:
                violations.add(field, f"declares the root `{key}` again")
            else:
                roots[name, project] = Root(name=name, project=project, url=url)
                _check_url(violations, field, url)
        violations.check()
        return cls(tuple(roots.values()))

    def visible(self, project: str) -> tuple[Root, ...]:
        """The roots of a project; its own root hides one of the same name for everybody."""
        shared = {root.name: root for root in self._roots if not root.project}
        own = {root.name: root for root in self._roots if root.project == project and project}
        return tuple({**shared, **own}.values())

    def resolve(self, name: str, project: str, field: str = "input") -> Input:
        """The input that a caller names.

        Args:
            name: As the caller wrote it.
            project: The caller's.
            field: Where it is in the request, for messages.

        Raises:
            InvalidError: The name is malformed, leads out of the roots or is ambiguous.
            NotFoundError: There is no such file in a folder; buckets are not asked.
        """
        for candidate in self.candidates(name, project, field):
            folder = candidate.root.folder
            if folder is None:
                return candidate
            with contextlib.suppress(OSError):
                if (folder / candidate.path).exists():
                    with candidate.opened(field):
                        return candidate
        raise absent(name)

    def candidates(self, name: str, project: str, field: str = "input") -> list[Input]:
        """What a name may mean, most specific first; none of it is looked up.

        Args:
            name: As the caller wrote it.
            project: The caller's.
            field: Where it is in the request, for messages.

        Raises:
            InvalidError: As of `resolve`.
        """
        _check_name(name, field)
        roots = self.visible(project)
        if "://" in name and not name.startswith("file://"):
            return [_below_url(name, roots, field)]
        return _candidates(name.removeprefix("file://"), roots, field)


def _check_url(violations: Violations, field: str, url: str) -> None:
    if folder := folder_of(url):
        if ".." in folder.parts or "|" in url:
            violations.add(
                field, "is no plain path; write it without `..`, and commas between roots"
            )
    else:
        try:
            bucket_of(url, field)
        except InvalidError as error:
            violations.add(field, error.violations[0].description)


def _check_name(name: str, field: str) -> None:
    if not isinstance(name, str) or not name.strip():
        raise field_error(field, "is empty; name a file in a root of data")
    if len(name) > MAX_NAME:
        raise field_error(field, f"has {len(name)} characters; at most {MAX_NAME} are allowed")
    if any(ord(character) < 32 or character in "\\\x7f" for character in name):
        raise field_error(field, "contains a control character or a backslash")
    if ".." in name.split("/"):
        raise field_error(field, "contains `..`; name the file without it")


def _below_url(name: str, roots: tuple[Root, ...], field: str) -> Input:
    parts = urlsplit(name)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise field_error(
            field, "contains credentials, a query or a fragment; write the URL without"
        )
    for root in roots:
        base = f"{root.url.rstrip('/')}/"
        if root.folder is None and name.startswith(base) and len(name) > len(base):
            return Input(root=root, path=PurePosixPath(name.removeprefix(base)))
    raise field_error(field, f"is below no root that this project may read; {_known(roots)}")


def _candidates(name: str, roots: tuple[Root, ...], field: str) -> list[Input]:
    """What a name may mean, most specific first."""
    path = PurePosixPath(name)
    relative = PurePosixPath(*[part for part in path.parts if part != "/"])
    inputs = [
        Input(root=root, path=path.relative_to(root.folder))
        for root in roots
        if path.is_absolute() and root.folder and path.is_relative_to(root.folder)
    ]
    for root in roots:
        if not path.is_absolute() and len(relative.parts) > 1 and relative.parts[0] == root.name:
            inputs.append(Input(root=root, path=relative.relative_to(root.name)))
    if len(roots) == 1 and relative.parts:
        inputs.append(Input(root=roots[0], path=relative))
    if not inputs:
        raise field_error(field, f"names no root; write ROOT/PATH; {_known(roots)}")
    return inputs


def _known(roots: tuple[Root, ...]) -> str:
    if not roots:
        return f"no root is declared; the operator sets {VARIABLE}"
    return f"roots are {', '.join(sorted(root.name for root in roots))}"


def absent(name: str) -> NotFoundError:
    """The error of an input that does not exist."""
    return NotFoundError(f"no file `{cut(name, 200)}`; look for the name in the roots of data")
