"""The page's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.gateway.readers import Served  # type: ignore[import-not-found]
from vistaflow_services.gateway.page import serving


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a build makes, to be served."""
    folder = tmp_path / "built"
    (folder / "assets").mkdir(parents=True)
    for name in ("index.html", "assets/main-ABC.js"):
        (folder / name).write_text("as it is")
        (folder / f"{name}.br").write_bytes(b"packed by brotli")
        (folder / f"{name}.gz").write_bytes(b"packed by gzip")
    monkeypatch.setattr(serving.Page.__init__, "__defaults__", (folder,))
    return folder


async def raw(served: Served, path: str, coding: str) -> tuple[int, dict[str, str], bytes]:
    async with served.http.stream("GET", path, headers={"accept-encoding": coding}) as answer:
        body = b"".join([block async for block in answer.aiter_raw()])
        return answer.status_code, dict(answer.headers), body


async def test_files_are_sent_as_they_were_packed(built: Path, served: Served) -> None:
    for coding, expected in (
        ("gzip, br", b"packed by brotli"),
        ("gzip", b"packed by gzip"),
        ("identity", b"as it is"),
    ):
        status, headers, body = await raw(served, "/assets/main-ABC.js", coding)
        assert (status, body) == (200, expected)
        assert headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "javascript" in headers["content-type"]


async def test_every_address_of_the_page_is_its_document(built: Path, served: Served) -> None:
    for path in ("/", "/kits", "/kits/7", "/kits/7/study", "/sql"):
        status, headers, body = await raw(served, path, "identity")
        assert (status, body) == (200, b"as it is"), path
        assert headers["cache-control"] == "no-cache"
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy


async def test_what_is_beside_the_files_is_not_served(built: Path, served: Served) -> None:
    (built.parent / "secret").write_text("private")
    for path in ("/assets/%2e%2e%2f%2e%2e%2fsecret", "/assets/%2e%2e", "/assets/.x"):
        status, _, body = await raw(served, path, "identity")
        assert status == 404, path
        assert b"private" not in body


async def test_without_a_build_the_gateway_says_what_is_missing(
    built: Path, served: Served
) -> None:
    (built / "index.html").unlink()
    answer = await served.http.get("/")

    assert answer.status_code == 503
    assert "make web" in answer.text
    assert (await served.http.get("/v1")).status_code == 200
