"""Roots of data, and what the names of inputs may mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vistaflow_services.core.errors import InvalidError, NotFoundError, ServiceError
from vistaflow_services.stores.roots import Input, Roots


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A root with files and links, and a secret outside of it."""
    root = tmp_path / "data"
    (root / "2024").mkdir(parents=True)
    (root / "x.json").write_text("[1]")
    (root / "2024" / "가.json").write_text("[2]")
    (tmp_path / "secret").write_text("canary")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "x.json")
    os.mkfifo(root / "pipe")
    return root


def content(source: Input) -> str:
    with source.opened() as file:
        return file.read().decode()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("raw/x.json", "[1]"),
        ("x.json", "[1]"),
        ("/x.json", "[1]"),
        ("./x.json", "[1]"),
        ("2024/가.json", "[2]"),
        ("raw/2024/가.json", "[2]"),
        ("in", "[1]"),
        ("{root}/x.json", "[1]"),
        ("file://{root}/x.json", "[1]"),
    ],
)
def test_a_name_in_the_only_root_is_resolved(data: Path, name: str, expected: str) -> None:
    roots = Roots.parse(f"raw={data}")

    source = roots.resolve(name.format(root=data), "any")

    assert content(source) == expected
    assert str(data) not in source.name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "is empty"),
        ("../secret", "contains `..`"),
        ("raw/../../secret", "contains `..`"),
        ("s3://lake/../x", "contains `..`"),
        ("a\0b", "control character"),
        ("a\\b", "backslash"),
        ("x" * 5000, "at most 4096"),
        ("out", "a link that leads out of its root"),
        ("up/secret", "a link that leads out of its root"),
        ("pipe", "is not a file"),
        ("2024", "is not a file"),
        ("s3://lake/x.json", "below no root"),
        ("http://169.254.169.254/latest", "below no root"),
        ("s3://K:canary@lake/x", "contains credentials"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(data: Path, name: str, problem: str) -> None:
    with pytest.raises(InvalidError) as caught:
        Roots.parse(f"raw={data}").resolve(name, "any", field="inputs[0]")
    assert problem in str(caught.value)
    assert str(data) not in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("name", ["none.json", "/etc/passwd", "raw/none.json", "2024/none"])
def test_a_file_that_does_not_exist_is_not_found(data: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match=f"no file `{name}`") as caught:
        Roots.parse(f"raw={data}").resolve(name, "any")
    assert str(data) not in str(caught.value)


def test_with_several_roots_a_name_begins_with_one(data: Path, tmp_path: Path) -> None:
    roots = Roots.parse(f"raw={data}, lake=s3://lake/raw")

    assert content(roots.resolve("raw/x.json", "any")) == "[1]"
    assert content(roots.resolve(f"{data}/x.json", "any")) == "[1]"
    assert roots.resolve("lake/a/x.json", "any").url == "s3://lake/raw/a/x.json"
    assert roots.resolve("s3://lake/raw/a/x.json", "any").name == "lake/a/x.json"
    for name in ("x.json", "/x.json", "other/x.json"):
        with pytest.raises(
            InvalidError, match="names no root; write ROOT/PATH; roots are lake, raw"
        ):
            roots.resolve(name, "any")
    for name in ("s3://lake/rawer/x", "s3://lake", "s3://lake/raw/", "s3://lake.evil/raw/x"):
        with pytest.raises(InvalidError, match="below no root"):
            roots.resolve(name, "any")


def test_a_root_of_a_project_is_seen_by_that_project_only(data: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "x.json").write_text("[3]")
    roots = Roots.parse(f"raw={data},hr@people={private},raw@people={private}")

    assert [root.name for root in roots.visible("people")] == ["raw", "hr"]
    assert content(roots.resolve("hr/x.json", "people")) == "[3]"
    assert content(roots.resolve("raw/x.json", "people")) == "[3]"
    assert content(roots.resolve("raw/x.json", "others")) == "[1]"
    with pytest.raises(ServiceError) as caught:
        roots.resolve(f"{private}/x.json", "others")
    assert "people" not in str(caught.value)


def test_without_roots_the_operator_is_asked_to_declare_some() -> None:
    with pytest.raises(InvalidError, match="no root is declared; the operator sets VISTAFLOW_DATA"):
        Roots.parse("").resolve("x.json", "any")


def test_a_link_that_changes_after_it_was_resolved_leads_nowhere(data: Path) -> None:
    source = Roots.parse(f"raw={data}").resolve("in", "any")
    (data / "in").unlink()
    (data / "in").symlink_to(data.parent / "secret")

    with pytest.raises(InvalidError, match="leads out of its root"), source.opened():
        pass


def test_every_malformed_entry_is_reported() -> None:
    with pytest.raises(InvalidError) as caught:
        Roots.parse(
            "raw=/a,raw=/b,x,Up=/c,p@=/d,q=relative,s=s3://K:canary@bucket,t=/a|s3://b,u=/a/.."
        )

    problems = {mistake.field: mistake.description for mistake in caught.value.violations}
    assert list(problems) == [f"VISTAFLOW_DATA_ROOTS[{number}]" for number in range(1, 9)]
    assert problems["VISTAFLOW_DATA_ROOTS[1]"] == "declares the root `raw` again"
    assert "canary" not in str(caught.value)
