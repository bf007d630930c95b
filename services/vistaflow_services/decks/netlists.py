"""What an ngspice netlist of a deck may not do.

A netlist is a program: its control section can run shells and read any file. The sandbox that runs
it is what protects the machine; this screen tells the deck's author early and in words, and keeps
other people's files out of error texts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

_REFUSED: Final = frozenset(
    [
        "shell",
        "source",
        "cd",
        "edit",
        "aspice",
        "rspice",
        "codemodel",
        "osdi",
        "pre_osdi",
        "pre_codemodel",
        "alias",
        "unalias",
    ]
)
_FILES: Final = frozenset(
    ["write", "wrdata", "wrs2p", "hardcopy", "load", "snload", "snsave", "wrnodev"]
)
_INCLUDES: Final = frozenset((".include", ".inc", ".incl", ".lib"))


def screen_netlist(text: str, files: Collection[str]) -> Iterator[tuple[int, str]]:
    """Each line, from 1, that a deck may not have, and why.

    Args:
        text: The netlist or a file that it includes.
        files: The deck's own files, which are all that it may include.
    """
    lines = text.lower().splitlines()
    script = bool(lines) and lines[0].lstrip().startswith("*ng_script")
    control = script
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        if words[0] in (".control", ".endc"):
            control = script or words[0] == ".control"
        elif words[0] in _INCLUDES:
            if problem := _include(words, files):
                yield number, problem
        elif control or line.lstrip().startswith("*#"):
            for command in line.lstrip().removeprefix("*#").split(";"):
                if problem := _command(command):
                    yield number, problem


def _include(words: list[str], files: Collection[str]) -> str:
    path = " ".join(words[1:2]).strip("\"'")
    if words[0] == ".lib" and len(words) == 2 and "." not in path and "/" not in path:
        return ""  # The beginning of a section within a library file, not an inclusion.
    known = {each.lower() for each in files}
    if path.removeprefix("./") in known:
        return ""
    return f"`{words[0]} {path[:60]}` is none of the deck's files; put the file into the deck"


def _command(command: str) -> str:
    words = command.split()
    if not words or words[0].startswith("*"):
        return ""
    if words[0].startswith("!") or words[0] in _REFUSED:
        return f"`{words[0][:20]}` may not be used in a deck; measure with `meas` and `print`"
    if words[0].startswith("$"):
        return "a command may not come from a variable"
    if "`" in command:
        return "backquotes run a shell; they may not be used in a deck"
    written = re.findall(r">{1,2}&?\s*(\S+)", command)
    targets = [*written, *(words[1:] if words[0] in _FILES else [])]
    if any(each.strip("\"'").startswith(("/", "~")) or ".." in each for each in targets):
        return "a deck reads and writes only in its scratch folder"
    return ""
