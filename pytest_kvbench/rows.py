"""What `summary.json` holds: the rows of an analysis, and what a report needs besides.

Plain JSON data; None where there is no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from pytest_kvbench.cellkey import Chain, Columns
from pytest_kvbench.distances import Moved
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.records import Proof, VerdictWord


class Facts(TypedDict):
    """What only the requests know of a cell. Shares and differences in score units."""

    achieved: float | None
    proof: Proof
    lost: int
    lost_share: float
    delta_unlabelled: float | None


class ScoreInterval(TypedDict):
    """An interval in score units."""

    ci_low: float | None
    ci_high: float | None


class Difference(ScoreInterval):
    """Treated minus control, in score units."""

    delta: float | None


class Together(TypedDict):
    """An interval that holds for so many rows together, in score units."""

    rows: int
    ci_low: float
    ci_high: float


class Bounded(TypedDict, total=False):
    """Of `delta`, where scores are known between bounds; `delta` itself is of the least scores."""

    bounds: list[float]


class CellRow(Columns, Facts, Difference, Bounded):
    """One cell, a control or a row over all bins; of a control there is no verdict.

    Of a row over bins, `together` are intervals for whichever is chosen of so many.
    """

    together: list[Together]
    n: int
    clusters: int
    control_mean: float | None
    treated_mean: float | None
    losses: int
    gains: int
    method: str
    verdict: VerdictWord | None
    verdict_holm: VerdictWord | None
    verdict_item: VerdictWord | None
    flags: list[str]
    retention: float | None
    p_holds: float | None
    p_breaks: float | None
    p_mcnemar: float | None
    needed: int | None
    reason: str


class WorstBin(Difference):
    """The bin of an arm that lost most."""

    bin: int


class Certificate(Columns, Difference):
    """Whether an arm is shown to hold over all bins, and what this rests on; `problems` if not."""

    certified: bool
    problems: list[str]
    worst: WorstBin | None


class TransitionRow(Chain):
    """Where along the budgets of one ladder quality is lost."""

    b_safe: float | None
    b_broken: float | None
    b_safe_adjusted: float | None
    b_broken_adjusted: float | None
    estimate: float | None
    estimate_ci: list[float | None] | None
    estimate_between: list[float] | None
    rule_budget: float | None
    shape: str


class Costs(TypedDict):
    """What answers of one arm cost: latencies in seconds, bytes of a prompt's KV tensors."""

    latency_p50: float | None
    latency_p95: float | None
    ttft_p50: float | None
    achieved_mean: float | None
    kept_bytes_mean: float | None
    full_bytes_mean: float | None


class BinStats(Columns, ScoreInterval, Costs):
    """What one arm did on one bin; the interval is that of `acc_mean`."""

    n: int
    acc_mean: float | None
    acc_std: float | None
    em_mean: float | None
    parts_mean: dict[str, float | None]
    clusters: int
    fail_rate: float
    label_rate: float | None
    prompt_tokens_p50: float | None
    prompt_tokens_p95: float | None
    completion_tokens_p50: float | None
    completion_tokens_p95: float | None


class Tokens(TypedDict):
    """Answers, and their tokens summed; None where the server did not count each of them."""

    answers: int
    prompt_tokens: int | None
    completion_tokens: int | None


class ArmName(TypedDict):
    """What names an arm over all tasks and bins; without a measure it is that of scores."""

    variant: str
    policy: str
    budget: float
    measure: NotRequired[str]


class ArmRow(ArmName, Tokens, Costs):
    """What one arm cost over all tasks and bins, in all requests of one measure."""


class Throughput(TypedDict):
    """Of the last run: requests that came back, how many a minute, seconds waited for limits."""

    requests: int
    requests_per_minute: float | None
    waited_s: float


class Efficiency(Tokens):
    """What the experiment cost, in all and by arm."""

    arms: list[ArmRow]
    throughput: NotRequired[Throughput]


class NoiseFloor(Difference):
    """The control's second run (A/A) minus its first, over all tasks and bins.

    `replies` are compared text by text, `same` of them are equal; `discordance` is the share of
    them whose scores differ.
    """

    n: int
    losses: int
    gains: int
    method: str
    tasks: dict[str, int]
    replies: int
    same: int
    discordance: float


class FailureMessage(TypedDict):
    """Why requests failed: a kind of failure, its first message, and how many were alike."""

    kind: str
    message: str
    n: int


class Outcomes(TypedDict):
    """What became of all requests: answers + failures == requests."""

    requests: int
    answers: int
    failures: dict[str, int]
    labels: dict[str, int]


class Integrity(Outcomes):
    """Whether results can be believed."""

    placebos: list[str]
    notes: list[str]
    aa: NoiseFloor | None
    messages: NotRequired[list[FailureMessage]]


class TaskRow(TypedDict):
    """What was asked: `prompts` says whose wording, `official` or `own`, None where none is.

    `max_tokens` are the lengths that answers may have, in tokens.
    """

    task: str
    metric: str
    prompts: str | None
    template: str
    max_tokens: list[int]
    tokenizer: str
    n: int


class BinRow(TypedDict):
    """A bin's edges in tokens, None for an open end, and its examples."""

    task: str
    bin: int
    low: int | None
    high: int | None
    n: int


class MissingRow(Columns):
    """A cell of the plan without all its answers, and why."""

    reason: str


class FlipRow(TypedDict):
    """An example that the control got right and a treatment did not, with both replies."""

    task: str
    bin: int
    variant: NotRequired[str]
    policy: str
    budget: float
    example_id: str
    question: str
    answers: list[str]
    control_text: str | None
    treated_text: str | None
    control: float | None
    treated: float | None


class ControlUse(TypedDict):
    """The shared control of a cell group, and how many of its answers came from where."""

    task: str
    bin: int
    variant: str
    control: str
    produced: int
    reused: int


class Provenance(TypedDict):
    """Where results come from. `inputs` is a digest of all that the analysis depends on.

    `answers_since`: when the first of the runs began whose answers count, where there are several.
    """

    kvbench: str
    python: str
    platform: str
    cpu: str
    git_commit: str | None
    fingerprint: dict[str, str]
    seed: int
    replicate_offset: int
    started: str
    finished: str | None
    versions: dict[str, str]
    command: str
    inputs: NotRequired[str]
    controls: NotRequired[list[ControlUse]]
    answers_since: NotRequired[str]


class Drawn(TypedDict):
    """Of sequential sampling: the requests that were wanted, and the most that could have been."""

    wanted: int
    most: int


class JudgedPairs(TypedDict):
    """What `kvbench judge` prints: the shape of a summary, of which scores alone fill a part."""

    cells: list[CellRow]
    transitions: list[TransitionRow]
    integrity: Mapping[str, object]
    efficiency: Mapping[str, object]
    provenance: Mapping[str, object]
    partial: bool


class Summary(TypedDict, total=False):
    """The whole of `summary.json` (DESIGN 7); a part that nobody made is absent.

    `experiment` is the snapshot of what was declared, in the version that declared it.
    """

    schema: int
    group: str
    experiment: Keys
    cells: list[CellRow]
    transitions: list[TransitionRow]
    sensitivity: list[CellRow]
    bin_stats: list[BinStats]
    integrity: Integrity
    efficiency: Efficiency
    tasks: list[TaskRow]
    bins: list[BinRow]
    missing: list[MissingRow]
    flips: list[FlipRow]
    provenance: Provenance
    partial: bool
    certificates: list[Certificate]
    sampling: Drawn
    moved: Moved
    checksum: str
