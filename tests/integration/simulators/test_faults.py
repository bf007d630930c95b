"""Decks that go wrong in every way we know, run for real."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import commands  # type: ignore[import-not-found]
from vistaflow_services.decks.deck import Deck, Response
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.simulators import Failure, Outcome, run_point
from vistaflow_services.simulators import python_simulator as python
from vistaflow_services.simulators.processes.sandbox import Sandbox, this_sandbox
from vistaflow_services.simulators.run import Canceled, sweep_scratch

MEBIBYTE = 1024**2
MARK = f"vf-{os.getpid()}"
"""What processes of this test run are called, and no others."""
LIMITS_ONLY = Sandbox(program="", description="resource limits only (by this test)")


def deck(body: str, **options: object) -> Deck:
    code = "\n".join(["def simulate(point):", *(f"    {line}" for line in body.splitlines())])
    return Deck(
        name="fault",
        simulator="devsim",
        space=Space(parameters=(Parameter(name="x", low=0.0, high=1.0),)),
        responses=(Response(name="y", unit="V", low=0.0, high=10.0),),
        files={"deck.py": code.encode()},
        entry="deck.py:simulate",
        **{"timeout_seconds": 120.0, "memory_limit_bytes": 512 * MEBIBYTE, **options},  # type: ignore[arg-type]
    )


@pytest.fixture(params=["bubblewrap", "limits only"])
def isolated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param == "bubblewrap":
        if not this_sandbox().isolated:
            pytest.skip("bubblewrap does not work here")
        return True
    monkeypatch.setattr(python, "this_sandbox", lambda: LIMITS_ONLY)
    return False


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, isolated: bool) -> Iterator[Run]:
    scratch = tmp_path / "scratch"

    def run_body(body: str, **options: object) -> Outcome:
        return run_point(deck(body, **options), {"x": 0.5}, scratch_root=scratch)

    yield run_body
    assert list(scratch.iterdir()) == []


def alive(token: str) -> list[int]:
    """Processes with a word in their command line."""
    return [
        process
        for process, command in commands()
        if token.encode() in b"\0".join(command) and process != os.getpid()
    ]


def test_a_good_run_returns_its_responses(run: Run) -> None:
    outcome = run("print('hello')\nreturn {'y': 2 * point['x']}")
    assert (outcome.responses, outcome.failure, outcome.message) == ({"y": 1.0}, None, "")
    assert outcome.seconds > 0


@pytest.mark.parametrize(
    ("body", "failure", "said"),
    [
        ("raise ValueError('no such bias')", Failure.CRASHED, "ValueError: no such bias"),
        ("import os; os._exit(3)", Failure.CRASHED, "exit status 3"),
        ("import os; os.kill(os.getpid(), 11)", Failure.CRASHED, "SIGSEGV"),
        ("import os; os._exit(0)", Failure.CRASHED, "without a result"),
        ("return {'z': 1.0}", Failure.CRASHED, "no `y`; it returned z"),
        ("return {'y': 'high'}", Failure.CRASHED, "ValueError"),
        ("return None", Failure.CRASHED, "TypeError"),
        ("return {'y': float('nan')}", Failure.NO_CONVERGENCE, "`y` is nan"),
        ("return {'y': 99.0}", Failure.INFEASIBLE, "99 V, outside its physical range 0 to 10"),
        (
            "class NoConvergence(Exception): ...\nraise NoConvergence('at 0.3 V')",
            Failure.NO_CONVERGENCE,
            "at 0.3 V",
        ),
        (
            "class NoConvergence(Exception): ...\n"
            "try:\n    bytes(1 << 60)\nexcept MemoryError as error:\n"
            "    raise NoConvergence('at 0.3 V') from error",
            Failure.CRASHED,
            "at 0.3 V",
        ),
        (
            "import sys\nprint('UMFPACK: out of memory', file=sys.stderr)\n"
            "class NoConvergence(Exception): ...\nraise NoConvergence('at 0.3 V')",
            Failure.CRASHED,
            "too little memory (out of memory)",
        ),
        ("class Infeasible(ValueError): ...\nraise Infeasible('gate')", Failure.INFEASIBLE, "gate"),
        ("class LicenseError(OSError): ...\nraise LicenseError('all 4')", Failure.LICENSE, "all 4"),
        ("import nothing_of_the_kind", Failure.CRASHED, "ModuleNotFoundError"),
        ("return {'y': 1.0} if 1 else (", Failure.CRASHED, "SyntaxError"),
    ],
)
def test_each_way_to_fail_has_its_kind(run: Run, body: str, failure: Failure, said: str) -> None:
    outcome = run(body)
    assert (outcome.failure, outcome.responses) == (failure, {})
    assert said in outcome.message


def test_a_crash_says_where_in_the_deck_it_was(run: Run) -> None:
    outcome = run("bias = 1\nraise ValueError('no such bias')")
    assert outcome.message == "ValueError: no such bias (deck.py:3)"
    assert 'deck.py", line 3, in simulate' in outcome.log


def test_a_deck_that_loops_is_ended_at_its_timeout(run: Run) -> None:
    outcome = run("while True: pass", timeout_seconds=1.0)
    assert outcome.failure is Failure.TIMEOUT
    assert "no result after 1 s" in outcome.message


def test_a_deck_that_eats_memory_is_told_so(run: Run) -> None:
    outcome = run("held = []\nwhile True: held.append(bytearray(2**22))")
    assert outcome.failure is Failure.CRASHED
    assert "memory" in outcome.message


def test_memory_eaten_by_children_counts_together(run: Run) -> None:
    body = (
        "import os, time\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        held = bytearray(b'x') * (180 * 2**20)\n"
        "        time.sleep(60)\n"
        "time.sleep(60)"
    )
    outcome = run(body, memory_limit_bytes=400 * MEBIBYTE)
    assert outcome.failure is Failure.CRASHED
    assert "together use more than 400 MiB of memory" in outcome.message


def test_a_deck_that_writes_ten_gigabytes_is_stopped_at_the_file_limit(run: Run) -> None:
    body = (
        "block = b'x' * 2**24\n"
        "with open('big', 'wb') as file:\n"
        "    for _ in range(640): file.write(block)\n"
        "return {'y': 1.0}"
    )
    outcome = run(body)
    assert outcome.failure is Failure.CRASHED
    assert "File too large" in outcome.message


def test_many_files_count_together(run: Run) -> None:
    body = (
        "import os, time\n"
        "for each in range(30):\n"
        "    with open(str(each), 'wb') as file: os.posix_fallocate(file.fileno(), 0, 2**26)\n"
        "time.sleep(60)"
    )
    outcome = run(body)
    assert outcome.failure is Failure.CRASHED
    assert "its files exceed 1024 MiB" in outcome.message


def test_a_fork_bomb_is_ended_and_leaves_nothing(run: Run) -> None:
    body = (
        "import os, time\n"
        "for _ in range(500):\n"
        "    if os.fork() == 0:\n"
        f"        os.execv('/bin/sleep', ['{MARK}-bomb', '97'])\n"
        "    time.sleep(0.001)\n"
        "time.sleep(60)"
    )
    outcome = run(body)
    assert outcome.failure is Failure.CRASHED
    assert alive(f"{MARK}-bomb") == []


def test_children_that_hide_in_a_session_of_their_own_are_found(run: Run) -> None:
    body = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        f"        os.execv('/bin/sleep', ['{MARK}-hidden', '98'])\n"
        "    os._exit(0)\n"
        "time.sleep(0.3)\n"
        "return {'y': 1.0}"
    )
    outcome = run(body)
    assert outcome.ok
    assert alive(f"{MARK}-hidden") == []


def test_endless_output_is_capped(run: Run) -> None:
    outcome = run("while True: print('x' * 10_000)", timeout_seconds=120.0)
    assert outcome.failure is Failure.CRASHED
    assert len(outcome.message) <= 2000


def test_a_deck_sees_an_almost_empty_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    outcome = run(
        "import os\n"
        "known = ('DEVSIM_', 'MALLOC_', 'OMP_', 'OPENBLAS_', 'MKL_', 'PATH', 'HOME', 'TMPDIR',\n"
        "         'LANG', 'LC_', 'PWD')\n"
        "strange = [name for name in os.environ if not name.startswith(known)]\n"
        "assert not strange, strange\n"
        "assert os.environ['OPENBLAS_NUM_THREADS'] == '1'\n"
        "return {'y': 1.0}"
    )
    assert outcome.ok, outcome.message


def test_messages_hold_no_path_of_this_machine(run: Run, tmp_path: Path) -> None:
    outcome = run("import os\nopen(os.getcwd() + '/missing/file')")
    assert "No such file" in outcome.message
    assert str(tmp_path) not in outcome.message


def test_a_result_that_is_a_link_is_not_followed(run: Run) -> None:
    body = (
        "import os\n"
        "open('real', 'w').write('{\"responses\": {\"y\": 1.0}}')\n"
        "os.symlink('real', 'result.json')\n"
        "os._exit(0)"
    )
    assert run(body).failure is Failure.CRASHED


def test_inside_bubblewrap_there_is_no_host(tmp_path: Path) -> None:
    if not this_sandbox().isolated:
        pytest.skip("bubblewrap does not work here")
    outside = tmp_path / "outside"
    outside.write_text("secret")
    body = (
        "import os, socket\n"
        f"assert not os.path.exists({str(outside)!r})\n"
        "assert not os.path.exists('/etc/passwd') and not os.path.exists('/home')\n"
        "assert len([name for name in os.listdir('/proc') if name.isdigit()]) < 6\n"
        "try:\n"
        "    open('/usr/evil', 'w')\n"
        "except OSError: pass\n"
        "else: raise AssertionError('wrote to /usr')\n"
        "try:\n"
        "    socket.create_connection(('1.1.1.1', 80), 0.2)\n"
        "except OSError: pass\n"
        "else: raise AssertionError('reached the network')\n"
        "return {'y': 1.0}"
    )
    outcome = run_point(deck(body), {"x": 0.5}, scratch_root=tmp_path / "scratch")
    assert outcome.ok, outcome.message


def test_a_run_can_be_stopped(tmp_path: Path, isolated: bool) -> None:
    start = time.monotonic()
    with pytest.raises(Canceled):
        run_point(
            deck(f"import os\nos.execv('/bin/sleep', ['{MARK}-canceled', 'infinity'])"),
            {"x": 0.5},
            scratch_root=tmp_path,
            should_stop=lambda: time.monotonic() - start > 0.5,
        )
    assert (alive(f"{MARK}-canceled"), list(tmp_path.iterdir())) == ([], [])


def test_a_timeout_of_the_caller_replaces_the_decks(tmp_path: Path) -> None:
    outcome = run_point(
        deck("import time; time.sleep(9)"), {"x": 0.5}, scratch_root=tmp_path, timeout=0.5
    )
    assert outcome.failure is Failure.TIMEOUT


def test_folders_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path) -> None:
    import socket

    host = "".join(each if each.isalnum() else "_" for each in socket.gethostname())
    dead = tmp_path / f"run-{host}-999999999-abc"
    for each in (dead, tmp_path / f"run-{host}-{os.getpid()}-abc", tmp_path / "run-other-1-abc"):
        (each / "work").mkdir(parents=True)
    assert sweep_scratch(tmp_path) == 1
    assert not dead.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_sandbox_says_what_it_is() -> None:
    this_sandbox.cache_clear()
    assert this_sandbox().description.startswith(("bubblewrap", "resource limits only ("))
