"""Lines of the services' logs and of what jobs printed, merged by time."""

from __future__ import annotations

import asyncio
import collections
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.3
TAIL_BYTES: Final = 2_000_000
"""Most bytes of one file that are read from its end."""
MAX_FOLLOWED: Final = 16
"""Jobs on other machines that are followed at once; the others after them, in their order."""


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a log."""

    time: str
    """When, as ISO 8601; empty for what a job printed."""
    source: str
    raw: str

    def text(self) -> str:
        """The line for people."""
        try:
            record = json.loads(self.raw)
        except ValueError:
            return f"{self.source}: {self.raw}" if self.source else self.raw
        if not isinstance(record, dict) or "message" not in record:
            return f"{self.source}: {self.raw}" if self.source else self.raw
        fields = " ".join(
            f"{name}={record[name]}" for name in ("kit_id", "job_id", "attempt") if name in record
        )
        head = f"{str(record.get('time', ''))[11:23]} {record.get('level', ''):<7} {self.source}"
        text = f"{head} {record['message']} {fields}".rstrip()
        failure = record.get("error") or ""
        return f"{text}\n{failure}" if failure else text


def lines_of(folder: Path, of: str, jobs: Mapping[str, str]) -> list[LogLine]:
    """The lines there are: of jobs if any are named, else of the service `of`, else of all."""
    lines: list[LogLine] = []
    for path in _files(folder, of, jobs):
        size = path.stat().st_size
        with path.open("rb") as file:
            file.seek(max(0, size - TAIL_BYTES))
            for raw in file.read().splitlines()[1 if size > TAIL_BYTES else 0 :]:
                lines.append(_line(path, raw, jobs))
    if not jobs:
        lines.sort(key=lambda line: line.time)
    return lines


def follow_lines(folder: Path, of: str, jobs: Mapping[str, str]) -> Iterator[LogLine]:
    """The lines added from now on, without end, those of new files included."""
    places = {path: path.stat().st_size for path in _files(folder, of, jobs)}
    rests: dict[Path, bytes] = {}
    while True:
        for path in _files(folder, of, jobs):
            size = path.stat().st_size
            start = places.get(path, 0)
            if size < start:
                start = 0  # rotated
            if size == start:
                continue
            with path.open("rb") as file:
                file.seek(start)
                content = rests.pop(path, b"") + file.read(size - start)
            places[path] = size
            *whole, rest = content.split(b"\n")
            rests[path] = rest
            yield from (_line(path, raw, jobs) for raw in whole)
        time.sleep(POLL_SECONDS)


async def show_remote_lines(
    sources: Mapping[str, Callable[[bool], AsyncIterator[str]]],
    show: Callable[[LogLine], None],
    *,
    count: int,
    follow: bool,
) -> bool:
    """Shows the last lines of logs that are on another machine.

    Args:
        sources: What reads a log, by its name; it follows the log if it is called with True.
        show: Shows one line.
        count: Most lines to begin with.
        follow: Whether to show what is added until the logs end.

    Returns:
        Whether there are any lines.
    """
    last: collections.deque[LogLine] = collections.deque(maxlen=count)
    shown = dict.fromkeys(sources, 0)
    for name, read in sources.items():
        async for text in read(False):
            last.append(LogLine(time="", source=name, raw=text))
            shown[name] += 1
    for line in last:
        show(line)
    places = asyncio.Semaphore(MAX_FOLLOWED)

    async def follow_log(name: str, read: Callable[[bool], AsyncIterator[str]]) -> None:
        async with places:
            number = 0
            async for text in read(True):
                number += 1
                if number > shown[name]:
                    show(LogLine(time="", source=name, raw=text))

    if follow:
        await asyncio.gather(*(follow_log(name, read) for name, read in sources.items()))
    return any(shown.values())


def _files(folder: Path, of: str, jobs: Mapping[str, str]) -> list[Path]:
    if jobs:
        files = [file for job in jobs for file in (folder / "jobs" / job).glob("*.log")]
        return sorted(files, key=lambda file: file.stat().st_mtime)
    return sorted(folder.glob(f"{of or '*'}.jsonl"))


def _line(path: Path, raw: bytes, jobs: Mapping[str, str]) -> LogLine:
    text = raw.decode("utf-8", "replace")
    if jobs:
        name = jobs.get(path.parent.name, "")
        return LogLine(time="", source=f"{name} #{path.stem}" if name else "", raw=text)
    try:
        time = str(json.loads(text).get("time", ""))
    except (ValueError, AttributeError):
        time = ""
    return LogLine(time=time, source=path.stem, raw=text)
