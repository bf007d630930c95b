"""Inputs in folders and buckets as local files."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest

from tests.integration.stores.conftest import environment, make_bucket
from vistaflow_services.core.errors import ExhaustedError, NotFoundError, UnavailableError
from vistaflow_services.stores.bucket import connect
from vistaflow_services.stores.inputs import local_file
from vistaflow_services.stores.opening import aws_variables
from vistaflow_services.stores.roots import Roots

CONTENT = b"id\n" + b"1\n" * 2_000_000


@pytest.fixture(params=["folder", "moto", "rclone"])
def roots(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Roots:
    """A root called `lake` with a file `2024/x.csv`."""
    if request.param == "folder":
        (tmp_path / "lake" / "2024").mkdir(parents=True)
        (tmp_path / "lake" / "2024" / "x.csv").write_bytes(CONTENT)
        return Roots.parse(f"lake={tmp_path}/lake")
    url = request.getfixturevalue(request.param)
    for name, value in environment(url).items():
        monkeypatch.setenv(name, value)
    bucket = make_bucket(url)
    client = connect("lake", bucket, "raw", aws_variables("lake", environment(url)))
    obstore.put(client, "2024/x.csv", CONTENT)
    return Roots.parse(f"lake=s3://{bucket}/raw")


def test_an_input_is_a_local_file_until_the_block_ends(roots: Roots, tmp_path: Path) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    with local_file(roots.resolve("lake/2024/x.csv", "any"), downloads) as path:
        assert (path.read_bytes(), path.suffix) == (CONTENT, ".csv")
    assert list(downloads.iterdir()) == []


def test_an_input_that_does_not_exist_is_not_found(roots: Roots, tmp_path: Path) -> None:
    with (
        pytest.raises(NotFoundError, match="no file `lake/none"),
        local_file(roots.resolve("lake/none.csv", "any"), tmp_path),
    ):
        pass


def test_an_input_that_is_too_large_is_refused(roots: Roots, tmp_path: Path) -> None:
    source = roots.resolve("lake/2024/x.csv", "any")
    with (
        pytest.raises(ExhaustedError, match=r"inputs\[1\]: `lake/2024/x.csv` has 4000003 bytes"),
        local_file(source, tmp_path, max_bytes=1000, field="inputs[1]"),
    ):
        pass
    assert [path for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_bucket_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    source = Roots.parse("lake=s3://bucket/raw").resolve("lake/x.csv", "any")
    gone = environment("http://127.0.0.1:9")
    with (
        pytest.raises(UnavailableError, match="store lake does not answer"),
        local_file(source, tmp_path, environment=gone),
    ):
        pass
