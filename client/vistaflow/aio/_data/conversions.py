"""Calls of the asynchronous client to the data jobs: conversions, summaries."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import Any

from vistaflow._rpc.messages import message_of
from vistaflow.aio._artifacts import JOBS, ArtifactCalls
from vistaflow.aio._data.import_specs import is_uuid
from vistaflow.aio._data.uploads import FileSource, UploadCalls
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.errors import FailedPreconditionError, NotFoundError, invalid
from vistaflow.models import Job, job_of


class DataCalls(UploadCalls, ArtifactCalls):
    """The methods of a client that are for data jobs."""

    async def convert(
        self,
        files: FileSource | Sequence[FileSource] | Job,
        output_file_name: str,
        *,
        pages: bool = False,
        request_id: str = "",
        on_upload: Callable[[str, int, int], None] | None = None,
        **options: Any,
    ) -> Job:
        """Starts converting JSON files to CSV or Parquet.

        Files that the service does not see are sent to it first. A job that collected pages stands
        for its rows, or for its pages as they were fetched.

        Args:
            files: Names of files in the service's data roots, such as `raw/users.json`, and files
                of this machine. `./users.json` and a `Path` are always of this machine. Instead, a
                finished job of `collect_pages`, or its id.
            output_file_name: First part of the names of the output files.
            pages: Whether the pages of the job are read instead of its rows.
            request_id: Makes the call safe to repeat: a UUID.
            on_upload: Called with a file's name, the bytes of it that were sent, and its size.
            options: The other fields of `ConvertJsonRequest`, such as `merge=True`,
                `max_csv_rows=100_000`, `format="TABLE_FORMAT_PARQUET"`, `aes256cbckey` and `iv`.

        Returns:
            The job. `conversion(job.job_id)` says how far it is.
        """
        if isinstance(files, Job) or (isinstance(files, str) and is_uuid(files)):
            job_id = files.job_id if isinstance(files, Job) else files
            options["collection"] = message_of(
                ingestion_pb2.CollectedJson, job_id=job_id, pages=pages
            )
            files = []
        elif pages:
            raise invalid("pages", "are those of a job; give the job that collected them")
        if not isinstance(files, str | os.PathLike | Sequence):
            raise invalid("files", f"{files!r} is neither a name nor a list of names")
        sources = [files] if isinstance(files, str | os.PathLike) else list(files)
        unknown = set(options) - set(ingestion_pb2.ConvertJsonRequest.DESCRIPTOR.fields_by_name)
        if unknown:
            raise invalid(min(unknown), "is no option of a conversion")
        answer = await self._call_with_files(
            "ConvertJson",
            {f"file_names[{index}]": source for index, source in enumerate(sources)},
            lambda names: message_of(
                ingestion_pb2.ConvertJsonRequest,
                request_id=request_id,
                file_names=names,
                output_file_name=output_file_name,
                **options,
            ),
            on_upload,
        )
        return job_of(answer.job)

    async def conversion(self, job_id: str) -> ingestion_pb2.GetConversionResponse:
        """A conversion with all its files.

        Args:
            job_id: Its job.
        """
        request = message_of(ingestion_pb2.GetConversionRequest, job_id=job_id)
        whole: ingestion_pb2.GetConversionResponse = await self._call(
            "ingestion", "GetConversion", request
        )
        while whole.next_page_token:
            request.page_token = whole.next_page_token
            page = await self._call("ingestion", "GetConversion", request)
            whole.files.extend(page.files)
            whole.next_page_token = page.next_page_token
        return whole

    async def download_conversion(
        self, job: Job | str, folder: str | os.PathLike[str]
    ) -> list[Path]:
        """Copies the files of a finished conversion to this machine.

        Args:
            job: The job, or its id. Its output is the artifact store or a bucket.
            folder: Where to; made if it is not there.

        Returns:
            The copies, by table and part. Each appears once its SHA-256 is right.

        Raises:
            FailedPreconditionError: It has not finished, or its files are in a folder of a data
                root, where only those who see the folder can read them.
        """
        if not isinstance(folder, str | os.PathLike):
            raise invalid("folder", f"{folder!r} is no path")
        whole = await self.conversion(job.job_id if isinstance(job, Job) else job)
        if whole.status != "DONE":
            raise FailedPreconditionError(
                f"conversion {whole.job.job_id} is not finished", reason="NOT_FINISHED"
            )
        paths = []
        for file in whole.files:
            # What is in a bucket is in the artifact store, too.
            source = f"{JOBS}{whole.job.job_id}/conversion/{file.file_name}"
            try:
                paths.append(await self._copy(source, folder, file))
            except NotFoundError:
                if whole.output.startswith(JOBS):
                    raise
                raise FailedPreconditionError(
                    f"the files are in the data root {whole.output}; copy them from there, or "
                    "convert without an output",
                    reason="IN_DATA_ROOT",
                ) from None
        return paths

    async def _copy(
        self, uri: str, folder: str | os.PathLike[str], file: ingestion_pb2.ConvertedFile
    ) -> Path:
        """Copies one file of a conversion."""
        if PurePath(file.file_name).name != file.file_name:
            raise invalid("folder", f"{file.file_name!r} is no name of a file")
        try:
            await asyncio.to_thread(os.makedirs, folder, exist_ok=True)
        except OSError as error:
            raise invalid("folder", f"{folder} cannot be made: {error.strerror}") from error
        return await self._download(uri, Path(folder) / file.file_name, file.sha256)

    async def summarize_shopping(
        self, file: FileSource, user_id: str, proposal_id: str, **keys: str
    ) -> dict[str, Any]:
        """The months and categories of one user's purchases under one proposal.

        Args:
            file: A file in the service's data roots, or of this machine, as for `convert`.
            user_id: The user.
            proposal_id: The proposal.
            keys: `aes256cbckey` and `iv`, or `key_ref`, if the file is encrypted.

        Returns:
            `months`, such as `["06", "07"]`, and `categories`: the ones below each, by name.
        """
        answer = await self._call_with_files(
            "SummarizeShopping",
            {"file_name": file},
            lambda names: message_of(
                ingestion_pb2.SummarizeShoppingRequest,
                file_name=names[0],
                user_id=user_id,
                proposal_id=proposal_id,
                **keys,
            ),
        )
        return {
            "months": list(answer.months),
            "categories": {
                category.name: list(category.sub_categories) for category in answer.categories
            },
        }
