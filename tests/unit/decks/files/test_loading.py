from __future__ import annotations

from pathlib import Path

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Policy, load_deck, parse_deck
from vistaflow_services.decks.space import Kind, Scale

NETLIST = """\
* an RC low-pass
v1 in 0 dc 0 ac 1
r1 in out @r@
c1 out 0 @c@p
.control
ac dec 10 1 1g
meas ac f3db when vdb(out)=-3 fall=1
.endc
.end
"""

YAML = """\
name: lowpass
version: 1.10
description: A low-pass.
simulator: ngspice
template: rc.cir
parameters:
  - name: r
    type: real
    range: [1e2, 1e4]
    unit: ohm
    scale: log
    default: 1000
  - name: c
    range: [1, 100]
responses:
  - name: corner
    measure: f3db
    unit: Hz
    range: [1, null]
constraints:
  - r * c >= 500
failure:
  policy: retry
  retries: 2
  max_failed_fraction: 0.1
timeout: 2 min
memory_limit: 512 MiB
"""

TAKES = (
    "`evaluate` must take the deck's parameters by their names, or one argument, the dict of "
    "parameters"
)

PYTHON = """\
name: diode
simulator: devsim
entry: deck.py:evaluate
parameters:
  - {name: x, range: [0, 1]}
responses:
  - {name: y}
"""


def deck(yaml: str = YAML, **files: str | bytes) -> Deck:
    given: dict[str, str | bytes] = {"deck.yaml": yaml, "rc.cir": NETLIST}
    given |= {name.replace("__", "."): content for name, content in files.items()}
    return parse_deck(
        {
            name: content.encode() if isinstance(content, str) else content
            for name, content in given.items()
        }
    )


def mistakes(yaml: str = YAML, **files: str | bytes) -> list[tuple[str, str]]:
    with pytest.raises(InvalidError) as error:
        deck(yaml, **files)
    return [(each.field, each.description) for each in error.value.violations]


def test_a_right_deck_is_read_whole() -> None:
    read = deck()
    assert (read.name, read.version, read.simulator) == ("lowpass", "1.10", "ngspice")
    assert [(each.name, each.kind, each.low, each.high) for each in read.space.parameters] == [
        ("r", Kind.REAL, 100.0, 10000.0),
        ("c", Kind.REAL, 1.0, 100.0),
    ]
    assert read.space["r"].scale is Scale.LOG
    assert [str(each) for each in read.space.constraints] == ["r * c >= 500"]
    response = read.responses[0]
    assert (response.name, response.extract, response.unit) == ("corner", "f3db", "Hz")
    assert (response.low, response.high) == (1, None)
    assert (read.failure_policy.policy, read.failure_policy.retries) == (Policy.RETRY, 2)
    assert (read.timeout_seconds, read.memory_limit_bytes) == (120.0, 512 * 2**20)


def test_what_is_left_out_has_its_default() -> None:
    read = deck(PYTHON, deck__py="def evaluate(parameters):\n    return {}\n")
    assert (read.version, read.timeout_seconds, read.memory_limit_bytes) == ("1", 300.0, 2 * 2**30)
    assert read.failure_policy.policy is Policy.CONTINUE
    assert (read.entry_file, read.entry_function) == ("deck.py", "evaluate")


# What is changed in the right deck, and the one mistake that must be told.
ONE_MISTAKE = {
    "unknown key": (
        ("unit: ohm", "units: ohm"),
        ("deck.yaml:10 parameters[0].units", "unknown key; did you mean `unit`?"),
    ),
    "unknown key at the top": (
        ("timeout: 2 min", "time_out: 2 min"),
        ("deck.yaml:26 time_out", "unknown key; did you mean `timeout`?"),
    ),
    "unknown key of the failure policy": (
        ("retries: 2", "retry: 2"),
        ("deck.yaml:24 failure.retry", "unknown key; did you mean `retries`?"),
    ),
    "no name": (
        ("name: lowpass\n", ""),
        ("deck.yaml: name", "missing"),
    ),
    "bad name": (
        ("name: lowpass", "name: Low-Pass"),
        (
            "deck.yaml:1 name",
            "`Low-Pass` is no name; use lower-case letters, digits and _, a letter first, "
            "at most 63 characters",
        ),
    ),
    "unknown simulator": (
        ("simulator: ngspice", "simulator: ngspise"),
        ("deck.yaml:4 simulator", "`ngspise` is unknown; did you mean `ngspice`?"),
    ),
    "unknown type": (
        ("type: real", "type: reel"),
        ("deck.yaml:8 parameters[0].type", "`reel` is unknown; did you mean `real`?"),
    ),
    "unknown scale": (
        ("scale: log", "scale: logarithmic"),
        (
            "deck.yaml:11 parameters[0].scale",
            "`logarithmic` is unknown; known are `linear`, `log`",
        ),
    ),
    "range upside down": (
        ("range: [1, 100]", "range: [100, 1]"),
        ("deck.yaml:14 parameters[1].range", "100 is not below the upper end 1"),
    ),
    "range of one value": (
        ("range: [1, 100]", "range: [1, 1]"),
        ("deck.yaml:14 parameters[1].range", "1 is not below the upper end 1"),
    ),
    "range that is not a number": (
        ("range: [1, 100]", "range: [1, .nan]"),
        ("deck.yaml:14 parameters[1].range", "`nan` is not a finite number"),
    ),
    "range of texts": (
        ("range: [1, 100]", "range: [1, 100 pF]"),
        ("deck.yaml:14 parameters[1].range", "is no pair of numbers, [low, high]"),
    ),
    "range of three": (
        ("range: [1, 100]", "range: [1, 10, 100]"),
        ("deck.yaml:14 parameters[1].range", "is no pair of numbers, [low, high]"),
    ),
    "log scale from zero": (
        ("range: [1e2, 1e4]", "range: [0, 1e4]"),
        (
            "deck.yaml:9 parameters[0].range",
            "a log scale needs a range above 0, not one from 0",
        ),
    ),
    "default outside": (
        ("default: 1000", "default: 10"),
        (
            "deck.yaml:12 parameters[0].default",
            "10 is outside its range 100.0 to 10000.0 ohm",
        ),
    ),
    "default of another type": (
        ("default: 1000", "default: 1k"),
        ("deck.yaml:12 parameters[0].default", "`1k` is not a finite number"),
    ),
    "no range": (
        ("    range: [1, 100]\n", ""),
        (
            "deck.yaml:13 parameters[1].range",
            "missing; the type real has `range: [low, high]`",
        ),
    ),
    "choices without type": (
        ("range: [1, 100]", "choices: [1, 2]"),
        (
            "deck.yaml:14 parameters[1].choices",
            "the type real has a range; choices go with categorical and ordinal",
        ),
    ),
    "duplicate parameter": (
        ("- name: c\n", "- name: r\n"),
        ("deck.yaml:13 parameters[1].name", "`r` is already the name of parameters[0]"),
    ),
    "response named like a parameter": (
        ("name: corner", "name: c"),
        ("deck.yaml:16 responses[0].name", "`c` is already the name of parameters[1]"),
    ),
    "response without a name": (
        ("- name: corner\n    measure", "- measure"),
        ("deck.yaml:16 responses[0].name", "missing"),
    ),
    "response without a measure in the netlist": (
        ("measure: f3db", "measure: f3"),
        (
            "deck.yaml:17 responses[0].measure",
            "no `.meas` or `print` of `f3` in the deck's files",
        ),
    ),
    "gate upside down": (
        ("range: [1, null]", "range: [1, 0]"),
        ("deck.yaml:19 responses[0].range", "1 is not below the upper end 0"),
    ),
    "infinite gate": (
        ("range: [1, null]", "range: [1, .inf]"),
        (
            "deck.yaml:19 responses[0].range",
            "must be finite; leave an end open with null",
        ),
    ),
    "constraint on an unknown parameter": (
        ("r * c >= 500", "r * cc >= 500"),
        ("deck.yaml:21 constraints[0]", "column 5: unknown name `cc`; did you mean `c`?"),
    ),
    "constraint that is no inequality": (
        ("r * c >= 500", "r * c"),
        ("deck.yaml:21 constraints[0]", "column 6: expected <=, >=, < or >, not the end"),
    ),
    "constraint that no point meets": (
        ("r * c >= 500", "r * c >= 5e6"),
        (
            "deck.yaml:21 constraints[0]",
            "no point of the space meets `r * c >= 5e6`; loosen it or widen the ranges it reads",
        ),
    ),
    "constraints that contradict each other": (
        ("  - r * c >= 500", "  - r * c >= 500\n  - r / 100 <= 2\n  - c < 2"),
        (
            "deck.yaml:20 constraints",
            "no point of the space meets all of them together; they contradict each other "
            "within the parameters' ranges",
        ),
    ),
    "unknown policy": (
        ("policy: retry", "policy: try"),
        ("deck.yaml:23 failure.policy", "`try` is unknown; did you mean `retry`?"),
    ),
    "too many retries": (
        ("retries: 2", "retries: 99"),
        ("deck.yaml:24 failure.retries", "`99` is not a whole number from 0 to 10"),
    ),
    "fraction above one": (
        ("max_failed_fraction: 0.1", "max_failed_fraction: 10"),
        ("deck.yaml:25 failure.max_failed_fraction", "`10` is not a number from 0 to 1"),
    ),
    "substitution without values": (
        ("policy: retry", "policy: substitute"),
        ("deck.yaml:22 failure.substitute", "needs a value for the response `corner`"),
    ),
    "substitution that is not used": (
        ("policy: retry", "policy: retry\n  substitute: {corner: 1}"),
        (
            "deck.yaml:24 failure.substitute",
            "is not used by the policy retry; leave it out",
        ),
    ),
    "no timeout": (
        ("timeout: 2 min", "timeout: 0"),
        ("deck.yaml:26 timeout", "give seconds, above 0 and at most 604800, or `5 min`"),
    ),
    "unit of memory": (
        ("memory_limit: 512 MiB", "memory_limit: 512 MiBs"),
        (
            "deck.yaml:27 memory_limit",
            "give `512 MiB` or a number of bytes, 16 MiB to 1024 GiB",
        ),
    ),
    "template that is not there": (
        ("template: rc.cir", "template: rcc.cir"),
        ("deck.yaml:5 template", "`rcc.cir` is no file of the deck; did you mean `rc.cir`?"),
    ),
    "template above the folder": (
        ("template: rc.cir", "template: ../rc.cir"),
        (
            "deck.yaml:5 template",
            "`../rc.cir` leaves the deck's folder; a deck's files lie in its folder",
        ),
    ),
    "template at an absolute path": (
        ("template: rc.cir", "template: /etc/passwd"),
        (
            "deck.yaml:5 template",
            "`/etc/passwd` is no relative path with / between folders",
        ),
    ),
    "key of another simulator": (
        ("template: rc.cir", "template: rc.cir\nfunction: branin"),
        (
            "deck.yaml:6 function",
            "is not used by the simulator ngspice; it has `template`",
        ),
    ),
    "parameters that are no list": (
        ("constraints:\n  - r * c >= 500", "constraints: r * c >= 500"),
        ("deck.yaml:20 constraints", "is no list of at most 100 texts"),
    ),
    "text that is a list": (
        ("unit: ohm", "unit: [ohm]"),
        ("deck.yaml:10 parameters[0].unit", "is no text"),
    ),
    "key twice": (
        ("type: real", "name: real"),
        ("deck.yaml:8", "has `parameters[0].name` twice; the first is in line 7"),
    ),
    "alias": (
        ("unit: ohm", "unit: *ohm"),
        ("deck.yaml:10", "has an alias (`*`); write the value out"),
    ),
    "tag": (
        ("version: 1.10", "version: !!python/object/apply:os.system [id]"),
        (
            "deck.yaml:2",
            "has a tag (`tag:yaml.org,2002:python/object/apply:os`); write plain values",
        ),
    ),
}


@pytest.mark.parametrize(("change", "told"), ONE_MISTAKE.values(), ids=ONE_MISTAKE)
def test_a_mistake_in_a_deck_is_told_with_its_line_and_field(
    change: tuple[str, str], told: tuple[str, str]
) -> None:
    assert change[0] in YAML
    found = mistakes(YAML.replace(*change, 1))
    # A name that is wrong makes others wrong in turn, such as a placeholder without a parameter.
    assert found[0] == told
    if told[0].split(" ")[-1].endswith("].name"):
        assert len(found) <= 3
    else:
        assert found == [told]


def test_every_mistake_of_a_deck_is_told_at_once() -> None:
    yaml = """\
nane: x
simulator: ngspice
template: rc.cir
parameters:
  - {name: r, type: integer, range: [5, 2]}
  - {name: C-, range: [1, 2]}
  - {name: m, type: categorical, choices: [fast]}
  - {name: q, type: ordinal}
responses:
  - {unit: Hz}
constraints: [r >= z, m > 1]
timeout: soon
"""
    assert mistakes(yaml) == [
        ("deck.yaml:1 nane", "unknown key; did you mean `name`?"),
        ("deck.yaml: name", "missing"),
        ("deck.yaml:5 parameters[0].range", "5 is not below the upper end 2"),
        (
            "deck.yaml:6 parameters[1].name",
            "`C-` is no name; use letters a-z and A-Z, digits and _, a letter first, "
            "at most 63 characters; `title` takes a name in any script",
        ),
        ("deck.yaml:7 parameters[2].choices", "1 choices; give 2 to 1000"),
        (
            "deck.yaml:8 parameters[3].choices",
            "missing; the type ordinal has a list of choices",
        ),
        ("deck.yaml:10 responses[0].name", "missing"),
        ("deck.yaml:11 constraints[0]", "column 6: unknown name `z`; known are `m`, `q`, `r`"),
        ("rc.cir:4", "no parameter for `@c@`; known are `m`, `q`, `r`"),
        (
            "deck.yaml:7 parameters[2].name",
            "no placeholder `@m@` in rc.cir; use the parameter or remove it",
        ),
        (
            "deck.yaml:8 parameters[3].name",
            "no placeholder `@q@` in rc.cir; use the parameter or remove it",
        ),
        ("deck.yaml:12 timeout", "give seconds, above 0 and at most 604800, or `5 min`"),
    ]


def test_a_constraint_on_a_text_parameter_says_so() -> None:
    yaml = PYTHON.replace(
        "responses:", "  - {name: m, type: categorical, choices: [a, b]}\nresponses:"
    )
    found = mistakes(yaml + "constraints: [m > 1]\n", deck__py="def evaluate(p): ...\n")
    assert found == [
        (
            "deck.yaml:9 constraints[0]",
            "`m` has choices of text, which no formula reads",
        )
    ]


def test_placeholders_and_parameters_are_held_against_each_other() -> None:
    netlist = NETLIST.replace("@r@", "@R@").replace("@c@", "@cap@")
    assert mistakes(rc__cir=netlist) == [
        ("rc.cir:3", "no parameter for `@R@`; did you mean `r`?"),
        ("rc.cir:4", "no parameter for `@cap@`; known are `c`, `r`"),
        (
            "deck.yaml:7 parameters[0].name",
            "no placeholder `@r@` in rc.cir; use the parameter or remove it",
        ),
        (
            "deck.yaml:13 parameters[1].name",
            "no placeholder `@c@` in rc.cir; use the parameter or remove it",
        ),
    ]


def test_device_values_of_ngspice_are_no_placeholders() -> None:
    netlist = NETLIST.replace(".endc", "let g = @m1[gm] / @m2[gm] * @c@\n.endc")
    assert deck(rc__cir=netlist).templates == ("rc.cir",)


def test_a_choice_that_would_add_lines_or_paths_to_a_netlist_is_refused() -> None:
    yaml = YAML.replace(
        "- name: c\n    range: [1, 100]", "- name: c\n    type: categorical\n    choices: [a, ../b]"
    )
    assert mistakes(yaml.replace("  - r * c >= 500\n", "  - r >= 500\n")) == [
        (
            "deck.yaml:15 parameters[1].choices",
            "`../b` is put into a file; use letters, digits and _ . + - only",
        )
    ]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (
            "def simulate(parameters): ...\n",
            ("deck.yaml:3 entry", "deck.py has no function `evaluate`; known are `simulate`"),
        ),
        (
            "def evaluate(): ...\n",
            ("deck.py:1", TAKES),
        ),
        (
            "import os\n\ndef evaluate(a, b): ...\n",
            ("deck.py:3", TAKES),
        ),
        ("async def evaluate(p): ...\n", ("deck.py:1", "`evaluate` must be a plain function")),
        ("def evaluate(p:\n", ("deck.py:1", "is not Python: '(' was never closed")),
        (b"\xff\xfe\x00", ("deck.py", "is not Python that can be read")),
        (
            "x = " + "-" * 100_000 + "1\n",
            ("deck.py", "is not Python that can be read"),
        ),
    ],
    ids=["missing", "no argument", "two arguments", "async", "syntax", "binary", "deep"],
)
def test_a_wrong_entry_is_found_without_running_it(
    source: str | bytes, told: tuple[str, str]
) -> None:
    found = mistakes(PYTHON, deck__py=source)
    if isinstance(source, bytes):
        assert [field.split(":")[0] for field, _ in found] == ["deck.py"]
    else:
        assert found == [told]


@pytest.mark.parametrize(
    "source",
    [
        "def evaluate(parameters, *, steps=3): ...\n",
        "def evaluate(*all): ...\n",
        "from device import evaluate\n",
        "evaluate = print\n",
        "raise SystemExit\ndef evaluate(p):\n    '''\\d'''\n",
    ],
)
def test_a_right_entry_is_taken_without_running_it(source: str) -> None:
    assert deck(PYTHON, deck__py=source).entry == "deck.py:evaluate"


def test_an_entry_without_its_file_is_told() -> None:
    assert mistakes(PYTHON, dock__py="") == [
        ("deck.yaml:3 entry", "`deck.py` is no file of the deck; did you mean `dock.py`?")
    ]


def test_a_deck_that_is_not_utf8_is_told_the_line() -> None:
    assert mistakes(rc__cir=NETLIST.encode().replace(b"low-pass", b"T\xfcr")) == [
        ("rc.cir:1", "is not UTF-8; save the file as UTF-8")
    ]
    with pytest.raises(InvalidError, match=r"deck\.yaml:2: is not UTF-8"):
        parse_deck({"deck.yaml": b"name: x\ndescription: T\xfcr\n"})


def test_a_folder_without_deck_yaml_is_told(tmp_path: Path) -> None:
    (tmp_path / "deck.yml").write_text(YAML)
    with pytest.raises(InvalidError, match=r"did you mean `deck\.yml`"):
        load_deck(tmp_path)


@pytest.mark.parametrize("yaml", ["", "- a\n", "just text\n", "3\n"])
def test_a_deck_that_is_no_mapping_is_told(yaml: str) -> None:
    found = mistakes(yaml)
    assert found[0][1] == "is no mapping of keys to values"


@pytest.mark.parametrize(("text", "noisy"), [("", False), ("noisy: true", True)])
def test_a_deck_may_say_that_its_simulator_is_noisy(text: str, noisy: bool) -> None:
    files = {"deck.yaml": f"{PYTHON}{text}\n".encode(), "deck.py": b"def evaluate(p): return {}\n"}
    assert parse_deck(files).noisy is noisy


@pytest.mark.parametrize("value", ["'yes'", "1", "[true]", "maybe"])
def test_noisy_is_true_or_false_and_nothing_else(value: str) -> None:
    files = {
        "deck.yaml": f"{PYTHON}noisy: {value}\n".encode(),
        "deck.py": b"def evaluate(p): return {}\n",
    }
    with pytest.raises(InvalidError) as raised:
        parse_deck(files)
    (violation,) = raised.value.violations
    assert violation.field.endswith("noisy")
    assert "neither true nor false" in violation.description
