"""Files and batches, in OpenAI's formats: work that is handed in today and fetched tomorrow.

    DIR/files/<id>.json, <id>.data       what was uploaded, and what was answered
    DIR/batches/<id>.json                one batch, as `GET /v1/batches/<id>` shows it

Everything is on disk the moment it is known: a server that was killed goes on with the first line
that has no answer. One server at a time works on a folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import replace_json
from pytest_kvbench.server.batch_files import (
    Asked,
    BadFile,
    Results,
    new_id,
    read_requests,
)
from pytest_kvbench.server.batch_notes import (
    UNKNOWN,
    BatchNote,
    FileNote,
    Problem,
    batch_of,
    batches_in,
    errors_of,
    file_of,
    files_in,
    is_open,
    output_of,
    page,
    path_of,
    shown,
)
from pytest_kvbench.server.bodies import ErrorBody, ReplyBody
from pytest_kvbench.server.limits import MOST_FILE_BYTES, check_size
from pytest_kvbench.server.protocol import ApiError, BatchRequest, parse

WINDOW_S = 24 * 3600
_AT_ONCE = 8  # lines in the model's queue: enough to decode together
_CHUNK = 2**20
_LONGEST_NAME = 255

log = logging.getLogger(__name__)

Complete = Callable[[str, bytes], Awaitable[tuple[int, ReplyBody | ErrorBody]]]
"""Answers one request: the endpoint and the body give a status and a body."""


@dataclass
class Shelf:
    """The folder of one server.

    Args:
        folder: where everything is kept.
        complete: answers one line.
        fingerprint: digest of who answers; a batch begun by another server fails.
        clock: seconds since the epoch.

    Raises:
        UsageError: another server works on the folder.
    """

    folder: Path
    complete: Complete
    fingerprint: str
    clock: Callable[[], float] = time.time
    _wake: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _given_up: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        for name in ("files", "batches"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(self.folder / "lock", timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise UsageError(
                f"--batches {self.folder}: another server works on it", "give each its own folder"
            ) from None

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Inside, batches are worked off in the order they were made."""
        work = asyncio.ensure_future(self._work())
        try:
            yield
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work
            self._lock.release()

    def routes(self) -> list[Route]:
        """The routes of files and batches, for the server."""
        return [
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files", self._list_files),
            Route("/v1/files/{id}", self._show_file),
            Route("/v1/files/{id}", self._delete_file, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self._download),
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches", self._list_batches),
            Route("/v1/batches/{id}", self._show_batch),
            Route("/v1/batches/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    # -- files -----------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        async with request.form() as form:
            sent = form.get("file")
            if not isinstance(sent, UploadFile):
                raise ApiError(400, "file: is missing.", code="missing_file", param="file")
            if form.get("purpose") != "batch":
                raise ApiError(400, "purpose: valid is batch.", code="invalid", param="purpose")
            identity = new_id("file")
            size = 0
            with self._data(identity).open("wb") as data:
                while chunk := await sent.read(_CHUNK):
                    data.write(chunk)
                    size += len(chunk)
            if size > MOST_FILE_BYTES:
                self._data(identity).unlink()
                raise ApiError(
                    413, f"file: at most {MOST_FILE_BYTES} bytes.", code="file_too_large"
                )
            name = (sent.filename or "")[:_LONGEST_NAME]
            return JSONResponse(self._note_file(identity, name, "batch"))

    def _note_file(self, identity: str, name: str, purpose: str) -> FileNote:
        note: FileNote = {
            "id": identity,
            "object": "file",
            "bytes": self._data(identity).stat().st_size,
            "created_at": int(self.clock()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        replace_json(path_of(self.folder, "files", identity), note)
        return note

    async def _list_files(self, request: Request) -> Response:
        return page(request, files_in(self.folder))

    async def _show_file(self, request: Request) -> Response:
        return JSONResponse(file_of(self.folder, request.path_params["id"]))

    async def _delete_file(self, request: Request) -> Response:
        identity = file_of(self.folder, request.path_params["id"])["id"]
        if any(b.get("input_file_id") == identity for b in batches_in(self.folder) if is_open(b)):
            raise ApiError(409, f"{identity}: a batch is working on it.", code="in_use")
        path_of(self.folder, "files", identity).unlink()
        self._data(identity).unlink(missing_ok=True)
        return JSONResponse({"id": identity, "object": "file", "deleted": True})

    async def _download(self, request: Request) -> Response:
        identity = file_of(self.folder, request.path_params["id"])["id"]
        return FileResponse(self._data(identity), media_type="application/jsonl")

    # -- batches ---------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        asked = parse(BatchRequest, await request.body())
        source = file_of(self.folder, asked.input_file_id)
        now = int(self.clock())
        batch: BatchNote = {
            "id": new_id("batch"),
            "object": "batch",
            "endpoint": asked.endpoint,
            "input_file_id": source["id"],
            "completion_window": "24h",
            "status": "validating",
            "created_at": now,
            "expires_at": now + WINDOW_S,
            "metadata": asked.metadata,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "fingerprint": self.fingerprint,
            **UNKNOWN,
        }
        self._save(batch)
        self._wake.set()
        return JSONResponse(shown(batch))

    async def _list_batches(self, request: Request) -> Response:
        return page(request, [shown(batch) for batch in reversed(batches_in(self.folder))])

    async def _show_batch(self, request: Request) -> Response:
        return JSONResponse(shown(batch_of(self.folder, request.path_params["id"])))

    async def _cancel(self, request: Request) -> Response:
        batch = batch_of(self.folder, request.path_params["id"])
        if not is_open(batch):
            raise ApiError(409, f"{batch['id']} is {batch['status']}.", code="not_cancellable")
        self._move(batch, "cancelling")
        self._wake.set()
        return JSONResponse(shown(batch))

    # -- the work --------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            waiting = [batch for batch in batches_in(self.folder) if self._is_waiting(batch)]
            if waiting:
                await self._try(waiting[0])
            else:
                await self._wake.wait()

    def _is_waiting(self, batch: BatchNote) -> bool:
        return is_open(batch) and batch["id"] not in self._given_up

    async def _try(self, batch: BatchNote) -> None:
        """Work a batch off; an error ends it alone, and the next one is begun."""
        try:
            await self._work_off(batch)
        except Exception as error:
            self._given_up.add(batch["id"])
            with contextlib.suppress(Exception):  # a full disk does not take the failure either
                self._fail(batch, _cause(error))

    async def _work_off(self, batch: BatchNote) -> None:
        if batch["fingerprint"] != self.fingerprint:
            raise BadFile("begun by a server with another model or other settings")
        total = sum(1 for _ in self._requests(batch))
        files = (self._data(output_of(batch)), self._data(errors_of(batch)))
        with contextlib.closing(Results(*files)) as results:
            batch["request_counts"] = {"total": total, **results.counts}
            if batch["status"] == "validating":
                self._move(batch, "in_progress")
            self._save(batch)
            ended = await self._answer_all(batch, results)
        self._close(batch, results, ended)

    async def _answer_all(self, batch: BatchNote, results: Results) -> str:
        """Answer what has no line yet; how the batch ends."""
        todo = (asked for asked in self._requests(batch) if asked.name not in results.done)
        ended = ""

        async def slot() -> None:
            nonlocal ended
            for asked in todo:
                ended = ended or self._end_of(batch)
                if ended:
                    return
                results.add(asked.name, *await self._answer(batch["endpoint"], asked))
                self._count(batch, results)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(slot())
        if ended == "expired":
            for asked in self._requests(batch):
                if asked.name not in results.done:
                    results.expire(asked.name)
        return ended or self._end_of(batch) or "completed"

    async def _answer(self, endpoint: str, asked: Asked) -> tuple[int, ReplyBody | ErrorBody]:
        try:
            check_size(len(asked.body))
            return await self.complete(endpoint, asked.body)
        except ApiError as error:
            return error.status, error.body
        except Exception as error:  # whatever it is, it is this line's alone
            log.exception("%s", asked.name)
            return 500, ApiError(500, f"{type(error).__name__}: {error}", code="internal").body

    def _end_of(self, batch: BatchNote) -> str:
        """How a batch ends before its last line; empty: it goes on."""
        if batch_of(self.folder, batch["id"])["status"] == "cancelling":
            return "cancelled"
        return "expired" if self.clock() >= batch["expires_at"] else ""

    def _count(self, batch: BatchNote, results: Results) -> None:
        batch |= batch_of(self.folder, batch["id"])  # somebody may be cancelling it
        total = batch["request_counts"]["total"]
        batch["request_counts"] = {"total": total, **results.counts}
        self._save(batch)

    def _close(self, batch: BatchNote, results: Results, status: str) -> None:
        batch["output_file_id"] = self._noted(output_of(batch))
        batch["error_file_id"] = self._noted(errors_of(batch))
        total = batch["request_counts"]["total"]
        batch["request_counts"] = {"total": total, **results.counts}
        self._move(batch, status)

    def _noted(self, identity: str) -> str | None:
        """A file of answers, noted; None where nothing is in it."""
        if not self._data(identity).stat().st_size:
            return None
        self._note_file(identity, f"{identity}.jsonl", "batch_output")
        return identity

    def _fail(self, batch: BatchNote, error: BaseException) -> None:
        log.warning("%s fails", batch["id"], exc_info=error)
        line = error.line if isinstance(error, BadFile) else None
        message = str(error) if isinstance(error, BadFile) else f"{type(error).__name__}: {error}"
        problem: Problem = {
            "code": "invalid_batch",
            "message": message,
            "param": None,
            "line": line,
        }
        batch["errors"] = {"object": "list", "data": [problem]}
        self._move(batch, "failed")

    def _requests(self, batch: BatchNote) -> Iterator[Asked]:
        return read_requests(self._data(batch["input_file_id"]), batch["endpoint"])

    # -- the disk --------------------------------------------------------------------------

    def _move(self, batch: BatchNote, status: str) -> None:
        batch["status"] = status
        batch[f"{status}_at"] = int(self.clock())  # type: ignore[literal-required]  # one of `Ends`
        self._save(batch)

    def _save(self, batch: BatchNote) -> None:
        replace_json(path_of(self.folder, "batches", batch["id"]), batch)

    def _data(self, identity: str) -> Path:
        return self.folder / "files" / f"{identity}.data"


def _cause(error: Exception) -> BaseException:
    """What went wrong first, where several things were under way."""
    cause: BaseException = error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause
