"""An input cut into pieces of whole records, whatever its layout and however long its lines.

An input is any sequence of objects and of arrays of objects: one array (on one line or not),
NDJSON, concatenated objects, concatenated arrays. A window of the input is read and cut behind
its last whole record. Two guesses find that place fast:

    array    the last text that looks like the border between the first two records
    NDJSON   the last line end

A guess is never trusted: the piece is validated as one JSON array, which fails if the cut was
inside a record. Then `scan` finds the borders by following every bracket and quote.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.tables.brackets import SPACE, SPACES, count_pairs, follow
from vistaflow_services.tables.literals import reason_of, too_deep
from vistaflow_services.tables.memory import MemoryFile, MemoryFiles
from vistaflow_services.tables.sources import PlainStream, Source, wrong_key

MAX_RECORD_BYTES = 64 << 20
"""Longest record."""

EXCERPT_BYTES = 40
"""Bytes of the input that an error quotes."""

_SMALL_WINDOW = 1 << 16
_GUESSES = 3
_BORDER_BYTES = 1 << 18
"""Bytes of a window in which the border between its first records is looked for."""
_BOM = b"\xef\xbb\xbf"
_OPEN, _CLOSE, _COMMA, _NEWLINE = b"[],\n"
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_FIRST_KEY = re.compile(rb'\{\s*"(?:[^"\\]|\\.)*"')
_ESCAPED_ZERO = re.compile(rb"\\u0000")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_AT_BYTE = re.compile(r"\(byte (\d+)\)")


@dataclass(frozen=True, kw_only=True, eq=False)
class Piece:
    """Some whole records that follow one another."""

    body: memoryview
    """The records as one JSON array; syntax checked."""

    file: MemoryFile
    """Has nothing but the body, behind spaces; used again when the piece is gone."""

    files: MemoryFiles
    records: list[msgspec.Raw]
    """The text of each record, as views of `body`."""

    first_record: int
    """Number of the first record in its sequence of inputs, from 1."""

    start: int
    """Offset of the first record in the plain input."""

    end: int
    """Offset behind the last record."""

    in_array: bool
    """Whether the input goes on inside an array at `end`."""

    start_in_array: bool
    """Whether the first record is an element of an array."""

    source: Source
    spans: list[tuple[int, int]] | None = None
    """Begin and end of each record from `start` on, if they are not where they are in `body`."""

    whole: Piece | None = None
    """The piece that this one is a section of."""

    def __post_init__(self) -> None:
        self.files.give_back_after(self, self.file)

    @functools.cached_property
    def has_unicode_escape(self) -> bool:
        r"""Whether an escape that begins with `\u` is in the text."""
        return count_pairs(self.body, b"\\", b"u") != [0]

    def check_utf8(self) -> None:
        """Refuses text that is not UTF-8, which only some engines notice themselves.

        Raises:
            InvalidError: A byte may not be there.
        """
        try:
            check_utf8(self.body)
        except UnicodeDecodeError:
            if self.source.aes is not None and self.first_record == 1:
                raise wrong_key(self.source) from None
            for position, record in enumerate(self.records):
                try:
                    bytes(record).decode()
                except UnicodeDecodeError as error:
                    raise InvalidError(
                        f"{self.source.name}: record {self.first_record + position:,}, byte "
                        f"{self.offset_of(position) + error.start:,}: invalid UTF-8",
                        reason="BAD_ENCODING",
                    ) from None

    def section(self, first: int, last: int) -> Piece:
        """The records from one position to before another, as a piece for an engine."""
        records = self.records[first:last]
        file, body = self.files.of(b"[" + b",".join(records) + b"]")
        return replace(
            self,
            body=body,
            file=file,
            records=records,
            first_record=self.first_record + first,
            whole=self,
        )

    def offset_of(self, position: int) -> int:
        """Offset in the plain input of the record at a position of the piece."""
        if self.whole is not None:
            return self.whole.offset_of(position + self.first_record - self.whole.first_record)
        spans, length = self.spans, 0
        if spans is None:
            text = bytes(self.body[1:-1])
            spans, length, _ = follow(text, in_array=self.start_in_array, whole=True)
        # The brackets lead to a record only if it is an object and all before it are.
        return self.start + (spans[position][0] if position < len(spans) else -length - 1)

    def fault(self, position: int, problem: str, reason: str) -> InvalidError:
        """An error that names the record at a position of the piece and its offset."""
        return InvalidError(
            f"{self.source.name}: record {self.first_record + position:,} at byte "
            f"{self.offset_of(position):,}: {problem}",
            reason=reason,
        )


class Pieces:
    """Cuts a stream into pieces.

    A window of the input is read into a memory file, and becomes a piece in its place; what is
    behind the last whole record moves to the next file. Memory is bounded by the windows of the
    pieces that are in use; a window is as large as asked for or as the largest record.

    Args:
        stream: The input, at offset `start`.
        start: Plain offset of the first byte of the stream.
        in_array: Whether that is inside an array.
        first_record: Number of the next record.
    """

    def __init__(
        self, stream: PlainStream, *, start: int, in_array: bool, first_record: int
    ) -> None:
        self._stream = stream
        self._start = start
        self._in_array = in_array
        self._after_record = start > 0
        self._record_bytes = 0.0
        self._is_new_array = False
        self._record = first_record
        self._files = MemoryFiles()
        self._file = self._files.take(0)
        self._room = 0
        # The window in the file. A byte before and one behind it are for brackets.
        self._begin = self._limit = 1
        self._ended = False
        self._border: bytes | None = None

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored input that were read so far."""
        return self._stream.stored_bytes

    def next(self, size: int, most_records: int) -> Piece | None:
        """The next piece, or None at the end of the input.

        Args:
            size: Bytes of the window, unless a record is longer.
            most_records: Most records of the piece; 0 for any number.

        Raises:
            InvalidError: The input is not what it should be; the error has the offset.
        """
        if most_records:
            # A window of far more records would be searched again for every piece.
            size = min(size, max(_SMALL_WINDOW, int(1.25 * most_records * self._record_bytes)))
        while True:
            self._fill(size)
            self._skip_to_record()
            if not self._size:
                return None
            if piece := self._cut(most_records):
                return piece
            if self._ended:
                raise self._fault(self._size, "the input ends early, inside a record")
            if self._size >= MAX_RECORD_BYTES:
                raise self._fault(
                    0, f"the record is longer than {MAX_RECORD_BYTES >> 20} MiB", "RECORD_TOO_LONG"
                )
            size = min(2 * max(size, self._size), MAX_RECORD_BYTES)

    @property
    def _size(self) -> int:
        return self._limit - self._begin

    @property
    def _window(self) -> memoryview:
        return self._file.view[self._begin : self._limit]

    def _fill(self, size: int) -> None:
        """Reads until the window has some bytes, or all that are left."""
        self._room = max(self._room, size)
        if self._begin + size >= self._file.capacity:
            self._move(self._file.view[: self._limit])
        limit = self._begin + size
        while not self._ended and self._limit < limit:
            count = self._stream.readinto(self._file.view[self._limit : limit])
            self._limit += count
            self._ended = not count

    def _move(self, old: memoryview) -> None:
        """Moves the window out of the end of a file, to one with room for it and for more."""
        rest = old[self._begin :]
        self._file = self._files.take(max(self._room, len(rest)) + 2)
        self._begin, self._limit = 1, 1 + len(rest)
        self._file.view[1 : self._limit] = rest

    def _drop(self, count: int) -> None:
        self._begin += count
        self._start += count

    def _skip_to_record(self) -> None:
        """Moves to the next record, past what stands between records at a border of pieces."""
        if self._start == 0 and self._window[: len(_BOM)] == _BOM:
            self._drop(len(_BOM))
        position = 0
        while True:
            window = self._window
            position = SPACES.match(window, position).end()  # type: ignore[union-attr]
            byte = bytes(window[position : position + 1])
            if not byte and not self._ended:
                self._drop(position)
                position = 0
                self._fill(1 << 20)
                if self._size:
                    continue
                self._ended = True
            if byte == b"{" and not (self._in_array and self._after_record):
                break
            if not byte:
                if self._in_array:
                    raise self._fault(position, "the input ends early: its array is not closed")
                break
            if byte == b"," and self._after_record:
                self._after_record = False
            elif self._in_array and byte == b"]" and (self._after_record or self._is_new_array):
                self._in_array, self._after_record = False, True
            elif not self._in_array and byte == b"[":
                self._in_array, self._after_record, self._is_new_array = True, False, True
                position += 1
                continue
            else:
                raise self._unexpected(position)
            self._is_new_array = False
            position += 1
        self._is_new_array = False
        self._drop(position)

    def _cut(self, most_records: int) -> Piece | None:
        if self._in_array and self._border is None:
            self._learn_border()
        for end, closes in self._guesses():
            newlines, behind = self._make_array(end, closes)
            body = self._file.view[self._begin - 1 : end + (not closes)]
            try:
                records = _raws(body)
            except (msgspec.DecodeError, RecursionError):
                records = []
            if records and (not most_records or len(records) <= most_records):
                return self._piece_in_place(body, records, behind, closes)
            self._file.data[newlines] = _NEWLINE
            self._file.view[end] = behind
            if records:
                break
        window = bytes(self._window)
        spans, length, in_array = follow(window, in_array=self._in_array, whole=self._ended)
        if length < 0:
            raise self._unexpected(-length - 1)
        if not spans:
            return None
        if most_records and len(spans) > most_records:
            spans = spans[:most_records]
            length = spans[-1][1]
            _, _, in_array = follow(window[:length], in_array=self._in_array, whole=False)
        text = b"[" + b",".join([window[start:end] for start, end in spans]) + b"]"
        try:
            records = _raws(text)
        except RecursionError:
            raise too_deep() from None
        except msgspec.DecodeError as error:
            raise self._syntax(error, text, spans) from None
        file, body = self._files.of(text)
        self._begin += length
        return self._piece(body, file, records, length, in_array, spans)

    def _learn_border(self) -> None:
        """Finds the text from the end of the first record to the first key of the second one."""
        window = bytes(self._window[:_BORDER_BYTES])
        spans, _, in_array = follow(window, in_array=True, whole=False)
        key = _FIRST_KEY.match(window, spans[1][0]) if len(spans) > 1 and in_array else None
        if key is not None:
            self._border = window[spans[0][1] - 1 : key.end()]

    def _guesses(self) -> Iterator[tuple[int, bool]]:
        """Where in the file a piece may end, and if an array ends there."""
        if not self._in_array:
            end = self._limit
            if not self._ended:
                end = self._file.map.rfind(b"\n", self._begin, self._limit)
            if end > self._begin:
                yield self._stripped(end), False
            return
        if self._ended:
            end = self._stripped(self._limit)
            if self._file.view[end - 1] == _CLOSE:
                yield end, True
        if self._border is not None:
            end = self._limit
            for _ in range(_GUESSES):
                end = self._file.map.rfind(self._border, self._begin, end)
                if end < 0:
                    return
                yield end + 1, False

    def _stripped(self, end: int) -> int:
        """The end of the window without spaces before a place in it."""
        while end > self._begin:
            last = bytes(self._file.view[max(self._begin, end - 100) : end])
            rest = last.rstrip(SPACE)
            end -= len(last) - len(rest)
            if rest:
                break
        return end

    def _make_array(self, end: int, closes: bool) -> tuple[npt.NDArray[np.intp], int]:
        """Makes what the window has before a place one array, without moving it.

        Returns:
            Where commas replace newlines, and the byte that was at the end.
        """
        data = self._file.data
        newlines = np.zeros(0, np.intp)
        if not self._in_array:
            newlines = self._begin + np.flatnonzero(data[self._begin : end] == _NEWLINE)
            data[newlines] = _COMMA
        behind = int(data[end])
        data[self._begin - 1] = _OPEN
        if not closes:
            data[end] = _CLOSE
        return newlines, behind

    def _piece_in_place(
        self, body: memoryview, records: list[msgspec.Raw], behind: int, closes: bool
    ) -> Piece:
        """A piece of what `_make_array` made; the window goes on in another file."""
        file, begin, in_array = self._file, self._begin, self._in_array and not closes
        end = begin - 1 + len(body)
        length = len(body) - 1 if closes else len(body) - 2
        file.view[begin + length] = behind
        self._begin += length
        self._move(file.view[: self._limit])
        if not closes:
            file.view[begin + length] = _CLOSE
        file.view[: begin - 1] = b" " * (begin - 1)
        os.ftruncate(file.descriptor, end)
        return self._piece(body, file, records, length, in_array)

    def _piece(
        self,
        body: memoryview,
        file: MemoryFile,
        records: list[msgspec.Raw],
        length: int,
        in_array: bool,
        spans: list[tuple[int, int]] | None = None,
    ) -> Piece:
        piece = Piece(
            body=body,
            file=file,
            files=self._files,
            records=records,
            first_record=self._record,
            start=self._start,
            end=self._start + length,
            in_array=in_array,
            start_in_array=self._in_array,
            source=self._stream.source,
            spans=spans,
        )
        self._start += length
        self._record += len(records)
        self._record_bytes = length / len(records)
        self._in_array, self._after_record = in_array, True
        _refuse_nul(piece)
        return piece

    def _syntax(self, error: Exception, body: bytes, spans: list[tuple[int, int]]) -> InvalidError:
        match = _AT_BYTE.search(str(error))
        in_body = int(match[1]) if match else 1
        position = _in_window(min(in_body, len(body) - 1), spans)
        before = sum(1 for start, _ in spans if start <= position)
        return self._fault(position, reason_of(error), record=self._record + max(before - 1, 0))

    def _unexpected(self, position: int) -> InvalidError:
        if self._start + position == 0 and self._record == 1:
            return self._fault(position, "this is not JSON: it must begin with { or [")
        return self._fault(position, "expected an object; records must be JSON objects")

    def _fault(
        self, position: int, problem: str, reason: str = "BROKEN_JSON", record: int = 0
    ) -> InvalidError:
        """An error at a position of the window; of an encrypted input it has no excerpt."""
        source = self._stream.source
        if source.aes is not None:
            if self._record == 1 and self._start < 1 << 16:
                return wrong_key(source)
            excerpt = ""
        else:
            nearby = bytes(self._window[position : position + EXCERPT_BYTES])
            printable = nearby.decode("utf-8", "replace").encode("unicode_escape").decode()
            excerpt = f", near `{printable}`" if nearby else ""
        return InvalidError(
            f"{source.name}: record {record or self._record:,}, byte {self._start + position:,}: "
            f"{problem}{excerpt}",
            reason=reason,
        )


def _refuse_nul(piece: Piece) -> None:
    """Refuses the one character that is valid JSON and no valid cell."""
    if not piece.has_unicode_escape or not _ESCAPED_ZERO.search(piece.body):
        return
    for position, record in enumerate(piece.records):
        if _NUL.search(bytes(record)):
            raise piece.fault(
                position,
                "a text has the character NUL (\\u0000), which tables cannot hold",
                "BAD_TEXT",
            )


def check_utf8(text: bytes | memoryview) -> None:
    """Raises `UnicodeDecodeError` if a text is not valid UTF-8."""
    # Arrow checks in place; `decode` would make a text of up to four times the size.
    offsets = pa.py_buffer(np.array([0, len(text)], np.int64))
    cell = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(text)])
    try:
        cell.cast(pa.large_string())
    except pa.ArrowInvalid:
        bytes(text).decode()
        raise


def _in_window(in_body: int, spans: list[tuple[int, int]]) -> int:
    """Where a byte of a body was in the window whose records have the given spans."""
    offset = 1
    for start, end in spans:
        if in_body <= offset + end - start:
            return start + max(in_body - offset, 0)
        offset += end - start + 1
    return spans[-1][1] if spans else 0
