"""What is declared: YAML + base merge + ${ENV} + overrides -> one frozen `Experiment`.

Every error names the file, the key, the value and what is valid, in two lines.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pytest_kvbench.addresses import problem_of
from pytest_kvbench.bounded import MIB, REPLY
from pytest_kvbench.errors import ExperimentError, UsageError
from pytest_kvbench.reading import brief, odd_value, parse_yaml, read_text, refuse_yes
from pytest_kvbench.reading.strict_yaml import MAX_TEXT
from pytest_kvbench.records import FULL_CACHE, Sampling

_KEY_NAME = re.compile(
    r"authorization|cookie|secret|password|(api|access|auth)[-_]?(key|token)", re.IGNORECASE
)
_KEY_VALUE = re.compile(r"(Bearer|Basic) |sk-|hf_", re.IGNORECASE)
_ENV = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

_STAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")

GROUP_NAMES = "a folder name of letters, digits, dot, dash and underscore"
_GROUP = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_MAX_GROUP = 150

Fraction = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]

# Far above what anybody asks for, and far below what a slip of the keyboard makes of it: a plan is
# refused before its cells fill the memory.
MAX_BINS = 1_000
MAX_LISTED = 1_000
MAX_CELLS = 50_000
MAX_REQUESTS = 20_000_000
_MAX_TOKENS = 100_000_000
_MAX_SECONDS = 1_000_000  # 11 days; the clocks of event loops overflow far above
_HOTTEST = 100
_Listed = Field(min_length=1, max_length=MAX_LISTED)
Edge = Annotated[int, Field(ge=0, le=_MAX_TOKENS)]


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = sorted(str(value) for value, count in Counter(values).items() if count > 1)
    if twice:
        raise ValueError(f"listed twice: {', '.join(twice)}")
    return values


def is_group_name(name: object) -> bool:
    """Whether a group may be called so, here and in an archive."""
    known = isinstance(name, str) and len(name) <= _MAX_GROUP
    return known and re.fullmatch(_GROUP, str(name)) is not None


class Section(BaseModel):
    """A frozen part of an experiment that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_yes_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        return refuse_yes(value, cls.model_fields[str(info.field_name)].annotation)


def _about(text: str, **rules: Any) -> Any:
    """A field whose description says in words what is valid; errors print it."""
    return Field(description=text, **rules)


def _formed(url: str) -> str:
    if problem := problem_of(url):
        raise ValueError(problem)
    return url


Address = Annotated[str, AfterValidator(_formed)]


class PerBin(Section):
    """How many examples a bin may take, where sampling stops as soon as its cells are decided."""

    min: int = _about("examples before the first look, at least 1", default=12, ge=1)
    max: Count = _about("examples at which to stop, from min to 100,000", default=200)


class Bins(Section):
    """Length classes of prompts, and how many examples each gets."""

    n: int = _about("a whole number of bins, from 1 to 1,000", default=3, ge=1, le=MAX_BINS)
    per_bin: Count | tuple[Count, ...] | PerBin = _about(
        "examples per bin: one whole number up to 100,000, or a list with one per bin; {min: 12, "
        "max: 200} under sampling.strategy: sequential",
        default=8,
    )
    edges: tuple[Edge, ...] | None = _about(
        "increasing inner edges; n follows", default=None, max_length=MAX_BINS - 1
    )
    range: tuple[Edge, Edge] = _about(
        "two increasing numbers: the tokens of generated prompts", default=(256, 2048)
    )
    by: Literal["tokens", "length"] = _about(
        "tokens, or length (the data set's own field)", default="tokens"
    )

    @model_validator(mode="before")
    @classmethod
    def _count_from_edges(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("edges"), list | tuple):
            return {"n": len(data["edges"]) + 1, **data}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Bins:
        edges, per_bin = self.edges, self.per_bin
        if edges is not None and self.n != len(edges) + 1:
            raise ValueError(f"n is {self.n}, but {len(edges)} edges make {len(edges) + 1} bins")
        if edges is not None and list(edges) != sorted(set(edges)):
            raise ValueError(f"edges must increase, got {list(edges)}")
        if isinstance(per_bin, tuple) and len(per_bin) != self.n:
            raise ValueError(f"per_bin lists {len(per_bin)} numbers for {self.n} bins")
        if isinstance(per_bin, PerBin) and per_bin.min > per_bin.max:
            raise ValueError(f"per_bin: min {per_bin.min} is above max {per_bin.max}")
        if not 0 < self.range[0] < self.range[1]:
            raise ValueError(f"range must be two increasing numbers, got {list(self.range)}")
        return self

    @property
    def per_bins(self) -> tuple[int, ...]:
        """Examples wanted in each bin, at most."""
        if isinstance(self.per_bin, PerBin):
            return (self.per_bin.max,) * self.n
        return self.per_bin if isinstance(self.per_bin, tuple) else (self.per_bin,) * self.n

    @property
    def least(self) -> int:
        """Examples before the first look, where sampling is sequential."""
        return self.per_bin.min if isinstance(self.per_bin, PerBin) else min(self.per_bins)


class KV(Section):
    """The policies and the ladder of budgets."""

    policies: Annotated[tuple[str, ...], _Listed, AfterValidator(_unique)] = _about(
        "a list of policy names, each once", default=("snapkv",)
    )
    budgets: Annotated[tuple[Fraction, ...], _Listed, AfterValidator(_unique)] = _about(
        "a list of fractions of the full cache's bytes, each in (0, 1] and once; 1.0 makes the "
        "control's own item",
        default=(1.0, 0.5, 0.2),
    )
    question_aware: bool = _about(
        "true: a policy sees the question; false: the context alone", default=True
    )
    params: Mapping[str, Mapping[str, Any]] = _about(
        "parameters by policy: {snapkv: {window_size: 32}}", default_factory=dict
    )


class Endpoint(Section):
    """A server that already runs, and the budget of the arm it serves.

    A list of addresses, of servers that answer alike, is the first and those that are there `also`.
    """

    base_url: Address = _about("an address, as in http://127.0.0.1:8001/v1, or a list of them")
    also: tuple[Address, ...] = _about(
        "further addresses of the same arm, as in http://127.0.0.1:8001/v1", default=()
    )
    budget: Fraction | None = _about(
        "in (0, 1], where the policy's name does not say it", default=None
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

    command: str | None = _about(
        "a command line with {port}, and {policy}, {kv}, {budget} or {model} as it needs; unset: "
        "the engine's own",
        default=None,
    )
    health: str = _about("the path that answers 200 once the server is up", default="/v1/models")
    at_once: int | None = _about(
        "servers up together; fewer than arms run one after another (-n 0); unset: all",
        default=None,
        ge=1,
        le=1_000,
    )
    context: int = _about(
        "tokens of prompt and answer together, at least 256", default=4096, ge=256, le=_MAX_TOKENS
    )
    parallel: int = _about(
        "requests one llama.cpp server decodes together", default=1, ge=1, le=1_000
    )


class EngineSettings(Section):
    """Who answers."""

    name: Literal["local", "llamacpp", "vllm", "sglang", "ollama", "openai"] = _about(
        "local (the embedded server), llamacpp, vllm, sglang, ollama or openai", default="local"
    )
    model: str = _about(
        "a folder, a .gguf file, a hub id, a served name or smollm2-135m", default="smollm2-135m"
    )
    base_url: Address | None = _about(
        "the address of a server that already runs (the control's, where there are several), as in "
        "http://127.0.0.1:8000/v1, or a list of servers that answer alike; unset: the run starts "
        "its own",
        default=None,
    )
    also: tuple[Address, ...] = _about(
        "further addresses beside base_url, as in http://127.0.0.1:8000/v1", default=()
    )
    endpoints: Mapping[str, Endpoint] = _about(
        "servers by arm: {none: URL, q8_0: URL, snapkv@0.5: URL, mine: {base_url: URL, budget: "
        "0.3}}",
        default_factory=dict,
    )
    launch: Launch = Launch()
    mode: Literal["live", "batch"] = _about(
        "live (asks and waits) or batch (hands files to a server that runs already, and fetches "
        "what is done on a later run)",
        default="live",
    )
    api: Literal["auto", "chat", "completions"] = _about(
        "auto (as each task's prompt says), chat or completions", default="auto"
    )
    stream: bool = _about("true: measure the time to the first token", default=False)
    extra_body: Mapping[str, Any] = _about(
        "more fields of a request; null takes one of ours away", default_factory=dict
    )
    headers: Mapping[str, str] = _about("more headers of a request, no keys", default_factory=dict)
    api_key_env: str | None = _about(
        "the environment variable that holds the key; unset: KVBENCH_API_KEY, then OPENAI_API_KEY",
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
    )
    declared: Mapping[str, str] = _about(
        "what the server does not tell: {revision: ..., dtype: ...}", default_factory=dict
    )
    concurrency: int = _about(
        "requests in flight per run, from 1 to 10,000", default=4, ge=1, le=10_000
    )
    max_rpm: float | None = _about(
        "requests a minute per run, from 0.01; unset: no limit", default=None, ge=0.01, le=1e9
    )
    max_tpm: float | None = _about(
        "tokens a minute per run, of prompts and replies, from 1; unset: no limit",
        default=None,
        ge=1,
        le=1e12,
    )
    timeout_s: float = _about(
        "seconds each try of a request may take", default=600.0, gt=0, le=_MAX_SECONDS
    )
    retries: int = _about(
        "tries after the first, at most 30 s apart, for timeouts, lost connections, 408, 409, 429 "
        "and 5xx",
        default=3,
        ge=0,
        le=1_000,
    )
    start_timeout_s: float = _about(
        "seconds a server may take to start", default=300.0, gt=0, le=_MAX_SECONDS
    )
    max_reply_mb: float = _about(
        "MB of a reply that are read (of 2**20 bytes, unpacked); a larger one is a failure",
        default=REPLY / MIB,
        gt=0,
        le=4096,
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = _about(
        "float32, bfloat16 or float16; unset: float32 for local, else the server's own",
        default=None,
    )
    threads: int | None = _about(
        "threads of a server that we start; unset: all cores", default=None, ge=1, le=10_000
    )

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, data: Any) -> Any:
        return _first_and_others(data)

    @model_validator(mode="after")
    def _consistent(self) -> EngineSettings:
        _refuse_keys(self)
        if self.name == "local" and self.dtype == "float16":
            raise ValueError("dtype float16 is not served by engine.name: local")
        if self.name == "local" and (self.endpoints or self.launch != Launch()):
            raise ValueError("endpoints and launch are for other engines than local")
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
    def shares_prefill(self) -> bool:
        """Whether all arms of an example come from one prefill of the prompt."""
        return self.name == "local"

    @property
    def addresses(self) -> dict[str, Endpoint]:
        """Servers that already run, by arm; `base_url` serves the control. Empty: we start them."""
        if self.base_url is None:
            return dict(self.endpoints)
        return {FULL_CACHE: Endpoint(base_url=self.base_url, also=self.also), **self.endpoints}


def _refuse_keys(engine: EngineSettings) -> None:
    """A key in an experiment would reach the database and every report."""
    said = {f"headers.{k}": (k, v) for k, v in engine.headers.items()}
    said |= {f"extra_body.{k}": (k, v) for k, v in engine.extra_body.items()}
    said |= {"launch.command": (engine.launch.command or "", "")}
    for place, (name, value) in said.items():
        if _KEY_NAME.search(name) or (isinstance(value, str) and _KEY_VALUE.match(value)):
            raise ValueError(
                f"{place} looks like it holds a key: set KVBENCH_API_KEY in the environment"
            )
    if any("@" in urlsplit(url).netloc for e in engine.addresses.values() for url in e.urls):
        raise ValueError("an address holds a password: set KVBENCH_API_KEY in the environment")


class SamplingSettings(Section):
    """How tokens are drawn, and how often."""

    temperature: float = _about(
        "a number from 0 to 100; 0 is greedy", default=0.0, ge=0, le=_HOTTEST
    )
    top_p: float = _about("a number in (0, 1]", default=1.0, gt=0, le=1)
    max_tokens: int | None = _about(
        "new tokens, at least 1; unset: the task's own", default=None, ge=1, le=_MAX_TOKENS
    )
    trials: int = _about(
        "a whole number from 1 to 1,000: how often each example is asked; more than one needs a "
        "temperature",
        default=1,
        ge=1,
        le=1_000,
    )
    self_consistency: int = _about(
        "samples that vote on each answer, at least 1: one answer for the price of so many; more "
        "than one needs a temperature",
        default=1,
        ge=1,
        le=1_000,
    )
    seed: int = _about("a whole number from 0 to 2,147,483,647", default=0, ge=0, le=2**31 - 1)
    strategy: Literal["fixed", "sequential"] = _about(
        "fixed (bins.per_bin examples for every cell) or sequential (until a cell is decided, "
        "between bins.per_bin {min, max})",
        default="fixed",
    )


class Variant(Section):
    """One way of asking: what differs from the experiment's own."""

    temperature: float | None = _about(
        "a number from 0 to 100; 0 is greedy", default=None, ge=0, le=_HOTTEST
    )
    top_p: float | None = _about("a number in (0, 1]", default=None, gt=0, le=1)
    before: str = _about("text in front of every prompt", default="")
    after: str = _about("text behind every prompt", default="")


class Gate(Section):
    """When a cell holds, and what an item does about it."""

    margin: float = _about("a loss one can live with, in (0, 1)", default=0.10, gt=0, lt=1)
    alpha: float = _about(
        "the error rate, in (0, 0.5); intervals are at 1 - alpha", default=0.05, gt=0, lt=0.5
    )
    mode: Literal["measure", "gate"] = _about(
        "measure (no verdict fails a test) or gate (a cell that breaks does)", default="measure"
    )
    undetermined: Literal["pass", "fail"] = _about(
        "pass or fail: what an undetermined cell does in mode gate", default="pass"
    )
    max_lost: float = _about(
        "share of lost pairs above which a cell is not measured, in [0, 1)",
        default=0.05,
        ge=0,
        lt=1,
    )
    drop_threshold: float = _about("the drop rule's step, in (0, 1)", default=0.15, gt=0, lt=1)
    correction: Literal["holm", "bh", "none"] = _about(
        "holm, bh or none: how p-values of many cells are adjusted", default="holm"
    )
    control_floor: float | None = _about(
        "in [0, 1): the control's mean in the shortest bin must be above it, or its treatments are "
        "not asked; null: chance, which is 0, or one over the options of a choice",
        default=None,
        ge=0,
        lt=1,
    )
    max_sick: float = _about(
        "share of a control's replies that may be empty, refused or cut off without a score, "
        "before its treatments are given up",
        default=0.5,
        ge=0,
        le=1,
    )


class Prices(Section):
    """What a hosted model costs, per million tokens."""

    prompt: float = _about("a number of at least 0", ge=0, le=1e9)
    completion: float = _about("a number of at least 0", ge=0, le=1e9)
    currency: str = _about("a name, as in USD", default="USD")


def _clock(value: Any) -> Any:
    """What YAML makes of an unquoted 10:00:00 is a number of seconds."""
    if isinstance(value, int) and value > 0:
        return f"{value // 3600:02}:{value // 60 % 60:02}:{value % 60:02}"
    return value


class ExecutorSettings(Section):
    """Where requests are asked from: this machine, or the workers of a Parsl executor.

    Decides no answer, so it is no part of a group's identity: `Experiment.snapshot` leaves it out.
    """

    name: Literal["local", "parsl"] = _about(
        "local (this process) or parsl (workers that Parsl starts)", default="local"
    )
    preset: Literal["local", "slurm", "kubernetes"] = _about(
        "local, slurm or kubernetes, where no config is named", default="local"
    )
    config: str | None = _about(
        "a Python file that defines `config`, a parsl.Config; it takes the preset's place",
        default=None,
    )
    workers: int = _about("worker processes on each node, at least 1", default=2, ge=1, le=1_000)
    nodes: int = _about("nodes of a block, at least 1", default=1, ge=1, le=10_000)
    blocks: int = _about("blocks (jobs, pods) at most, at least 1", default=1, ge=1, le=10_000)
    walltime: Annotated[str, BeforeValidator(_clock)] = _about(
        "how long a Slurm job may last, HH:MM:SS",
        default="01:00:00",
        pattern=r"^\d{1,3}:[0-5]\d:[0-5]\d$",
    )
    partition: str | None = _about("a Slurm partition", default=None)
    account: str | None = _about("a Slurm account", default=None)
    scheduler_options: str = _about(
        "more #SBATCH lines, as in '#SBATCH --gpus-per-node=1'", default=""
    )
    memory_gb: int | None = _about(
        "GB of a Slurm node or a Kubernetes pod; unset: the cluster's own, 8 for a pod",
        default=None,
        ge=1,
        le=1_000_000,
    )
    namespace: str = _about("a Kubernetes namespace", default="default")
    image: str | None = _about("the image of a Kubernetes pod, this package inside", default=None)
    address: str | None = _about(
        "where workers reach this machine; unset: the address of its way out", default=None
    )
    worker_init: str = _about(
        "shell lines before a worker starts, as in 'module load cuda'", default=""
    )

    @model_validator(mode="after")
    def _consistent(self) -> ExecutorSettings:
        pods = self.name == "parsl" and self.config is None and self.preset == "kubernetes"
        if pods and self.image is None:
            raise ValueError("preset kubernetes needs an image that has this package")
        if pods and self.nodes > 1:
            raise ValueError("a pod is one node: with preset kubernetes say blocks, not nodes")
        return self


class Experiment(Section):
    """One experiment: everything that decides what is asked, of whom, and how it is judged."""

    group: str = _about(
        f"{GROUP_NAMES}; its folder is below reports/", pattern=_GROUP, max_length=_MAX_GROUP
    )
    description: str = _about("a sentence for the report", default="")
    tasks: Annotated[tuple[str, ...], _Listed, AfterValidator(_unique)] = _about(
        "a list of task names, each once: [niah/single]"
    )
    task_options: Mapping[str, Mapping[str, Any]] = _about(
        "options by task name or family: {niah: {haystack: noise}}", default_factory=dict
    )
    bins: Bins = Bins()
    kv: KV = KV()
    engine: EngineSettings = EngineSettings()
    executor: ExecutorSettings = Field(default=ExecutorSettings(), exclude=True)
    sampling: SamplingSettings = SamplingSettings()
    gate: Gate = Gate()
    variants: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]*$")], Variant] = (
        _about(
            "ways of asking by name: {plain: {}, warm: {temperature: 0.7}, terse: {after: ' In one "
            "word.'}}",
            default_factory=dict,
        )
    )
    tokenizer: str = _about(
        "auto (the serving model's), approximate, tiktoken:NAME or hf:PATH_OR_ID",
        default="auto",
        pattern=r"^(auto|approximate|(tiktoken|hf):.+)$",
    )
    prices: Prices | None = _about(
        "per million tokens, for the report: {prompt: 0.5, completion: 1.5, currency: USD}",
        default=None,
    )
    aa: bool = _about("true: run the control twice, as a noise floor", default=False)
    after: str | None = _about(
        "a group that is run first: arms that break there, by task, are not asked here",
        default=None,
        pattern=_GROUP,
        max_length=_MAX_GROUP,
    )
    dropped: Mapping[str, tuple[str, ...]] = _about(
        "arms that are not asked, by task: {niah/single: [snapkv-0.20]}; filled in by `after`",
        default_factory=dict,
    )

    @model_validator(mode="after")
    def _limits_where_sequential(self) -> Experiment:
        limited = isinstance(self.bins.per_bin, PerBin)
        if limited != self.sequential:
            raise ValueError(
                "bins.per_bin: {min, max} and sampling.strategy: sequential need each other; got "
                f"bins.per_bin {self.bins.per_bin!r} and strategy {self.sampling.strategy}"
            )
        return self

    @model_validator(mode="after")
    def _rounds_are_live(self) -> Experiment:
        if self.sequential and self.engine.mode == "batch":
            raise ValueError(
                "sampling.strategy: sequential looks at answers before it asks on, and "
                "engine.mode: batch has them tomorrow; use strategy: fixed or mode: live"
            )
        return self

    @model_validator(mode="after")
    def _plannable(self) -> Experiment:
        kv, asked = self.kv, len(self.tasks) * len(self.ways)
        cells = asked * self.bins.n * len(kv.policies) * len(kv.budgets)
        draws = self.sampling.trials * self.sampling.self_consistency
        examples = max(1, sum(self.bins.per_bins))
        requests = cells // self.bins.n * examples * draws
        if cells > MAX_CELLS:
            raise ValueError(
                f"tasks x bins x variants x policies x budgets make {cells:,} cells, more than "
                f"{MAX_CELLS:,}: split it into several experiments"
            )
        if requests > MAX_REQUESTS:
            raise ValueError(
                f"cells, bins.per_bin and samples make {requests:,} requests, more than "
                f"{MAX_REQUESTS:,}: lower bins.per_bin or split it"
            )
        return self

    @property
    def sequential(self) -> bool:
        """Whether sampling stops as soon as cells are decided."""
        return self.sampling.strategy == "sequential"

    @model_validator(mode="after")
    def _greedy_once(self) -> Experiment:
        drawn = any(self.sampling_of(name).temperature > 0 for name in self.ways)
        for key, called in (("trials", "trial"), ("self_consistency", "sample")):
            count = getattr(self.sampling, key)
            if count > 1 and not drawn:
                raise ValueError(
                    f"sampling.{key} is {count} at temperature 0, where every {called} gives the "
                    f"same answer; use {key}: 1 or a temperature above 0"
                )
        return self

    @property
    def ways(self) -> Mapping[str, Variant]:
        """The variants by name; one without a name where none is declared."""
        return self.variants or {"": Variant()}

    def sampling_of(self, variant: str) -> Sampling:
        """How a variant's tokens are drawn; greedy decoding draws nothing, so it has no seed."""
        way, own = self.ways[variant], self.sampling
        temperature = own.temperature if way.temperature is None else way.temperature
        top_p = own.top_p if way.top_p is None else way.top_p
        return Sampling(temperature, top_p, own.seed if temperature > 0 else 0)

    def samples_of(self, variant: str) -> int:
        """How many samples vote on each of a variant's answers; greedy decoding has but one."""
        return self.sampling.self_consistency if self.sampling_of(variant).temperature > 0 else 1

    def draws_of(self, variant: str) -> int:
        """How often a variant asks each example: in every trial as many samples as vote."""
        greedy = self.sampling_of(variant).temperature == 0
        return 1 if greedy else self.sampling.trials * self.sampling.self_consistency

    @property
    def votes(self) -> bool:
        """Whether any answer is a vote."""
        return any(self.samples_of(name) > 1 for name in self.ways)

    def options_of(self, task: str) -> Mapping[str, Any]:
        """Options of a task: its family's (`niah`), then its own (`niah/single`)."""
        family = task.split("/")[0].split(":")[0]
        return {**self.task_options.get(family, {}), **self.task_options.get(task, {})}

    def snapshot(self) -> dict[str, Any]:
        """Plain JSON data; `Experiment(**snapshot)` gives the experiment back, asked from here."""
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Declared:
    """An experiment, and where each of its keys was said."""

    experiment: Experiment
    origins: Mapping[str, str]
    files: tuple[Path, ...] = ()
    stage: str = ""
    chain: str = ""
    """The name all stages of one sweep share; empty for an experiment without stages."""

    def refuse(self, key: str, problem: str, valid: str) -> NoReturn:
        """Raise the error for a key whose value only a later stage can judge."""
        raise ExperimentError(f"{_origin(self.origins, key)}: {key}: {problem}", valid)


@dataclass(frozen=True)
class Override:
    """One dotted key that the command line sets; `source` is how the user said it."""

    key: str
    value: Any
    source: str

    @classmethod
    def parse(cls, text: str) -> Override:
        """The override of `--kvbench-set a.b=VALUE`, where VALUE is YAML."""
        source = f"--kvbench-set {text}"
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ExperimentError(f"{source}: is not KEY=VALUE", "valid: bins.per_bin=4")
        return cls(key.strip(), _parsed(value, source), source)


@dataclass
class _Merged:
    """Values merged so far, and the source of each leaf."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def add(self, values: Mapping[str, Any], source: str) -> None:
        if odd := odd_value(values, nul=False):
            key, problem = odd
            raise ExperimentError(
                f"{source}: {key}: {problem}", "valid: finite numbers, texts, lists and mappings"
            )
        self.values = _merge(self.values, values)
        self.origins.update(dict.fromkeys(_leaves(values), source))


def load_experiment(
    file: Path | None = None,
    *,
    inline: Mapping[str, Any] = MappingProxyType({}),
    overrides: Sequence[Override] = (),
    inline_source: str = "marker",
    env: Mapping[str, str] = os.environ,
) -> Declared:
    """Read, merge and check an experiment without stages.

    Args:
        file: a YAML file; its `extends` names a base relative to itself.
        inline: the same keys, from a marker; they win over the file. Dotted keys are allowed.
        overrides: from the command line; they win over everything.
        inline_source: how errors name the place of `inline`.
        env: where `${NAME}` and `${NAME:-default}` are looked up.

    Raises:
        ExperimentError: with the file, the key, the value and what is valid.
    """
    declared = load_stages(
        file, inline=inline, overrides=overrides, inline_source=inline_source, env=env
    )
    if len(declared) > 1 or declared[0].stage:
        raise ExperimentError(
            f"{file or inline_source}: stages: this command takes one experiment",
            f"name the group of a stage: {', '.join(d.experiment.group for d in declared)}",
        )
    return declared[0]


def load_stages(
    file: Path | None = None,
    *,
    inline: Mapping[str, Any] = MappingProxyType({}),
    overrides: Sequence[Override] = (),
    inline_source: str = "marker",
    env: Mapping[str, str] = os.environ,
) -> tuple[Declared, ...]:
    """Read, merge and check an experiment: one, or one per stage in order.

    A stage is the experiment with its own keys on top, in the group `GROUP.STAGE`. Each draws its
    examples with the next seed, and leaves out the arms that broke in the stage before.

    Args and errors: as `load_experiment`.
    """
    merged = _Merged()
    if file is not None:
        _add_file(merged, file, env, seen=())
    if inline:
        merged.add(_nest(inline, inline_source), inline_source)
    for override in overrides:
        merged.add(_nest({override.key: override.value}, override.source), override.source)
    stages = merged.values.pop("stages", None)
    source = str(file or inline_source)
    if stages is None:
        return (_checked(merged.values, merged, source),)
    return tuple(_staged(merged, stages, source))


def _checked(values: Mapping[str, Any], merged: _Merged, source: str, at: str = "") -> Declared:
    try:
        experiment = Experiment(**values)
    except ValidationError as invalid:
        raise _explain(invalid, merged.origins, source, at) from None
    return Declared(experiment, merged.origins, tuple(merged.files))


def _staged(merged: _Merged, stages: object, source: str) -> Iterator[Declared]:
    valid = "valid: {breadth: {bins: {per_bin: 5}}, depth: {bins: {per_bin: 50}}}"
    where = _origin(merged.origins, "stages", source)
    if not isinstance(stages, Mapping) or not stages:
        raise ExperimentError(f"{where}: stages: {brief(stages)} names no stage", valid)
    base = _checked(merged.values, merged, source).experiment
    before = None
    for position, (name, own) in enumerate(stages.items()):
        if not isinstance(own, Mapping) or not _STAGE.fullmatch(str(name)):
            raise ExperimentError(f"{where}: stages.{name}: is no stage with keys", valid)
        group = f"{base.group}.{name}"
        seed = base.sampling.seed + position
        given = {"group": group, "after": before, "sampling": {"seed": seed}}
        values = _merge(_merge(merged.values, given), own)
        yield replace(
            _checked(values, merged, source, f"stages.{name}."), stage=str(name), chain=base.group
        )
        before = group


def _add_file(merged: _Merged, file: Path, env: Mapping[str, str], seen: tuple[Path, ...]) -> None:
    data = dict(_read_yaml(file, env))
    place = Path(os.path.realpath(file))  # `resolve` raises at links that lead in a circle
    if place in seen:
        raise ExperimentError(
            f"{_shown(file)}: extends: the files extend each other in a circle",
            " -> ".join(_shown(f) for f in (*seen, file)),
        )
    base = data.pop("extends", None)
    if base is not None:
        if not isinstance(base, str):
            raise ExperimentError(
                f"{_shown(file)}: extends: {brief(base)} is not a file name",
                "valid: extends: default.yaml",
            )
        _add_file(merged, file.parent / base, env, (*seen, place))
    merged.add(data, _shown(file))
    merged.files.append(file)


def _read_yaml(file: Path, env: Mapping[str, str]) -> Mapping[str, Any]:
    data = _parsed(_text(file), _shown(file))
    if not isinstance(data, Mapping):
        raise ExperimentError(
            f"{_shown(file)}: must hold keys, got {'nothing' if data is None else brief(data)}",
            f"valid keys: {', '.join(sorted([*Experiment.model_fields, 'extends']))}",
        )
    expanded: Mapping[str, Any] = _expand(data, env, _shown(file), "")
    return expanded


def _text(file: Path) -> str:
    try:
        return read_text(file, _shown(file), limit=MAX_TEXT)
    except UsageError as error:
        if not isinstance(error.__cause__, OSError):
            raise ExperimentError(error.what, error.hint) from None
        near = sorted(p.name for p in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        raise ExperimentError(
            error.what,
            f"experiments there: {', '.join(near)}"
            if near
            else f"no YAML files in {_shown(file.parent)}",
        ) from None


def _parsed(text: str, source: str) -> Any:
    try:
        return parse_yaml(text, source)
    except UsageError as error:
        raise ExperimentError(error.what, error.hint) from None


def _expand(value: Any, env: Mapping[str, str], source: str, key: str) -> Any:
    """`${NAME}` and `${NAME:-default}` in every string; a string that is one reference is YAML."""
    if isinstance(value, Mapping):
        return {k: _expand(v, env, source, _join(key, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, env, source, key) for v in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        found = env.get(name) or default
        if found is None:
            raise ExperimentError(
                f"{source}: {key}: {value!r} needs the environment variable {name}, not set",
                f"set {name}, or write ${{{name}:-DEFAULT}}",
            )
        return found

    expanded = _ENV.sub(look_up, value)
    return _parsed(expanded, f"{source}: {key}: {value}") if _ENV.fullmatch(value) else expanded


def _nest(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Dotted keys become nested ones."""
    nested: dict[str, Any] = {}
    for dotted, value in values.items():
        *path, last = dotted.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ExperimentError(f"{source}: {dotted}: {part} is a value, not a section", "")
        place[last] = value
    return nested


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Sections merge key by key; everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(old, value) if both else value  # type: ignore[arg-type]  # both are mappings
    return merged


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        dotted = _join(prefix, key)
        if isinstance(value, Mapping):
            yield from _leaves(value, dotted)
        yield dotted


def _explain(
    invalid: ValidationError, origins: Mapping[str, str], default_source: str, at: str = ""
) -> ExperimentError:
    """`at` is where in the file the experiment's own keys may be said besides, with a dot."""
    error = _most_telling(invalid)
    if at:  # the base itself was valid
        origins = {k.removeprefix(at): v for k, v in origins.items() if k.startswith(at)}
    path = [str(part) for part in error["loc"]]
    field_path, section, info = _field(path)
    # A list adds its index; a union adds the name of its member's type, which says nothing.
    indices = [part for part in error["loc"][len(field_path) :] if isinstance(part, int)]
    key = ".".join([*field_path, *map(str, indices)]) or "experiment"
    source = _origin(origins, key, default_source)
    if error["type"] == "extra_forbidden":
        unknown = ".".join(path)
        return ExperimentError(
            f"{_origin(origins, unknown, default_source)}: {at}{unknown}: unknown key",
            _nearest(path[-1], section),
        )
    if error["type"] == "missing":
        return ExperimentError(f"{source}: {at}{key}: is missing", _valid(info, section))
    message = error["msg"].removeprefix("Value error, ")
    given = "" if isinstance(error["input"], Mapping) else f"{brief(error['input'])} is not valid: "
    return ExperimentError(f"{source}: {at}{key}: {given}{message}", _valid(info, section))


def _most_telling(invalid: ValidationError) -> ErrorDetails:
    """The first error; of a union's, each member's, the one that went deepest."""
    errors = invalid.errors(include_url=False)
    place, _, _ = _field([str(part) for part in errors[0]["loc"]])
    of_one_key = [e for e in errors if list(e["loc"][: len(place)]) == place]
    deeper = [e for e in of_one_key[1:] if e["type"] not in ("extra_forbidden", "missing")]
    return max(errors[:1] + deeper, key=lambda e: len(e["loc"]))


def _field(path: Sequence[str]) -> tuple[list[str], type[BaseModel], FieldInfo | None]:
    """The longest part of `path` that names a field, the section it leads to, and the field."""
    section: type[BaseModel] = Experiment
    for depth, part in enumerate(path):
        info = section.model_fields.get(part)
        if info is None:
            return list(path[:depth]), section, None
        if not (isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel)):
            return list(path[: depth + 1]), section, info
        section = info.annotation
    return list(path), section, None


def _nearest(word: str, section: type[BaseModel]) -> str:
    names = sorted(section.model_fields)
    near = difflib.get_close_matches(word, names, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"valid keys: {', '.join(names)}"


def _valid(info: FieldInfo | None, section: type[BaseModel]) -> str:
    """What a key takes, in words, and its default."""
    if info is None:
        return f"valid keys: {', '.join(sorted(section.model_fields))}"
    default = info.get_default(call_default_factory=True)
    shown = list(default) if isinstance(default, tuple) else default
    return f"valid: {info.description}" + ("" if info.is_required() else f"; default {shown}")


def _origin(origins: Mapping[str, str], key: str, default: str = "experiment") -> str:
    """The source of the longest known prefix of `key`."""
    parts = key.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((origins[p] for p in prefixes if p in origins), default)


def _join(prefix: str, key: object) -> str:
    return f"{prefix}.{key}" if prefix else str(key)


def _shown(path: Path) -> str:
    """A path as a reader would type it."""
    try:
        return str(Path(os.path.realpath(path)).relative_to(Path.cwd()))
    except ValueError:
        return str(path)
