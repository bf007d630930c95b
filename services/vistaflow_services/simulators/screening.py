"""What an ngspice deck may not do, found before anything runs.

A SPICE deck is a program: it can start shells, write files and read any file into its error
messages. The screen is an allow-list of commands for control blocks and looks at every name of a
file. It is the first of two fences; the sandbox is the second.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Final

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.deck import Deck

COMMANDS: Final = frozenset(
    (
        "ac",
        "alter",
        "altermod",
        "alterparam",
        "break",
        "compose",
        "continue",
        "cross",
        "dc",
        "define",
        "delete",
        "destroy",
        "disto",
        "dowhile",
        "echo",
        "else",
        "end",
        "fft",
        "foreach",
        "fourier",
        "goto",
        "if",
        "label",
        "let",
        "linearize",
        "listing",
        "meas",
        "measure",
        "noise",
        "op",
        "option",
        "print",
        "psd",
        "pz",
        "quit",
        "remzerovec",
        "repeat",
        "reset",
        "resume",
        "run",
        "rusage",
        "save",
        "sens",
        "set",
        "setplot",
        "setscale",
        "settype",
        "show",
        "showmod",
        "spec",
        "status",
        "stop",
        "strcmp",
        "tf",
        "tran",
        "undefine",
        "unlet",
        "unset",
        "version",
        "while",
    )
)
"""Commands of a control block that neither start programs nor touch files."""

_CONDITIONS = ("if", "else", "while", "dowhile")
_CONTROL_START = re.compile(r"^\s*\.control\b", re.IGNORECASE)
_CONTROL_END = re.compile(r"^\s*\.endc\b", re.IGNORECASE)
_INCLUDE = re.compile(r"^\s*\.(inc\w*|lib)\s+(\"[^\"]*\"|'[^']*'|\S+)(.*)$", re.IGNORECASE)
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
        for number, line in _lines(content.decode("utf-8", "replace")):
            for problem in _problems(deck, path, line):
                found.add(f"{path}:{number}", problem)
    found.check()


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Logical lines with their first number; those of control blocks begin with `*#`."""
    # A file that begins so is one control block, in ngspice 39 and later.
    in_control = text.lstrip().lower().startswith("*ng_script")
    pending: tuple[int, str] | None = None
    for number, raw in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if raw.startswith("+") and pending is not None:
            pending = (pending[0], f"{pending[1]} {raw[1:]}")
            continue
        if pending is not None:
            yield pending
        pending = None
        if _CONTROL_START.match(raw):
            in_control = True
        elif _CONTROL_END.match(raw):
            in_control = False
        else:
            pending = (number, f"*#{raw}" if in_control else raw)
    if pending is not None:
        yield pending


def _problems(deck: Deck, path: str, line: str) -> Iterator[str]:
    # ngspice runs the comment `*# command` as a command, in a control block or not.
    if line.startswith("*#"):
        yield from _command_problems(line.removeprefix("*#"))
        return
    if line.startswith("*"):
        return
    if _LOADS.match(line):
        yield "loading compiled models is not allowed"
    include = _INCLUDE.match(line)
    # `.lib name` with one word only begins a section of a library; it names no file.
    if include and (include[1].lower() != "lib" or include[3].strip()):
        yield from _file_problems(deck, path, include[2])
    for match in _FILE_VALUE.finditer(line):
        yield from _file_problems(deck, path, match[2])


def _command_problems(line: str) -> Iterator[str]:
    bare = re.sub(r"\"[^\"]*\"", '""', line)
    if "`" in line:
        yield "backquotes start a shell, which is not allowed"
    for part in bare.split(";"):
        words = part.split()
        if not words or words[0].startswith("*") or words[0] in ("$", "//"):
            continue
        word = words[0].lower()
        if word not in COMMANDS:
            yield (
                f"the command `{word[:40]}` is not allowed; a deck may analyse, alter, measure and "
                "print, but not start programs or use files"
            )
        elif word not in _CONDITIONS and re.search("[<>]", part):
            yield "`>` and `<` use files, which is not allowed; in formulas write `gt` and `lt`"


def _file_problems(deck: Deck, path: str, named: str) -> Iterator[str]:
    name = named.strip("[] \t").strip("\"'")
    if not name or name.startswith(("/", "~", "\\")) or "$" in name or "@" in name:
        yield f"`{name[:80]}` is outside the deck; put the file into its folder, name it relatively"
        return
    target = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
    if target not in deck.files and posixpath.normpath(name) not in deck.files:
        yield f"`{name[:80]}` is not a file of the deck"
