"""A server that has all arms, as an engine: found, identified, started and asked.

It is the embedded one, or serves an engine of the user's. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from pytest_kvbench.engines import fingerprint
from pytest_kvbench.engines.balance import Balanced, Client, alike
from pytest_kvbench.engines.base import Capabilities, Engine, RequestFailedError, TokenizerServer
from pytest_kvbench.engines.completion import NotACompletionError
from pytest_kvbench.engines.forced import compared
from pytest_kvbench.engines.keys import without_keys
from pytest_kvbench.engines.kinds import Kind, Startable, arms_per_request, kind_of
from pytest_kvbench.engines.launch import serve
from pytest_kvbench.engines.open_files import allow_open_files
from pytest_kvbench.engines.pacing import Pace
from pytest_kvbench.engines.places import Crowd, name_of
from pytest_kvbench.engines.policies import as_option
from pytest_kvbench.errors import EngineError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.files import run_folder
from pytest_kvbench.records import Answer, Failure, Request, digest

_TYPES = ("auto", "auto")
"""The cache of the server itself is in the model's own type; policies come with requests."""


class EmbeddedSource:
    """The embedded server of one run, or one that already runs at `settings.base_url`."""

    def __init__(
        self,
        settings: EngineSettings,
        kv: KV | None = None,
        *,
        run_id: str,
        owner_pid: int,
        log: Path,
        crowd: Crowd,
    ) -> None:
        self._settings = settings
        self._kv = kv or KV()
        self._run_id = run_id
        self._owner_pid = owner_pid
        self._log = log
        self._crowd = crowd

    def check(self) -> None:
        """See `EngineSource.check`."""
        if self._settings.base_url is None:
            self._start.check(self._settings)

    def fingerprint(self) -> dict[str, str]:
        """See `EngineSource.fingerprint`. A server that already runs is asked."""
        if self._urls:
            return alike(self._urls, self._ask_fingerprint)
        return self._start.facts(self._settings, _TYPES)

    def tokenizer_folder(self) -> Path | None:
        """See `EngineSource.tokenizer_folder`. What a foreign server serves may not be here."""
        return None if self._settings.base_url else self._kind.folder(self._settings)

    def tokenizer_server(self) -> TokenizerServer | None:
        """See `EngineSource.tokenizer_server`."""
        base_url, places = self._settings.base_url, self._settings.concurrency
        if not base_url:
            return None
        return TokenizerServer(
            self._settings.model, lambda: base_url, self._settings.headers, places=places
        )

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
            headers=self._settings.headers,
            pace=self._pace,
            max_bytes=self._settings.max_reply_bytes,
            foreign=bool(self._urls),
            sends_keys=False,
        )

    def _ask_fingerprint(self, base_url: str) -> dict[str, str]:
        from pytest_kvbench.engines.probe import Probe  # late: httpx, which no worker needs

        headers = self._settings.headers  # without a key: it needs none
        facts = self._kind.fingerprint(Probe(base_url, self._settings, headers))
        return {**facts, **fingerprint.of_headers(headers)}

    @property
    def _kind(self) -> Kind:
        return kind_of(self._settings)

    @property
    def _start(self) -> Startable:
        start = self._kind.start
        if start is None:
            raise ValueError("a kind with one server for all arms can be started")
        return start

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

    def _serve(self) -> str:
        wanted = self.fingerprint()
        threads = self._settings.threads

        classes = self._kind.classes(self._kv)

        def command(address: Path) -> list[str]:
            given = [f"--policy={name}" for name in map(as_option, classes)]
            start = self._start.command(self._settings, _TYPES, self._owner_pid, address, threads)
            return [*start, *given]

        served = serve(
            run_folder(self._run_id),
            f"local-{digest([wanted, threads, classes] if classes else [wanted, threads])[:12]}",
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
        self.capabilities = Capabilities(arms_per_request(settings), places=most)
        self._http = http
        self._settings = settings
        self._kind = kind_of(settings)
        self._places = places

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """See `Engine.answer`: one request to the server, one choice per arm, one prefill."""
        try:
            async with self._places:  # who waits holds no copy of a prompt
                reply = await self._http.post(*self._kind.request_body(self._settings, requests))
            outcomes = self._kind.read([r.key for r in requests], reply.data, reply.latency_s)
            shared = reply.waited_s / len(requests)
            pairs = zip(requests, outcomes, strict=True)
            return [_waited(compared(request, one), shared) for request, one in pairs]
        except RequestFailedError as failed:
            return [Failure(r.key, failed.kind, str(failed), failed.attempts) for r in requests]
        except NotACompletionError as refused:
            return [Failure(r.key, "ENGINE_ERROR", str(refused)) for r in requests]

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        await self._http.aclose()


def _waited(outcome: Answer | Failure, seconds: float) -> Answer | Failure:
    if isinstance(outcome, Failure) or outcome.telemetry is None:
        return outcome
    return replace(outcome, telemetry=replace(outcome.telemetry, waited_s=seconds))
