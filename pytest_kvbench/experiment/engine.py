"""Who answers: the `engine` section."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    model_validator,
)

from pytest_kvbench.experiment.limits import MAX_SECONDS, MAX_TOKENS
from pytest_kvbench.experiment.section import Fraction, Section, about
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.wire.addresses import is_header, problem_of
from pytest_kvbench.wire.bounded import MIB, REPLY

_HEADER_NAME = re.compile(r"[\w!#$%&'*+.^`|~-]+", re.ASCII)
_OF_THE_BODY = frozenset({"content-length", "transfer-encoding"})
_KEY_NAME = re.compile(
    r"authorization|cookie|secret|password|(api|access|auth)[-_]?(key|token)", re.IGNORECASE
)


_KEY_VALUE = re.compile(r"(Bearer|Basic) |sk-|hf_", re.IGNORECASE)


def _formed(url: str) -> str:
    if problem := problem_of(url):
        raise ValueError(problem)
    return url


Address = Annotated[str, AfterValidator(_formed)]


class Endpoint(Section):
    """A server that already runs, and the budget of the arm it serves.

    A list of addresses, of servers that answer alike, is the first and those that are there `also`.
    """

    base_url: Address = about("an address, as in http://127.0.0.1:8001/v1, or a list of them")
    also: tuple[Address, ...] = about(
        "further addresses of the same arm, as in http://127.0.0.1:8001/v1", default=()
    )
    budget: Fraction | None = about(
        "in (0, 1], where the policy's name does not say it", default=None
    )
    aa: bool = about(
        "true: an A/A arm, the control's own server under another name, which changes nothing; "
        "otherwise the control's address is refused",
        default=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _of_url(cls, data: Any) -> Any:
        return _first_and_others(data if isinstance(data, Mapping) else {"base_url": data})

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, without a slash at the end."""
        return tuple(url.rstrip("/") for url in (self.base_url, *self.also))


def _first_and_others(data: Any) -> Any:
    """A list under `base_url` becomes the first address and `also` the others."""
    urls = data.get("base_url") if isinstance(data, Mapping) else None
    if not isinstance(urls, list | tuple):
        return data
    if not urls or not all(isinstance(url, str) for url in urls) or len(set(urls)) < len(urls):
        raise ValueError("base_url: a list must name different addresses")
    return {**data, "base_url": urls[0], "also": tuple(urls[1:])}


class Launch(Section):
    """How servers are started, one per arm, where no address is given."""

    command: str | None = about(
        "a command line with {port}, and {policy}, {kv}, {budget} or {model} as it needs; unset: "
        "the engine's own",
        default=None,
    )
    health: str = about("the path that answers 200 once the server is up", default="/v1/models")
    at_once: int | None = about(
        "servers up together; fewer than arms run one after another (-n 0); unset: all",
        default=None,
        ge=1,
        le=1_000,
    )
    context: int = about(
        "tokens of prompt and answer together, at least 256", default=4096, ge=256, le=MAX_TOKENS
    )
    parallel: int = about(
        "requests one llama.cpp server decodes together", default=1, ge=1, le=1_000
    )


ENGINES = ("local", "llamacpp", "vllm", "sglang", "ollama", "openai")
"""The engines that there are; every other name is that of a user's."""


class EngineSettings(Section):
    """Which servers answer, and how they are asked."""

    name: str = about(
        "local (the embedded server), llamacpp, vllm, sglang, ollama, openai, or an engine of "
        "yours: ./FILE.py:Class, MODULE:Class, or a name that a conftest gives one",
        default="local",
        min_length=1,
        max_length=1_000,
    )
    model: str = about(
        "a folder, a .gguf file, a hub id (org/name[@revision]), a served name or smollm2-135m",
        default="smollm2-135m",
    )
    base_url: Address | None = about(
        "the address of a server that already runs (the control's, where there are several), as in "
        "http://127.0.0.1:8000/v1, or a list of servers that answer alike; unset: the run starts "
        "its own",
        default=None,
    )
    also: tuple[Address, ...] = about(
        "further addresses beside base_url, as in http://127.0.0.1:8000/v1", default=()
    )
    endpoints: Mapping[str, Endpoint] = about(
        "servers by arm: {none: URL, q8_0: URL, snapkv@0.5: URL, mine: {base_url: URL, budget: "
        "0.3}}",
        default_factory=dict,
    )
    launch: Launch = Launch()
    mode: Literal["live", "batch"] = about(
        "live (asks and waits) or batch (hands files to a server that runs already, and fetches "
        "what is done on a later run)",
        default="live",
    )
    api: Literal["auto", "chat", "completions"] = about(
        "auto (as each task's prompt says), chat or completions", default="auto"
    )
    sweep: bool = about(
        "true: all arms of an example share one request and its prefill where the engine can; "
        "false: each is asked alone, so that its latency is its own",
        default=True,
    )
    stream: bool = about("true: measure the time to the first token", default=False)
    extra_body: Mapping[str, object] = about(
        "more fields of a request, none that has a key of its own; null takes one of ours away",
        default_factory=dict,
    )
    headers: Mapping[str, str] = about("more headers of a request, no keys", default_factory=dict)
    api_key_env: str | None = about(
        "the environment variable that holds the key; unset: KVBENCH_API_KEY, then OPENAI_API_KEY",
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    declared: Mapping[str, str] = about(
        "what the server does not tell: {revision: ..., dtype: ...}", default_factory=dict
    )
    concurrency: int = about(
        "requests in flight per run, from 1 to 10,000", default=4, ge=1, le=10_000
    )
    max_rpm: float | None = about(
        "requests a minute per run, from 0.01; unset: no limit", default=None, ge=0.01, le=1e9
    )
    max_tpm: float | None = about(
        "tokens a minute per run, of prompts and replies, from 1; unset: no limit",
        default=None,
        ge=1,
        le=1e12,
    )
    timeout_s: float = about(
        "seconds each try of a request may take", default=600.0, gt=0, le=MAX_SECONDS
    )
    retries: int = about(
        "tries after the first, at most 30 s apart, for timeouts, lost connections, replies that "
        "the server broke off, 408, 409, 425, 429 "
        "and 5xx",
        default=3,
        ge=0,
        le=1_000,
    )
    start_timeout_s: float = about(
        "seconds a server may take to start", default=300.0, gt=0, le=MAX_SECONDS
    )
    max_reply_mb: float = about(
        "MB of a reply that are read (of 2**20 bytes, unpacked); a larger one is a failure",
        default=REPLY / MIB,
        gt=0,
        le=4096,
    )
    dtype: Literal["float32", "float32-medium", "bfloat16", "float16"] | None = about(
        "float32, bfloat16, float16, or float32-medium of local (float32 with torch's medium "
        "precision of products); unset: for local bfloat16 on a GPU and float32 without one, else "
        "the server's own",
        default=None,
    )
    slots: str = about(
        "for local, rows that decode together x tokens of each, as in 8x16384; auto (on a GPU as "
        "many tokens as its memory holds, else none) or none",
        default="auto",
        pattern=r"auto|none|[0-9]{1,4}x[0-9]{1,9}(/[0-9]{1,9})?",
    )
    threads: int | None = about(
        "threads of a server that we start; unset: all cores", default=None, ge=1, le=10_000
    )

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, data: Any) -> Any:
        return _first_and_others(data)

    @model_validator(mode="after")
    def _consistent(self) -> EngineSettings:
        _refuse_keys(self)
        _check_headers(self.headers)
        if self.launch.command and (self.base_url or self.endpoints):
            raise ValueError(
                "launch.command starts servers; base_url and endpoints name running ones"
            )
        if self.base_url and FULL_CACHE in self.endpoints:
            raise ValueError(f"base_url and endpoints.{FULL_CACHE} both name the control's server")
        if self.mode == "batch":
            self._check_batch()
        return self

    def _check_batch(self) -> None:
        if not self.addresses:
            raise ValueError(
                "mode batch needs a server that outlives the run: name base_url or endpoints"
            )
        if self.stream:
            raise ValueError("stream measures a live reply: not with mode batch")

    @property
    def max_reply_bytes(self) -> int:
        """`max_reply_mb` in bytes."""
        return max(1, int(self.max_reply_mb * MIB))

    @property
    def addresses(self) -> dict[str, Endpoint]:
        """Servers that already run, by arm; `base_url` serves the control. Empty: we start them."""
        if self.base_url is None:
            return dict(self.endpoints)
        return {FULL_CACHE: Endpoint(base_url=self.base_url, also=self.also), **self.endpoints}


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _OF_THE_BODY:
            raise ValueError(f"headers: {name!r} cannot be set: valid are names as X-Team")
        if not is_header(value):
            raise ValueError(f"headers.{name} is not one line of printable ASCII")


def _refuse_keys(engine: EngineSettings) -> None:
    """A key in an experiment would reach the database and every report."""
    texts: dict[str, tuple[str, object]] = {
        f"headers.{k}": (k, v) for k, v in engine.headers.items()
    }
    texts |= {f"extra_body.{k}": (k, v) for k, v in engine.extra_body.items()}
    texts |= {"launch.command": (engine.launch.command or "", "")}
    for place, (name, value) in texts.items():
        if _KEY_NAME.search(name) or (isinstance(value, str) and _KEY_VALUE.match(value)):
            raise ValueError(
                f"{place} looks like it holds a key: set KVBENCH_API_KEY in the environment"
            )
    if any("@" in urlsplit(url).netloc for e in engine.addresses.values() for url in e.urls):
        raise ValueError("an address holds a password: set KVBENCH_API_KEY in the environment")
