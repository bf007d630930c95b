"""Collections of a local site, without services: what is fetched, refused, limited and read."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.site import Answer, Asked, Site, serving_site  # type: ignore[import-not-found]
from vistaflow_services.core.errors import UnavailableError
from vistaflow_services.pages import fetcher
from vistaflow_services.pages.contents import Contents, expire, stored_pages
from vistaflow_services.pages.documents import Extractor, text_of
from vistaflow_services.pages.folder import Folder
from vistaflow_services.pages.hosts import Hosts, Place, RefusedError
from vistaflow_services.pages.plan import Column, Content, Numbers, Page, Plan
from vistaflow_services.pages.run import Collected, CollectError, Hooks, Progress, collect
from vistaflow_services.stores.folder import FolderStore

NAME = Column(name="name", selector="b")
ROWS = Content(kind="html", rows="li", columns=(NAME,), next="a.next")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving_site() as site:
        yield site


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def run(site: Site, tmp_path: Path) -> Callable[..., Collected]:
    def run(
        *paths: str,
        name: str = "one",
        previous: str = "",
        progress: Callable[[Progress], None] = lambda progress: None,
        **options: Any,
    ) -> Collected:
        options = {"content": ROWS, "delay": 0.0, "timeout": 5.0, **options}
        plan = Plan(urls=tuple(f"{site.url}{path}" for path in paths), **options)
        contents = contents_in(tmp_path)
        folder = Folder(tmp_path / name, contents, tmp_path / previous if previous else None)
        return collect(plan, Hosts([site.place]), folder, "1.0", Hooks(progress=progress))

    return run


def contents_in(folder: Path) -> Contents:
    return Contents(FolderStore("local", folder / "blobs", strict=False), folder / "lock")


def rows(tmp_path: Path, name: str = "one") -> list[dict[str, Any]]:
    parts = json.loads((tmp_path / name / "parts.json").read_bytes())["parts"]
    files = [(tmp_path / name / part["name"]).read_text("utf-8") for part in parts]
    return [json.loads(line) for text in files for line in text.splitlines()]


def listing(*names: str, next: str = "") -> str:
    link = f'<a class="next" href="{next}">more</a>' if next else ""
    return "<ul>" + "".join(f"<li><b>{name}</b></li>" for name in names) + f"</ul>{link}"


def answer(status: int, body: bytes = b"", **fields: str) -> Answer:
    return status, {name.replace("_", "-"): value for name, value in fields.items()}, body


def test_rows_have_values_of_their_types_and_links_lead_on(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    site.html(
        "/list",
        '<base href="/items/"><tr class=r><td><a href="1">글렌  피딕</a></td><td>₩ 12,500 원</td>'
        '<td data-age="12 years">x</td></tr><tr class=r><td></td><td>sold out</td></tr>'
        '<a rel="next" href="/list?p=2">다음</a>',
    )
    site.html("/list?p=2", '<tr class=r><td><a href="/x">B</a></td><td>-1.50</td></tr>')
    columns = (
        Column(name="name", selector="td a"),
        Column(name="url", selector="td a", attribute="href", type="url"),
        Column(name="price", selector="td:nth-of-type(2)", type="number"),
        Column(name="age", selector="[data-age]", attribute="data-age", pattern=r"(\d+) years"),
        Column(name="page", type="page"),
    )
    content = Content(kind="html", rows="tr.r", columns=columns, next="a[rel=next]")

    collected = run("/list", content=content)

    assert rows(tmp_path) == [
        {
            "name": "글렌 피딕",
            "url": f"{site.url}/items/1",
            "price": 12500,
            "age": "12",
            "page": f"{site.url}/list",
        },
        {"name": None, "url": None, "price": None, "age": None, "page": f"{site.url}/list"},
        {
            "name": "B",
            "url": f"{site.url}/x",
            "price": -1.5,
            "age": None,
            "page": f"{site.url}/list?p=2",
        },
    ]
    assert [page.rows for page in collected.pages] == [2, 1]
    assert all(asked["user-agent"] == "vistaflow/1.0" for _, asked in site.requests)


def test_a_second_collection_transfers_only_what_changed(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    site.html("/1", listing("a", next="/2"))
    site.html("/2", listing("b"))
    run("/1")
    site.html("/2", listing("b", "c"))
    site.requests.clear()

    second = run("/1", name="two", previous="one")

    assert [(page.status, page.unchanged, page.rows) for page in second.pages] == [
        (304, True, 1),
        (200, False, 2),
    ]
    assert [row["name"] for row in rows(tmp_path, "two")] == ["a", "b", "c"]


def test_pages_are_in_the_store_once_and_what_it_lost_is_fetched_again(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    site.html("/1", listing("a", next="/2"))
    site.html("/2", listing("b"))
    store, folders = FolderStore("local", tmp_path / "blobs"), [tmp_path / "one", tmp_path / "two"]
    first, second = run("/1").pages
    run("/1", name="two", previous="one")

    kept = {blob.sha256: b"".join(store.read(blob.sha256)) for blob in stored_pages(folders)}
    assert kept == {
        first.sha256: listing("a", next="/2").encode(),
        second.sha256: b"<ul><li><b>b</b></li></ul>",
    }
    assert {blob.sha256 for blob in store.blobs()} == set(kept)
    assert not any((folder / "content").exists() for folder in folders)

    # A lost page is asked for without a condition, a damaged one again without.
    (tmp_path / "blobs" / "cas" / first.sha256[:2] / first.sha256).write_bytes(b"x" * first.bytes)
    store.delete(second.sha256)
    third = run("/1", name="three", previous="two")
    assert [(page.status, page.unchanged) for page in third.pages] == [(200, False)] * 2
    assert {sha256: b"".join(store.read(sha256)) for sha256 in kept} == kept
    assert expire(folders, time.time() + 1) == 2
    assert expire(folders, time.time() + 1) == 0
    assert not list(stored_pages(folders))
    assert len(list(stored_pages([tmp_path / "three"]))) == 2


def test_a_store_that_is_away_fails_the_collection_which_then_goes_on(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    site.html("/1", listing("a"))
    (tmp_path / "blobs").write_text("no folder")
    with pytest.raises(UnavailableError, match="store local cannot be used"):
        run("/1")
    (tmp_path / "blobs").unlink()
    run("/1")

    assert site.paths() == ["/1"]
    assert len(list(stored_pages([tmp_path / "one"]))) == 1


def test_numbered_pages_end_where_there_are_no_rows_or_no_page(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    content = Content(kind="html", rows="li", columns=(NAME,))
    for number in (3, 4):
        site.html(f"/list?page={number}", listing(f"n{number}"))
    numbers = Numbers(url=f"{site.url}/list?page={{page}}", first=3)

    run(numbers=numbers, content=content)
    missing = site.paths()
    site.html("/list?page=5", listing())
    collected = run(numbers=numbers, content=content, name="two", format="parquet")

    assert missing == site.paths() == [f"/list?page={number}" for number in (3, 4, 5)]
    assert [page.rows for page in collected.pages] == [1, 1, 0]
    assert pq.read_table(tmp_path / "two/rows_1.parquet").to_pylist() == [
        {"name": "n3"},
        {"name": "n4"},
    ]


def test_json_is_followed_by_a_field_a_cursor_and_a_header(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    def document(*ids: int, **rest: Any) -> bytes:
        items = [{"id": number, "maker": {"name": f"m{number}"}} for number in ids]
        return json.dumps({"data": {"items": items}, **rest}).encode()

    site.pages["/a"] = answer(200, document(1, next="/b"))
    site.pages["/b"] = answer(200, document(2))
    site.pages["/c?n=1"] = answer(200, document(3, next="x y"))
    site.pages["/c?n=1&cursor=x+y"] = answer(200, document(4))
    site.pages["/d"] = answer(200, document(5), Link='</e>; rel="next"')
    site.pages["/e"] = answer(200, document(6))
    content = {"kind": "json", "rows": "data.items"}
    maker = (Column(name="id"), Column(name="maker", selector="maker.name"))
    by_field = Content(**content, next="next", columns=maker)

    run("/a", content=by_field)
    run("/c?n=1", content=Content(**content, next="next", next_parameter="cursor"), name="two")
    run("/d", content=Content(**content, next_link=True), name="three")

    assert rows(tmp_path) == [{"id": 1, "maker": "m1"}, {"id": 2, "maker": "m2"}]
    assert rows(tmp_path, "two")[1] == {"id": 4, "maker": {"name": "m4"}}
    assert [row["id"] for row in rows(tmp_path, "three")] == [5, 6]


def test_a_killed_collection_goes_on_with_the_pages_that_it_lacks(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    for number in range(1, 5):
        next = f"/{number + 1}" if number < 4 else ""
        site.html(f"/{number}", listing(f"n{number}", next=next))

    class KilledError(Exception):
        pass

    def kill(progress: Progress) -> None:
        if progress.pages == 2:
            raise KilledError

    with pytest.raises(KilledError):
        run("/1", progress=kill)
    with (tmp_path / "one/journal-0.jsonl").open("ab") as journal:
        journal.write(b'{"url": "half a li')
    first = site.paths()
    run("/1")

    assert (first, site.paths()) == (["/1", "/2"], ["/3", "/4"])
    assert [row["name"] for row in rows(tmp_path)] == ["n1", "n2", "n3", "n4"]
    assert len(run("/1").pages) == 4
    assert site.paths() == []


def bomb() -> Answer:
    return answer(200, gzip.compress(bytes(50_000_000)), Content_Encoding="gzip")


def lying(asked: Asked) -> Answer:
    return answer(304)


@pytest.mark.parametrize(
    ("page", "error"),
    [
        (bomb(), "larger than 1,000 bytes"),
        (answer(200, b"x" * 1_001), "larger than 1,000 bytes"),
        (answer(200, b"x", Content_Encoding="br"), "compressed by `br`"),
        (answer(200, b"no gzip", Content_Encoding="gzip"), "says that it is gzip"),
        (lying, "answers 304 (not modified) to a request without a condition"),
        (answer(302, Location="http://169.254.169.254/"), "no host that the operator lets"),
        (answer(302, Location="/page"), "redirected more than 5 times"),
        (answer(302, Location="/forbidden/x"), "robots.txt of 127.0.0.1:"),
        (answer(403), "answers 403"),
        (answer(429, Retry_After="3600"), "answers 429 and asks to come back in 3,600 s"),
    ],
)
def test_a_page_that_cannot_be_had_is_listed_with_its_reason(
    site: Site, run: Callable[..., Collected], page: Any, error: str
) -> None:
    site.pages["/robots.txt"] = answer(200, b"User-agent: *\nDisallow: /forbidden/\n")
    site.pages["/page"] = page
    site.html("/good", listing("a"))

    collected = run("/page", "/good", max_failed_share=0.5, max_page_bytes=1_000)

    ((failure), *rest) = collected.failed
    assert (failure["url"], rest) == (f"{site.url}/page", [])
    assert error in failure["error"]


def test_an_unsteady_host_is_asked_again_and_a_dead_one_left_alone(
    site: Site, run: Callable[..., Collected], tmp_path: Path
) -> None:
    answers = [answer(503, Retry_After="0"), answer(200, listing("a").encode())]
    site.pages["/page"] = lambda asked: answers.pop(0)
    assert [page.status for page in run("/page").pages] == [200]

    hang = threading.Event()

    def hanging(asked: Asked) -> Answer:
        hang.wait(60)
        return answer(200)

    site.pages.update({f"/{number}": hanging for number in range(9)})
    site.paths()
    with pytest.raises(CollectError) as raised:
        run(*(f"/{number}" for number in range(9)), name="two", timeout=1.0)
    hang.set()

    assert raised.value.message.startswith("9 of 9 pages failed; the first is http://127.0.0.1:")
    assert "did not answer for 1 s" in raised.value.message
    assert sorted(set(site.paths())) == ["/0", "/1", "/2"]
    assert "was not tried" in raised.value.details[8]["error"]


def test_a_page_without_an_end_is_left_where_the_limit_is(tmp_path: Path) -> None:
    sent = 0

    def pour(listener: socket.socket) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while True:
                with listener.accept()[0] as connection:
                    if connection.recv(1000).split()[1] == b"/robots.txt":
                        connection.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                        continue
                    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    while sent < 1 << 30:
                        sent += connection.send(bytes(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=pour, args=(listener,), daemon=True)
        thread.start()
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        plan = Plan(urls=(f"http://{place}/x",), delay=0.0, timeout=5.0, max_page_bytes=1 << 20)
        folder = Folder(tmp_path / "one", contents_in(tmp_path))
        with pytest.raises(CollectError, match=r"is larger than 1,048,576 bytes"):
            collect(plan, Hosts([place]), folder, "1.0", Hooks())
        thread.join(60)
    assert 1 << 20 <= sent < 64 << 20  # what the sockets hold beside the limit
    assert not list((tmp_path / "one").glob("page-*"))


def test_an_etag_that_lies_hides_no_change(site: Site, run: Callable[..., Collected]) -> None:
    site.pages["/same"] = answer(200, listing("old").encode(), ETag='"1"')
    site.pages["/other"] = answer(200, listing("old").encode(), ETag='W/"1"')
    run("/same", "/other")

    def not_modified(asked: Asked) -> Answer:
        """Says that nothing changed, and names the ETag of other content."""
        if "if-none-match" in asked:
            return answer(304, ETag='"2"')
        return answer(200, listing("new").encode(), ETag='"2"')

    site.pages["/same"] = answer(200, listing("new").encode(), ETag='"1"')
    site.pages["/other"] = not_modified
    second = run("/same", "/other", name="two", previous="one")

    assert [(page.status, page.unchanged, page.etag) for page in second.pages] == [
        (200, False, '"1"'),
        (200, False, '"2"'),
    ]


def test_a_page_of_the_second_of_its_answer_is_fetched_again(
    site: Site, run: Callable[..., Collected]
) -> None:
    def modified(seconds: float, name: str) -> Callable[[Asked], Answer]:
        """A page that a server like Python's takes for unchanged within the second."""

        def page(asked: Asked) -> Answer:
            if "if-modified-since" in asked:
                return answer(304)
            return answer(200, listing(name).encode(), Last_Modified=last)

        last = formatdate(time.time() + seconds, usegmt=True)
        return page

    # A clock may pass on to the next second before the answer: a page of the future does not.
    site.pages.update({"/new": modified(60, "old"), "/old": modified(-60, "old")})
    run("/new", "/old")
    site.pages.update({"/new": modified(60, "new"), "/old": modified(-60, "new")})
    second = run("/new", "/old", name="two", previous="one")

    assert [(page.status, page.unchanged) for page in second.pages] == [(200, False), (304, True)]


def test_a_redirect_to_another_host_is_refused_even_if_that_is_allowed(
    site: Site, tmp_path: Path
) -> None:
    site.pages["/page"] = answer(302, Location="http://localhost/")
    plan = Plan(urls=(f"{site.url}/page",), content=ROWS, delay=0.0, timeout=5.0)
    folder = Folder(tmp_path / "one", contents_in(tmp_path))
    with pytest.raises(CollectError, match="is redirected to localhost; name pages of that host"):
        collect(plan, Hosts([site.place, "localhost"]), folder, "1.0", Hooks())


@pytest.mark.parametrize("sent", [b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_host_that_sends_a_byte_now_and_then_is_left(
    sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetcher, "TRIES", 1)
    end = threading.Event()

    def drip(listener: socket.socket) -> None:
        while not end.is_set():
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                path = connection.recv(1000).split()[1]
                if path == b"/robots.txt":
                    connection.sendall(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                    path = connection.recv(1000)
                connection.sendall(sent)
                while not end.wait(0.02):
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,), daemon=True)
        thread.start()
        place = f"127.0.0.1:{listener.getsockname()[1]}"
        plan = Plan(urls=(f"http://{place}/x",), content=ROWS, delay=0.0, timeout=0.5)
        with pytest.raises(CollectError) as raised:
            collect(
                plan,
                Hosts([place]),
                Folder(tmp_path / "one", contents_in(tmp_path)),
                "1.0",
                Hooks(),
            )
        end.set()
    assert "took longer than 2 s" in raised.value.message


@pytest.mark.parametrize(
    ("robots", "message"),
    [
        (answer(200, b"User-agent: vistaflow\nDisallow: /\n"), "forbids vistaflow this page"),
        (answer(403), ""),
        (answer(500), "/robots.txt cannot be read (answers 500)"),
        (answer(301, Location="http://x.example/"), "cannot be read (x.example is no host"),
    ],
)
def test_robots_is_obeyed_and_where_it_cannot_be_read_nothing_is_collected(
    site: Site, run: Callable[..., Collected], robots: Answer, message: str
) -> None:
    site.pages["/robots.txt"] = robots
    site.html("/page", listing("a"))
    if not message:
        assert len(run("/page").pages) == 1
        return
    site.html("/other", listing("a"))
    with pytest.raises(CollectError) as raised:
        run("/page", "/other")
    assert message in raised.value.message
    assert site.paths() == []


def test_a_selector_that_finds_nothing_ends_the_collection(
    site: Site, run: Callable[..., Collected]
) -> None:
    for number in range(40):
        site.html(f"/{number}", listing("a"))
    paths = [f"/{number}" for number in range(40)]
    column = Column(name="price", selector=".price")

    with pytest.raises(CollectError) as raised:
        run(*paths, content=Content(kind="html", rows=".item", columns=(NAME,)))
    assert raised.value.message == "html.rows: `.item` has no row on any of 20 pages"
    assert len(site.paths()) == 20
    with pytest.raises(CollectError) as raised:
        run("/1", name="two", content=Content(kind="html", rows="li", columns=(NAME, column)))
    assert "html.columns[1]: `price` has no value in any of the 1 rows" in raised.value.message


def test_the_number_of_pages_is_limited_and_loops_end(
    site: Site, run: Callable[..., Collected]
) -> None:
    site.html("/1", listing("a", next="/2"))
    site.html("/2", listing("b", next="/1"))

    assert (len(run("/1").pages), run("/1").is_limited) == (2, False)
    limited = run("/1", name="two", max_pages=1)
    assert (len(limited.pages), limited.is_limited) == (1, True)
    with pytest.raises(CollectError, match="more than 10 bytes together"):
        run("/1", name="three", max_bytes=10)


def test_what_a_page_links_to_is_listed_as_text_that_no_terminal_runs(
    site: Site, run: Callable[..., Collected]
) -> None:
    site.html("/1", listing("a", next="http://x.example/&#27;[2J"))
    site.html("/2", listing("a", next="/" + "x" * 10_000))

    collected = run("/1", "/2", max_failed_share=0.5)

    assert [failure["error"] for failure in collected.failed] == [
        "`http://x.example/\N{REPLACEMENT CHARACTER}[2J` is no address of a page",
        "is an address of more than 8,000 characters",
    ]


def test_hosts_are_those_that_the_operator_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts(["shop.example", "intern.example:8080", "[::1]:80"])
    for text in ("https://SHOP.example/a#b", "http://intern.example:8080/", "http://[::1]/"):
        hosts.parse(text)
    for text in (
        "http://other.example/",
        "http://shop.example.evil.example/",
        "http://shop.example:8080/",
        "http://intern.example/",
        "ftp://shop.example/",
        "http://user:secret@shop.example/",
        "http://",
        "shop.example",
        "http://xn--/",
        "http://[x",
        "http://shop.example/\ud800",
    ):
        with pytest.raises(RefusedError):
            hosts.parse(text)
    for entry in ("http://shop.example", "a b", "shop.example:0", "shop.example:99999", "a/b"):
        with pytest.raises(ValueError, match="is "):
            Hosts([entry])

    addresses: list[str] = []

    def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, 80)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    for address in (
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "224.0.0.1", "100.64.0.1"),
        *("::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:a00:1::"),
    ):
        addresses[:] = [address]
        with pytest.raises(RefusedError, match="has no public address"):
            hosts.address(Place("shop.example", 443))
        assert hosts.address(Place("intern.example", 8080)) == address.partition("%")[0]
    addresses[:] = ["10.0.0.1", "93.184.216.34"]
    assert hosts.address(Place("shop.example", 443)) == "93.184.216.34"


@pytest.mark.parametrize(
    ("data", "content_type"),
    [
        ("똠방각하".encode("cp949"), "text/html; charset=EUC-KR"),
        (b'<meta charset="euc-kr">' + "똠방각하".encode("cp949"), "text/html"),
        ("똠방각하".encode("cp949"), ""),
        ("똠방각하".encode(), ""),
        ("똠방각하".encode("utf-16"), "text/html; charset=utf-8"),
        ("똠방각하".encode(), "text/html; charset=zip"),
    ],
)
def test_texts_are_read_in_their_encoding(data: bytes, content_type: str) -> None:
    assert text_of(data, content_type).endswith("똠방각하")


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'[{"a": NaN}]', b'[{"a": ' + b"1" * 5_000 + b"}]", b'{"a": 1}', b"[1]"],
)
def test_json_that_is_none_of_records_is_an_error_of_its_page(
    site: Site, run: Callable[..., Collected], data: bytes
) -> None:
    site.pages["/page"] = answer(200, data)
    with pytest.raises(CollectError, match="1 of 1 pages failed"):
        run("/page", content=Content(kind="json", rows="items" if data[:1] == b"{" else ""))


def test_deep_html_is_read(site: Site) -> None:
    extract = Extractor(ROWS).extract(b"<div>" * 5_000 + b"<li><b>a</b>", Page(url="http://x/"))
    assert extract.rows == [{"name": "a"}]
    broken = b"<base href='http://[y'><a class=next href='http://[x'>"
    assert Extractor(ROWS).extract(broken, Page(url="http://x/")).next == "http://[x"
