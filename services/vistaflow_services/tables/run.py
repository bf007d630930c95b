"""A conversion from its inputs to its parts, and on from where it stopped.

Inputs are read piece by piece; each piece becomes rows, the rows go to the unfinished parts. After
every `CHECKPOINT_BYTES` of input, and after each finished part, a checkpoint says how far all of
this is. What comes out depends on the inputs and the options alone: not on the size of the
pieces, the engine, or how often the conversion was stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistaflow_services.core.errors import ExhaustedError, ExistsError, InvalidError
from vistaflow_services.core.files import is_full
from vistaflow_services.tables.conversion import Conversion, Converted, Hooks, Progress
from vistaflow_services.tables.engines.choice import Choice
from vistaflow_services.tables.journal import Journal, sole_use
from vistaflow_services.tables.parts import Parts
from vistaflow_services.tables.pieces import Piece, Pieces
from vistaflow_services.tables.publication import Publication, parts_of
from vistaflow_services.tables.shape import MapFoundError, Shape
from vistaflow_services.tables.sources import PlainStream, Source

CHECKPOINT_BYTES = 256 << 20
"""Plain bytes of input between two checkpoints, unless a part is finished before."""

MAX_SOURCES = 100_000
MAX_DETECTED_MAPS = 100


def convert(
    sources: Sequence[Source],
    options: Conversion,
    *,
    output: Path,
    work: Path | None = None,
    hooks: Hooks | None = None,
    choice: Choice | None = None,
    workers: int = 1,
) -> Converted:
    """Converts JSON to tables.

    A call with the same sources and options goes on where an earlier one stopped, and answers
    the result of one that ended.

    Args:
        sources: The inputs, in order.
        options: What to make of them.
        output: Folder of the parts and the manifest; made if it is not there.
        work: Work folder on the same file system; beside the output if left out.
        hooks: How to follow and stop the conversion.
        choice: Engines to use, and to leave open; else some are started for this conversion.
        workers: Pieces that are converted at once by a fast engine, if `choice` is left out. Each
            takes the memory of a piece.

    Raises:
        InvalidError: An input cannot be converted.
        ExistsError: The output has other files of this name.
        ConflictError: A conversion to this name is running.
        ExhaustedError: The disk is full.
        ConversionCanceled: A hook asked to stop.
    """
    if not 1 <= len(sources) <= MAX_SOURCES:
        raise InvalidError(f"file_names: must be 1 to {MAX_SOURCES:,} files")
    output.mkdir(parents=True, exist_ok=True)
    name = options.output_file_name
    work = work or output / f".{name}.conversion"
    try:
        with sole_use(work, name), contextlib.ExitStack() as stack:
            if choice is None:
                choice = stack.enter_context(contextlib.closing(Choice(options.engine, workers)))
            converted = _Run(sources, options, output, work, hooks or Hooks(), choice).result()
            shutil.rmtree(work, ignore_errors=True)
            return converted
    except OSError as error:
        if is_full(error):
            raise ExhaustedError(
                "the disk of the output is full; free some space, then run the conversion again",
                reason="DISK_FULL",
            ) from None
        raise


def discard(output: Path, name: str, work: Path | None = None) -> None:
    """Removes what an unfinished conversion left behind."""
    shutil.rmtree(work or output / f".{name}.conversion", ignore_errors=True)


@dataclass
class _Position:
    """How far a sequence is."""

    source: int = 0
    offset: int = 0
    in_array: bool = False
    record: int = 1
    read: tuple[int, str] = (0, "")
    """Stored bytes of the source that were read, and their SHA-256."""
    inputs: list[dict[str, Any]] = field(default_factory=list)
    """The sources that were read to their end, as the manifest lists them."""


class _Run:
    def __init__(
        self,
        sources: Sequence[Source],
        options: Conversion,
        output: Path,
        work: Path,
        hooks: Hooks,
        choice: Choice,
    ) -> None:
        self._sources = sources
        self._options = options
        self._output = output
        self._work = work
        self._hooks = hooks
        self._identity = identity_of(sources, options)
        self._publication = Publication(work, output, options)
        self._journal = Journal(work, self._identity)
        self._total = sum(source.size for source in sources)
        if not all(source.size for source in sources):
            self._total = 0
        self._choice = choice
        self._finished: list[tuple[str, Shape, Parts]] = []

    def result(self) -> Converted:
        manifest_path = self._output / self._publication.manifest_name
        with contextlib.suppress(FileNotFoundError, ValueError):
            manifest = json.loads(manifest_path.read_bytes())
            if manifest.get("identity") != self._identity:
                raise ExistsError(
                    f"the output has a conversion {self._options.output_file_name} already; "
                    "choose another name",
                )
            return self._converted(manifest, {})
        state = self._journal.read()
        if state is None:
            for leftover in self._work.iterdir():
                if leftover.is_dir():
                    shutil.rmtree(leftover)
            state = {"map_paths": list(self._options.map_paths), "sequences": {}}
        if not self._publication.is_ready:
            self._choice.begin()
            while not self._try(state):
                self._choice.begin()
            engines = dict(self._choice.records)
        else:
            engines = {}
        manifest, _ = self._publication.publish()
        return self._converted(manifest, engines)

    def _converted(self, manifest: dict[str, Any], engines: dict[str, int]) -> Converted:
        return Converted(
            manifest_name=self._publication.manifest_name,
            engines=engines,
            records=manifest["records"],
            inputs=tuple(manifest["inputs"]),
            parts=parts_of(manifest),
            map_paths=tuple(manifest["map_paths"]),
        )

    def _try(self, state: dict[str, Any]) -> bool:
        """Converts all inputs; false if it has to begin again with one more map path."""
        try:
            records, inputs = 0, list[dict[str, Any]]()
            for number, (name, sources) in enumerate(self._sequences()):
                position = self._sequence(str(number), name, sources, state)
                records += position.record - 1
                inputs += position.inputs
            self._hooks.check()
            self._publication.prepare(
                self._finished,
                {
                    "identity": self._identity,
                    "records": records,
                    "map_paths": state["map_paths"],
                    "inputs": inputs,
                },
            )
        except MapFoundError as error:
            if len(state["map_paths"]) >= len(self._options.map_paths) + MAX_DETECTED_MAPS:
                raise InvalidError(
                    f"more than {MAX_DETECTED_MAPS} objects seem to be keyed by ids; name the "
                    f"ones that are in map_paths (the last one is {error.path[:200]!r})"
                ) from None
            state["map_paths"] = [*state["map_paths"], error.path]
            state["sequences"] = {}
            self._journal.write(state)
            return False
        finally:
            for _, _, parts in self._finished:
                parts.close()
            self._finished = []
        return True

    def _sequences(self) -> list[tuple[str, Sequence[Source]]]:
        """The sequences, each with the first part of its file names."""
        name = self._options.output_file_name
        if self._options.merge or len(self._sources) == 1:
            return [(name, self._sources)]
        return [(f"{name}-{number}", [source]) for number, source in enumerate(self._sources, 1)]

    def _sequence(
        self, number: str, name: str, sources: Sequence[Source], state: dict[str, Any]
    ) -> _Position:
        """Converts a sequence from its last checkpoint on; answers where it ends."""
        saved = state["sequences"].get(number)
        if saved is None:
            position, shape = _Position(), Shape(frozenset(state["map_paths"]))
            parts = Parts(self._work / f"parts-{number}", self._options, [])
        else:
            position, shape = _Position(**saved["position"]), Shape.from_json(saved["shape"])
            open_parts = Parts.from_json(saved["parts"])
            parts = Parts(self._work / f"parts-{number}", self._options, open_parts)
        self._finished.append((name, shape, parts))

        def save() -> None:
            parts.sync()
            state["sequences"][number] = {
                "position": vars(position),
                "shape": shape.to_json(),
                "parts": parts.to_json(),
            }
            self._journal.write(state)

        for index in range(position.source, len(sources)):
            if index > position.source:
                position.source, position.offset, position.in_array = index, 0, False
                position.read = (0, "")
            self._source(sources, position, shape, parts, save)
        save()
        return position

    def _source(
        self,
        sources: Sequence[Source],
        position: _Position,
        shape: Shape,
        parts: Parts,
        save: Callable[[], None],
    ) -> None:
        before = sum(source.size for source in sources[: position.source])
        source, known = sources[position.source], (position.read[0], position.read[1])
        with contextlib.closing(PlainStream(source, known)) as stream:
            stream.skip(position.offset)
            pieces = Pieces(
                stream,
                start=position.offset,
                in_array=position.in_array,
                first_record=position.record,
            )
            saved_at, saved_parts = position.offset, parts.full

            def next_piece(size: int) -> Piece | None:
                self._hooks.check()
                return pieces.next(size, self._options.file_sep_size)

            for piece, batches in self._choice.convert_all(next_piece, shape):
                for batch in batches:
                    for rows in batch:
                        parts.add(rows)
                position.offset, position.in_array = piece.end, piece.in_array
                position.record += len(piece.records)
                if position.offset - saved_at >= CHECKPOINT_BYTES or parts.full > saved_parts:
                    position.read = stream.read
                    save()
                    saved_at, saved_parts = position.offset, parts.full
                self._hooks.progress(
                    Progress(
                        bytes_read=before + stream.stored_bytes,
                        bytes_total=self._total,
                        records=position.record - 1,
                        rows=parts.rows,
                        files=parts.full,
                    )
                )
            position.read = stream.read
            size, digest = position.read
            position.inputs[position.source :] = [
                {
                    "name": source.name,
                    "size_bytes": size,
                    "sha256": digest,
                    "version": source.version,
                }
            ]


def identity_of(sources: Sequence[Source], options: Conversion) -> str:
    """What tells a conversion from others: its inputs and options, hashed."""
    digest = hashlib.sha256(options.digest().encode())
    for source in sources:
        digest.update(source.fingerprint().encode())
    return digest.hexdigest()
