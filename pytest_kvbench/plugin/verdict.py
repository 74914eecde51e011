"""What a test body holds: a measured cell, the control to compare it with, and the comparison."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from pytest_kvbench import hints
from pytest_kvbench.analyse import arrival
from pytest_kvbench.errors import InfrastructureError
from pytest_kvbench.experiment.gate import Gate
from pytest_kvbench.observation import Cut
from pytest_kvbench.plugin.checks import CheckError, UndeterminedWarning, UnverifiedWarning
from pytest_kvbench.records import SHOWN, Cell, Failure, Proof

if TYPE_CHECKING:
    from pytest_kvbench.analyse.cell import CellResult
    from pytest_kvbench.analyse.pooled import Pairs

Repetition = tuple[str, int]
"""An example's id and a replicate: what is paired between a cell and its control."""


@dataclass(frozen=True, repr=False)
class MeasuredCell:
    """A cell whose answers are in: the fixture `cell`.

    `scores` are in [0, 1]; `failed` had no reply and have no score. `highs` are the most that
    scores can be which lie between two bounds: `scores` has the least.
    """

    cell: Cell
    experiment: str
    gate: Gate
    planned_cells: int
    scores: Mapping[Repetition, float]
    failed: frozenset[Repetition]
    clusters: Mapping[str, str]
    proof: Proof
    cuts: Mapping[Repetition, Cut] = field(default_factory=dict)
    """How prompts were cut that did not arrive whole."""
    level: float | None = None
    """Two-sided, where sampling stopped as soon as the cell was decided; None: alpha / m."""
    largest: int = 1
    """Examples of the largest context of its bin, whether drawn or not."""
    room: float = 1.0
    """How far a score can be above its control's, where that is known beforehand."""
    chance: float = 0.0
    """The mean score of guessing."""
    sickness: str = ""
    """What is wrong with the control; empty for a sane one."""
    silent: int = 0
    """How many replies are empty or refuse."""
    highs: Mapping[Repetition, float] = field(default_factory=dict)
    failures: Sequence[Failure] = ()
    """What became of the requests without a reply."""

    def __repr__(self) -> str:
        """What a failed test of a user's shows."""
        return f"<{self.cell.item_id}: {len(self.scores)} scores, mean {self.mean:.3f}>"

    @property
    def is_control(self) -> bool:
        """Whether this is the full-cache cell."""
        return self.cell.is_control

    @property
    def mean(self) -> float:
        """The mean score; 0 where nothing was answered."""
        return sum(self.scores.values()) / max(1, len(self.scores))

    def compare(self, control: Controls) -> Comparison:
        """This cell against its own control.

        Raises:
            InfrastructureError: too many pairs were lost, too many prompts were cut, the budget
                was not applied, or the control has nothing to lose.
        """
        reference = control.of(self)
        paired = sorted(self.scores.keys() & reference.scores.keys())
        asked = self.failed | self.scores.keys()
        lost = sorted(self.failed | (reference.failed & asked))
        self._refuse_if_lost(reference, len(lost), len(paired))
        self._refuse_if_cut(reference, asked)
        if not self.is_control:
            self._refuse_at_floor(reference, paired)
        return Comparison(self, reference, tuple(paired), tuple(lost))

    def _refuse_if_lost(self, reference: MeasuredCell, lost: int, paired: int) -> None:
        if not paired or lost / (lost + paired) > self.gate.max_lost:
            raise InfrastructureError(
                f"{self.cell.item_id}: {hints.lost(lost, lost + paired)}{self._why(reference)}",
                f"at most gate.max_lost={self.gate.max_lost:g} may be: mend what the server says "
                "and run again: only what failed is asked",
            )
        if self.proof == "not-applied":
            raise InfrastructureError(
                f"{self.cell.item_id}: the budget {self.cell.budget:g} was not applied",
                "the server reports other bytes than asked for; see the column `achieved`",
            )

    def _why(self, reference: MeasuredCell) -> str:
        """The server's own words."""
        from pytest_kvbench.report.failed import failure_messages, failure_words

        every = dict.fromkeys([*reference.failures, *self.failures])
        return f": {failure_words(failure_messages(every))}" if every else ""

    def _refuse_if_cut(self, reference: MeasuredCell, asked: Collection[Repetition]) -> None:
        both = {**reference.cuts, **self.cuts}
        found = [both[at] for at in asked if at in both]
        if wrong := arrival.why_unmeasured(found, len(asked), self.gate.max_cut):
            raise InfrastructureError(
                f"{self.cell.item_id}: {wrong}",
                "give the server a longer context, or ask for shorter bins",
            )

    def _refuse_at_floor(self, reference: MeasuredCell, paired: Sequence[Repetition]) -> None:
        from pytest_kvbench.analyse.at_floor import nothing_to_lose

        means = _means(reference.scores, paired)
        wrong = nothing_to_lose(
            list(means.values()),
            [self.clusters[example] for example in means],
            chance=self.chance,
            floor=self.gate.control_floor,
            margin=self.gate.loss,
            alpha=self.gate.alpha,
            anytime=self.level is not None,
            largest=self.largest,
            retain=self.gate.retain,
        )
        if wrong:
            raise InfrastructureError(
                f"{self.cell.item_id}: {wrong}",
                "an easier task, shorter bins or a stronger model; see gate.control_floor",
            )

    def judge(
        self, reference: MeasuredCell, paired: Sequence[Repetition], lost: Sequence[Repetition] = ()
    ) -> CellResult:
        """The verdict on the pairs with a control; those `lost` to failures count as losses."""
        from pytest_kvbench.analyse.cell import tipped

        result = self._judged(reference, self, paired)
        if not lost:
            return result
        right, wrong = reference.with_scores(lost, 1.0), self.with_scores(lost, 0.0)
        worst = self._judged(right, wrong, sorted({*paired, *lost}))
        return tipped(result, worst, self._alpha)

    def with_scores(self, lost: Sequence[Repetition], score: float) -> MeasuredCell:
        """The same with a score for what was lost."""
        found = dict.fromkeys(lost, score)
        return replace(
            self,
            scores={**self.scores, **found},
            highs={**self.highs, **found} if self.highs else {},
        )

    @property
    def _alpha(self) -> float:
        return self.level or self.gate.alpha / max(1, self.planned_cells)

    def _judged(
        self, control: MeasuredCell, treated: MeasuredCell, paired: Sequence[Repetition]
    ) -> CellResult:
        from pytest_kvbench.analyse.readings import Rule, judge_one

        gate, anytime = self.gate, self.level is not None
        rule = Rule(gate.loss, self._alpha, anytime, gate.retain, self.room)
        return judge_one(self._pairs(control, treated, paired), rule)

    def _pairs(
        self, control: MeasuredCell, treated: MeasuredCell, paired: Sequence[Repetition]
    ) -> Pairs:
        import numpy as np

        from pytest_kvbench.analyse.pooled import Pairs

        sides = (control, treated)
        before, after = (_means(side.scores, paired) for side in sides)
        pairs = Pairs(
            np.array([*before.values()]),
            np.array([*after.values()]),
            np.array([self.clusters[example] for example in before]),
            largest=self.largest,
        )
        if not any(side.highs for side in sides):
            return pairs
        most = [[*_means({**side.scores, **side.highs}, paired).values()] for side in sides]
        return replace(pairs, control_high=np.array(most[0]), treated_high=np.array(most[1]))


def _means(scores: Mapping[Repetition, float], paired: Sequence[Repetition]) -> dict[str, float]:
    """The mean score of each example among some repetitions, by its id, in order."""
    by_example: dict[str, list[float]] = {example: [] for example in sorted({e for e, _ in paired})}
    for repetition in paired:
        by_example[repetition[0]].append(scores[repetition])
    return {example: sum(values) / len(values) for example, values in by_example.items()}


@dataclass(frozen=True, repr=False)
class Controls:
    """The fixture `control`: finds the control of any cell."""

    look_up: Callable[[MeasuredCell], MeasuredCell]

    def __repr__(self) -> str:
        """What a failed test of a user's shows."""
        return "<the control of any cell>"

    def of(self, cell: MeasuredCell) -> MeasuredCell:
        """The measured control of `cell`; a control is its own."""
        return cell if cell.is_control else self.look_up(cell)


@dataclass(frozen=True)
class Comparison:
    """A cell against its control, judged at Bonferroni's alpha / m."""

    cell: MeasuredCell
    control: MeasuredCell
    paired: tuple[Repetition, ...]
    lost_pairs: tuple[Repetition, ...]

    @property
    def lost(self) -> int:
        """How many pairs were lost to failures."""
        return len(self.lost_pairs)

    @cached_property
    def result(self) -> CellResult:
        """The figures and the verdict."""
        return self.cell.judge(self.control, self.paired, self.lost_pairs)

    @property
    def verdict(self) -> str | None:
        """`holds`, `breaks` or `undetermined`; None for a control."""
        return None if self.cell.is_control else self.result.verdict

    def check(self) -> None:
        """Fail as the experiment's gate says; a control fails when it is not sane.

        Raises:
            AssertionError: with the figures.
        """
        __tracebackhide__ = True
        if self.cell.is_control:
            self._check_control()
        elif self.cell.gate.mode == "gate":
            self._check_gate()
        elif self.cell.gate.mode == "certify":
            self._check_unbroken()

    def check_harness(self) -> None:
        """Fail unless the measurement itself can be trusted, whatever the policy does.

        The control is sane, nothing failed, the treatment is proven and says something, and the
        treated cell is not better than the full cache by more than the margin: an interval of a few
        examples would never say so, and a smaller cache gains nothing. Where an engine proves
        nothing, it skips once the others are checked.

        Raises:
            AssertionError: with the figures.
        """
        __tracebackhide__ = True
        self._check_control()
        where = self.cell.cell.item_id
        _require(self.lost == 0, f"{where}: {hints.count(self.lost, 'request')} failed")
        if self.cell.is_control:
            return
        _require(
            (self.result.delta or 0.0) <= self.cell.gate.loss,
            f"{where}: better than the full cache by {self._figures()}: "
            "a leak in the prompt or a metric that does not fit",
        )
        replies = len(self.cell.scores)
        _require(
            self.cell.silent <= self.cell.gate.max_sick * replies,
            f"{where}: {self.cell.silent} of {replies} treated replies are empty or refuse: "
            "look at what that server says before its quality is judged",
        )
        if self.cell.proof == "unverified":
            _skip(
                f"{where}: {self._figures()}: this engine does not prove what it kept: serve "
                "llama.cpp with --slot-save-path, vLLM where /metrics tells kv_cache_memory_bytes, "
                "or judge by the control alone (kv.policies: [none])"
            )
        shown = self.cell.proof in SHOWN
        _require(shown, f"{where}: the budget is {self.cell.proof}")

    def _check_control(self) -> None:
        __tracebackhide__ = True
        where = self.control.cell.item_id
        _require(not self.control.sickness, f"{where}: {self.control.sickness}")

    def _check_gate(self) -> None:
        __tracebackhide__ = True
        doubt = self.cell.proof if self.cell.proof in ("unverified", "simulated") else ""
        word = f"{self.result.verdict}{f' ({doubt})' if doubt else ''}"
        where = f"{self.cell.cell.item_id} {word}: {self._figures()}"
        strict = self.cell.gate.undetermined == "fail"
        if self.result.verdict == "undetermined" and not strict:
            warnings.warn(where, UndeterminedWarning, stacklevel=3)
        if self.result.verdict == "holds" and self.cell.proof == "unverified":
            warnings.warn(where, UnverifiedWarning, stacklevel=3)
        _require(self.result.verdict != "breaks", where, self._short)
        _require(self.result.verdict != "undetermined" or not strict, where, self._short)

    def _check_unbroken(self) -> None:
        """Of one bin no more is asked: the arm's own item says what is shown over all of them."""
        __tracebackhide__ = True
        broken = self.result.verdict == "breaks"
        _require(not broken, f"{self.cell.cell.item_id} breaks: {self._figures()}", self._short)

    @property
    def _short(self) -> str:
        """`breaks -.12`."""
        from pytest_kvbench.report.text import short

        return f"{self.result.verdict} {short(self.result.delta)}"

    def _figures(self) -> str:
        r = self.result
        return (
            f"control {r.control_mean:.3f}, treated {r.treated_mean:.3f}, "
            f"delta {r.delta:+.3f} [{r.ci_low:+.3f}, {r.ci_high:+.3f}], n={r.n}, "
            f"margin {self.cell.gate.loss:g}, m={self.cell.planned_cells}"
        )


def _skip(reason: str) -> None:
    __tracebackhide__ = True
    import pytest

    pytest.skip(reason)


def _require(condition: bool, message: str, short: str = "") -> None:
    __tracebackhide__ = True
    if not condition:
        raise CheckError(message, short or message.partition(": ")[2] or message)
