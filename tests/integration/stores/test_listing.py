"""Files of folders and patterns, in folders and in buckets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from tests.integration.stores.conftest import environment, make_bucket
from vistaflow_services.core.errors import InvalidError, NotFoundError
from vistaflow_services.stores.bucket import connect
from vistaflow_services.stores.listing import is_unchanged, list_files, partition_types
from vistaflow_services.stores.opening import aws_variables
from vistaflow_services.stores.roots import Roots

FILES = [
    f"sales/year=2024/month={month}/{name}"
    for month in (1, 2, 10)
    for name in ("a.parquet", "_b.parquet", "c.txt")
] + ["single.parquet", "other/x.parquet", "other/deep/y.parquet"]

Put = Callable[[str, bytes], object]


@pytest.fixture(params=["folder", "moto"])
def lake(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Roots, Put]:
    """A root called `lake`, and what puts a file into it."""
    if request.param == "folder":

        def write(name: str, content: bytes) -> None:
            path = tmp_path / "lake" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

        put: Put = write
        roots = Roots.parse(f"lake={tmp_path}/lake")
    else:
        url = request.getfixturevalue("moto")
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        bucket = make_bucket(url)
        client = connect("lake", bucket, "raw", aws_variables("lake", environment(url)))

        def send(name: str, content: bytes) -> object:
            return obstore.put(client, name, content)

        put, roots = send, Roots.parse(f"lake=s3://{bucket}/raw")
    for name in FILES:
        put(name, name.encode())
    return roots, put


def names(roots: Roots, name: str) -> list[str]:
    return [file.input.name for file in list_files(roots, name, "p", (".parquet",))]


def test_files_of_a_folder_come_in_the_order_of_their_partitions(lake: tuple[Roots, Put]) -> None:
    roots, _ = lake

    assert names(roots, "lake/sales") == [
        f"lake/sales/year=2024/month={month}/a.parquet" for month in (1, 2, 10)
    ]
    assert partition_types(list_files(roots, "lake/sales", "p", (".parquet",))) == {
        "year": "BIGINT",
        "month": "BIGINT",
    }


def test_a_pattern_names_what_fits_it(lake: tuple[Roots, Put]) -> None:
    roots, _ = lake

    assert names(roots, "lake/single.parquet") == ["lake/single.parquet"]
    assert names(roots, "lake/other/*.parquet") == ["lake/other/x.parquet"]
    assert names(roots, "lake/other/**/*.parquet") == [
        "lake/other/deep/y.parquet",
        "lake/other/x.parquet",
    ]
    assert names(roots, "lake/sales/year=*/month=[12]/a.parquet") == [
        f"lake/sales/year=2024/month={month}/a.parquet" for month in (1, 2)
    ]
    for name in ("lake/none", "lake/other/*.csv"):
        with pytest.raises(NotFoundError):
            names(roots, name)


def test_a_file_that_changed_is_not_the_one_that_was_listed(lake: tuple[Roots, Put]) -> None:
    roots, put = lake
    (before,) = list_files(roots, "lake/single.parquet", "p", (".parquet",))
    assert is_unchanged(before)

    put("single.parquet", b"another content")

    (after,) = list_files(roots, "lake/single.parquet", "p", (".parquet",))
    assert not is_unchanged(before)
    assert before.version != after.version


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "secret.parquet").write_bytes(b"secret")
    (tmp_path / "lake" / "link.parquet").symlink_to(tmp_path / "secret.parquet")
    roots = Roots.parse(f"lake={tmp_path}/lake")

    for name in ("lake/link.parquet", "lake/*.parquet"):
        with pytest.raises(InvalidError, match="link that leads out"):
            names(roots, name)
