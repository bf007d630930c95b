from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.archives import (
    MAX_ARCHIVE_BYTES,
    MAX_BYTES,
    MAX_FILES,
    read_archive_files,
    read_folder,
    write_archive,
)

LEAVES = "leaves the deck's folder; a deck's files lie in its folder"
ABSOLUTE = "is no relative path with / between folders"
LINK = "is a link or a device; a deck holds plain files"

Pack = Callable[[dict[str, bytes]], bytes]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: Literal["w:gz", "w"] = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def plain_tar(files: dict[str, bytes]) -> bytes:
    return tarred(files, "w")


packs = pytest.mark.parametrize("pack", [zipped, tarred, plain_tar])


def mistakes(archive: bytes) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as error:
        read_archive_files(archive)
    return [(each.field, each.description) for each in error.value.violations]


@packs
def test_an_archive_gives_its_files(pack: Pack) -> None:
    files = {"deck.yaml": b"name: x\n", "models/n.lib": b"* n\n"}
    assert read_archive_files(pack(files)) == files


@packs
def test_the_one_folder_around_all_files_is_taken_off(pack: Pack) -> None:
    packed = pack({"ota-1.2/deck.yaml": b"a", "ota-1.2/models/n.lib": b"b"})
    assert read_archive_files(packed) == {"deck.yaml": b"a", "models/n.lib": b"b"}


@packs
def test_what_is_no_part_of_the_deck_is_left_out(pack: Pack) -> None:
    packed = pack(
        {
            "./deck.yaml": b"a",
            "kit.yaml": b"b",
            "README.md": b"c",
            ".git/config": b"d",
            "__pycache__/deck.cpython-311.pyc": b"e",
            "__MACOSX/._deck.yaml": b"f",
        }
    )
    assert read_archive_files(packed) == {"deck.yaml": b"a"}


@packs
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("../deck.yaml", LEAVES),
        ("models/../../deck.yaml", LEAVES),
        (".hidden/../../deck.yaml", LEAVES),
        ("/etc/passwd", ABSOLUTE),
        ("..\\deck.yaml", ABSOLUTE),
        ("C:\\deck.yaml", ABSOLUTE),
        ("~/deck.yaml", ABSOLUTE),
        ("de\x1bck.yaml", "has characters that cannot be printed"),
        ("d" * 201, "a path has 1 to 200 characters"),
    ],
)
def test_a_path_out_of_the_deck_is_refused(pack: Pack, path: str, told: str) -> None:
    assert mistakes(pack({"deck.yaml": b"a", path: b"b"})) == [(path, told)]


def test_every_refused_entry_is_told() -> None:
    assert mistakes(zipped({"../a": b"", "deck.yaml": b"", "/b": b""})) == [
        ("../a", LEAVES),
        ("/b", ABSOLUTE),
    ]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar_is_refused(kind: bytes) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("models.lib")
        entry.type = kind
        entry.linkname = "/etc/passwd"
        archive.addfile(entry)
    assert mistakes(buffer.getvalue()) == [("models.lib", LINK)]


def test_a_link_in_a_zip_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("models.lib")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    assert mistakes(buffer.getvalue()) == [("models.lib", LINK)]


@packs
def test_more_files_than_a_deck_may_have_are_refused(pack: Pack) -> None:
    files = {f"f{at}": b"" for at in range(MAX_FILES + 5)}
    assert mistakes(pack(files)) == [
        ("", "more than 64 files; keep what the simulator does not need out")
    ]


@packs
def test_files_larger_than_a_deck_may_be_are_refused(pack: Pack) -> None:
    half = b"x" * (MAX_BYTES // 2 + 1)
    assert mistakes(pack({"a": half, "b": half, "c": half})) == [
        ("b", "with it the files have more than 1048576 bytes together")
    ]


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_an_archive_that_unpacks_to_gigabytes_is_refused_without_unpacking_it(pack: Pack) -> None:
    # 200 MB of zeros pack to some 200 kB; only what fits into a deck is ever unpacked.
    bomb = pack({"deck.yaml": b"\0" * 200_000_000})
    assert len(bomb) < MAX_ARCHIVE_BYTES
    assert len(mistakes(bomb)) == 1


def test_a_zip_that_lies_about_its_sizes_is_refused() -> None:
    packed = bytearray(zipped({"deck.yaml": b"\0" * 3_000_000}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = packed.index(signature) + offset
        packed[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(InvalidError):
        read_archive_files(bytes(packed))


def test_an_archive_larger_than_is_opened_is_refused() -> None:
    with pytest.raises(InvalidError, match="at most 4194304 are opened"):
        read_archive_files(b"P" * (MAX_ARCHIVE_BYTES + 1))


def test_a_tar_of_a_folder_as_tar_writes_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "deck.yaml").write_bytes(b"a")
    (tmp_path / "models" / "n.lib").write_bytes(b"b")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path, arcname=".")
    assert read_archive_files(buffer.getvalue()) == {"deck.yaml": b"a", "models/n.lib": b"b"}


def test_an_archive_with_thousands_of_entries_is_refused() -> None:
    packed = zipped({f".hidden/{at}": b"" for at in range(2000)})
    assert mistakes(packed) == [("", "more than 1024 entries; a deck has a folder of its own")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"name: x\n",
        b"\x1f\x8bnothing",
        b"PK\x05\x06" + b"\0" * 18 + b"x",
        zipped({"deck.yaml": b"name: x\n" * 100})[:-40],
        tarred({"deck.yaml": os.urandom(5000)})[:-2000],
    ],
    ids=["empty", "yaml", "gzip of nothing", "empty zip", "cut zip", "cut tar"],
)
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidError, match=r"cannot be read as a zip or tar|holds no file"):
        read_archive_files(content)


def test_an_encrypted_zip_is_refused() -> None:
    packed = bytearray(zipped({"deck.yaml": b"name: x\n"}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(signature) + offset] |= 1
    assert mistakes(bytes(packed)) == [("deck.yaml", "is encrypted")]


def test_a_path_twice_in_a_zip_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("deck.yaml", "a")
        archive.writestr("./deck.yaml", "b")
    assert mistakes(buffer.getvalue()) == [("deck.yaml", "is in the archive twice")]


def test_written_archives_are_equal_for_equal_files() -> None:
    one = write_archive({"b": b"2", "a": b"1"})
    other = write_archive({"a": b"1", "b": b"2"})
    assert one == other
    assert read_archive_files(one) == {"a": b"1", "b": b"2"}


def test_a_folder_gives_its_files(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "deck.yaml").write_bytes(b"a")
    (tmp_path / "models" / "n.lib").write_bytes(b"b")
    (tmp_path / "kit.yaml").write_bytes(b"c")
    (tmp_path / ".env").write_bytes(b"d")
    (tmp_path / "within").symlink_to(tmp_path / "deck.yaml")
    assert read_folder(tmp_path) == {"deck.yaml": b"a", "models/n.lib": b"b", "within": b"a"}


def test_links_out_of_a_folder_and_pipes_in_it_are_refused(tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(b"secret")
    folder = tmp_path / "deck"
    folder.mkdir()
    (folder / "a").symlink_to(outside)
    (folder / "b").symlink_to(tmp_path)
    (folder / "c").symlink_to("/dev/zero")
    (folder / "e").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "d")
    with pytest.raises(InvalidError) as error:
        read_folder(folder)
    assert [(each.field, each.description) for each in error.value.violations] == [
        ("a", "a link out of the deck's folder; put the file itself there"),
        ("b", "is a link to a folder; put the files themselves there"),
        ("c", "a link out of the deck's folder; put the file itself there"),
        ("d", "is no plain file"),
        ("e", "cannot be read: No such file or directory"),
    ]


def test_a_folder_with_too_much_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"x" * (MAX_BYTES + 1))
    for at in range(MAX_FILES + 1):
        (tmp_path / f"f{at}").touch()
    with pytest.raises(InvalidError) as error:
        read_folder(tmp_path)
    assert [each.description for each in error.value.violations] == [
        "with it the files have more than 1048576 bytes together",
        "more than 64 files; keep what the simulator does not need out",
    ]


def test_a_folder_that_is_not_there_is_told_by_its_name_alone(tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match=r"^nowhere: no such folder"):
        read_folder(tmp_path / "nowhere")
