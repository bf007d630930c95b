"""DumpLog: the backup as a stream, for a job that saves it elsewhere.

Memory is that of one piece: pg_dump waits while the caller takes none.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack

import psycopg

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core import off_loop
from vistaflow_services.core.errors import BusyError, TooSlowError
from vistaflow_services.core.message_limits import MEBIBYTE
from vistaflow_services.core.server.shell import Context
from vistaflow_services.registry.database.connect import Connection, connected
from vistaflow_services.registry.database.queries import QUERIES
from vistaflow_services.registry.upkeep.backup import DumpMoment, dump_arguments, exported
from vistaflow_services.registry.upkeep.checksums import line_of
from vistaflow_services.registry.upkeep.programs import DumpError, database_of, program

APPLICATION = "vistaflow dump"

FILES = 1_000
"""Files of datasets in one message."""

STALL_SECONDS = 60.0
"""How long a caller may take nothing: meanwhile its snapshot keeps old rows from being removed."""


class Dumps:
    """Serves DumpLog, to one caller at a time.

    Args:
        conninfo: Where the database is.
        schema: The schema of the registry's tables.
        version: Version of vistaflow.
    """

    def __init__(self, conninfo: str, schema: str, version: str) -> None:
        self._conninfo = conninfo
        self._schema = schema
        self._version = version
        self._at_work = False

    async def write(self, context: Context) -> None:
        """Writes a dump to a call.

        Raises:
            BusyError: Another dump is being made.
            DumpError: The database cannot be dumped.
            TooSlowError: The caller takes nothing.
        """
        if self._at_work:
            raise BusyError(
                "another dump of the log is being made; try again once it has ended",
                reason="DUMP_BUSY",
            )
        self._at_work = True
        try:
            async with contextlib.aclosing(self._messages()) as messages:
                async for message in messages:
                    await _taken(context, message)
        except psycopg.Error:
            raise DumpError("the database does not answer") from None
        finally:
            self._at_work = False

    async def _messages(self) -> AsyncGenerator[pb.DumpLogResponse, None]:
        stack = ExitStack()
        try:
            connection, moment = await asyncio.to_thread(self._begun, stack)
            log = pb.DumpedLog(
                epoch=moment.epoch,
                revision=moment.revision,
                database_schema=self._schema,
                version=self._version,
            )
            yield pb.DumpLogResponse(log=log)
            files = _files(connection)
            while (page := await asyncio.to_thread(next, files, None)) is not None:
                yield pb.DumpLogResponse(files=page)
            async with contextlib.aclosing(self._data(moment)) as pieces:
                async for piece in pieces:
                    yield pb.DumpLogResponse(data=piece)
        finally:
            # Also when the call is cancelled, which must not leave the transaction open.
            await asyncio.shield(asyncio.to_thread(stack.close))

    def _begun(self, stack: ExitStack) -> tuple[Connection, DumpMoment]:
        """A connection whose transaction sees the moment of the dump until the stack closes."""
        connection = stack.enter_context(connected(self._conninfo, self._schema, name="dump"))
        stack.enter_context(connection.transaction())
        return connection, exported(connection)

    async def _data(self, moment: DumpMoment) -> AsyncGenerator[bytes, None]:
        """The bytes of the dump, with the line that has their checksum."""
        database, environment = database_of(self._conninfo, APPLICATION)
        process = await asyncio.create_subprocess_exec(
            program("pg_dump"),
            *dump_arguments(self._schema, moment.snapshot),
            database,
            env=environment,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        problems = asyncio.create_task(process.stderr.read())
        digest = hashlib.sha256()
        try:
            while piece := await process.stdout.read(MEBIBYTE):
                await off_loop.reading.do(digest.update, piece)
                yield piece
            if await process.wait():
                text = (await problems).decode("utf-8", "replace").strip()
                raise DumpError(f"pg_dump failed: {text[-1000:]}")
            yield line_of(digest.hexdigest())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            problems.cancel()


def _files(connection: Connection) -> Iterator[pb.DumpedFiles]:
    """The files that versions of datasets refer to, page by page."""
    after = b""
    while True:
        parameters = {"after": after, "limit": FILES}
        rows = connection.execute(QUERIES["dumped_files"], parameters).fetchall()
        if not rows:
            return
        after = bytes(rows[-1][0])
        yield pb.DumpedFiles(
            files=[pb.DumpedFile(sha256=bytes(row[0]).hex(), size_bytes=row[1]) for row in rows]
        )


async def _taken(context: Context, message: pb.DumpLogResponse) -> None:
    """Writes a message once the caller has room for it."""
    try:
        async with asyncio.timeout(STALL_SECONDS):
            await context.write(message)
    except TimeoutError:
        raise TooSlowError(
            f"nothing of the dump was taken for {STALL_SECONDS:g} s; begin again",
            reason="DUMP_STALLED",
        ) from None
