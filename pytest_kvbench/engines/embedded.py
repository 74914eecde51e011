"""The embedded server as an engine: found, identified, started and asked. Imports no torch."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kvbench.engines.balance import Balanced, Client, alike
from pytest_kvbench.engines.base import Capabilities, Engine, RequestFailedError, TokenizerServer
from pytest_kvbench.engines.launch import serve
from pytest_kvbench.engines.local import weights
from pytest_kvbench.engines.pacing import Pace
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.files import run_folder
from pytest_kvbench.records import Answer, Failure, Request, Telemetry, digest
from pytest_kvbench.settings import EngineSettings

_PROBE_S = 10.0


class EmbeddedSource:
    """The embedded server of one run, or one that already runs at `settings.base_url`."""

    def __init__(
        self, settings: EngineSettings, *, run_id: str, owner_pid: int, log: Path, share: int
    ) -> None:
        self._settings = settings
        self._run_id = run_id
        self._owner_pid = owner_pid
        self._log = log
        self._share = share

    def check(self) -> None:
        """See `EngineSource.check`."""
        if self._settings.base_url is not None:
            return
        missing = [m for m in ("torch", "transformers", "kvpress") if not _installed(m)]
        if missing:
            raise UsageError(
                f"engine.name: local needs {', '.join(missing)}, which is not installed",
                "install it: pip install 'pytest-kvbench[local]'",
            )
        weights.resolve(self._settings.model)

    def fingerprint(self) -> dict[str, str]:
        """See `EngineSource.fingerprint`. A server that already runs is asked."""
        if self._urls:
            return alike(self._urls, self._ask_fingerprint)
        return weights.fingerprint_parts(self._folder, self._dtype, "auto")

    def tokenizer_folder(self) -> Path | None:
        """See `EngineSource.tokenizer_folder`. What a foreign server serves may not be here."""
        return None if self._settings.base_url else self._folder

    def tokenizer_server(self) -> TokenizerServer | None:
        """See `EngineSource.tokenizer_server`."""
        base_url = self._settings.base_url
        return TokenizerServer(self._settings.model, lambda: base_url) if base_url else None

    def start(self) -> Engine:
        """See `EngineSource.start`."""
        if len(self._urls) > 1:
            known = self.fingerprint()
            client: Client = Balanced(
                self._urls, self._connect, lambda url: self._ask_fingerprint(url) == known
            )
        else:
            client = self._connect(self._settings.base_url or self._serve())
        return EmbeddedEngine(client, self._settings.model, self._settings.places(self._share))

    def _connect(self, base_url: str) -> Client:
        # Late: aiohttp, which a resumed run does without.
        from pytest_kvbench.engines.client import Http

        return Http(
            base_url,
            concurrency=self._settings.places(self._share),
            timeout_s=self._settings.timeout_s,
            retries=self._settings.retries,
            pace=self._pace,
        )

    def _ask_fingerprint(self, base_url: str) -> dict[str, str]:
        return _ask_fingerprint(base_url, self._settings.model)

    @cached_property
    def _pace(self) -> Pace:
        return Pace(self._settings.max_rpm, self._settings.max_tpm, self._share)

    @property
    def _urls(self) -> tuple[str, ...]:
        """The servers that already run."""
        return next((endpoint.urls for endpoint in self._settings.addresses.values()), ())

    @property
    def _dtype(self) -> str:
        return self._settings.dtype or "float32"

    @cached_property
    def _folder(self) -> Path:
        return weights.materialise(weights.resolve(self._settings.model))

    def _serve(self) -> str:
        wanted = self.fingerprint()
        threads = self._settings.threads

        def command(address: Path) -> list[str]:
            return [
                *(sys.executable, "-m", "pytest_kvbench.engines.local"),
                *("--model", self._settings.model),
                *("--dtype", self._dtype, "--port", "0"),
                *("--watch-pid", str(self._owner_pid), "--address-file", str(address)),
                *(("--threads", str(threads)) if threads else ()),
            ]

        served = serve(
            run_folder(self._run_id),
            f"local-{digest([wanted, threads])[:12]}",
            command,
            log=self._log,
            timeout_s=self._settings.start_timeout_s,
        )
        if served.fingerprint != wanted:
            differ = sorted(
                k
                for k in {*wanted, *served.fingerprint}
                if wanted.get(k) != served.fingerprint.get(k)
            )
            raise EngineError(
                f"the server at {served.base_url} is not the one asked for: {', '.join(differ)}",
                "was a package upgraded while the run was starting? Run again",
            )
        return served.base_url


class EmbeddedEngine:
    """A client of the embedded server."""

    def __init__(self, http: Client, model: str, concurrency: int) -> None:
        self.capabilities = Capabilities(arms_per_request=64, places=concurrency)
        self._http = http
        self._model = model
        self._places = asyncio.Semaphore(concurrency)

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """See `Engine.answer`: one request to the server, one choice per arm, one prefill."""
        try:
            async with self._places:  # who waits holds no copy of a prompt
                reply = await self._http.post(*request_body(self._model, requests))
            return _answers(requests, reply.data, reply.latency_s)
        except RequestFailedError as failed:
            return [Failure(r.key, failed.kind, str(failed), failed.attempts) for r in requests]

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        await self._http.aclose()


def request_body(model: str, requests: Sequence[Request]) -> tuple[str, dict[str, Any]]:
    """What asks for all arms of an example: the path below the `/v1`, and the body."""
    first = requests[0]
    prompt, sampling = first.prompt, first.arm.sampling
    arms = [_kv(request) for request in requests]
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": prompt.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed + first.replicate,
        "kv": arms,
    }
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.chat:
        parts = [{"type": "text", "text": text} for text in (prompt.head, prompt.tail)]
        return "/chat/completions", {**body, "messages": [{"role": "user", "content": parts}]}
    for arm in arms:
        if not arm["question_aware"]:
            arm["context_chars"] = len(prompt.head)
    return "/completions", {**body, "prompt": prompt.text}


def _kv(request: Request) -> dict[str, Any]:
    arm = request.arm
    return {
        "policy": arm.policy,
        "budget": arm.budget,
        "question_aware": arm.question_aware,
        "params": dict(arm.params),
    }


def _answers(
    requests: Sequence[Request], data: dict[str, Any], latency_s: float
) -> list[Answer | Failure]:
    try:
        choices = sorted(data["choices"], key=lambda choice: choice["index"])
        return [
            Answer(
                request.key,
                _text(choice),
                choice["finish_reason"],
                telemetry_of(choice, data, latency_s, len(requests)),
            )
            for request, choice in zip(requests, choices, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"the reply is not a completion for {len(requests)} arms: {error!r}"
        return [Failure(r.key, "ENGINE_ERROR", message) for r in requests]


def _text(choice: dict[str, Any]) -> str:
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if not isinstance(text, str):
        raise TypeError(f"content is {type(text).__name__}")
    return text


def telemetry_of(
    choice: Mapping[str, Any], data: Mapping[str, Any], latency_s: float | None, arms: int = 1
) -> Telemetry:
    """Tokens, and the cache's bytes where the server says them, of one choice of a reply.

    Args:
        choice: the arm's.
        data: the whole reply.
        latency_s: how long one waited for it; None where nobody did, as in a batch.
        arms: how many share the reply; of one, the usage is its own.
    """
    usage, kv = data.get("usage") or {}, choice.get("kv") or {}
    # Waiting behind our own other requests says nothing about an answer.
    queued_s = (data.get("timings") or {}).get("queue_s", 0.0)
    details = usage.get("prompt_tokens_details") or {}
    return Telemetry(
        latency_s=None if latency_s is None else max(0.0, latency_s - queued_s),
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=(usage if arms == 1 else choice).get("completion_tokens"),
        achieved=kv.get("achieved"),
        kept_bytes=kv.get("kept_bytes"),
        full_bytes=kv.get("full_bytes"),
        kept_tokens=kv.get("kept_tokens"),
        cached_tokens=details.get("cached_tokens"),
        arms_in_request=arms,
        note=kv.get("note") or "",
    )


def _ask_fingerprint(base_url: str, model: str) -> dict[str, str]:
    import httpx  # brings a command line of its own: 15 MB that no worker needs

    url = base_url.rstrip("/") + "/models"
    try:
        response = httpx.get(url, timeout=_PROBE_S).raise_for_status()
        served = {
            name: entry
            for entry in response.json()["data"]
            for name in (entry["id"], *entry.get("aliases", ()))
        }
    except (httpx.HTTPError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise EngineError(
            f"engine.base_url: no server answers at {url}: {error}",
            "start it: python -m pytest_kvbench.engines.local --port 8000",
        ) from None
    if model not in served:
        raise EngineError(
            f"engine.model: {model!r} is not served at {base_url}",
            f"served there: {', '.join(sorted(served))}",
        )
    return dict(served[model]["fingerprint"])


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
