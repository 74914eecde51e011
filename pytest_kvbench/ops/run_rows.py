"""What a store of runs holds, as it is written: metas, the configurations that name them, times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

from pytest_kvbench.records import Proof, VerdictWord


class ModelConfig(TypedDict):
    """Who answers."""

    engine: str
    model: str
    dtype: str | None
    fingerprint: str


class DataConfig(TypedDict):
    """What a task's examples are; `entries` is a digest of them, `bins` are index, low and high."""

    metric: str
    template: str
    tokenizer: str
    bins: list[list[int | None]]
    examples: int
    entries: str


class TargetConfig(TypedDict):
    """All that decides what an arm is measured on."""

    model: ModelConfig
    data: dict[str, DataConfig]
    prompts: dict[str, str]
    sampling: Mapping[str, object]
    control: Mapping[str, object]


class RunConfig(TypedDict):
    """All that decides a run: its target, the arm, and the rules that judge it."""

    target: str
    policy: str
    budget: float
    params: dict[str, object]
    question_aware: bool
    fingerprint: str
    rules: Mapping[str, object]


class Dims(TypedDict):
    """By what runs are compared: a run has its arm, a posterior its sampler as `policy`."""

    model: str
    tasks: str
    examples: NotRequired[int]
    seed: int
    policy: NotRequired[str]
    budget: NotRequired[float]
    margin: NotRequired[float]


class Metrics(TypedDict, total=False):
    """Key figures: of scores, of one headline row, of a posterior's draws."""

    n: int
    mean: float | None
    std: float | None
    achieved: float | None
    delta: float | None
    ci_low: float | None
    ci_high: float | None
    proof: Proof
    verdict: VerdictWord | None
    ess: float | None
    rhat: float | None


class Code(TypedDict):
    """What measured."""

    kvbench: str
    versions: dict[str, str]


class About(TypedDict):
    """What a target and its runs say alike."""

    code: Code
    dims: Dims


class Entry(TypedDict):
    """A meta.json: a line of the catalog."""

    kind: Literal["target", "run", "posterior"]
    id: str
    target: NotRequired[str]
    config: Mapping[str, object]
    code: NotRequired[Code]
    dims: Dims
    metrics: Metrics
    sha256: NotRequired[dict[str, str]]


class Timings(TypedDict):
    """A timings.json, in seconds; None where nobody waited."""

    wall_s: float | None
    latency_p50_s: NotRequired[float | None]
    ttft_p50_s: NotRequired[float | None]
