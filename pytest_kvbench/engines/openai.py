"""Any OpenAI-compatible server as an engine: one request an arm, each arm at its own server."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

from pytest_kvbench.divergence.records import UnsoundError
from pytest_kvbench.engines import arms, fingerprint, reference
from pytest_kvbench.engines.balance import Balanced, Client
from pytest_kvbench.engines.base import (
    Capabilities,
    Engine,
    RequestFailedError,
    TokenizerServer,
    bearer,
)
from pytest_kvbench.engines.body import Body
from pytest_kvbench.engines.completion import NotACompletionError
from pytest_kvbench.engines.fleet import Fleet, NoControlError, Station, Up
from pytest_kvbench.engines.keys import api_key_of, check_absent
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.engines.launch import once
from pytest_kvbench.engines.open_files import allow_open_files
from pytest_kvbench.engines.pacing import Pace
from pytest_kvbench.engines.places import Crowd, name_of
from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.engines.servers import Running, Servers, Started, at_once, check_declared
from pytest_kvbench.errors import EngineError, RefusedError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.files import run_folder
from pytest_kvbench.records import (
    FULL_CACHE,
    Answer,
    Failure,
    Request,
    canonical,
    digest,
)


class OpenAISource:
    """The servers of one run's experiment, started by us or running already."""

    def __init__(
        self,
        settings: EngineSettings,
        kv: KV,
        *,
        run_id: str,
        owner_pid: int,
        log: Path,
        crowd: Crowd,
    ) -> None:
        self._settings = settings
        self._kv = kv
        self._kind = kind_of(settings)
        self._run_id = run_id
        self._crowd = crowd
        self._at_once = at_once(settings, kv)
        self._servers: Servers = (
            Running(settings, self._probe)
            if settings.addresses
            else Started(settings, kv, run_id, owner_pid, log)
        )

    def check(self) -> None:
        """See `EngineSource.check`."""
        if self._crowd.share > 1 and self._at_once < len(arms.arms(self._settings, self._kv)):
            raise UsageError(
                f"engine.launch.at_once: {self._at_once} server at a time cannot serve "
                f"{self._crowd.share} workers",
                "run it with -n 0, or leave at_once away",
            )
        check_absent(self._settings, api_key_of(self._settings))
        self._servers.check()

    def fingerprint(self) -> dict[str, str]:
        """See `EngineSource.fingerprint`."""
        return fingerprint.merge(
            {
                name: {**self._settings.declared, **self._sent, **self._servers.facts(name)}
                for name in arms.arms(self._settings, self._kv)
            }
        )

    def tokenizer_folder(self) -> Path | None:
        """See `EngineSource.tokenizer_folder`."""
        folder = Path(self._settings.model)
        return folder if (folder / "tokenizer.json").is_file() else None

    def tokenizer_server(self) -> TokenizerServer | None:
        """See `EngineSource.tokenizer_server`."""
        return TokenizerServer(
            self._settings.model,
            lambda: self._servers.open(FULL_CACHE),
            self._headers,
            self._servers.vocabulary,
            self._settings.concurrency,
        )

    def start(self) -> Engine:
        """See `EngineSource.start`: servers come up when they are first asked."""
        most = self._crowd.most(self._settings.concurrency)
        running = sum(len(one.urls) for one in self._settings.addresses.values())
        allow_open_files(most, running or self._at_once)
        fleet = Fleet(
            self._bring_up,
            self._servers.close,
            at_once=self._at_once,
            control_first=self._kind.size is not None,
        )
        places = self._crowd.places(self._settings.concurrency, name_of(self._settings))
        return OpenAIEngine(fleet, self._settings, self._kv, most, places)

    @cached_property
    def _pace(self) -> Pace:
        return self._crowd.pace(self._settings)

    @cached_property
    def _headers(self) -> dict[str, str]:
        return {**self._settings.headers, **bearer(api_key_of(self._settings))}

    @property
    def _sent(self) -> dict[str, str]:
        """What of our requests may change an answer and is in no arm."""
        body = {**self._kind.extras, **self._settings.extra_body}
        headers = fingerprint.of_headers(self._settings.headers)
        return {"api": self._settings.api, "request": canonical(body).decode(), **headers}

    def _probe(self, base_url: str) -> Probe:
        starts_s = self._settings.start_timeout_s
        return Probe(base_url, self._settings, self._headers, starts_s=starts_s)

    def _bring_up(self, name: str) -> Up:
        base_url = self._servers.open(name)
        ours = not self._settings.addresses and self._settings.launch.command is None
        if not ours and self._settings.declared:
            check_declared(self._settings, self._kind.fingerprint(self._probe(base_url)))
        # What we start queues nothing: a request that waits would look slow.
        slots = self._settings.launch.parallel if ours and self._kind.has_slots else None
        connect = partial(self._connect, slots=slots)
        urls = self._servers.urls(name)
        if len(urls) < 2:
            return Up(connect(base_url), self._measured(base_url))
        facts = self._kind.fingerprint(self._probe(base_url))

        def is_well(url: str) -> bool:
            probe = self._probe(url)
            return probe.is_there() and self._kind.fingerprint(probe) == facts

        return Up(Balanced(urls, connect, is_well), self._measured(base_url))

    def _connect(self, base_url: str, slots: int | None) -> Client:
        # Late: aiohttp, which a resumed run does without.
        from pytest_kvbench.engines.client import Http

        return Http(
            base_url,
            concurrency=self._crowd.most(self._settings.concurrency),
            places=None if slots is None else self._crowd.places(slots, _slots_of(base_url)),
            timeout_s=self._settings.timeout_s,
            retries=self._settings.retries,
            api_key=api_key_of(self._settings),
            headers=self._settings.headers,
            pace=self._pace,
            max_bytes=self._settings.max_reply_bytes,
            foreign=bool(self._settings.addresses),
            start_timeout_s=self._settings.start_timeout_s,
        )

    def _measured(self, base_url: str) -> float | None:
        """A token's share of a server's cache, measured once a run."""
        measure = self._kind.size
        if measure is None:
            return None
        size: float | None = once(
            run_folder(self._run_id),
            f"size-{digest(base_url)[:12]}",
            lambda: measure(self._probe(base_url)),
        )
        return size


def _slots_of(base_url: str) -> str:
    return f"slots-{digest(base_url)[:12]}"


class OpenAIEngine:
    """A client of the servers of an experiment's arms."""

    def __init__(
        self,
        fleet: Fleet,
        settings: EngineSettings,
        kv: KV,
        most: int,
        places: AbstractAsyncContextManager[None],
    ) -> None:
        self.capabilities = Capabilities(arms_per_request=1, places=most)
        self._fleet = fleet
        self._settings = settings
        self._kv = kv
        self._kind = kind_of(settings)
        self._places = places

    async def answer(self, requests: Sequence[Request]) -> list[Answer | Failure]:
        """See `Engine.answer`: `requests` is one request."""
        return [await self._answer(request) for request in requests]

    async def aclose(self) -> None:
        """See `Engine.aclose`."""
        await self._fleet.aclose()

    async def _answer(self, request: Request) -> Answer | Failure:
        arm = request.arm
        server = arms.server_name(self._settings, self._kv, arm.policy, arm.budget)
        try:
            # First the server, then the place: who waits for another server must not hold one,
            # and who waits for either holds no copy of a prompt.
            async with self._fleet.use(server) as station, self._places:
                body = self._kind.request_body(self._settings, [request])
                if request.arm.method:
                    compared = await self._compared(station, request, body)
                    return self._with_memory(compared, station)
                reply = await station.http.post(*body, stream=self._settings.stream)
            (outcome,) = self._kind.read([request.key], reply.data, reply.latency_s, reply.ttft_s)
            return self._with_memory(outcome, station, reply.waited_s)
        except RequestFailedError as failed:
            return Failure(request.key, failed.kind, str(failed), failed.attempts)
        except EngineError as error:
            if server == FULL_CACHE or isinstance(error, RefusedError | NoControlError):
                raise
            return Failure(request.key, "ENGINE_ERROR", error.what)  # the other arms go on
        except (NotACompletionError, UnsoundError) as refused:
            return Failure(request.key, "ENGINE_ERROR", str(refused))

    async def _compared(self, station: Station, request: Request, body: Body) -> Answer:
        """What its server says of the full cache's reply, or of its own beside that."""
        full, http, key = request.against, station.http, request.key
        known = None if full is None else full.divergence
        if request.arm.method == "free":
            answer, found = await reference.free(http, self._kind, key, body, known)
        elif full is None or known is None:
            answer, found = await reference.full_cache(http, self._kind, key, body)
        else:
            treated = not request.arm.is_control
            asked = reference.arm(http, self._kind, key, body, (full, known), treated=treated)
            answer, found = await asked
        return replace(answer, divergence=found)

    def _with_memory(
        self, outcome: Answer | Failure, station: Station, waited_s: float = 0.0
    ) -> Answer | Failure:
        """An answer with what its server's cache was measured to take."""
        if isinstance(outcome, Failure) or outcome.telemetry is None:
            return outcome
        cost = outcome.telemetry
        achieved = station.size / station.full if station.size and station.full else None
        kept = self._bytes(station.size, cost.prompt_tokens)
        full = self._bytes(station.full, cost.prompt_tokens)
        known = cost.achieved, cost.kept_bytes, cost.full_bytes, cost.waited_s
        if known == (achieved, kept, full, waited_s):
            return outcome  # as most are: a copy is looked through anew
        measured = replace(
            cost, achieved=achieved, kept_bytes=kept, full_bytes=full, waited_s=waited_s
        )
        return replace(outcome, telemetry=measured)

    def _bytes(self, size: float | None, tokens: int | None) -> int | None:
        if size is None or tokens is None or not self._kind.in_bytes:
            return None
        return round(size * tokens)
