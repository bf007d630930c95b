"""Decks of programs, servers, tables and Python functions of one's own."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from vistaflow.api.simulator.v1 import simulator_pb2 as pb
from vistaflow.api.simulator.v1 import simulator_pb2_grpc as rpc
from vistaflow_services.core.errors import InvalidError, UnavailableError
from vistaflow_services.decks.deck import Deck, parse_deck
from vistaflow_services.simulators import Failure, Outcome, check_deck, run_point
from vistaflow_services.simulators.bridges.registered import MODELS, PROGRAMS, SERVERS
from vistaflow_services.simulators.points import PointStore
from vistaflow_services.simulators.run import Canceled

AMPLIFIER = Path(__file__).parent / "amplifier.c"
SPACE = """
parameters:
  - {name: Width, range: [1, 100], scale: log, unit: um, title: 폭}
  - {name: Load, range: [1, 100], scale: log, unit: kohm}
responses:
  - {name: Gain, unit: dB, title: 이득}
  - {name: bandwidth, unit: MHz}
"""
POINT = {"Width": 10.0, "Load": 10.0}
GAIN, BANDWIDTH = 40.0, 2.5


def deck_of(yaml: str, **files: str | bytes) -> Deck:
    contents = {"deck.yaml": f"name: own\n{yaml}".encode()}
    for name, content in files.items():
        path = name.replace("__", ".").replace("_SLASH_", "/")
        contents[path] = content.encode() if isinstance(content, str) else content
    return parse_deck(contents)


@pytest.fixture
def run(tmp_path: Path) -> Any:
    def run_one(deck: Deck, point: Mapping[str, Any] | None = None, **kind: Any) -> Outcome:
        canonical = deck.space.check(point or POINT)
        return run_point(deck, canonical, scratch_root=tmp_path / "scratch", **kind)

    return run_one


def mistakes(yaml: str, **files: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as error:
        check_deck(deck_of(yaml, **files))
    return [(wrong.field, wrong.description) for wrong in error.value.violations]


class TestPython:
    def test_a_plain_function_takes_the_parameters_by_their_names(self, run: Any) -> None:
        source = (
            "from math import log10\n"
            "def run(Width, Load):\n"
            "    print('gain of', Width)\n"
            "    return {'Gain': 20 * log10(Width * Load), 'bandwidth': 250 / (Width * Load)}\n"
        )
        outcome = run(deck_of(f"simulator: python\nentry: amp.py:run{SPACE}", amp__py=source))
        assert outcome.responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}
        assert outcome.log.startswith("gain of ")

    def test_what_a_failed_run_printed_is_kept_and_its_missing_module_is_named(
        self, run: Any
    ) -> None:
        source = "print('loading')\ndef run(Width, Load):\n    import tcad_tool\n"
        outcome = run(deck_of(f"simulator: python\nentry: amp.py:run{SPACE}", amp__py=source))
        assert outcome.failure is Failure.CRASHED
        assert outcome.message.startswith("ModuleNotFoundError: No module named 'tcad_tool'")
        assert outcome.log.startswith("loading\nTraceback")

    def test_files_have_placeholders(self, run: Any) -> None:
        source = (
            "import json\ndef run(parameters):\n    made = json.load(open('made.json'))\n"
            "    return {'Gain': made['w'] * 4, 'bandwidth': None}\n"
        )
        yaml = f"simulator: python\nentry: amp.py:run\ntemplate: made.json{SPACE}"
        deck = deck_of(
            yaml.replace("MHz}", "MHz, fallback: 2.5}"), amp__py=source, made__json='{"w": @Width@}'
        )
        assert run(deck).responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}

    def test_a_function_with_other_arguments_is_refused(self) -> None:
        yaml = f"simulator: python\nentry: amp.py:run{SPACE}"
        assert mistakes(yaml, amp__py="def run(width, load): ...\n") == [
            (
                "amp.py:1",
                "`run` must take the deck's parameters by their names, or one argument, the dict "
                "of parameters",
            )
        ]


def test_names_that_differ_by_case_alone_are_refused() -> None:
    yaml = "simulator: python\nentry: a.py:run\n" + SPACE.replace("name: Load", "name: WIDTH")
    assert mistakes(yaml, a__py="def run(p): ...\n") == [
        ("deck.yaml:7 parameters[1].name", "`WIDTH` is already the name of parameters[0]")
    ]


def test_steps_and_flags_are_values_to_choose_from(run: Any) -> None:
    yaml = """simulator: python
entry: a.py:run
parameters:
  - {name: Vth, range: [0.2, 0.5], step: 0.1, default: 0.3}
  - {name: cascode, type: boolean, default: true}
responses: [{name: y}]
"""
    deck = deck_of(yaml, a__py="def run(Vth, cascode): return {'y': Vth + 10 * cascode}\n")
    assert deck.space["Vth"].choices == (0.2, 0.3, 0.4, 0.5)
    assert run(deck, {"Vth": 0.4, "cascode": True}).responses == {"y": pytest.approx(10.4)}
    assert deck.space.narrow({"Vth": {"range": [0.3, 0.5]}})["Vth"].choices == (0.3, 0.4, 0.5)
    wrong = mistakes(yaml.replace("step: 0.1", "step: 0.07"), a__py="def run(p): ...\n")
    assert wrong == [
        (
            "deck.yaml:5 parameters[0].step",
            "0.07 does not divide the range 0.2 to 0.5: change one of them",
        )
    ]


@pytest.fixture(scope="module")
def amplifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    program = tmp_path_factory.mktemp("amplifier") / "amplifier"
    subprocess.run([compiler, "-O1", "-o", program, AMPLIFIER, "-lm"], check=True)
    return program


class TestCommand:
    YAML = "simulator: command\ncommand:\n  program: amplifier\n"

    @pytest.fixture(autouse=True)
    def registered(self, amplifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PROGRAMS, f"amplifier={amplifier}")

    @pytest.mark.parametrize(
        ("results", "arguments"), [("out.json", ""), ("out.csv", ""), ("output", "")]
    )
    def test_a_c_program_reads_a_template_and_its_results_are_read(
        self, run: Any, results: str, arguments: str
    ) -> None:
        yaml = f"{self.YAML}  arguments: [in.txt, {results}]\n  results: {results}\n"
        deck = deck_of(f"{yaml}template: in.txt{SPACE}", in__txt="width @Width@\nload @Load@\n")
        assert run(deck).responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}

    def test_patterns_and_arguments_with_placeholders(self, run: Any) -> None:
        yaml = f'{self.YAML}  arguments: ["--width=@Width@", "--load=@Load@"]\n'
        space = SPACE.replace("unit: dB", 'unit: dB, pattern: "^Gain = ([0-9.]+)"').replace(
            "unit: MHz", r'unit: MHz, pattern: "bandwidth\\s*=\\s*(\\S+)"'
        )
        assert run(deck_of(yaml + space)).responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}

    def test_a_python_function_reads_what_the_program_wrote(self, run: Any) -> None:
        yaml = f"{self.YAML}  arguments: ['--width=@Width@', '--load=@Load@', waves.csv]\n"
        source = (
            "import csv\ndef read(parameters):\n"
            "    rows = list(csv.reader(open('waves.csv')))\n"
            "    return {'Gain': rows[-1][0], 'bandwidth': rows[-1][1]}\n"
        )
        deck = deck_of(f"{yaml}extract: read.py:read{SPACE}", read__py=source)
        assert run(deck).responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}

    @pytest.mark.parametrize(
        ("mode", "failure", "message"),
        [
            ("nolicense", Failure.LICENSE, "amplifier: cannot check out a licence (-4,132)"),
            ("diverge", Failure.NO_CONVERGENCE, "no convergence after 100 iterations"),
            ("crash", Failure.CRASHED, "exit status 3\nwidth is odd"),
            ("silent", Failure.CRASHED, "the run wrote no file `out.json`"),
        ],
    )
    def test_failures_have_their_kind_and_reason(
        self, run: Any, mode: str, failure: Failure, message: str
    ) -> None:
        yaml = (
            f"{self.YAML}  arguments: ['--width=@Width@', '--load=@Load@', --mode={mode}]\n"
            "  results: out.json\n  license: cannot check out\n  no_convergence: no convergence\n"
        )
        outcome = run(deck_of(yaml + SPACE))
        assert (outcome.failure, outcome.message) == (failure, message)

    def test_a_program_that_is_not_registered_is_refused(self) -> None:
        yaml = "simulator: command\ncommand: {program: amplifer, arguments: ['@Width@@Load@']}\n"
        assert mistakes(yaml + SPACE) == [
            (
                "command.program",
                "`amplifer` is not registered; did you mean `amplifier`?; the operator of the "
                "services registers it in VISTAFLOW_PROGRAMS",
            )
        ]

    def test_another_build_of_the_program_has_points_of_its_own(
        self, run: Any, amplifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = tmp_path / "amplifier"
        shutil.copy2(amplifier, copy)
        monkeypatch.setenv(PROGRAMS, f"amplifier={copy}")
        yaml = f"{self.YAML}  arguments: ['--width=@Width@', '--load=@Load@']\n"
        deck, store = deck_of(yaml + SPACE), PointStore(tmp_path / "points")
        store.put(deck, run(deck))
        assert store.get(deck, POINT) is not None
        os.utime(copy, (1, 1))
        assert store.get(deck, POINT) is None


class Amplifier(rpc.SimulatorServiceServicer):
    """A simulator of somebody's own."""

    def Evaluate(self, request: pb.EvaluateRequest, context: Any) -> pb.EvaluateResponse:
        width = request.parameters["Width"].number_value
        load = request.parameters["Load"].number_value
        if width > 90:
            return pb.EvaluateResponse(
                failure=pb.FAILURE_NO_CONVERGENCE, message="width is odd", log="trying\ngave up"
            )
        if load > 90:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no seat")
        gain = pb.EvaluateResponse(responses={"Gain": GAIN * width * load / 100})
        gain.responses["bandwidth"] = 250 / width / load
        return gain


@pytest.fixture
def amplifier_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    rpc.add_SimulatorServiceServicer_to_server(Amplifier(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv(SERVERS, f"tcad=127.0.0.1:{port}")
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


class TestServer:
    YAML = f"simulator: grpc\nserver: tcad{SPACE}"

    def test_a_server_computes(self, run: Any, amplifier_server: str) -> None:
        assert run(deck_of(self.YAML)).responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}

    def test_its_failures_have_their_kind_reason_and_log(
        self, run: Any, amplifier_server: str
    ) -> None:
        outcome = run(deck_of(self.YAML), {"Width": 95, "Load": 1})
        assert (outcome.failure, outcome.message) == (Failure.NO_CONVERGENCE, "width is odd")
        assert outcome.log == "trying\ngave up"
        outcome = run(deck_of(self.YAML), {"Width": 1, "Load": 95})
        assert (outcome.failure, outcome.message) == (
            Failure.LICENSE,
            "the server `tcad` answered RESOURCE_EXHAUSTED: no seat",
        )

    def test_one_that_is_down_or_not_registered_is_named(
        self, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(SERVERS, "tcad=127.0.0.1:9")
        outcome = run(deck_of(self.YAML))
        assert outcome.failure is Failure.CRASHED
        assert outcome.message == "the simulator server `tcad` does not answer: is it up?"
        monkeypatch.delenv(SERVERS)
        assert [field for field, _ in mistakes(self.YAML)] == ["server"]
        with pytest.raises(InvalidError):
            run(deck_of(self.YAML))

    def test_a_stopped_run_cancels_its_call(
        self, run: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, ended = threading.Event(), futures.Future[bool]()

        class Endless(rpc.SimulatorServiceServicer):
            def Evaluate(self, request: pb.EvaluateRequest, context: Any) -> pb.EvaluateResponse:
                done = futures.Future[None]()
                context.add_callback(lambda: done.set_result(None))
                begun.set()
                done.result()
                ended.set_result(True)
                return pb.EvaluateResponse()

        server = grpc.server(futures.ThreadPoolExecutor(1))
        rpc.add_SimulatorServiceServicer_to_server(Endless(), server)
        monkeypatch.setenv(SERVERS, f"tcad=127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
        server.start()
        with pytest.raises(Canceled):
            run(deck_of(self.YAML), should_stop=begun.is_set)
        assert ended.result(timeout=120)
        server.stop(None).wait()


class TestTable:
    CSV = "Width,Load,Gain,bandwidth\n10,10,40,2.5\n12,10,41.6,2.0833\n20,10,,1.25\n"

    def test_a_measured_point_is_looked_up_and_another_is_refused(self, run: Any) -> None:
        deck = deck_of(f"simulator: table\ntable: {{file: m.csv}}{SPACE}", m__csv=self.CSV)
        check_deck(deck)
        assert run(deck).responses == {"Gain": GAIN, "bandwidth": BANDWIDTH}
        outcome = run(deck, {"Width": 11.0, "Load": 10.0})
        assert outcome.failure is Failure.INFEASIBLE
        assert outcome.message == (
            "not measured: the nearest row of `m.csv` is Width=10, Load=10, 0.091 of a range away"
        )
        assert run(deck, {"Width": 20.0, "Load": 10.0}).message == (
            "the simulator found no value of `Gain` at this point"
        )

    def test_the_nearest_row_counts_if_it_is_near_enough(self, run: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {"Width": [10.0, 12.0], "Load": [10, 10], "Gain": [40.0, 41.6]}
        buffer = io.BytesIO()
        pq.write_table(pa.table({**columns, "bandwidth": [2.5, 2.0]}), buffer)
        yaml = "simulator: table\ntable: {file: m.parquet, lookup: nearest, within: 0.01}"
        deck = deck_of(yaml + SPACE, m__parquet=buffer.getvalue())
        assert run(deck, {"Width": 10.5, "Load": 10.0}).responses["Gain"] == GAIN
        assert run(deck, {"Width": 50.0, "Load": 10.0}).message.endswith(
            "is Width=12.0, Load=10, 0.38 of a range away, more than 0.01"
        )

    def test_a_missing_column_is_a_mistake_of_the_deck(self) -> None:
        yaml = f"simulator: table\ntable: {{file: m.csv}}{SPACE}"
        assert mistakes(yaml, m__csv=self.CSV.replace("Load", "load")) == [
            ("parameters[1].name", "`m.csv` has no such column; did you mean `load`?")
        ]


@pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")
class TestNetlists:
    SPACE = """
parameters:
  - {name: R, range: [100, 10000], scale: log, unit: ohm}
responses:
  - {name: Vout, unit: V}
  - {name: tau, unit: s}
"""
    DC = (
        "* divider\n.lib '$PDK_ROOT/models/corner.lib' tt\nv1 in 0 dc 1\nr1 in out @R@\n"
        "r2 out 0 {load}\n.control\nop\nlet Vout = v(out)\nprint Vout\nquit\n.endc\n.end\n"
    )
    STEP = (
        "* step\nv1 in 0 pulse(0 1 0 1n 1n 1)\nr1 in out @R@\nc1 out 0 1n\n.control\n"
        "tran 10n 100u\nmeas tran tau when v(out)=0.632\nquit\n.endc\n.end\n"
    )

    @pytest.fixture(autouse=True)
    def models(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "pdk" / "models"
        folder.mkdir(parents=True)
        (folder / "corner.lib").write_text(
            ".lib tt\n.include 'load.inc'\n.endl tt\n.lib ss\n.param load=2k\n.endl ss\n"
        )
        (folder / "load.inc").write_text(".param load=1k\n")
        monkeypatch.setenv(MODELS, f"PDK_ROOT={tmp_path / 'pdk'}")
        return folder

    def deck(self, dc: str = DC, step: str = STEP, more: str = "", **files: str) -> Deck:
        return deck_of(
            f"simulator: ngspice\ntestbenches: [dc.cir, step.cir]{more}{self.SPACE}",
            dc__cir=dc,
            step__cir=step,
            **files,
        )

    def test_two_testbenches_and_a_library_of_another_folder(self, run: Any, models: Path) -> None:
        outcome = run(self.deck(), {"R": 1000.0})
        assert outcome.responses == {
            "Vout": pytest.approx(0.5),
            "tau": pytest.approx(1e-6, rel=0.02),
        }
        absolute = self.DC.replace("$PDK_ROOT/models", str(models))
        assert run(self.deck(absolute), {"R": 1000.0}).responses == outcome.responses

    def test_points_are_those_of_the_library_as_it_is(
        self, run: Any, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from vistaflow_services.simulators.bridges import registered

        deck, store = self.deck(), PointStore(tmp_path / "points")
        store.put(deck, run(deck, {"R": 1000.0}))
        assert store.get(deck, {"R": 1000.0}) is not None
        (models / "load.inc").write_text(".param load=3k\n")
        registered._folder_identity.cache_clear()
        assert store.get(deck, {"R": 1000.0}) is None

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (
                ".include /etc/passwd",
                "`/etc/passwd` is outside the deck: put the file into its folder and name it "
                "relatively; of model libraries, its folder is not registered by the operator in "
                "VISTAFLOW_MODEL_FOLDERS; registered are $PDK_ROOT/",
            ),
            (
                ".lib $PDK/a.lib tt",
                "`$PDK/a.lib` is outside the deck, and $PDK is not registered by the operator in "
                "VISTAFLOW_MODEL_FOLDERS; registered are $PDK_ROOT/",
            ),
            (
                ".lib $PDK_ROOT/../../etc/passwd tt",
                None,
            ),
            (
                ".lib $PDK_ROOT/a.lib tt",
                "`$PDK_ROOT/a.lib` is no file of the registered folder",
            ),
        ],
    )
    def test_other_files_are_refused(self, line: str, problem: str | None) -> None:
        with pytest.raises(InvalidError) as error:
            check_deck(self.deck(self.DC.replace("r2", f"{line}\nr2")))
        (wrong,) = error.value.violations
        assert wrong.field == "dc.cir:5"
        assert problem is None or wrong.description == problem

    def test_a_failure_names_its_testbench(self, run: Any) -> None:
        step = self.STEP.replace("c1 out 0 1n", "x1 out 0 missing")
        outcome = run(self.deck(step=step), {"R": 1000.0})
        assert outcome.failure is Failure.CRASHED
        assert outcome.message.startswith("step.cir: ngspice: ")
        assert "missing" in outcome.log

    def test_a_measure_that_both_print_is_refused(self, run: Any) -> None:
        step = self.STEP.replace("quit", "let Vout = 1\nprint Vout\nquit")
        assert run(self.deck(step=step), {"R": 1000.0}).message == (
            "both dc.cir and step.cir print `vout`: rename one of them"
        )

    def test_a_fallback_stands_for_a_measure_without_a_result(self, run: Any) -> None:
        step = self.STEP.replace("when v(out)=0.632", "when v(out)=2")
        outcome = run(self.deck(step=step), {"R": 1000.0})
        assert outcome.failure is Failure.INFEASIBLE
        self_space, TestNetlists.SPACE = (
            self.SPACE,
            self.SPACE.replace("unit: s}", "unit: s, fallback: 1}"),
        )
        try:
            assert run(self.deck(step=step), {"R": 1000.0}).responses["tau"] == 1.0
        finally:
            TestNetlists.SPACE = self_space

    def test_vectors_are_read_by_a_python_function(self, run: Any) -> None:
        step = self.STEP.replace("meas tran tau when v(out)=0.632", "wrdata step.txt v(out)")
        source = (
            "def read(R):\n    for line in open('step.txt'):\n"
            "        time, volts = map(float, line.split()[:2])\n"
            "        if volts > 0.632:\n            return {'tau': time}\n"
        )
        deck = self.deck(step=step, more="\nextract: read.py:read", read__py=source)
        check_deck(deck)
        assert run(deck, {"R": 1000.0}).responses["tau"] == pytest.approx(1e-6, rel=0.05)

    def test_settings_of_the_deck_come_before_the_netlist(self, run: Any) -> None:
        files = {"__spiceinit": "set ngbehavior=hsa\nset vshow = 0.25\n"}
        dc = self.DC.replace("let Vout = v(out)", "let Vout = $vshow")
        assert run(self.deck(dc, **files), {"R": 1000.0}).responses["Vout"] == 0.25
        with pytest.raises(InvalidError) as error:
            check_deck(self.deck(__spiceinit="shell rm -rf ~\n"))
        assert [wrong.field for wrong in error.value.violations] == [".spiceinit:1"]

    def test_compiled_models_are_loaded_from_registered_folders_alone(self, models: Path) -> None:
        (models / "psp.osdi").write_bytes(b"")
        check_deck(self.deck(self.DC.replace("op\n", "pre_osdi $PDK_ROOT/models/psp.osdi\nop\n")))
        with pytest.raises(InvalidError):
            check_deck(self.deck(self.DC.replace("op\n", "pre_osdi own.osdi\nop\n")))


def test_a_program_that_is_gone_is_reported_before_anything_runs(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROGRAMS, "amplifier=/nonexistent/amplifier")
    yaml = "simulator: command\ncommand: {program: amplifier, arguments: ['@Width@', '@Load@']}"
    with pytest.raises(UnavailableError):
        run(deck_of(yaml + SPACE))
