"""Changes beside the log that are answered once, however often their request is repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from vistaflow_services.registry import commands as c
from vistaflow_services.registry.database.pool import Connection, Connections, Row
from vistaflow_services.registry.database.queries import QUERIES, fetch


async def once(
    connections: Connections,
    work: Callable[[Connection], Awaitable[bytes]],
    request: c.Request,
) -> bytes:
    """Does a change, unless its request was answered before; returns the answer.

    The change and the request are one transaction.

    Raises:
        ExistsError: The request's id was used for something else.
    """

    async def whole(connection: Connection) -> bytes:
        async with connection.transaction():
            parameters = {"request_id": request.request_id}
            rows: list[Row] = []
            if request.request_id is not None:
                # Of two at once, the second waits here for the end of the first.
                await connection.execute(QUERIES["lock_request"], parameters)
                rows = await fetch(connection, "answered_request", parameters)
            for method, body_sha256, response in rows:
                request.check_repeated(method, body_sha256)
                return bytes(response)
            response = await work(connection)
            stored = {
                "request_id": request.request_id,
                "method": request.method,
                "body_sha256": request.body_sha256,
                "data": request.data_json,
                "actor": request.actor,
                "response": response,
            }
            await connection.execute(QUERIES["keep_schedule_request"], stored)
            return response

    return await connections.use(whole)
