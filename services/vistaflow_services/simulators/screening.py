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

COMMANDS: Final = frozenset(
    (
        "ac",
        "alter",
        "altermod",
        "alterparam",
        "asciiplot",
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

# In these `<` and `>` compare: ngspice itself looks for no redirection there.
_CONDITIONS = ("if", "else", "while", "dowhile", "stop", "define")
_CONTROL_START = re.compile(r"^\s*\.control\b", re.IGNORECASE)
_CONTROL_END = re.compile(r"^\s*\.endc\b", re.IGNORECASE)
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
    found = Violations()
    for path, content in sorted(deck.files.items()):
        if path == "deck.yaml":
            continue
        for number, kind, line in _lines(content.decode("utf-8", "replace")):
            for problem in _problems(deck, path, kind, line):
                found.add(f"{path}:{number}", problem)
    found.check()


class _Kind(Enum):
    """What ngspice takes a line for."""

    NETLIST = "netlist"
    COMMAND = "command"
    """A line of a control block: from `;`, `//` or `$ ` on it is a comment."""
    SPECIAL = "special"
    """A comment that begins with `*#` is a command, anywhere; in it `;` separates commands."""


def _lines(text: str) -> Iterator[tuple[int, _Kind, str]]:
    """Logical lines with their first number."""
    # A file that begins so is one control block, in ngspice 39 and later.
    in_control = text.lstrip().lower().startswith("*ng_script")
    pending: tuple[int, _Kind, str] | None = None
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        special = raw.lstrip().startswith("*#")
        line = raw if special or not in_control else _uncommented(raw)
        if raw.startswith("+") and pending is not None:
            pending = (*pending[:2], f"{pending[2]} {line[1:]}")
            continue
        if pending is not None:
            yield pending
        pending = None
        if _CONTROL_START.match(raw):
            in_control = True
        elif _CONTROL_END.match(raw):
            in_control = False
        elif special:
            pending = (number, _Kind.SPECIAL, raw.lstrip().removeprefix("*#"))
        else:
            pending = (number, _Kind.COMMAND if in_control else _Kind.NETLIST, line)
    if pending is not None:
        yield pending


def _uncommented(command: str) -> str:
    """A command without the comment at its end, as ngspice cuts it: also within quotes."""
    return re.split(r";|//|\$ ", command, maxsplit=1)[0]


def _problems(deck: Deck, path: str, kind: _Kind, line: str) -> Iterator[str]:
    if kind is _Kind.COMMAND:
        yield from _command_problems(line)
        return
    if kind is _Kind.SPECIAL:
        for part in re.sub(r"\"[^\"]*\"", '""', line).split(";"):
            yield from _command_problems(part)
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


def _command_problems(line: str) -> Iterator[str]:
    if "`" in line:
        yield "backquotes start a shell, which is not allowed"
    bare = re.sub(r"\"[^\"]*\"", '""', line)
    words = bare.split()
    if not words or words[0].startswith(("*", "#")):
        return
    word = words[0].lower()
    if word in _WRITERS:
        yield (
            f"the command `{word}` writes files, which are deleted after a run: remove the "
            "line; figures are read from the output of `meas`, `print` and `echo`"
        )
    elif word not in COMMANDS:
        yield (
            f"the command `{word[:40]}` is not allowed: remove the line; a deck may analyse, "
            "alter, measure and print, but not start programs or use files"
        )
    elif word not in _CONDITIONS and re.search("[<>]", bare):
        yield "`>` and `<` use files, which is not allowed; in formulas write `gt` and `lt`"


def _file_problems(deck: Deck, path: str, named: str) -> Iterator[str]:
    name = named.strip("[] \t").strip("\"'")
    if not name or name.startswith(("/", "~", "\\")) or "$" in name or "@" in name:
        yield f"`{name[:80]}` is outside the deck; put the file into its folder, name it relatively"
        return
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if target not in deck.files and posixpath.normpath(name) not in deck.files:
        yield f"`{name[:80]}` is not a file of the deck"
