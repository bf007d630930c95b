"""What the documents say is run, as a newcomer would: files as named, commands as written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import Suite, lines  # type: ignore[import-not-found]
from vistaflow.cli.files.picture import SHOWN

pytestmark = pytest.mark.timeout(900)  # whole walks, on a machine that does others' work, too

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(name: str) -> list[tuple[str, str, str]]:
    """The language, attributes and text of each fenced block."""
    return FENCE.findall((ROOT / name).read_text())


def run(script: str, suite: Suite, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=suite.env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_decks_written_from_the_tutorial_alone_are_optimised(suite: Suite, tmp_path: Path) -> None:
    commands = []
    for language, attributes, text in blocks("docs/deck.md"):
        if file := re.search(r"file=(\S+)", attributes):
            path = tmp_path / file.group(1)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        elif language == "sh":
            needed = re.search(r"needs=(\S+)", attributes)
            if needed is None or shutil.which(needed.group(1)):
                commands.append(text)

    told = [run(each, suite, tmp_path) for each in commands]

    assert all("✔ met" in each and "best point" in each for each in told)
    assert len(told) == 1 + bool(shutil.which("ngspice"))


def test_the_walk_through_of_the_simulators_works_as_written(suite: Suite, tmp_path: Path) -> None:
    printed = []
    command = [sys.executable, str(ROOT / "examples" / "simulator_server.py"), suite.simulator]
    with subprocess.Popen(command) as server:
        try:
            wait_for(suite.simulator)
            for language, attributes, text in blocks("docs/simulators.md"):
                if file := re.search(r"file=(\S+)", attributes):
                    path = tmp_path / file.group(1)
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(text, encoding="utf-8")
                elif language == "sh":
                    needed = re.search(r"needs=(\S+)", attributes)
                    if needed is None or shutil.which(needed.group(1)):
                        printed.append(run(text, suite, tmp_path))
        finally:
            server.kill()
    assert re.search(r"Width 폭 +10 +um", printed[0])
    assert re.search(r"Gain 이득 +26.021 +dB", printed[0])
    assert printed[0].endswith("load 20.0")
    best = [text for text in printed if "best point, verified" in text]
    assert len(best) == 1 + bool(shutil.which("cc")) + bool(shutil.which("ngspice"))
    assert all("✔ met" in text for text in best)
    (measured,) = (text for text in printed if "not measured" in text)
    assert "the simulator found no value of `Gain` at this point" in measured


def test_the_walk_through_of_the_results_works_as_written(suite: Suite, tmp_path: Path) -> None:
    printed = [
        run(text, suite, tmp_path)
        for language, _, text in blocks("docs/results.md")
        if language == "sh"
    ]

    ran, drawn, taken = printed
    compared, valid, again = taken.partition("valid; at most")
    assert "few rows" in ran
    assert re.search(r"≈ .+ on \d+ cores?: at most \d+ runs of .+; 16 known", ran)
    assert re.search(r"timeline of kit \d+ is in kit-\d+-timeline.png", drawn)
    assert (tmp_path / "effects.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "contours.pdf").read_bytes().startswith(b"%PDF")
    assert valid
    assert re.search(r"goals +maximize gain\s+maximize gain;", compared)
    assert re.search(r"budget +10 +6 ", compared)
    assert re.search(r"width \[um\] +\d", compared)
    assert re.search(r"bandwidth >= 20 +- +\S+ ", compared)
    assert "kit_id" not in compared
    assert "kit.yaml\nmanifest.json\nmodel\npictures\npoints.csv\ntrials.csv\n" in again
    assert "valid; at most 27 simulator runs" in taken
    assert "valid; at most 23 simulator runs" in again
    folder = tmp_path / "stage-20MHz"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for file in manifest["files"]:
        content = (folder / file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
    paths = {file["path"] for file in manifest["files"]}
    assert {"deck/deck.yaml", "deck/model.py", "model/model.json"} <= paths
    assert len({path for path in paths if path.startswith("pictures/")}) >= 12
    assert {f"pictures/{name}.png" for name in SHOWN} <= paths
    assert len((folder / "points.csv").read_text().splitlines()) == 17
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["feasible"]
    assert best["units"]["gain"] == "dB"
    assert (tmp_path / "amp" / "opamp.cir").is_file()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_the_walk_through_of_the_conversions_works_as_written(suite: Suite, tmp_path: Path) -> None:
    printed = []
    for language, attributes, text in blocks("docs/data.md"):
        if file := re.search(r"file=(\S+)", attributes):
            (suite.data / file.group(1)).write_text(text, encoding="utf-8")
        elif language == "sh" and ("openssl" not in text or shutil.which("openssl")):
            printed.append(run(text, suite, tmp_path))
        elif language == "python":
            (tmp_path / "script.py").write_text(text)
            printed.append(run("python script.py", suite, tmp_path))

    assert '1,"u1","9007199254740993"' in printed[0]
    assert '"1.10"' in printed[0]
    assert "'=1+1" in printed[0]
    assert "DONE ['again_1.csv', 'again_2.csv'" in printed[-1]
    assert "{'months': ['06', '07'], 'categories': {'생활/건강': ['생활용품']" in printed[-1]


def test_the_walk_through_of_http_works_as_written(suite: Suite, tmp_path: Path) -> None:
    endpoints = json.loads((suite.home / "run" / "endpoints.json").read_bytes())
    printed = []
    for language, attributes, text in blocks("docs/http.md"):
        if file := re.search(r"file=(\S+)", attributes):
            (suite.data / file.group(1)).write_text(text, encoding="utf-8")
        elif language == "sh":
            script = text.replace("localhost:8080", endpoints["gateway"])
            printed.append(run(script, suite, tmp_path))

    requests, document, mistake, query, watch, upload, former = printed
    assert document == "openapi: 3.0.3\n"
    assert '"full_factorial"' in requests
    assert '"name": "by hand"' in requests
    assert '"violations":[{"field":"page_size"' in mistake
    assert mistake.endswith("400\n")
    assert '"rows":[{"item":"apple","price":"1.10"},{"item":"pear","price":"0.90"}]' in query
    assert query.endswith('"apple","1.10"\n"pear","0.90"\n')
    assert "event: snapshot" in watch
    assert "event: synced" in watch
    assert '"file_name":"upload:' in upload
    assert '{"data":{"months":["06","07"],"categories":{"생활/건강":["생활용품"]' in former
    assert '"status":"DONE","msg":"","job_start_time":' in former


def test_the_command_of_the_page_names_its_address(suite: Suite, tmp_path: Path) -> None:
    endpoints = json.loads((suite.home / "run" / "endpoints.json").read_bytes())
    (script,) = [text for language, _, text in blocks("docs/page.md") if language == "sh"]

    assert json.loads(run(script, suite, tmp_path)) == {"url": f"http://{endpoints['gateway']}/"}


def test_the_walk_through_of_sql_works_as_written(suite: Suite, tmp_path: Path) -> None:
    printed = []
    for language, attributes, text in blocks("docs/sql.md"):
        if file := re.search(r"file=(\S+)", attributes):
            (suite.data / file.group(1)).write_text(text, encoding="utf-8")
        elif language == "sh":
            printed.append(run(text, suite, tmp_path))
        elif language == "python":
            (tmp_path / "script.py").write_text(text)
            printed.append(run("python script.py", suite, tmp_path))

    converted, history, partitions, python = printed
    assert '"솔직히 너무 재밌닼ㅋㅋㅋ",10' in converted
    assert '{"one":1}\n{"one":2}\n' in history
    assert "FINISHED" in history
    assert "2024,2,200\n2024,10,1000\n" in partitions
    assert "[(2, 200), (10, 1000)]" in python
    assert "1200 2 [ 2 10]" in python
    assert "2 rows in SQLite" in python
    assert "[{'month': 2, 'amount': 200}]\n[{'month': 10, 'amount': 1000}]" in python
    assert "1 8 " in python
    assert "did you mean `amount`" in python
    assert "reused True" in python


def test_the_walk_through_of_the_datasets_works_as_written(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = []
    for language, attributes, text in blocks("docs/datasets.md"):
        if file := re.search(r"file=(\S+)", attributes):
            (tmp_path / file.group(1)).write_text(text, encoding="utf-8")
        elif language in ("sh", "python"):
            (tmp_path / "script.py").write_text(text)
            printed.append(run(text if language == "sh" else "python script.py", suite, tmp_path))
    imported, single, looked, real, python, versions, forgotten = printed

    assert "weak: 1 of 3 rows of user are rejected (adult: 1)" in imported
    assert "weak: 2 of 3 rows of whisky are rejected (duplicate: 1, named: 1)" in imported
    assert "1 of 3 rows of whisky_archive refer to no row: whisky -> whisky.pk" in imported
    assert "--rejects" in single
    assert '{"id":7,"region":null}' in looked
    assert (tmp_path / "archive.parquet").is_file()
    assert re.search(r"rating +INTEGER .*█", real)
    assert "Dataset(reviews@1, reviews: " in python
    assert re.search(r"best +\d+ +1", python)
    assert "production is now whisky@1" in versions
    assert "rows removed: 1 of user, 1 of whisky_archive" in forgotten
    assert "232433223" not in forgotten


def test_the_walk_through_of_the_collections_works_as_written(suite: Suite, tmp_path: Path) -> None:
    folder, printed = tmp_path / "site", []
    folder.mkdir()
    command = [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(folder)]
    with subprocess.Popen([*command, suite.site.rpartition(":")[2]]) as server:
        try:
            wait_for(suite.site)
            for language, attributes, text in blocks("docs/collect.md"):
                text = text.replace("127.0.0.1:8400", suite.site).replace("$SITE", str(folder))
                if file := re.search(r"file=(\S+)", attributes):
                    (tmp_path / file.group(1)).write_text(text, encoding="utf-8")
                elif language == "sh":
                    printed.append(run(f"({text}) 2>&1", suite, tmp_path))
                elif language == "json":
                    assert text in printed[-1]
                elif language == "python":
                    (tmp_path / "script.py").write_text(text)
                    printed.append(run("python script.py", suite, tmp_path))
        finally:
            server.kill()
    first, again, mistakes, python, nested = printed

    assert nested == "['', 'tastings']\n['', 'items', 'items.tastings']\n"
    assert "3 rows of 2 pages, 0 of them unchanged, in rows" in first
    assert "3 rows of 2 pages, 1 of them unchanged" in again
    assert "3 rows of 2 pages, 2 of them unchanged" in again
    assert "wrong.yaml:2 urls[0]: elsewhere.example is no host that the operator lets" in mistakes
    assert "wrong.yaml:4 html.rows: is no CSS selector" in mistakes
    assert python.startswith("3 rows\nDataset(whisky_prices@1")


def test_the_walk_through_of_the_data_kits_works_as_written(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    site, printed = tmp_path / "site", []
    site.mkdir()
    command = [sys.executable, "-m", "http.server", "-b", "127.0.0.1", "-d", str(site)]
    with subprocess.Popen([*command, suite.site.rpartition(":")[2]]) as server:
        try:
            wait_for(suite.site)
            for language, _, text in blocks("docs/flows.md"):
                if language == "sh":
                    here = f"sed -i 's/127.0.0.1:8400/{suite.site}/' whiskies.yaml"
                    text = text.replace("vistaflow validate", f"{here}\nvistaflow validate", 1)
                    printed.append(run(f"({text}) 2>&1", suite, tmp_path))
                elif language == "python":
                    (tmp_path / "script.py").write_text(text)
                    printed.append(run("python script.py", suite, tmp_path))
        finally:
            server.kill()
    first, second, scheduled, by_hand, _, python, grpc = printed

    assert "valid; 7 jobs: pages, people, whisky, tasting, tasted, archive, final" in first
    assert re.search(r"duplicate: 1.*priced: 1", first)
    assert '"talisker_pk","Talisker 10",58000,1,3' in first
    assert re.search(r"whisky +\d+ ", second)
    assert "02:00:00 KST" in scheduled
    assert "tested is now tasted@1: 2 rows, 1 files in raw/tested" in by_hand
    assert "NOT_DELIVERED: accepted is 1, not >= 2; final stays tasted@2" in python
    assert "final FAILED" in python
    # Other walk-throughs make versions of the same dataset.
    assert re.search(r"^tasted@2\nwhisky@\d+$", python, re.MULTILINE)
    assert '"jobs"' in grpc


def wait_for(place: str) -> None:
    """Waits until a port is listened on."""
    host, _, port = place.rpartition(":")
    end = time.monotonic() + 120
    while True:
        try:
            return socket.create_connection((host, int(port))).close()
        except OSError:
            assert time.monotonic() < end, place
            time.sleep(0.05)


def test_the_walk_through_of_the_schedules_works_as_written(suite: Suite, tmp_path: Path) -> None:
    printed = []
    for language, attributes, text in blocks("docs/schedules.md"):
        if file := re.search(r"file=(\S+)", attributes):
            (tmp_path / file.group(1)).write_text(text)
        elif language == "sh":
            printed.append(run(text, suite, tmp_path))
        elif language == "python":
            (tmp_path / "script.py").write_text(text)
            printed.append(run("python script.py", suite, tmp_path))

    assert printed[0].count("00:00:00 KST") == 4
    assert printed[0].count("Sun ") == 4
    assert "by hand" in printed[1]
    assert "schedule=weekly" in printed[2]
    assert "weekly is paused" in printed[2]
    assert printed[3].count(" ChangeSchedule ") == 2
    assert "30 2 * * mon-fri 2 " in printed[4]
    assert "FINISHED weekly" in printed[4]


def test_the_walk_through_of_the_notifications_works_as_written(
    suite: Suite, tmp_path: Path
) -> None:
    printed = []
    try:
        for language, attributes, text in blocks("docs/notifications.md"):
            text = text.replace("127.0.0.1:8500", suite.site)
            text = text.replace('"127.0.0.1", 8500', f'"127.0.0.1", {suite.site.partition(":")[2]}')
            if file := re.search(r"file=(\S+)", attributes):
                (tmp_path / file.group(1)).write_text(text)
            elif language == "python":
                (tmp_path / "script.py").write_text(text)
                printed.append(run("python script.py", suite, tmp_path))
            elif language == "sh":
                if "kill" in text:
                    # What is sent again after a lost connection may come after other messages.
                    for event in ("webhook.test", "kit.finished"):
                        wait_for_line(tmp_path / "received", event)
                printed.append(run(text, suite, tmp_path))
    finally:
        # Neither the receiver nor a kit at every full hour is for other tests.
        run("kill $(cat receiver.pid) || true", suite, tmp_path)
        run("vistaflow schedule delete hourly || true", suite, tmp_path)

    hook, kit, _, deliveries, _ = printed
    assert "kit.failed dataset.version" in " ".join(hook.split())
    assert (tmp_path / "secret").read_text().startswith("whsec_")
    assert "whsec_" not in hook
    assert "hourly fires next on" in kit
    assert "kit.finished" in deliveries
    received = (tmp_path / "received").read_text()
    assert "webhook.test" in received
    assert "'name': 'notified beam', 'status': 'FINISHED'" in received


def wait_for_line(file: Path, part: str) -> None:
    """Waits until a file has a text."""
    end = time.monotonic() + 120
    while part not in file.read_text():
        assert time.monotonic() < end, file.read_text()
        time.sleep(0.05)


def test_the_walk_through_of_the_readme_works_as_written(own_home: Suite, tmp_path: Path) -> None:
    shell = [text for language, _, text in blocks("README.md") if language == "sh"]
    (python,) = [text for language, _, text in blocks("README.md") if language == "python"]
    (tmp_path / ".venv").symlink_to(sys.prefix)
    try:
        told = run("\n".join(shell[:-1]), own_home, tmp_path)
        (tmp_path / "example.py").write_text(python)
        told += run("python example.py", own_home, tmp_path)
    finally:
        run(shell[-1], own_home, tmp_path)

    assert "minimize cost: " in told
    assert "FINISHED {'b': " in told


def test_the_walk_through_of_backups_works_as_written(own_home: Suite, tmp_path: Path) -> None:
    shell = [text for language, _, text in blocks("docs/backups.md") if language == "sh"]
    try:
        printed = run("\n".join(shell), own_home, tmp_path)
    finally:
        for home in (own_home.home, tmp_path / "another"):
            run(f"vistaflow down --home {home} || true", own_home, tmp_path)

    assert "disk: backup 20" in printed
    assert "weekly-cleanup" in printed
    assert "copies are restored" in printed
    assert "restored everything up to revision" in printed
    # Its own job is in the dump as it was then: at work, to be taken up by another worker.
    assert "BACKUP" in printed.partition("restored everything")[2]


def test_the_kits_in_the_documents_are_valid(suite: Suite, tmp_path: Path) -> None:
    kits = [text for language, _, text in blocks("docs/kit.md") if language == "yaml"]
    for number, text in enumerate(kits):
        file = tmp_path / f"kit {number}.yaml"
        file.write_text(text)
        assert "valid" in suite.cli("validate", str(file)).stdout
        # Off a terminal a mistake is one line, under the name that the file was given by.
        file.write_text(text.replace("name:", "nane:"))
        mistakes = sorted(suite.cli("validate", str(file), code=2).stdout.splitlines())
        assert len(mistakes) == 2
        assert mistakes[0].startswith(f"mistake: {file}: name: ")
        assert mistakes[1].startswith(f"mistake: {file}:1 nane: unknown key")
    assert kits


def written(name: str, folder: Path) -> tuple[list[str], list[str], str]:
    """The commands of a tour, those behind its door, and what runs in its second terminal."""
    commands, door, watches = [], [], []
    for language, attributes, text in blocks(name):
        if language == "python":
            (folder / f"{len(commands)}.py").write_text(text)
            commands.append(f"python {len(commands)}.py")
        elif attributes.strip() == "watch":
            watches.append(text.strip())
        elif attributes.strip() == "door":
            door.append(text)
        elif language == "sh":
            needed = re.search(r"needs=(\S+)", attributes)
            if needed is None or shutil.which(needed.group(1), path=suite_path()):
                commands.append(text)
    (watch,) = watches
    return commands, door, watch


def suite_path() -> str:
    """Where programs are looked for; this environment's first."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def test_the_tour_of_the_registry_works_as_written(suite: Suite, tmp_path: Path) -> None:
    commands, _, watch = written("docs/registry.md", tmp_path)
    seen = tmp_path / "seen"
    with lines(["bash", "-c", f"exec {watch}"], suite, seen) as watching:
        told = run("\n".join(commands), suite, tmp_path)
        end = time.monotonic() + 120
        while "not needed" not in seen.read_text():
            assert watching.poll() is None, seen.read_text()
            assert time.monotonic() < end, seen.read_text()
            time.sleep(0.1)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == 130

    assert "go on from here with --from" in seen.read_text()
    assert seen.read_text().count("out of memory") == 1
    assert "would be canceled" in told
    assert "'out of memory'" in told
    assert '"name": "bench 4"' in told


def test_the_door_of_the_registry_works_as_written(own_home: Suite, tmp_path: Path) -> None:
    _, door, _ = written("docs/registry.md", tmp_path)
    try:
        told = run("\n".join(door), own_home, tmp_path)
    finally:
        run("vistaflow down", own_home, tmp_path)

    assert "Ana's notebook" in told
    assert "is revoked" in told


def test_the_python_of_the_documents_works_as_written(suite: Suite, tmp_path: Path) -> None:
    printed = []
    for number, (language, _, text) in enumerate(blocks("docs/python.md")):
        assert language == "python"
        (tmp_path / f"{number}.py").write_text(text)
        printed.append(run(f"python {number}.py", suite, tmp_path))

    assert "deflection" in printed[0]
    assert "infill" in printed[0]
    assert "parameters.h" in printed[1]
    assert ".png" in printed[2]
    assert "[vistaflow " in printed[2]
    assert printed[3].count("mistake:") == 3


def anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


DOCUMENTS = [
    str(file.relative_to(ROOT))
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")]
]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_link_leads_somewhere(name: str) -> None:
    broken = []
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", (ROOT / name).read_text()):
        file = (ROOT / name).parent / target if target else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(f"{target}#{anchor}")

    assert broken == []
