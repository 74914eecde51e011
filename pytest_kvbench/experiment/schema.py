"""What is declared: the sections of an experiment and their rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from pytest_kvbench.experiment.bins import Bins, PerBin
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.executor import ExecutorSettings
from pytest_kvbench.experiment.gate import DivergenceGate, Gate, Sensitivity
from pytest_kvbench.experiment.kept import Kept
from pytest_kvbench.experiment.limits import (
    GROUP,
    GROUP_NAMES,
    HOTTEST,
    MAX_CELLS,
    MAX_GROUP,
    MAX_REQUESTS,
    MAX_TOKENS,
)
from pytest_kvbench.experiment.prices import Prices
from pytest_kvbench.experiment.published import Published
from pytest_kvbench.experiment.section import Fraction, Listed, Section, TaskName, about, unique
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.records import SCORE, WITHHELD, Params, ReasoningRule, Sampling


class KV(Section):
    """The policies and the ladder of budgets."""

    policies: Annotated[tuple[str, ...], Listed, AfterValidator(unique)] = about(
        "a list of policy names, each once; [auto]: one that the engine has", default=("snapkv",)
    )
    budgets: Annotated[tuple[Fraction, ...], Listed, AfterValidator(unique)] = about(
        "a list of fractions of the full cache's bytes, each in (0, 1] and once; 1.0 makes the "
        "control's own item",
        default=(1.0, 0.5, 0.2),
    )
    question_aware: bool = about(
        "true: a policy sees the question; false: the context alone", default=True
    )
    params: Mapping[str, Params] = about(
        "parameters by policy: {snapkv: {window_size: 32}}", default_factory=dict
    )
    named: Mapping[str, Params] = about(
        "names of your own for combinations: {ada_ea: {policy: adakv, press: expected_attention}}",
        default_factory=dict,
    )


class SamplingSettings(Section):
    """How tokens are drawn, and how often."""

    temperature: float = about("a number from 0 to 100; 0 is greedy", default=0.0, ge=0, le=HOTTEST)
    top_p: float = about("a number in (0, 1]", default=1.0, gt=0, le=1)
    max_tokens: int | None = about(
        "new tokens, at least 1; unset: the task's own", default=None, ge=1, le=MAX_TOKENS
    )
    trials: int = about(
        "a whole number from 1 to 1,000: how often each example is asked; more than one needs a "
        "temperature",
        default=1,
        ge=1,
        le=1_000,
    )
    self_consistency: int = about(
        "samples that vote on each answer, at least 1: one answer for the price of so many; more "
        "than one needs a temperature",
        default=1,
        ge=1,
        le=1_000,
    )
    seed: int = about("a whole number from 0 to 2,147,483,647", default=0, ge=0, le=2**31 - 1)
    reasoning: ReasoningRule = about(
        "strip (thoughts in a reply are not scored), keep (they are) or fail (a reply that thinks "
        "scores 0)",
        default="strip",
    )
    strategy: Literal["fixed", "sequential"] = about(
        "fixed (bins.per_bin examples for every cell) or sequential (until a cell is decided, "
        "between bins.per_bin {min, max})",
        default="fixed",
    )


class Variant(Section):
    """One way of asking: what differs from the experiment's own."""

    temperature: float | None = about(
        "a number from 0 to 100; 0 is greedy", default=None, ge=0, le=HOTTEST
    )
    top_p: float | None = about("a number in (0, 1]", default=None, gt=0, le=1)
    before: str = about("text in front of every prompt", default="")
    after: str = about("text behind every prompt", default="")


DIVERGENCE = "divergence"
Measure = Literal["score", "divergence"]


_LATER: Keys = {"measure": [SCORE], "published": None, "store": {"texts": "keep"}}
"""Keys that snapshots have not had from the start, where they say nothing."""


def _listed(given: Any) -> Any:
    """One is a list of one."""
    return (given,) if isinstance(given, str) else given


class Experiment(Section):
    """One experiment: everything that decides what is asked, of whom, and how it is judged."""

    group: str = about(
        f"{GROUP_NAMES}; its folder is below reports/", pattern=GROUP, max_length=MAX_GROUP
    )
    description: str = about("a sentence for the report", default="")
    tasks: Annotated[tuple[TaskName, ...], Listed, AfterValidator(unique)] = about(
        "a list of task names, each once: [niah/single]"
    )
    task_options: Mapping[TaskName, Mapping[str, object]] = about(
        "options by task name or family: {niah: {haystack: noise}}", default_factory=dict
    )
    bins: Bins = Bins()
    kv: KV = KV()
    engine: EngineSettings = EngineSettings()
    executor: ExecutorSettings = Field(default=ExecutorSettings(), exclude=True)
    sampling: SamplingSettings = SamplingSettings()
    gate: Gate = Gate()
    store: Kept = Kept()
    variants: Mapping[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._]*$")], Variant] = (
        about(
            "ways of asking by name: {plain: {}, warm: {temperature: 0.7}, terse: {after: ' In one "
            "word.'}}",
            default_factory=dict,
        )
    )
    tokenizer: str = about(
        "auto (the serving model's), approximate, tiktoken:NAME or hf:PATH_OR_ID",
        default="auto",
        pattern=r"^(auto|approximate|(tiktoken|hf):.+)$",
    )
    measure: Annotated[
        tuple[Measure, ...], BeforeValidator(_listed), Listed, AfterValidator(unique)
    ] = about(
        "score (what the task's metric says of replies), divergence (how far next-token "
        "distributions move, without labels) or both: [score, divergence]",
        default=(SCORE,),
    )
    published: Published | None = about(
        "a paper's scores of the same cells, for the report: {source: ..., model: ..., scores: "
        "[{policy: snapkv, budget: 0.5, score: 67.0}]}",
        default=None,
    )
    prices: Prices | None = about(
        "per million tokens, for the report: {prompt: 0.5, completion: 1.5, currency: USD}",
        default=None,
    )
    aa: bool = about(
        "true: run the control twice, as a noise floor; under gate.mode: certify the default",
        default=False,
    )
    sensitivity: Sensitivity | Literal["auto"] | None = about(
        "an arm that is known to be bad, and must break: {policy: random, budget: 0.1}, or "
        "{policy: withheld} on any engine; null: none; auto: random at 0.1 for generated tasks of "
        "engine.name: local, and under gate.mode: certify withheld for all others (local, of "
        "distributions: random)",
        default="auto",
    )
    after: str | None = about(
        "a group that is run first: arms that break there, by task, are not asked here",
        default=None,
        pattern=GROUP,
        max_length=MAX_GROUP,
    )
    dropped: Mapping[str, tuple[str, ...]] = about(
        "arms that are not asked, by task: {niah/single: [snapkv-0.20]}; filled in by `after`",
        default_factory=dict,
    )

    @model_validator(mode="before")
    @classmethod
    def _certified_with_a_floor(cls, data: Any) -> Any:
        gate = data.get("gate") if isinstance(data, Mapping) else None
        certifies = isinstance(gate, Mapping) and gate.get("mode") == "certify"
        return {"aa": True, **data} if certifies else data

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
    def keeps_no_texts(self) -> bool:
        """Whether prompts, references and replies are stored as hashes alone."""
        return self.store.texts == "hash"

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

    @model_validator(mode="after")
    def _compared(self) -> Experiment:
        """Distributions are compared token by token, with one greedy reply of the full cache."""
        if not self.diverges:
            if self.gate.divergence is not None:
                raise ValueError(
                    "gate.divergence is for measure: divergence, or [score, divergence]"
                )
            return self
        for name in self.ways:
            if self.sampling_of(name).temperature > 0:
                raise ValueError(
                    "measure: divergence compares distributions after the same greedy reply: use "
                    "temperature 0, or measure: score"
                )
        bad = self.sensitivity
        if isinstance(bad, Sensitivity) and bad.policy == WITHHELD and not self.scores:
            raise ValueError(
                "sensitivity: withheld is another prompt, whose tokens cannot be compared: name a "
                "policy, as in {policy: random, budget: 0.1}, or leave it away"
            )
        if self.gate.divergence is None:
            gate = self.gate.model_copy(update={"divergence": DivergenceGate()})
            object.__setattr__(self, "gate", gate)
        return self

    @model_validator(mode="after")
    def _scored_by_texts(self) -> Experiment:
        if self.keeps_no_texts and self.scores:
            raise ValueError("store.texts: hash keeps no reply to score: use measure: divergence")
        return self

    @property
    def scores(self) -> bool:
        """Whether replies are scored."""
        return SCORE in self.measure

    @property
    def diverges(self) -> bool:
        """Whether distributions are compared."""
        return DIVERGENCE in self.measure

    def asks_again(self, measure: str) -> bool:
        """Whether the control is asked twice; of distributions always: it is their noise floor."""
        return self.aa or measure != SCORE

    def gate_of(self, measure: str) -> Gate:
        """The rules that a measure is judged by."""
        return self.gate if measure == SCORE else self.gate.of_divergence()

    @property
    def served_kv(self) -> KV:
        """`kv` with the policy that `sensitivity` names beside it: what servers there are."""
        bad = self.sensitivity
        if not isinstance(bad, Sensitivity) or bad.policy in (WITHHELD, *self.kv.policies):
            return self.kv
        return self.kv.model_copy(update={"policies": (*self.kv.policies, bad.policy)})

    @property
    def ways(self) -> Mapping[str, Variant]:
        """The variants by name; one without a name where none is declared."""
        return self.variants or {"": Variant()}

    def sampling_of(self, variant: str) -> Sampling:
        """How a variant's tokens are drawn; greedy decoding draws nothing, so it has no seed."""
        way, base = self.ways[variant], self.sampling
        temperature = base.temperature if way.temperature is None else way.temperature
        top_p = base.top_p if way.top_p is None else way.top_p
        seed = base.seed if temperature > 0 else 0
        return Sampling(temperature, top_p, seed, base.max_tokens)

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

    def options_of(self, task: str) -> Mapping[str, object]:
        """Options of a task: its family's (`niah`), then its own (`niah/single`)."""
        family = task.split("/")[0].split(":")[0]
        return {**self.task_options.get(family, {}), **self.task_options.get(task, {})}

    def snapshot(self) -> Keys:
        """Plain JSON data; `Experiment(**snapshot)` gives the experiment back, asked from here."""
        plain = self.model_dump(mode="json")
        if not plain["kv"]["named"]:  # as it was before there were any
            del plain["kv"]["named"]
        return {name: value for name, value in plain.items() if value != _LATER.get(name, ...)}
