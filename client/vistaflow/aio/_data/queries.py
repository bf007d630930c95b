"""Calls of the asynchronous client for SQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

import grpc

from vistaflow._rows import AsyncListing
from vistaflow._rpc.messages import is_number, message_of, set_time
from vistaflow.aio._calls import Calls
from vistaflow.aio._data.query_result import AsyncQueryResult
from vistaflow.aio._filters import status_values
from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.errors import (
    CanceledError,
    FailedPreconditionError,
    KitFailedError,
    UnavailableError,
    from_rpc,
    invalid,
)

WAIT_SECONDS: Final = 20.0
"""How long one call waits for the end of a query; then it asks again."""

_ENDED: Final = (common_pb2.STATUS_FINISHED, common_pb2.STATUS_FAILED, common_pb2.STATUS_CANCELED)


class QueryCalls(Calls):
    """The methods of a client that are for SQL."""

    async def query(
        self,
        sql: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        dialect: str = "trino",
        engine: str = "duckdb",
        reuse: bool = True,
        max_age: float | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> AsyncQueryResult:
        """Runs one SELECT and waits for its end.

        Args:
            sql: The query. `:name` stands for a parameter.
            parameters: Values by name: None, text, whole numbers, floats, booleans, dates, times.
            limit: Most rows.
            offset: Rows to leave out first.
            dialect: `trino` or `duckdb`.
            engine: `duckdb` or `trino`.
            reuse: Whether an earlier result of the same data may be the answer.
            max_age: Oldest earlier result that may be, in seconds.
            labels: Key and value pairs to find it by.
            request_id: Makes the call safe to repeat: a UUID.

        Returns:
            The result; its methods fetch the rows.

        Raises:
            InvalidArgumentError: The query has a mistake; the message has line and column.
            FailedPreconditionError: It failed or was canceled.
        """
        answer = await self.submit_query(
            sql, parameters, limit=limit, offset=offset, dialect=dialect, engine=engine,
            reuse=reuse, max_age=max_age, labels=labels, request_id=request_id,
            wait=min(WAIT_SECONDS, self._timeout),
        )  # fmt: skip
        result = await self.query_result(answer.query.query_id)
        result.reused = answer.reused
        return result

    async def submit_query(
        self,
        sql: str = "",
        parameters: Mapping[str, Any] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        dialect: str = "trino",
        engine: str = "duckdb",
        reuse: bool = True,
        max_age: float | None = None,
        labels: Mapping[str, str] | None = None,
        rerun_of: str = "",
        register_as: str = "",
        wait: float = 0.0,
        request_id: str = "",
    ) -> query_pb2.SubmitQueryResponse:
        """Starts a query.

        Args:
            sql: As of `query`.
            parameters: As of `query`.
            limit: As of `query`.
            offset: As of `query`.
            dialect: As of `query`.
            engine: As of `query`.
            reuse: As of `query`.
            max_age: As of `query`.
            labels: As of `query`.
            rerun_of: The id of a query to run again, instead of `sql`.
            register_as: A dataset that the result becomes a version of, once it is there.
            wait: Seconds to wait for its end, at most 60; the answer then has the first rows.
            request_id: As of `query`.

        Returns:
            The query, and whether it is an earlier one whose result is reused.
        """
        if not isinstance(reuse, bool):
            raise invalid("reuse", f"{reuse!r} is neither true nor false")
        for name, seconds in (("max_age", max_age), ("wait", wait)):
            if seconds is not None and not (is_number(seconds) and seconds >= 0):
                raise invalid(name, f"{seconds!r} is no number of seconds from 0 on")
        request = message_of(
            query_pb2.SubmitQueryRequest,
            user_query=_text(sql),
            parameters=_parameters(parameters),
            limit=limit,
            offset=offset,
            dialect=_value(query_pb2.QueryDialect, "QUERY_DIALECT", dialect, "dialect"),
            engine=_value(query_pb2.QueryEngine, "QUERY_ENGINE", engine, "engine"),
            reuse=query_pb2.REUSE_POLICY_ALLOW if reuse else query_pb2.REUSE_POLICY_NEVER,
            labels=labels or {},
            rerun_of=rerun_of,
            register_as=register_as,
            request_id=request_id,
        )
        for name, seconds in (("max_age", max_age), ("wait", wait or None)):
            if seconds is not None:
                getattr(request, name).FromNanoseconds(round(seconds * 1e9))
        answer: query_pb2.SubmitQueryResponse = await self._call(
            "query", "SubmitQuery", request, timeout=self._timeout + wait
        )
        return answer

    async def query_result(self, query_id: str) -> AsyncQueryResult:
        """The result of a query, once it has ended.

        Args:
            query_id: The query.

        Raises:
            FailedPreconditionError: It failed or was canceled, or its result was removed.
        """
        # The watch of its kit ends with it, so nothing is asked again and again.
        query = await self.query_info(query_id)
        while query.status not in _ENDED:
            await self._ended(query.kit_id)
            query = await self.query_info(query_id)
        if query.status != common_pb2.STATUS_FINISHED:
            word = common_pb2.Status.Name(query.status).removeprefix("STATUS_")
            place = f"line {query.error.line}, column {query.error.column}: "
            raise FailedPreconditionError(
                f"query {query_id} is {word}"
                + (": " + (place if query.error.line else "") + query.error.message)
                * bool(query.error.message),
                reason=query.error.reason or word,
            )
        if query.result_removed:
            raise FailedPreconditionError(
                f"the result of query {query_id} was removed; run it again with rerun_of",
                reason="RESULT_REMOVED",
            )
        return AsyncQueryResult(query, self._fetch)

    async def query_info(self, query_id: str) -> query_pb2.Query:
        """A query: how far it is, or what became of it.

        Args:
            query_id: The query.
        """
        request = message_of(query_pb2.GetQueryRequest, query_id=query_id)
        query: query_pb2.Query = (await self._call("query", "GetQuery", request)).query
        return query

    async def validate_query(
        self, sql: str, parameters: Mapping[str, Any] | None = None, *, dialect: str = "trino"
    ) -> query_pb2.ValidateQueryResponse:
        """The mistakes of a query, or the columns of its result, without running it.

        Args:
            sql: The query.
            parameters: As of `query`.
            dialect: As of `query`.
        """
        request = message_of(
            query_pb2.ValidateQueryRequest,
            user_query=_text(sql),
            parameters=_parameters(parameters),
            dialect=_value(query_pb2.QueryDialect, "QUERY_DIALECT", dialect, "dialect"),
        )
        answer: query_pb2.ValidateQueryResponse = await self._call(
            "query", "ValidateQuery", request
        )
        return answer

    def queries(
        self,
        *,
        text: str = "",
        statuses: Sequence[str] = (),
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        limit: int = 0,
    ) -> AsyncListing[query_pb2.Query]:
        """The history of queries, newest first.

        Args:
            text: Only queries that contain this in their first 200 characters.
            statuses: Only these, such as `["FAILED"]`.
            created_after: Only queries submitted then or later.
            created_before: Only queries submitted before.
            labels: Only queries with all these labels.
            limit: Most queries; 0 for all.
        """
        if not isinstance(text, str):
            raise invalid("text", f"{text!r} is not a text")
        if not is_number(limit) or limit < 0:
            raise invalid("limit", f"{limit!r} is not a number from 0 on")
        request = message_of(
            query_pb2.ListQueriesRequest,
            text_contains=text,
            statuses=status_values(statuses),
            labels=labels or {},
            page_size=min(limit or 1000, 1000),
        )
        set_time(request.created_after, created_after, "created_after")
        set_time(request.created_before, created_before, "created_before")
        return AsyncListing(self._pages("query", "ListQueries", request, "queries", limit))

    async def cancel_query(self, query_id: str, *, reason: str = "") -> query_pb2.Query:
        """Cancels a query.

        Args:
            query_id: The query.
            reason: Why, for the record.
        """
        request = message_of(query_pb2.CancelQueryRequest, query_id=query_id, reason=reason)
        query: query_pb2.Query = (await self._call("query", "CancelQuery", request)).query
        return query

    async def _ended(self, kit_id: int) -> None:
        """Waits for the end of a kit."""
        with contextlib.suppress(KitFailedError):
            await self.wait(kit_id)  # type: ignore[attr-defined]  # of `AsyncClient`

    async def _fetch(
        self, request: query_pb2.FetchResultRequest
    ) -> AsyncIterator[query_pb2.FetchResultResponse]:
        """The messages of a download, begun again if the service moves before the first."""
        for last in (False, True):
            has_begun = False
            async with self._stage("query") as stage:
                stream = stage.stub.FetchResult(request)
                try:
                    with contextlib.closing(_Cancelling(stream)):
                        async for message in stream:
                            has_begun = True
                            yield message
                    return
                except grpc.aio.UsageError:
                    raise CanceledError("the client was closed", reason="CLOSED") from None
                except grpc.aio.AioRpcError as error:
                    translated = from_rpc(error)
                    if not isinstance(translated, UnavailableError):
                        raise translated from None
                    self._leave("query", stage)
                    if last or has_begun:
                        raise translated from None


class _Cancelling:
    """Ends a call that is not read to its end."""

    def __init__(self, stream: Any) -> None:
        self.close = stream.cancel


def _value(kind: Any, prefix: str, word: str, field: str) -> Any:
    try:
        return kind.Value(f"{prefix}_{word.upper()}")
    except (ValueError, AttributeError):
        words = [name.removeprefix(f"{prefix}_").lower() for name in kind.keys()[1:]]
        raise invalid(field, f"{word!r} is none of {', '.join(words)}") from None


def _text(sql: str) -> str:
    if not isinstance(sql, str):
        raise invalid("sql", f"{sql!r} is not a text")
    return sql


def _parameters(values: Mapping[str, Any] | None) -> list[query_pb2.QueryParameter]:
    if not isinstance(values or {}, Mapping):
        raise invalid("parameters", f"{values!r} is no mapping of names to values")
    return [parameter_of(name, value) for name, value in (values or {}).items()]


def parameter_of(name: str, value: Any) -> query_pb2.QueryParameter:
    """A value of Python as a parameter."""
    if value is None:
        return message_of(query_pb2.QueryParameter, name=name)
    for kind, word in (
        (bool, "BOOLEAN"),
        (int, "BIGINT"),
        (float, "DOUBLE"),
        (str, "VARCHAR"),
        (datetime, "TIMESTAMP"),
        (date, "DATE"),
    ):
        if isinstance(value, kind):
            text = value.isoformat() if isinstance(value, date) else str(value)
            text = text.lower() if isinstance(value, bool) else text
            return message_of(query_pb2.QueryParameter, name=name, type=word, value=text)
    raise invalid(f"parameters[{name!r}]", f"{type(value).__name__} is no type of a parameter")
