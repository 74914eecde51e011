"""Stand-ins for OpenAI-compatible servers: the documented wire formats over real HTTP, no model.

Each answers a prompt that ends in `Say WORD` with WORD, tells of itself what its kind tells, and
keeps what it was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.serving import Serving

GGML_BYTES = {"f16": 64, "q8_0": 34, "q4_0": 18}
METRICS = """\
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",cache_dtype="{kv_type}",engine="0",{memory}}} 1.0
vllm:num_requests_running{{engine="0"}} 0.0
"""


SGLANG_BITS = {"fp8_e5m2": 8, "fp8_e4m3": 8, "fp4_e2m1": 4.5}


@dataclass
class Wire(Serving):
    """One server of a kind; use as a context manager, `base_url` is up inside.

    `kv_type` is what it really serves, in the kind's own words; `claims`, where set, what it says
    that it serves. Where `tells_memory` is false it keeps the size of its cache to itself.
    """

    kind: str = "openai"
    kv_type: str = "auto"
    claims: str = ""
    tells_memory: bool = True
    tells_at: str = "/server_info"
    """Where SGLang says who it is; before 0.5 at `/get_server_info`."""
    model: str = "m"
    version: str = "1"
    trouble: Callable[[int, dict[str, Any]], Response | None] = lambda number, body: None
    pieces: Callable[[list[str]], list[str]] = lambda events: events
    """What of a stream's events is sent."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    """The Authorization header of every request, whatever its path."""

    def routes(self) -> list[Route]:
        return [Route("/{path:path}", self._serve, methods=["GET", "POST"])]

    async def _serve(self, request: Request) -> Response:
        self.keys.append(request.headers.get("authorization"))
        body = await request.json() if request.method == "POST" else {}
        path = request.url.path
        if path in ("/v1/chat/completions", "/v1/completions"):
            self.asked.append(body)
            return self.trouble(len(self.asked), body) or self._complete(body)
        told = {**self._openai(), **getattr(self, f"_{self.kind}")(body)}.get(path)
        if told is None:
            return JSONResponse({"error": {"message": "not found"}}, status_code=404)
        return PlainTextResponse(told) if isinstance(told, str) else JSONResponse(told)

    def _complete(self, body: dict[str, Any]) -> Response:
        chat = "messages" in body
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        word = prompt.rsplit("Say ", 1)[-1].split()[0]
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": 1}
        if body.get("stream"):
            events = self.pieces(list(_events(word, usage, chat)))
            stream = iter([f"{event}\n\n" for event in events])
            return StreamingResponse(stream, media_type="text/event-stream")
        content = {"message": {"role": "assistant", "content": word}} if chat else {"text": word}
        choice = {"index": 0, "finish_reason": "stop", **content}
        return JSONResponse({"choices": [choice], "usage": usage})

    def _openai(self, body: Any = None) -> dict[str, Any]:
        return {"/v1/models": {"object": "list", "data": [{"id": self.model, "object": "model"}]}}

    def _vllm(self, body: Any) -> dict[str, Any]:
        return {
            "/version": {"version": self.version},
            "/metrics": self._metrics(),
            "/tokenize": {"tokens": body.get("prompt", "").split()},
        }

    def _metrics(self) -> str:
        """As vLLM 0.32 tells it, with a cache of 2 GiB."""
        blocks = 1456 if self.kv_type.startswith("fp8") else 728
        memory = f'num_gpu_blocks="{blocks}",kv_cache_memory_bytes="{2**31}"'
        told = memory if self.tells_memory else f'num_gpu_blocks="{blocks}"'
        return METRICS.format(kv_type=self.claims or self.kv_type, memory=told)

    def _sglang(self, body: Any) -> dict[str, Any]:
        info = {"version": self.version, "model_path": "x"}
        info["kv_cache_dtype"] = self.claims or self.kv_type
        tokens = round(93_184 * 16 / SGLANG_BITS.get(self.kv_type, 16))
        usage = {"weight": 1.0, "kvcache": 2.0, "token_capacity": tokens}
        told = {"internal_states": [{"memory_usage": usage}]} if self.tells_memory else {}
        return {self.tells_at: {**info, **told}}

    def _ollama(self, body: Any) -> dict[str, Any]:
        tags = {"models": [{"name": f"{self.model}:latest", "digest": "abc"}]}
        return {"/api/version": {"version": self.version}, "/api/tags": tags}

    def _llamacpp(self, body: Any) -> dict[str, Any]:
        if "n_predict" in body:
            self._tokens = len(body["prompt"].split())
        saved = getattr(self, "_tokens", 0)
        written = 200 + saved * 720 * GGML_BYTES.get(self.kv_type, 64) // 2
        return {
            "/props": {"build_info": self.version, "model_path": "/m.gguf", "total_slots": 1},
            "/completion": {"content": ""},
            "/slots/0": {"n_saved": saved, "n_written": written},
            "/tokenize": {"tokens": body.get("content", "").split()},
        }


def _events(word: str, usage: dict[str, int], chat: bool) -> Iterator[str]:
    """The events of a stream as vLLM and OpenAI send them: a piece a character."""
    deltas = [{"delta": {"content": c}} if chat else {"text": c} for c in word]
    first = [{"delta": {"role": "assistant", "content": ""}}] if chat else []
    last = {"delta": {}, "finish_reason": "stop"} if chat else {"text": "", "finish_reason": "stop"}
    for choice in [*first, *deltas, last]:
        yield f"data: {json.dumps({'choices': [{'index': 0, **choice}]})}"
    yield f"data: {json.dumps({'choices': [], 'usage': usage})}"
    yield "data: [DONE]"
