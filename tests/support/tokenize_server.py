"""A scripted server with `/tokenize` alone, in the wire formats that real ones have."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tokenizers import Tokenizer

from tests.support.serving import Serving

Style = Literal["llama.cpp", "vllm", "old vllm", "counts"]
STYLES: tuple[Style, ...] = ("llama.cpp", "vllm", "old vllm", "counts")
WITH_PIECES: tuple[Style, ...] = ("llama.cpp", "vllm")


@dataclass
class TokenizeServer(Serving):
    """`asked` are the texts, a call each. `most` calls were under way at once."""

    backend: Tokenizer
    style: Style
    latency_s: float = 0.0
    asked: list[str] = field(default_factory=list)
    most: int = 0
    _now: int = 0

    def routes(self) -> list[Route]:
        return [Route("/tokenize", self._tokenize, methods=["POST"])]

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(self.latency_s)
        self._now -= 1
        name = "content" if self.style == "llama.cpp" else "prompt"
        if name not in body:
            return JSONResponse({"error": f"{name} is missing"}, status_code=400)
        if self.style == "old vllm" and set(body) - {"model", "prompt", "add_special_tokens"}:
            return JSONResponse({"error": "extra fields are forbidden"}, status_code=400)
        self.asked.append(body[name])
        return JSONResponse(self._told(body))

    def _told(self, body: dict[str, Any]) -> dict[str, Any]:
        encoding = self.backend.encode(self.asked[-1], add_special_tokens=False)
        if self.style == "counts":
            return {"count": len(encoding.ids)}
        if self.style == "vllm" and body.get("return_token_strs"):
            return {"tokens": encoding.ids, "token_strs": encoding.tokens}
        if self.style == "llama.cpp" and body.get("with_pieces"):
            text = self.asked[-1]
            ends = [0, *(end for _, end in encoding.offsets)]
            pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
            tokens = [{"id": i, "piece": p} for i, p in zip(encoding.ids, pieces, strict=True)]
            return {"tokens": tokens}
        return {"tokens": encoding.ids}
