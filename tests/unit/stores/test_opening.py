"""Stores from URLs; credentials from the environment only."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.stores.bucket import BucketStore
from vistaflow_services.stores.copies import CopiesStore
from vistaflow_services.stores.folder import FolderStore
from vistaflow_services.stores.opening import aws_variables, open_store, open_stores


def test_urls_open_folders_buckets_and_copies(tmp_path: Path) -> None:
    assert isinstance(open_store("a", str(tmp_path / "a"), {}), FolderStore)
    assert isinstance(open_store("a", f"file://{tmp_path}/a", {}), FolderStore)
    assert isinstance(open_store("a", "s3://bucket/some/prefix", {}), BucketStore)
    urls = {"a": str(tmp_path / "a"), "b": str(tmp_path / "b")}
    assert isinstance(open_stores(urls, 2, {}), CopiesStore)
    assert isinstance(open_stores({"a": urls["a"]}, 1, {}), FolderStore)


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("data", "neither an absolute path nor s3://"),
        ("", "neither an absolute path nor s3://"),
        ("http://host/bucket", "neither an absolute path nor s3://"),
        ("s3://KEY:canary@bucket/x", "credentials belong to the environment"),
        ("s3://bucket/x?secret=canary", "credentials belong to the environment"),
        ("s3://ab", "names no bucket"),
        ("s3://bucket/a/../b", "empty part, `.` or `..`"),
    ],
)
def test_a_malformed_url_is_refused_without_being_repeated(url: str, problem: str) -> None:
    with pytest.raises(InvalidError, match=r"stores\.lake: ") as caught:
        open_store("lake", url, {})
    assert problem in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "1a"])
def test_a_malformed_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidError, match="stores: a name is"):
        open_store(name, str(tmp_path), {})


def test_variables_with_the_name_of_a_store_win_for_that_store() -> None:
    environment = {
        "AWS_ACCESS_KEY_ID": "general",
        "AWS_REGION": "r",
        "AWS_EXECUTION_ENV": "x",
        "BACK_UP_AWS_ACCESS_KEY_ID": "special",
    }

    assert aws_variables("lake", environment) == {
        "aws_checksum_algorithm": "sha256",
        "aws_access_key_id": "general",
        "aws_region": "r",
    }
    assert aws_variables("back-up", environment) == {
        "aws_checksum_algorithm": "sha256",
        "aws_access_key_id": "special",
        "aws_region": "r",
    }
