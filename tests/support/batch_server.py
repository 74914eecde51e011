"""A scripted server with files and batches over real HTTP, in OpenAI's formats; no model.

It answers a prompt that ends in `Say WORD` with WORD. What goes wrong, it is told.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.serving import Serving

Line = dict[str, Any]


@dataclass
class BatchServer(Serving):
    """Use as a context manager; `base_url` is up inside.

    Every batch is worked off when it is made, and says so from its `lag`-th poll on.
    """

    lag: int = 0
    page: int = 100
    weights: str = "mock"
    """What it says of its weights; only by a digest can it be told apart from another."""
    end: Callable[[str], str] = lambda batch_id: "completed"
    """How a batch ends: completed, failed, expired."""
    error: Callable[[Line], Any] = lambda line: None
    """Of a request: what its line in the error file says as `error`; None for an answer."""
    reply: Callable[[Line], Line] = lambda body: answered(body)
    """The completion of a request's body."""
    twist: Callable[[list[Line]], list[Line]] = lambda lines: lines
    """What of the output is sent."""
    after: Callable[[str], None] = lambda action: None
    """Told of what was done (upload, create, poll, download, cancel) before the reply is sent."""
    lose: list[str] = field(default_factory=list)
    """Actions whose next reply gets lost on the way."""
    actions: list[str] = field(default_factory=list)
    keys: set[str | None] = field(default_factory=set)
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self._models),
            Route("/v1/files", self._upload, methods=["POST"]),
            Route("/v1/files", self._list_files),
            Route("/v1/files/{id}/content", self._download),
            Route("/v1/batches", self._create, methods=["POST"]),
            Route("/v1/batches", self._list_batches),
            Route("/v1/batches/{id}", self._poll),
            Route("/v1/batches/{id}/cancel", self._cancel, methods=["POST"]),
        ]

    @property
    def uploads(self) -> int:
        """Files of requests."""
        return sum(name != "result" for name, _ in self.files.values())

    @property
    def asked(self) -> Counter[str]:
        """How many batches each request is in."""
        made = (self.lines(batch["input_file_id"]) for batch in self.batches.values())
        return Counter(line["custom_id"] for lines in made for line in lines)

    def lines(self, file_id: str) -> list[Line]:
        return [json.loads(line) for line in self.files[file_id][1].splitlines()]

    # -- what it does ----------------------------------------------------------------------

    def _done(self, action: str, data: Any) -> Response:
        self.actions.append(action)
        self.after(action)
        if action in self.lose:
            self.lose.remove(action)
            return JSONResponse({"error": {"message": "lost"}}, status_code=504)
        if isinstance(data, Response):
            return data
        return Response(json.dumps(data), media_type="application/json")  # lone surrogates too

    async def _models(self, request: Request) -> Response:
        entry = {"id": "mock", "aliases": [], "fingerprint": {"weights": self.weights}}
        return JSONResponse({"object": "list", "data": [entry]})

    async def _upload(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        async with request.form() as form:
            assert form["purpose"] == "batch"
            sent: Any = form["file"]
            name, content = sent.filename, await sent.read()
        return self._done("upload", self._file(self._add(name, content)))

    async def _list_files(self, request: Request) -> Response:
        known = [self._file(i) for i, (name, _) in self.files.items() if name != "result"]
        return self._page(request, known)

    async def _download(self, request: Request) -> Response:
        content = self.files[request.path_params["id"]][1]
        return self._done("download", Response(content))

    async def _create(self, request: Request) -> Response:
        body = await request.json()
        batch_id = f"batch_{len(self.batches)}"
        lines = self.lines(body["input_file_id"])
        assert {line["url"] for line in lines} == {body["endpoint"]}
        self.batches[batch_id] = {
            "id": batch_id,
            "object": "batch",
            "status": "in_progress",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "polls": 0,
            **body,
        }
        return self._done("create", self.batches[batch_id])

    async def _list_batches(self, request: Request) -> Response:
        return self._page(request, list(reversed(self.batches.values())))

    async def _poll(self, request: Request) -> Response:
        batch = self.batches.get(request.path_params["id"])
        if batch is None:
            return JSONResponse({"error": {"message": "no such batch"}}, status_code=404)
        if batch["status"] == "in_progress" and batch["polls"] >= self.lag:
            self._finish(batch, self.end(batch["id"]))
        batch["polls"] += 1
        return self._done("poll", batch)

    async def _cancel(self, request: Request) -> Response:
        batch = self.batches[request.path_params["id"]]
        self._finish(batch, "cancelled")
        return self._done("cancel", batch)

    def _finish(self, batch: dict[str, Any], status: str) -> None:
        """Half of what expires or is cancelled was answered before."""
        batch["status"] = status
        lines = self.lines(batch["input_file_id"])
        if status == "failed":
            batch["errors"] = {"data": [{"code": "model_not_found", "message": "no such model"}]}
            return
        tried = lines if status == "completed" else lines[: len(lines) // 2]
        failed = [(line, error) for line in tried if (error := self.error(line))]
        failed += [
            (line, {"code": f"batch_{status}", "message": "too late"})
            for line in lines[len(tried) :]
        ]
        wrong = {line["custom_id"] for line, _ in failed}
        good = [_answered(line, self.reply) for line in tried if line["custom_id"] not in wrong]
        random.Random(0).shuffle(good)
        batch["output_file_id"] = self._results(self.twist(good))
        batch["error_file_id"] = self._results([_refused(*pair) for pair in failed])
        batch["request_counts"].update(completed=len(good), failed=len(failed))

    def _results(self, lines: list[Line]) -> str | None:
        content = "".join(json.dumps(line) + "\n" for line in lines)
        return self._add("result", content.encode()) if lines else None

    def _add(self, name: str, content: bytes) -> str:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = (name, content)
        return file_id

    def _file(self, file_id: str) -> dict[str, Any]:
        name, content = self.files[file_id]
        return {"id": file_id, "object": "file", "filename": name, "bytes": len(content)}

    def _page(self, request: Request, known: list[dict[str, Any]]) -> Response:
        ids = [entry["id"] for entry in known]
        after = request.query_params.get("after")
        start = ids.index(after) + 1 if after else 0
        shown = known[start : start + min(self.page, int(request.query_params["limit"]))]
        more = start + len(shown) < len(known)
        content = json.dumps({"object": "list", "data": shown, "has_more": more})
        return Response(content, media_type="application/json")


def answered(body: Line) -> Line:
    """The completion of a request's body."""
    chat = "messages" in body
    content = body["messages"][-1]["content"] if chat else body["prompt"]
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    word = text.rsplit("Say ", 1)[-1].split()[0]
    reply = {"message": {"role": "assistant", "content": word}} if chat else {"text": word}
    (arm,) = body.get("kv", [None])
    kv = {"kv": {"achieved": arm["budget"], "kept_bytes": 5, "full_bytes": 10}} if arm else {}
    return {
        "choices": [{"index": 0, "finish_reason": "stop", **reply, **kv}],
        "usage": {"prompt_tokens": len(text) // 4, "completion_tokens": 1},
    }


def _answered(line: Line, reply: Callable[[Line], Line]) -> Line:
    response = {"status_code": 200, "request_id": "r", "body": reply(line["body"])}
    return {"id": "x", "custom_id": line["custom_id"], "response": response, "error": None}


def _refused(line: Line, error: Any) -> Line:
    return {"id": "x", "custom_id": line["custom_id"], "response": None, "error": error}
