"""The embedded server as an engine: found, identified, started and asked. Imports no torch."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kvbench.engines import completion
from pytest_kvbench.engines.balance import Balanced, Client, alike
from pytest_kvbench.engines.base import Capabilities, Engine, RequestFailedError, TokenizerServer
from pytest_kvbench.engines.completion import NotACompletionError
from pytest_kvbench.engines.keys import without_keys
from pytest_kvbench.engines.launch import serve
from pytest_kvbench.engines.open_files import allow_open_files
from pytest_kvbench.engines.pacing import Pace
from pytest_kvbench.engines.places import Crowd, name_of
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.files import run_folder
from pytest_kvbench.records import Answer, Failure, Request, digest
from pytest_kvbench.server import weights
from pytest_kvbench.wire import bounded, sound
from pytest_kvbench.wire.network import client_of

ARMS = 64
_PROBE_S = 10.0


class EmbeddedSource:
    """The embedded server of one run, or one that already runs at `settings.base_url`."""

    def __init__(
        self, settings: EngineSettings, *, run_id: str, owner_pid: int, log: Path, crowd: Crowd
    ) -> None:
        self._settings = settings
        self._run_id = run_id
        self._owner_pid = owner_pid
        self._log = log
        self._crowd = crowd

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
        base_url, places = self._settings.base_url, self._settings.concurrency
        if not base_url:
            return None
        return TokenizerServer(self._settings.model, lambda: base_url, places=places)

    def start(self) -> Engine:
        """See `EngineSource.start`."""
        most = self._crowd.most(self._settings.concurrency)
        allow_open_files(most, len(self._urls) or 1)
        if len(self._urls) > 1:
            expected = self.fingerprint()
            client: Client = Balanced(
                self._urls, self._connect, lambda url: self._ask_fingerprint(url) == expected
            )
        else:
            client = self._connect(self._settings.base_url or self._serve())
        places = self._crowd.places(self._settings.concurrency, self._name)
        return EmbeddedEngine(client, self._settings, most, places)

    def _connect(self, base_url: str) -> Client:
        # Late: aiohttp, which a resumed run does without.
        from pytest_kvbench.engines.client import Http

        return Http(
            base_url,
            concurrency=self._crowd.most(self._settings.concurrency),
            timeout_s=self._settings.timeout_s,
            retries=self._settings.retries,
            pace=self._pace,
            max_bytes=self._settings.max_reply_bytes,
            foreign=bool(self._urls),
            sends_keys=False,
        )

    def _ask_fingerprint(self, base_url: str) -> dict[str, str]:
        return _ask_fingerprint(base_url, self._settings.model)

    @cached_property
    def _pace(self) -> Pace:
        return self._crowd.pace(self._settings)

    @property
    def _name(self) -> str:
        return name_of(self._settings)

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
                *(sys.executable, "-m", "pytest_kvbench.server"),
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
            env=without_keys(self._settings),
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

    def __init__(
        self,
        http: Client,
        settings: EngineSettings,
        most: int,
        places: AbstractAsyncContextManager[None],
    ) -> None:
        together = ARMS if settings.shares_prefill else 1
        self.capabilities = Capabilities(arms_per_request=together, places=most)
        self._http = http
        self._model = settings.model
        self._places = places

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """See `Engine.answer`: one request to the server, one choice per arm, one prefill."""
        try:
            async with self._places:  # who waits holds no copy of a prompt
                reply = await self._http.post(*request_body(self._model, requests))
            found = completion.read_arms([r.key for r in requests], reply.data, reply.latency_s)
            return [_waited(one, reply.waited_s / len(requests)) for one in found]
        except RequestFailedError as failed:
            return [Failure(r.key, failed.kind, str(failed), failed.attempts) for r in requests]
        except NotACompletionError as refused:
            return [Failure(r.key, "ENGINE_ERROR", str(refused)) for r in requests]

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        await self._http.aclose()


def _waited(found: Answer | Failure, seconds: float) -> Answer | Failure:
    if isinstance(found, Failure) or found.telemetry is None:
        return found
    return replace(found, telemetry=replace(found.telemetry, waited_s=seconds))


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


def _ask_fingerprint(base_url: str, model: str) -> dict[str, str]:
    import httpx  # brings a command line of its own: 15 MB that no worker needs

    url = base_url.rstrip("/") + "/models"
    try:
        with client_of(url, timeout_s=_PROBE_S) as client:
            response = bounded.fetch(client, "GET", url)
        if not response.is_success:
            message = f"HTTP {response.status_code}: {completion.error_message(response.content)}"
            raise EngineError(
                f"engine.base_url: {url} is no list of models: {sound.said(message).rstrip(' :')}",
                "name an embedded server, with its /v1; no key is sent to one",
            )
        entries = sound.objects(sound.fields(sound.data(response.content)).get("data"))
    except (httpx.HTTPError, bounded.TooLargeError, ValueError) as error:
        raise EngineError(
            f"engine.base_url: no server answers at {url}: {sound.said(str(error))}",
            "start it: kvbench serve --port 8000",
        ) from None
    served = {str(n): e for e in entries for n in (e.get("id"), *_list(e.get("aliases")))}
    if model not in served:
        raise EngineError(
            f"engine.model: {model!r} is not served at {base_url}",
            f"served there: {', '.join(sorted(served))}",
        )
    fingerprint = sound.fields(served[model].get("fingerprint"))
    return {name: str(value) for name, value in fingerprint.items()}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
