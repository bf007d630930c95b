"""The paths and bodies of the users' former API, and `GET /v1/query` for curl."""

from __future__ import annotations

import json
from typing import Any, Final

import grpc
from starlette.requests import Request
from starlette.responses import Response

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow_services.gateway.answers import json_answer
from vistaflow_services.gateway.gate import body_of, ended_by_caller
from vistaflow_services.gateway.messages import message_from, parsed_json, to_values, values_of
from vistaflow_services.gateway.rows import RESULTS, Rows, format_of
from vistaflow_services.gateway.upstream import CALL_SECONDS, METHODS, Upstream

_INGESTION: Final = "vistaflow.api.ingestion.v1.IngestionService"
_SUBMIT: Final = METHODS["vistaflow.api.query.v1.QueryService/SubmitQuery"]


class Former:
    """Serves the former API.

    Args:
        upstream: The services.
        rows: Serves the rows of queries.
    """

    def __init__(self, upstream: Upstream, rows: Rows) -> None:
        self._upstream = upstream
        self._rows = rows

    async def convert(self, request: Request) -> Response:
        """Starts a conversion: `POST /convert_to_csv`, `POST /convert_to_excel`."""
        method = METHODS[f"{_INGESTION}/ConvertJson"]
        values = parsed_json(await body_of(request))
        if request.url.path == "/convert_to_excel":
            # By which Excel knows that a CSV file is UTF-8.
            values.setdefault("byte_order_mark", True)
        answer = await self._upstream.unary(method, message_from(method.input_type, values))
        return json_answer({"data": {"job_id": answer.job_id}})

    async def status(self, request: Request) -> Response:
        """How far a conversion is: `GET /convert_to_csv/status?job_id=`."""
        job_id = request.query_params.get("job_id", "")
        question = ingestion_pb2.GetConversionRequest(job_id=job_id, page_size=1)
        try:
            method = METHODS[f"{_INGESTION}/GetConversion"]
            answer = await self._upstream.unary(method, question)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            data: dict[str, Any] = {"job_id": job_id, "status": "NOTFOUND", "msg": ""}
            return json_answer({"data": data})
        data = {
            "job_id": job_id,
            "status": answer.status,
            "msg": answer.msg,
            "job_start_time": answer.job_start_time,
        }
        return json_answer({"data": data})

    async def shopping(self, request: Request) -> Response:
        """The purchases of a user: `GET /preprocess/shopping`."""
        method = METHODS[f"{_INGESTION}/SummarizeShopping"]
        values = values_of(method.input_type, request.query_params.multi_items())
        async with ended_by_caller(request):
            answer = await self._upstream.unary(method, message_from(method.input_type, values))
        categories = {entry.name: list(entry.sub_categories) for entry in answer.categories}
        return json_answer({"data": {"months": list(answer.months), "categories": categories}})

    async def query(self, request: Request) -> Response:
        """Runs a query and answers with its rows: `GET /v1/query?query=…&limit=…&wait=30s`.

        As JSON at most the first page; in other formats all rows. A query that has not ended in
        time is 202 and goes on; `Location` is where its rows will be.
        """
        values = values_of(
            _SUBMIT.input_type,
            [
                ("user_query" if name == "query" else name, text)
                for name, text in request.query_params.multi_items()
            ],
        )
        values.setdefault("wait", "30s")
        values["format"] = "RESULT_FORMAT_JSON_OBJECTS"
        suffix = format_of(request, RESULTS)
        message = message_from(_SUBMIT.input_type, values)
        async with ended_by_caller(request):
            answer: query_pb2.SubmitQueryResponse = await self._upstream.unary(
                _SUBMIT, message, timeout=CALL_SECONDS + message.wait.ToSeconds()
            )
        query = answer.query
        if query.status == common_pb2.STATUS_FINISHED and suffix != "json":
            return await self._rows.answer(request, RESULTS, query.query_id, suffix, [])
        body: dict[str, Any] = {"query": to_values(query), "reused": answer.reused}
        headers = {
            "location": f"/v1/queries/{query.query_id}/rows.{suffix}",
            "cache-control": "no-store",
        }
        if query.status == common_pb2.STATUS_FINISHED:
            body["rows"] = [json.loads(line) for line in answer.page.splitlines()]
            body["has_all_rows"] = answer.page_row_count == query.row_count
            return json_answer(body, 200, headers)
        return json_answer(body, 202 if query.status < common_pb2.STATUS_FINISHED else 409, headers)
