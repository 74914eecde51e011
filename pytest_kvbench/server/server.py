"""The HTTP side: OpenAI's endpoints, plus `/v1/kv`, `/tokenize` and `/health`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from pytest_kvbench.policies.table import catalogue, get_policy
from pytest_kvbench.records import digest
from pytest_kvbench.server import intake, replies
from pytest_kvbench.server.batches import Complete, Shelf
from pytest_kvbench.server.bodies import ErrorBody, ReplyBody
from pytest_kvbench.server.engine import Done, Event, Job, Piece
from pytest_kvbench.server.limits import BodyLimit
from pytest_kvbench.server.model import LocalModel
from pytest_kvbench.server.protocol import (
    ApiError,
    ChatRequest,
    CompletionRequest,
    TokenizeRequest,
    parse,
)
from pytest_kvbench.server.replies import Reply
from pytest_kvbench.server.request_log import RequestLog, describe
from pytest_kvbench.server.shape import TooLargeError
from pytest_kvbench.server.worker import Worker


@dataclass(frozen=True)
class Served:
    """What this server serves: the model under its names, and who runs it."""

    model: LocalModel
    names: tuple[str, ...]
    fingerprint: Mapping[str, str]
    worker: Worker


def build_app(served: Served, batches: Path | None = None) -> ASGIApp:
    """The application; with a folder for them, it serves files and batches too.

    Raises:
        UsageError: another server works on that folder.
    """
    shelf = batches and Shelf(batches, _complete(served), digest(dict(served.fingerprint)))

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with shelf.working() if shelf else contextlib.nullcontext():
            yield

    app = Starlette(
        lifespan=lifespan,
        routes=[
            *(Route(url, _completions(served, k), methods=["POST"]) for url, k in _KINDS.items()),
            Route("/v1/models", _models(served)),
            Route("/v1/kv", _policies(served.model)),
            Route("/tokenize", _tokenize(served.model), methods=["POST"]),
            Route("/health", _health(served.worker)),
            *(shelf.routes() if shelf else _NO_BATCHES),
        ],
        exception_handlers={
            ApiError: _api_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
    )
    return RequestLog(BodyLimit(app))


Handler = Callable[[Request], Any]
Kind = type[ChatRequest] | type[CompletionRequest]
Asked = ChatRequest | CompletionRequest

_KINDS: Mapping[str, Kind] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}


def _submit(
    served: Served, kind: Kind, body: bytes
) -> tuple[Asked, Job, Reply, asyncio.Queue[Event]]:
    """Hand a request to the model; what comes of it arrives in the queue.

    Raises:
        ApiError: it cannot be served.
    """
    asked = parse(kind, body)
    _check_model(asked.model, served.names)
    events: asyncio.Queue[Event] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def emit(event: Event) -> None:
        loop.call_soon_threadsafe(events.put_nowait, event)

    job = intake.make_job(served.model, asked, emit)
    reply = Reply(asked.model, chat=kind is ChatRequest, prompt_tokens=len(job.ids))
    served.worker.submit(job)
    return asked, job, reply, events


def _complete(served: Served) -> Complete:
    """The function that answers one line of a batch."""

    async def complete(endpoint: str, body: bytes) -> tuple[int, ReplyBody | ErrorBody]:
        job = None
        try:
            _, job, reply, events = _submit(served, _KINDS[endpoint], body)
            await _collect(reply, events)
            return 200, reply.whole()
        except ApiError as error:
            return error.status, error.body
        finally:
            if job is not None:
                job.cancelled = True

    return complete


async def _no_batches(_request: Request) -> Response:
    raise ApiError(404, "Start the server with --batches DIR to serve these.", code="no_batches")


_NO_BATCHES = [
    Route(path, _no_batches, methods=["GET", "POST", "DELETE"])
    for path in ("/v1/files{rest:path}", "/v1/batches{rest:path}")
]


def _completions(served: Served, kind: Kind) -> Handler:
    async def handle(request: Request) -> Response:
        asked, job, reply, events = _submit(served, kind, await request.body())
        describe(request, job)
        if asked.stream:
            usage = bool(asked.stream_options and asked.stream_options.include_usage)
            chunks = _stream(job, reply, events, usage)
            return StreamingResponse(chunks, media_type="text/event-stream")
        return await _answer(request, job, reply, events)

    return handle


async def _answer(
    request: Request, job: Job, reply: Reply, events: asyncio.Queue[Event]
) -> Response:
    """The whole reply; if the client goes away first, the job is dropped."""
    collecting = asyncio.ensure_future(_collect(reply, events))
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=499)  # nobody reads it
        collecting.result()
        return JSONResponse(reply.whole())
    finally:
        job.cancelled = True
        collecting.cancel()
        leaving.cancel()


async def _collect(reply: Reply, events: asyncio.Queue[Event]) -> None:
    async for _ in _follow(reply, events):
        pass


async def _follow(reply: Reply, events: asyncio.Queue[Event]) -> AsyncIterator[Event]:
    """The job's events, each already in `reply`, up to its end."""
    while True:
        event = await events.get()
        if isinstance(event, Exception):
            raise _failure(event)
        if isinstance(event, Done):
            reply.done = event
            return
        if isinstance(event, Piece):
            reply.add(event)
        else:
            reply.start(event)
        yield event


def _failure(error: Exception) -> ApiError:
    words = f"{type(error).__name__}: {error}"
    if isinstance(error, torch.OutOfMemoryError):
        return ApiError(
            507,
            f"The device has no memory left for this request: {words} Shorter prompts, fewer arms "
            "a request, or a server with fewer or smaller --slots need less.",
            code="out_of_memory",
        )
    if isinstance(error, TooLargeError):
        return ApiError(400, str(error), code="too_large_for_memory", param="kv")
    return ApiError(500, f"The model failed: {words}", code="model_failed")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    job: Job, reply: Reply, events: asyncio.Queue[Event], include_usage: bool
) -> AsyncIterator[str]:
    try:
        async for event in _follow(reply, events):
            chunks = [reply.piece(event)] if isinstance(event, Piece) else reply.opening()
            for chunk in chunks:
                yield replies.sse(chunk)
        if include_usage:
            yield replies.sse(reply.closing())
        yield replies.sse("[DONE]")
    except ApiError as error:  # the status line is sent: the error must be part of the stream
        yield replies.sse(error.body)
    finally:
        job.cancelled = True


def _check_model(asked: str, names: tuple[str, ...]) -> None:
    if asked not in names:
        raise ApiError(
            404,
            f"The model {asked!r} is not served here. Valid: {', '.join(names)}.",
            code="model_not_found",
            param="model",
        )


def _models(served: Served) -> Handler:
    async def handle(_request: Request) -> Response:
        model = {
            "id": served.names[0],
            "object": "model",
            "created": 0,
            "owned_by": "pytest-kvbench",
            "context_length": served.model.context_length,
            "aliases": list(served.names[1:]),
            "fingerprint": dict(served.fingerprint),
        }
        return JSONResponse({"object": "list", "data": [model]})

    return handle


def _policies(model: LocalModel) -> Handler:
    async def handle(_request: Request) -> Response:
        every = [*catalogue().values(), *map(get_policy, model.classes)]
        return JSONResponse({"policies": [policy.listed() for policy in every]})

    return handle


def _tokenize(model: LocalModel) -> Handler:
    async def handle(request: Request) -> Response:
        asked = parse(TokenizeRequest, await request.body())
        if asked.messages is not None:
            tokens = intake.chat_prompt(model, asked.messages).ids
        elif asked.with_pieces and asked.content is not None:
            return JSONResponse(await run_in_threadpool(_with_pieces, model, asked.text))
        else:  # it may be a whole book: the others need not wait for it
            text, special = asked.text, asked.prompt is not None
            tokens, _ = await run_in_threadpool(model.encode, text, special=special)
        return JSONResponse({"tokens": tokens, "count": len(tokens)})

    return handle


def _with_pieces(model: LocalModel, text: str) -> dict[str, object]:
    ids, ends = model.encode(text)
    # Of a character's tokens the first has it whole: pieces are of text, not of bytes.
    pieces = [text[start:end] for start, end in itertools.pairwise([0, *ends])]
    tokens = [{"id": i, "piece": piece} for i, piece in zip(ids, pieces, strict=True)]
    return {"tokens": tokens, "count": len(ids)}


def _health(worker: Worker) -> Handler:
    async def handle(_request: Request) -> Response:
        alive = worker.is_alive()
        body = {"status": "ok" if alive else "the model's thread has died"}
        return JSONResponse({**body, "waiting": worker.waiting}, status_code=200 if alive else 503)

    return handle


async def _api_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body, status_code=error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    # Not `request.url`: it needs a Host header that makes sense.
    message = f"{request.method} {request.scope['path']}: {error.detail}"
    code = "unknown_url" if error.status_code in (404, 405) else "invalid_request"
    body = ApiError(error.status_code, message, code=code).body
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _unexpected_error(_request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, f"{type(error).__name__}", code="internal").body, 500)
