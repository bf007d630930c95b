from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import wrappers_pb2  # noqa: F401  # the type of a spec

from vistaflow_services.core.errors import InvalidError, NotFoundError
from vistaflow_services.core.work import child
from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt

JOB = "0b0e7b2c-90d5-4b7a-9a44-6f1d0f3a2c11"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def test_a_written_file_is_described_by_uri_size_and_hash(store: ArtifactStore) -> None:
    path = store.open_prefix(JOB, 2) / "model.json"
    assert store.write(path, b"hello") == {
        "uri": f"artifact://jobs/{JOB}/2/model.json",
        "bytes": 5,
        "sha256": hashlib.sha256(b"hello").hexdigest(),
    }
    assert store.path(f"artifact://jobs/{JOB}/2/model.json") == path
    assert store.existing(store.uri(path)).read_bytes() == b"hello"


@pytest.mark.parametrize(
    "uri",
    [
        "artifact://../secret",
        "artifact://jobs/../../secret",
        "artifact://jobs/./x",
        "artifact:///etc/passwd",
        "artifact://jobs//x",
        "artifact://jobs/x/",
        "artifact://",
        "artifact://jobs/.hidden",
        "artifact://jobs/-rf",
        "artifact://jobs/a\\b",
        "artifact://jobs/a\0b",
        "artifact://jobs/a b",
        "artifact://jobs/%2e%2e/x",
        "artifact://jobs/x\n",
        "/etc/passwd",
        "file:///etc/passwd",
        "",
        f"artifact://jobs/{'x' * 201}",
    ],
)
def test_a_uri_that_is_malformed_or_leads_out_is_refused(store: ArtifactStore, uri: str) -> None:
    with pytest.raises(InvalidError) as caught:
        store.path(uri)
    assert caught.value.violations[0].field == "uri"


def test_a_link_that_leads_out_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush")
    (store.open_prefix(JOB, 1) / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidError, match="leads out of the artifact store"):
        store.path(f"artifact://jobs/{JOB}/1/link")


def test_a_path_outside_has_no_uri(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="does not lie in the artifact store"):
        store.uri(tmp_path / "elsewhere")
    with pytest.raises(InvalidError):
        store.write(tmp_path / "elsewhere", b"x")
    assert not (tmp_path / "elsewhere").exists()


def test_an_artifact_that_is_not_there_is_not_found(store: ArtifactStore) -> None:
    with pytest.raises(NotFoundError, match="no artifact artifact://jobs/x"):
        store.existing("artifact://jobs/x")


def test_an_altered_artifact_is_refused(store: ArtifactStore) -> None:
    told = store.write(store.open_prefix(JOB, 1) / "a.json", b"one")
    assert store.verified(told["uri"], told["sha256"]).read_bytes() == b"one"
    store.path(told["uri"]).write_bytes(b"two")
    with pytest.raises(InvalidError, match="altered or damaged"):
        store.verified(told["uri"], told["sha256"])


def test_a_write_that_fails_leaves_what_was_there(store: ArtifactStore) -> None:
    path = store.open_prefix(JOB, 1) / "a.tar.gz"
    store.write(path, b"old")

    def fail() -> None:
        with store.writing(path) as temporary:
            assert temporary.suffixes == [".tar", ".gz"]
            temporary.write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert [each.name for each in path.parent.iterdir()] == ["a.tar.gz"]


def test_a_folder_is_described_by_its_files_names_and_contents(store: ArtifactStore) -> None:
    folder = store.open_prefix(JOB, 1) / "model"
    store.write(folder / "a.npz", b"aa")
    store.write(folder / "deep" / "b.json", b"bbb")
    told = store.describe(folder)
    assert (told["uri"], told["bytes"]) == (f"artifact://jobs/{JOB}/1/model", 5)
    assert store.describe(folder) == told
    (folder / "a.npz").rename(folder / "c.npz")
    assert store.describe(folder)["sha256"] != told["sha256"]


def test_writers_of_one_file_at_once_leave_one_of_them_whole(store: ArtifactStore) -> None:
    path = store.open_prefix(JOB, 1) / "a.bin"
    contents = [bytes([number]) * 200_000 for number in range(8)]
    threads = [threading.Thread(target=store.write, args=(path, each)) for each in contents]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert path.read_bytes() in contents
    assert len(list(path.parent.iterdir())) == 1


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that were put on disk, in order."""
    paths: list[str] = []
    fsync = os.fsync

    def recorded(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    return paths


def test_what_a_result_describes_is_on_disk_before_it_is_published(
    store: ArtifactStore, synced: list[str]
) -> None:
    folder = store.open_prefix(JOB, 1)
    (folder / "model").mkdir()
    (folder / "model" / "arrays").write_bytes(b"1")
    (folder / "rows.parquet").write_bytes(b"2")
    pictures = [{"name": "a", **store.write(folder / "a.png", b"3")}]
    result = {
        "model": store.describe(folder / "model"),
        "parts": [store.describe(folder / "rows.parquet")],
        "pictures": pictures,
        "others": [{"uri": "no uri"}, {"uri": f"artifact://jobs/{JOB}/9/gone"}],
    }
    synced.clear()

    Attempt(kit_id=1, job_id=JOB, folder=folder, artifacts=store).publish(result)

    *described, manifest, last = synced
    assert last == str(folder)
    assert manifest.startswith(f"{folder}/.")
    assert {*map(str, (folder / "model", folder / "model" / "arrays", folder / "rows.parquet"))} < {
        *described
    }
    # What `write` wrote is there already.
    assert str(folder / "a.png") not in described


def test_a_result_that_a_job_returns_is_on_disk_before_the_worker_gets_it(
    store: ArtifactStore, synced: list[str]
) -> None:
    folder = store.open_prefix(JOB, 1)

    def work(attempt: Attempt) -> dict[str, Any]:
        (attempt.folder / "rows").write_bytes(b"1")
        return {"files": [attempt.artifacts.describe(attempt.folder / "rows")]}

    header = {
        "job_type": "X", "job_id": JOB, "kit_id": 1, "attempt": 1, "name": "x",
        "folder": str(folder), "artifacts": str(store.root), "inputs": {}, "workers": 1,
        "spec_type": "type.googleapis.com/google.protobuf.StringValue", "spec": "",
    }  # fmt: skip
    here = Path.cwd()
    try:
        answer = child.run({"X": work}, header, lambda _: None)
    finally:
        os.chdir(here)

    assert answer["kind"] == "result"
    assert synced == [str(folder / "rows"), str(folder)]


def test_a_folder_that_appears_is_on_disk_with_all_that_is_in_it(
    store: ArtifactStore, synced: list[str]
) -> None:
    with store.writing(store.open_prefix(JOB, 1) / "model") as temporary:
        (temporary / "in").mkdir(parents=True)
        (temporary / "in" / "file").write_bytes(b"1")
        expected = [temporary / "in" / "file", temporary / "in", temporary, temporary.parent]

    assert synced == [str(path) for path in expected]
