from __future__ import annotations

from dataclasses import replace

import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Response
from vistaflow_services.decks.space import Parameter, Space
from vistaflow_services.simulators import check_deck


def circuit(text: str) -> Deck:
    return Deck(
        name="circuit",
        simulator="ngspice",
        space=Space(parameters=(Parameter(name="w", low=1.0, high=2.0),)),
        responses=(Response(name="gain"),),
        files={"main.cir": text.encode(), "models/nmos.lib": b".model n nmos\n"},
        templates=("main.cir",),
    )


@pytest.mark.parametrize(
    "line",
    [
        "shell touch /tmp/x",
        "SHELL touch /tmp/x",
        "*#shell id",
        "*# op ; shell id",
        "  *# shell id",
        "!id",
        "source /etc/passwd",
        "write out.raw",
        "wrdata /tmp/x v(1)",
        "cd /",
        "hardcopy x v(1)",
        "edit",
        "load /etc/passwd",
        "alias op shell",
        "set c = shell\n$c id",
        "echo hello > /tmp/x",
        "print v(1) >> /tmp/x",
        "let a = 1 > evil",
        "echo `id`",
        "codemodel /tmp/x.cm",
        "pre_osdi x.osdi",
        "op\n+ > out",
        "op\n  + > out",
        "op\n* a comment in between\n+ > out",
        "op\n  # a comment in between\n+ > out",
        "op\n$ a comment in between\n+ > out",
        "op\n\n+ > out",
        "snsave /tmp/x",
        'pre_set auto_bridge_d_out = ( ".model x filesource(file=/etc/passwd)" )',
    ],
)
def test_commands_that_start_programs_or_use_files_are_refused(line: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_deck(circuit(f"* title\n.control\nop\n{line}\n.endc\n.end\n"))
    assert all(each.field.startswith("main.cir:") for each in caught.value.violations)


@pytest.mark.parametrize(
    "line",
    [
        "*#shell id",
        ".include /etc/passwd",
        ".include '/etc/passwd'",
        '.inc "../../secret"',
        ".INCLUDE ~/x",
        ".lib /opt/models.lib tt",
        ".lib ../models.lib tt",
        ".include missing.inc",
        'a1 %v([1]) src\n.model src filesource (file="/etc/passwd")',
        "a1 [1] clk src\n.model src d_source(input_file = /etc/shadow)",
        ".model src filesource (\n* a comment in between\n+ file=/etc/passwd)",
    ],
)
def test_files_outside_the_deck_are_refused(line: str) -> None:
    with pytest.raises(InvalidError):
        check_deck(circuit(f"* title\n{line}\n.end\n"))


@pytest.mark.parametrize(
    "line",
    [
        "op ; shell id",
        "op;",
        "; source of the figures",
        "ac dec 10 1 1k // write it down",
        "print v(d)$ load",
        "  # edit",
        "op\n+ ; shell id",
        "plot v(d) vs v(g)",
        "iplot v(d)",
        "asciiplot v(d)",
        "display",
        "stop when time > 1u",
        "if 1\n  print v(d)\nendif",
        "begin\n  print v(d)\nend",
        "while i < 3\n  let i = i + 1\nendwhile",
        "foreach i 1 2\n  echo $i\nendforeach",
        "repeat 3\n  op\nendrepeat",
        "dowhile i < 3\n  let i = i + 1\nenddowhile",
        "PLOT v(d)\nPrint v(d)\nEndIf",
        "pre_set strict_errorhandling",
        'pre_set auto_bridge_d_out = ( ".model x dac_bridge(out_low = 0)" "a%d [ %s ] [ %s ] x" )',
    ],
)
def test_comments_and_commands_that_only_show_are_let_through(line: str) -> None:
    check_deck(circuit(f"* title\n.control\nop\n{line}\n.endc\n.end\n"))


@pytest.mark.parametrize("end", [".endc", ".ENDC", ".endcontrol", "  .endc ; done"])
def test_a_control_block_ends_where_ngspice_ends_it(end: str) -> None:
    check_deck(circuit(f"* title\n.control\nop\n{end}\nr1 1 0 1\n.end\n"))


def test_a_control_block_begins_where_ngspice_begins_it() -> None:
    with pytest.raises(InvalidError) as caught:
        check_deck(circuit("* title\n.controls\nshell id\n.endc\n.end\n"))
    assert [each.field for each in caught.value.violations] == ["main.cir:3"]


def test_a_control_block_that_would_go_on_in_the_including_file_is_refused() -> None:
    deck = circuit("* title\n.include begin.inc\nshell id\n.endc\n.end\n")
    with pytest.raises(InvalidError) as caught:
        check_deck(replace(deck, files={**deck.files, "begin.inc": b"r1 1 0 1\n.control\nop\n"}))
    (violation,) = caught.value.violations
    assert (violation.field, "`.endc`" in violation.description) == ("begin.inc:2", True)


@pytest.mark.parametrize("title", ["Verilog adder, after the book", "osdi and file=/etc/passwd"])
def test_a_title_may_say_anything(title: str) -> None:
    check_deck(circuit(f"{title}\nr1 1 0 1\n.op\n.end\n"))


def test_a_redirection_is_to_be_removed() -> None:
    with pytest.raises(InvalidError) as caught:
        check_deck(circuit("* title\n.control\nop\nprint v(1) > out.txt\n.endc\n.end\n"))
    (violation,) = caught.value.violations
    assert "remove them with the name of the file" in violation.description


@pytest.mark.parametrize("command", ["write out.raw", "wrdata out v(1)", "hardcopy out v(1)"])
def test_a_command_that_writes_files_is_to_be_removed(command: str) -> None:
    with pytest.raises(InvalidError) as caught:
        check_deck(circuit(f"* title\n.control\nop\n{command}\n.endc\n.end\n"))
    (violation,) = caught.value.violations
    assert (violation.field, "remove the line" in violation.description) == ("main.cir:4", True)


def test_a_section_of_a_library_may_have_a_comment() -> None:
    check_deck(circuit("* title\n.lib tt ; typical\n.endl tt\n.lib ss $ slow\n.endl ss\n.end\n"))


def test_the_line_of_a_forbidden_command_is_told() -> None:
    with pytest.raises(InvalidError) as caught:
        check_deck(circuit("* t\nr1 1 0 1\n.control\nop\nshell id\nquit\nwrite x\n.endc\n"))
    assert [each.field for each in caught.value.violations] == ["main.cir:5", "main.cir:7"]


def test_a_script_without_a_control_block_is_screened_as_one() -> None:
    with pytest.raises(InvalidError):
        check_deck(circuit("*ng_script\nshell id\n"))


def test_a_script_is_one_also_after_a_byte_order_mark() -> None:
    with pytest.raises(InvalidError):
        check_deck(circuit("\ufeff*ng_script\nshell id\n"))


def test_what_decks_need_is_allowed() -> None:
    check_deck(
        circuit(
            "* shell in the title is words\n.include models/nmos.lib\n.lib 'models/nmos.lib' tt\n"
            "m1 d g 0 0 n w={w} l=1u\nv1 d 0 dc 1 ac 1\n* shell in a comment\n"
            ".control\nop\nlet idd=-i(v1)\nprint idd\nac dec 20 1 1g\n"
            "meas ac gain_db max vdb(out)\nmeas ac ugf when vdb(out)=0 fall=1\n"
            "if idd > 1\n  alterparam w = 2u\n  reset\nend\nset units=degrees\n"
            'echo "done > well"\nquit\n.endc\n.end\n'
        )
    )
