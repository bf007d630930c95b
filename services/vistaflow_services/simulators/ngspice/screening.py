"""What an ngspice deck may not do, found before anything runs.

A SPICE deck is a program: it can start shells, write files and read any file into its error
messages. The screen is an allow-list of commands for control blocks and looks at every name of a
file. It is the first of two fences; the sandbox is the second.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from enum import Enum
from typing import Final

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.deck import Deck
from vistaflow_services.simulators.ngspice.models import library_problem

COMMANDS: Final = frozenset(
    (
        "ac",
        "alter",
        "altermod",
        "alterparam",
        "asciiplot",
        "begin",
        "bltplot",
        "break",
        "check_ifparm",
        "compose",
        "continue",
        "cross",
        "cutout",
        "dc",
        "define",
        "deftype",
        "delete",
        "destroy",
        "devhelp",
        "diff",
        "display",
        "disto",
        "dowhile",
        "echo",
        "edisplay",
        "else",
        "end",
        "enddowhile",
        "endforeach",
        "endif",
        "endrepeat",
        "endwhile",
        "eprint",
        "eprvcd",
        "esave",
        "fft",
        "foreach",
        "fourier",
        "getcwd",
        "goto",
        "if",
        "inventory",
        "iplot",
        "label",
        "let",
        "linearize",
        "listing",
        "mc_source",
        "meas",
        "measure",
        "noise",
        "oldhelp",
        "op",
        "option",
        "options",
        "optran",
        "plot",
        "pre_set",
        "print",
        "psd",
        "pss",
        "pz",
        "quit",
        "remcirc",
        "removecirc",
        "remzerovec",
        "repeat",
        "reset",
        "reshape",
        "resume",
        "run",
        "rusage",
        "save",
        "sens",
        "set",
        "setcirc",
        "setcs",
        "setplot",
        "setscale",
        "setseed",
        "settype",
        "shift",
        "show",
        "showmod",
        "sp",
        "spec",
        "state",
        "status",
        "step",
        "stop",
        "strcmp",
        "tf",
        "trace",
        "tran",
        "transpose",
        "unalias",
        "undefine",
        "unlet",
        "unset",
        "version",
        "where",
        "while",
    )
)
"""Commands of a control block that neither start programs nor touch files. Those that draw say on
standard error that there is no display, and nothing else comes of them."""

_WRITERS: Final = frozenset(("gnuplot", "hardcopy", "wrdata", "write", "wrnodev", "wrs2p"))
"""Commands that only keep for people what a run's figures do not need."""

_READ_WRITERS: Final = frozenset(("wrdata", "write"))
"""Those of them whose files a deck's `extract` reads."""

_LOADERS: Final = frozenset(("osdi", "pre_osdi"))
"""Commands that load compiled models."""

_PLAIN_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

# In these `<` and `>` compare: ngspice itself looks for no redirection there.
_CONDITIONS = ("if", "else", "while", "dowhile", "stop", "define")
# ngspice compares these words by their beginning only: `.endcontrol` ends a block, too.
_CONTROL_START = re.compile(r"\.control", re.IGNORECASE)
_CONTROL_END = re.compile(r"\.endc", re.IGNORECASE)
_BLANKS: Final = "".join(map(chr, range(33)))
"""What ngspice skips at the beginning of a line."""
_INCLUDE = re.compile(r"^\s*\.(inc\w*|lib)\s+(\"[^\"]*\"|'[^']*'|\S+)(.*)$", re.IGNORECASE)
_NO_COMMENT = re.compile(r"\s*(?!;|\$|//)\S")
_LOADS = re.compile(r"^\s*\.?(pre_\w+|osdi|codemodel|hdl|verilog)\b", re.IGNORECASE)
_FILE_VALUE = re.compile(
    r"\b(file|input_file|state_file|filename|simulation|lib_args|sim_args)\s*=\s*"
    r"(\[?\s*\"[^\"]*\"|\[?\s*'[^']*'|\S+)",
    re.IGNORECASE,
)


def screen(deck: Deck) -> None:
    """Refuses an ngspice deck that could reach beyond its folder.

    Raises:
        InvalidError: A violation for each forbidden line, its field the file and line number.
    """
    violations = Violations()
    for path, content in sorted(deck.files.items()):
        if path == "deck.yaml" or path.endswith(".py"):
            continue
        text = content.decode("utf-8-sig", "replace")
        main = path in deck.netlists
        for number, kind, line in logical_lines(text, main, settings=path == ".spiceinit"):
            for problem in _problems(deck, path, kind, line):
                violations.add(f"{path}:{number}", problem)
        if not main and (number := _open_block(text)):
            violations.add(
                f"{path}:{number}",
                "the control block has no `.endc`, so it would go on in the file that includes "
                "this one: add the line `.endc`",
            )
    violations.check()


class Kind(Enum):
    """What ngspice takes a line for."""

    NETLIST = "netlist"
    COMMAND = "command"
    """A line of a control block: from `;`, `//` or `$ ` on it is a comment."""
    SPECIAL = "special"
    """A comment that begins with `*#` is a command, anywhere; in it `;` separates commands."""


def logical_lines(text: str, main: bool, settings: bool = False) -> list[tuple[int, Kind, str]]:
    """Logical lines with their first number; the title of the `main` file is left out."""
    # A file that begins so is one control block, in ngspice 39 and later.
    in_control = script = settings or text.lstrip().lower().startswith("*ng_script")
    lines: list[tuple[int, Kind, str]] = []
    continued: int | None = None
    for number, raw in enumerate(_raw_lines(text), start=1):
        line = raw.lstrip(_BLANKS)
        if number == 1 and main and not script and not line.startswith((".", "*")):
            continue
        special = line.startswith("*#")
        if in_control and not special:
            line = _uncommented(line)
        if line.startswith("+") and continued is not None:
            first, kind, before = lines[continued]
            lines[continued] = (first, kind, f"{before} {line[1:]}")
        elif _CONTROL_START.match(line):
            in_control, continued = True, None
        elif _CONTROL_END.match(line):
            in_control, continued = False, None
        elif special:
            lines.append((number, Kind.SPECIAL, line.removeprefix("*#")))
        elif line:
            # ngspice looks for the line that a `+` continues beyond blank lines and comments.
            if not line.startswith(("*", "#", "$", ";")):
                continued = len(lines)
            lines.append((number, Kind.COMMAND if in_control else Kind.NETLIST, line))
    return lines


def _open_block(text: str) -> int:
    """The line on which the control block begins that is open at the end of a file, or 0."""
    begin = 0
    for number, raw in enumerate(_raw_lines(text), start=1):
        line = raw.lstrip(_BLANKS)
        if _CONTROL_START.match(line):
            begin = begin or number
        elif _CONTROL_END.match(line):
            begin = 0
    return begin


def _raw_lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _uncommented(command: str) -> str:
    """A command without the comment at its end, as ngspice cuts it: also within quotes."""
    return re.split(r";|//|\$ ", command, maxsplit=1)[0]


def _problems(deck: Deck, path: str, kind: Kind, line: str) -> Iterator[str]:
    if kind is Kind.COMMAND:
        yield from _command_problems(line, deck)
        if line.lower().startswith("pre_set"):  # sets lines of the netlist, among others
            for match in _FILE_VALUE.finditer(line):
                yield from _file_problems(deck, path, match[2])
        return
    if kind is Kind.SPECIAL:
        for part in re.sub(r"\"[^\"]*\"", '""', line).split(";"):
            yield from _command_problems(part, deck)
        return
    if line.startswith("*"):
        return
    if _LOADS.match(line):
        yield "loading compiled models is not allowed"
    include = _INCLUDE.match(line)
    # `.lib name` with one word only begins a section of a library; it names no file.
    if include and (include[1].lower() != "lib" or _NO_COMMENT.match(include[3])):
        yield from _file_problems(deck, path, include[2])
    for match in _FILE_VALUE.finditer(line):
        yield from _file_problems(deck, path, match[2])


def _command_problems(line: str, deck: Deck) -> Iterator[str]:
    if "`" in line:
        yield "backquotes start a shell, which is not allowed"
    bare = re.sub(r"\"[^\"]*\"", '""', line)
    words = bare.split()
    if not words or words[0].startswith(("*", "#")):
        return
    word = words[0].lower()
    if word in _LOADERS:
        # Compiled code is the operator's alone.
        for name in line.split()[1:]:
            if problem := library_problem(name.strip("\"'")):
                yield problem
    elif word in _READ_WRITERS and deck.extract:
        if len(words) < 2 or not _PLAIN_FILE.fullmatch(words[1]):
            yield f"`{word}` writes a file of the run's folder: give a plain name, as `out.txt`"
    elif word in _WRITERS:
        yield (
            f"the command `{word}` writes files, which are deleted after a run: remove the "
            "line; figures are read from the output of `meas`, `print` and `echo`. Files of "
            "`wrdata` and `write` are read by the deck's `extract`, a Python function"
        )
    elif word not in COMMANDS:
        yield (
            f"the command `{word[:40]}` is not allowed: remove the line; a deck may analyse, "
            "alter, measure and print, but not start programs or use files"
        )
    elif word not in _CONDITIONS and re.search("[<>]", bare):
        yield (
            "`>` and `<` use files, which is not allowed: remove them with the name of the file, "
            "figures are read from what is printed; in formulas write `gt` and `lt`"
        )


def _file_problems(deck: Deck, path: str, named: str) -> Iterator[str]:
    name = named.strip("[] \t").strip("\"'")
    if not name or name.startswith(("/", "~", "\\")) or "$" in name or "@" in name:
        problem = library_problem(name)
        if problem:
            yield problem
        return
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if target not in deck.files and posixpath.normpath(name) not in deck.files:
        yield f"`{name[:80]}` is not a file of the deck"
