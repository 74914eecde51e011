"""Files and batches, in OpenAI's formats: work that is handed in today and fetched tomorrow.

    DIR/files/<id>.json, <id>.data       what was uploaded, and what was answered
    DIR/batches/<id>.json                one batch, as `GET /v1/batches/<id>` tells it

Everything is on disk the moment it is known: a server that was killed goes on with the first line
that has no answer. One server at a time works on a folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from pytest_kvbench.engines.local.protocol import ApiError
from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import replace_json

MOST_REQUESTS, MOST_BYTES = 50_000, 200 * 2**20
"""Of one input file, as at OpenAI's."""
WINDOW_S = 24 * 3600
ENDPOINTS = ("/v1/chat/completions", "/v1/completions")
_AT_ONCE = 8  # lines in the model's queue: enough to decode together
_UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
_CHUNK = 2**20

Complete = Callable[[str, bytes], Awaitable[tuple[int, dict[str, Any]]]]
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
        """The endpoints."""
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
            identity = _new("file")
            size = 0
            with self._data(identity).open("wb") as data:
                while chunk := await sent.read(_CHUNK):
                    data.write(chunk)
                    size += len(chunk)
            if size > MOST_BYTES:
                self._data(identity).unlink()
                raise ApiError(413, f"file: at most {MOST_BYTES} bytes.", code="file_too_large")
            return JSONResponse(self._note_file(identity, sent.filename or "", "batch"))

    def _note_file(self, identity: str, name: str, purpose: str) -> dict[str, Any]:
        known = {
            "id": identity,
            "object": "file",
            "bytes": self._data(identity).stat().st_size,
            "created_at": int(self.clock()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        replace_json(self._path("files", identity), known)
        return known

    async def _list_files(self, request: Request) -> Response:
        return _page(request, self._all("files"))

    async def _show_file(self, request: Request) -> Response:
        return JSONResponse(self._known("files", request.path_params["id"]))

    async def _delete_file(self, request: Request) -> Response:
        identity = self._known("files", request.path_params["id"])["id"]
        if any(b["input_file_id"] == identity for b in self._all("batches") if _is_open(b)):
            raise ApiError(409, f"{identity}: a batch is working on it.", code="in_use")
        self._path("files", identity).unlink()
        self._data(identity).unlink(missing_ok=True)
        return JSONResponse({"id": identity, "object": "file", "deleted": True})

    async def _download(self, request: Request) -> Response:
        identity = self._known("files", request.path_params["id"])["id"]
        return FileResponse(self._data(identity), media_type="application/jsonl")

    # -- batches ---------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        asked = await _json(request)
        if asked.get("endpoint") not in ENDPOINTS:
            valid = ", ".join(ENDPOINTS)
            raise ApiError(400, f"endpoint: valid are {valid}.", code="invalid", param="endpoint")
        if asked.get("completion_window") != "24h":
            raise ApiError(400, "completion_window: valid is 24h.", code="invalid")
        source = self._known("files", str(asked.get("input_file_id")))
        now = int(self.clock())
        batch = {
            "id": _new("batch"),
            "object": "batch",
            "endpoint": asked["endpoint"],
            "input_file_id": source["id"],
            "completion_window": "24h",
            "status": "validating",
            "created_at": now,
            "expires_at": now + WINDOW_S,
            "metadata": asked.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "fingerprint": self.fingerprint,
            **dict.fromkeys(_UNTOLD),
        }
        self._save(batch)
        self._wake.set()
        return JSONResponse(_told(batch))

    async def _list_batches(self, request: Request) -> Response:
        return _page(request, [_told(batch) for batch in reversed(self._all("batches"))])

    async def _show_batch(self, request: Request) -> Response:
        return JSONResponse(_told(self._known("batches", request.path_params["id"])))

    async def _cancel(self, request: Request) -> Response:
        batch = self._known("batches", request.path_params["id"])
        if not _is_open(batch):
            raise ApiError(409, f"{batch['id']} is {batch['status']}.", code="not_cancellable")
        self._move(batch, "cancelling")
        self._wake.set()
        return JSONResponse(_told(batch))

    # -- the work --------------------------------------------------------------------------

    async def _work(self) -> None:
        while True:
            self._wake.clear()
            waiting = [batch for batch in self._all("batches") if _is_open(batch)]
            if waiting:
                await self._work_off(waiting[0])
            else:
                await self._wake.wait()

    async def _work_off(self, batch: dict[str, Any]) -> None:
        if batch["fingerprint"] != self.fingerprint:
            self._fail(batch, "begun by a server with another model or other settings")
            return
        try:
            total = sum(1 for _ in self._lines(batch))
        except ValueError as error:
            self._fail(batch, str(error))
            return
        results = _Results(self._data(_output(batch)), self._data(_errors(batch)))
        batch["request_counts"] = {"total": total, **results.counts}
        if batch["status"] == "validating":
            self._move(batch, "in_progress")
        self._save(batch)
        ended = await self._answer_all(batch, results)
        self._close(batch, results, ended)

    async def _answer_all(self, batch: dict[str, Any], results: _Results) -> str:
        """Answer what has no line yet; how the batch ends."""
        todo = (line for line in self._lines(batch) if line["custom_id"] not in results.done)
        ended = ""

        async def slot() -> None:
            nonlocal ended
            for line in todo:
                ended = ended or self._end_of(batch)
                if ended:
                    return
                body = json.dumps(line["body"]).encode()
                status, reply = await self.complete(batch["endpoint"], body)
                results.add(line["custom_id"], status, reply)
                self._count(batch, results)

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(slot())
        if ended == "expired":
            for line in self._lines(batch):
                if line["custom_id"] not in results.done:
                    results.expire(line["custom_id"])
        return ended or self._end_of(batch) or "completed"

    def _end_of(self, batch: Mapping[str, Any]) -> str:
        """How a batch ends before its last line; empty: it goes on."""
        if self._known("batches", batch["id"])["status"] == "cancelling":
            return "cancelled"
        return "expired" if self.clock() >= batch["expires_at"] else ""

    def _count(self, batch: dict[str, Any], results: _Results) -> None:
        batch |= self._known("batches", batch["id"])  # somebody may be cancelling it
        batch["request_counts"] |= results.counts
        self._save(batch)

    def _close(self, batch: dict[str, Any], results: _Results, status: str) -> None:
        results.close()
        for key, identity in (
            ("output_file_id", _output(batch)),
            ("error_file_id", _errors(batch)),
        ):
            if self._data(identity).stat().st_size:
                self._note_file(identity, f"{identity}.jsonl", "batch_output")
                batch[key] = identity
        batch["request_counts"] |= results.counts
        self._move(batch, status)

    def _fail(self, batch: dict[str, Any], why: str) -> None:
        problem = {"code": "invalid_batch", "message": why, "param": None, "line": None}
        batch["errors"] = {"object": "list", "data": [problem]}
        self._move(batch, "failed")

    def _lines(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The requests of a batch, read one after another.

        Raises:
            ValueError: one is none.
        """
        seen = set()
        with self._data(batch["input_file_id"]).open(encoding="utf-8") as file:
            for number, text in enumerate(filter(str.strip, file), 1):
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError(f"line {number}: is not a JSON object")
                name, url = line.get("custom_id"), line.get("url")
                if number > MOST_REQUESTS:
                    raise ValueError(f"more than {MOST_REQUESTS} lines")
                if not isinstance(name, str) or not isinstance(line.get("body"), dict):
                    raise ValueError(f"line {number}: custom_id or body is missing")
                if url != batch["endpoint"] or line.get("method") != "POST":
                    raise ValueError(f"line {number}: is not a POST to {batch['endpoint']}")
                if name in seen:
                    raise ValueError(f"line {number}: the custom_id {name!r} comes twice")
                seen.add(name)
                yield line

    # -- the disk --------------------------------------------------------------------------

    def _move(self, batch: dict[str, Any], status: str) -> None:
        batch["status"] = status
        batch[f"{status}_at"] = int(self.clock())
        self._save(batch)

    def _save(self, batch: Mapping[str, Any]) -> None:
        replace_json(self._path("batches", batch["id"]), batch)

    def _path(self, kind: str, identity: str) -> Path:
        return self.folder / kind / f"{identity}.json"

    def _data(self, identity: str) -> Path:
        return self.folder / "files" / f"{identity}.data"

    def _all(self, kind: str) -> list[dict[str, Any]]:
        """Oldest first: an id begins with the time it was made at."""
        paths = sorted((self.folder / kind).glob("*.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def _known(self, kind: str, identity: str) -> dict[str, Any]:
        path = self._path(kind, identity)
        if path.parent != self.folder / kind or not path.is_file():
            raise ApiError(404, f"{identity!r}: there is none such.", code="not_found")
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


class _Results:
    """The lines a batch has so far; a last line that was torn by a kill is cut off."""

    def __init__(self, output: Path, errors: Path) -> None:
        answered, refused = _whole_lines(output), _whole_lines(errors)
        self.done = {*answered, *refused}
        self.counts = {"completed": len(answered), "failed": len(refused)}
        self._output = output.open("a", encoding="utf-8")
        self._errors = errors.open("a", encoding="utf-8")

    def add(self, name: str, status: int, body: Mapping[str, Any]) -> None:
        """What one request was answered."""
        response = {"status_code": status, "request_id": _new("req"), "body": body}
        self._write(name, response, None)

    def expire(self, name: str) -> None:
        """A request whose time was up."""
        error = {"code": "batch_expired", "message": "the batch's window is over"}
        self._write(name, None, error)

    def close(self) -> None:
        """Close both files."""
        self._output.close()
        self._errors.close()

    def _write(
        self, name: str, response: Mapping[str, Any] | None, error: Mapping[str, Any] | None
    ) -> None:
        fine = response is not None and response["status_code"] < 400
        line = {"id": _new("batch_req"), "custom_id": name, "response": response, "error": error}
        file = self._output if fine else self._errors
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        self.done.add(name)
        self.counts["completed" if fine else "failed"] += 1


_UNTOLD = (
    *("errors", "output_file_id", "error_file_id", "in_progress_at", "finalizing_at"),
    *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
)
"""Fields of a batch that are null until they are known."""


def _told(batch: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in batch.items() if key != "fingerprint"}


def _is_open(batch: Mapping[str, Any]) -> bool:
    return batch["status"] in _UNDER_WAY


def _output(batch: Mapping[str, Any]) -> str:
    return f"file-{batch['id']}-output"


def _errors(batch: Mapping[str, Any]) -> str:
    return f"file-{batch['id']}-errors"


def _new(kind: str) -> str:
    """An id that sorts by the time it was made."""
    return f"{kind}-{time.time_ns():020d}{secrets.token_hex(4)}"


def _whole_lines(path: Path) -> list[str]:
    """The `custom_id` of every whole line; what follows the last of them is cut off."""
    names, end = [], 0
    path.touch()
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            names.append(json.loads(line)["custom_id"])
            end += len(line)
    with path.open("r+b") as file:
        file.truncate(end)
    return names


async def _json(request: Request) -> dict[str, Any]:
    try:
        asked = json.loads(await request.body())
    except ValueError:
        asked = None
    if not isinstance(asked, dict):
        raise ApiError(400, "The body is not a JSON object.", code="invalid_json")
    return asked


def _page(request: Request, known: list[dict[str, Any]]) -> Response:
    """As much of a list as was asked for, behind `after`."""
    after, limit = request.query_params.get("after"), request.query_params.get("limit", "100")
    if not limit.isdecimal() or not 1 <= int(limit) <= 10_000:
        raise ApiError(400, "limit: valid are 1 to 10000.", code="invalid", param="limit")
    names = [entry["id"] for entry in known]
    start = names.index(after) + 1 if after in names else 0
    shown = known[start : start + int(limit)]
    return JSONResponse(
        {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": start + len(shown) < len(known),
        }
    )
