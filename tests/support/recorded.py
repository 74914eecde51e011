"""What a real vLLM answered, kept in tests/recorded/vllm.json and given again by `Replay`.

    python -m tests.support.recorded PYTHON     # of an environment with a vLLM; `make engines`

Two servers, one after the other, are asked by the code that asks them in a run: the control in
float32 and an arm in bfloat16, weights and cache, which any processor serves. Kept short: of
`/metrics` the cache's line, of positions before the reply the first token. A request of ours that
was not recorded is refused: record anew, and look.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request as Asked
from starlette.responses import Response
from starlette.routing import Route

from pytest_kvbench.divergence.records import Divergence
from pytest_kvbench.engines import reference
from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.engines.launch import serve, stop_all
from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.engines.watch import command_line
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.records import FULL_CACHE, Answer, Arm, Prompt, Request, Sampling
from pytest_kvbench.server import weights
from tests.support.pages import ROOT
from tests.support.serving import Serving

FILE = ROOT / "tests" / "recorded" / "vllm.json"
MODEL = "smollm2-135m"
NEW = 8
ARM = "bfloat16"
DTYPES = {FULL_CACHE: "float32", ARM: "bfloat16"}
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    "HF_HUB_OFFLINE": "1",
}
"""A real one's environment: 2 GiB of cache, our cores, no network."""
_KIND = KINDS["vllm"]
_JSON = {"Content-Type": "application/json"}
_CONFIG = "vllm:cache_config_info"


@dataclass(frozen=True)
class Heard:
    """What our code makes of one server."""

    facts: Mapping[str, str]
    size: float | None
    chat: Answer
    streamed: Answer
    plain: Answer
    free: reference.Compared
    forced: reference.Compared


def hear(base_url: str, full: Heard | None = None) -> Heard:
    """Ask a server all that a run asks; of an arm, with what the full cache's server said."""
    settings = EngineSettings(name="vllm", model=MODEL)
    probe = Probe(base_url, settings)
    return asyncio.run(_hear(base_url, _KIND.fingerprint(probe), _KIND.size(probe), full))


async def _hear(
    base_url: str, facts: Mapping[str, str], size: float | None, full: Heard | None
) -> Heard:
    http = Http(base_url, concurrency=1, timeout_s=300, retries=0)
    try:
        chat, plain = _body(chat=True), _body(chat=False)
        streamed = _body(chat=True, stream=True)
        control: Divergence | None = full and full.free[1]
        return Heard(
            facts,
            size,
            *[await _answer(http, body) for body in (chat, streamed, plain)],
            await reference.free(http, _KIND, "free", chat, control),
            await (
                reference.arm(http, _KIND, "forced", chat, full.forced)
                if full
                else reference.full_cache(http, _KIND, "forced", chat)
            ),
        )
    finally:
        await http.aclose()


async def _answer(http: Http, body: tuple[str, dict[str, Any]]) -> Answer:
    reply = await http.post(*body, stream="stream" in body[1])
    (answer,) = _KIND.read(["k"], reply.data, reply.latency_s, reply.ttft_s)
    assert isinstance(answer, Answer), answer
    return answer


def _body(*, chat: bool, stream: bool = False) -> tuple[str, dict[str, Any]]:
    settings = EngineSettings(name="vllm", model=MODEL, stream=stream)
    arm = Arm("e", "m", "f", FULL_CACHE, 1.0, Sampling(), "t")
    prompt = Prompt("Paris is the capital of", " France. Rome is the capital of", NEW, chat=chat)
    return _KIND.request_body(settings, [Request(arm, "t", 0, "e", 0, prompt)])


@dataclass
class Recorder(Serving):
    """Sends on to a server what it is asked, and keeps what that answers."""

    upstream: str
    kept: list[dict[str, Any]] = field(default_factory=list)

    def routes(self) -> list[Route]:
        return [Route("/{path:path}", self._serve, methods=["GET", "POST"])]

    async def _serve(self, request: Asked) -> Response:
        sent, path = await request.body(), request.url.path
        async with httpx.AsyncClient(timeout=300, headers=_JSON) as client:
            reply = await client.request(request.method, self.upstream + path, content=sent)
        body = json.loads(sent) if sent else None
        kind = reply.headers["content-type"]
        self.kept.append(
            {"path": path, "sent": body, "status": reply.status_code, "type": kind}
            | {"reply": _shortened(reply.text, kind)}
        )
        return Response(reply.content, reply.status_code, media_type=kind)


def _shortened(text: str, kind: str) -> Any:
    if not kind.startswith("application/json"):
        lines = text.splitlines(keepends=True)
        return text if _CONFIG not in text else "".join(x for x in lines if _CONFIG in x)
    data = json.loads(text)
    for model in data.get("data", []):
        model.pop("root", None)  # a folder of the machine
    for choice in data.get("choices", []):
        if named := choice.get("prompt_logprobs"):
            first = [at and dict([*at.items()][:1]) for at in named[:-NEW]]
            choice["prompt_logprobs"] = [*first, *named[-NEW:]]
    return data


@dataclass
class Replay(Serving):
    """A server as it was recorded, under a KV type."""

    kept: list[dict[str, Any]]

    def routes(self) -> list[Route]:
        return [Route("/{path:path}", self._serve, methods=["GET", "POST"])]

    async def _serve(self, request: Asked) -> Response:
        sent = await request.body()
        wanted = request.url.path, json.loads(sent) if sent else None
        for one in self.kept:
            if (one["path"], one["sent"]) == wanted:
                reply = one["reply"]
                text = reply if isinstance(reply, str) else json.dumps(reply)
                return Response(text, one["status"], media_type=one["type"])
        return Response(f"never asked of the real one: {wanted}", 404)


def recorded() -> dict[str, Any]:
    """The program, and what it answered under each policy."""
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return data


def command(python: str, folder: str, kv_type: str, dtype: str = "bfloat16") -> list[str]:
    """The command line of a real one that serves a model's folder, with `{port}`."""
    return [
        *(python, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"),
        *("--port", "{port}", "--model", folder, "--kv-cache-dtype", kv_type),
        *("--dtype", dtype, "--max-model-len", "2048", "--enforce-eager"),
        *("--no-enable-prefix-caching", "--generation-config", "vllm"),
    ]


@contextmanager
def _running(python: str, dtype: str) -> Iterator[str]:
    """A real server's address, without the `/v1`."""
    folder = Path(tempfile.mkdtemp(prefix="kvbench-recorded-"))
    model = str(weights.materialise(weights.resolve(MODEL)))
    words = [*command(python, model, "auto", dtype), "--served-model-name", MODEL]
    try:
        yield serve(
            folder,
            "vllm",
            lambda address: command_line(os.getpid(), address, "/v1/models", words),
            log=ROOT / "reports" / "engines" / f"recorded-{dtype}.log",
            timeout_s=600,
            env={**os.environ, **VARIABLES},
        ).base_url.removesuffix("/v1")
    finally:
        stop_all(folder)


def main(python: str) -> int:
    """Record both servers, and print what our code made of them."""
    full, servers = None, {}
    for policy, dtype in DTYPES.items():
        with _running(python, dtype) as upstream, Recorder(upstream) as recorder:
            heard = hear(recorder.base_url, full)
            full = full or heard
            servers[policy] = recorder.kept
            print(dtype, heard.facts, heard.size, repr(heard.chat.text), flush=True)
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(servers, separators=(",", ":")) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
