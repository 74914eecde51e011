"""What can look like an effect of the budget and is none: one check a function, one sentence each.

A flag is "code: sentence". It never changes a verdict; it tells a reader what to look at first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import bdtr

from pytest_kvbench import hints
from pytest_kvbench.analyse import arrival
from pytest_kvbench.analyse.alike import Agreement, is_lopsided
from pytest_kvbench.analyse.cell import CellResult
from pytest_kvbench.analyse.facts import cuts_of
from pytest_kvbench.analyse.floor import REPEATED
from pytest_kvbench.analyse.readings import APART
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.records import SHOWN
from pytest_kvbench.rows import CellRow, Facts
from pytest_kvbench.wire import finish

SAME_ANSWERS = 0.98  # share of equal texts from which on an arm looks like its control
FEWEST_TEXTS = 10
MORE_FAILURES = 0.02  # treated minus control, share of requests
MORE_TRUNCATED = 0.10  # treated minus control, share of answers
LENGTH_RATIO = 1.5  # between median answer lengths, either way
LENGTH_TOKENS = 5
LENGTH_LEVEL = 0.01  # sign test on the pairs' lengths
FLOOR = 0.10
CEILING = 0.98
FEW_CLUSTERS = 10
LABELS_EXPLAIN = 0.5  # of the drop gone without labelled answers


@dataclass(frozen=True, eq=False)
class CellView:
    """What a check may look at: a cell's joined requests, its result, its facts, the rules."""

    rows: pd.DataFrame
    result: CellResult
    facts: Facts | CellRow
    rules: Rules

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """The requests that have both answers."""
        return self.rows[~self.rows["lost"]]

    @cached_property
    def agreement(self) -> Agreement:
        """How many answers equal the control's, beside how many of its own repeats do."""
        equal = (self.pairs["text"] == self.pairs["text_control"]).to_numpy(dtype=bool)
        return Agreement.of(equal, self.pairs[REPEATED].to_numpy(dtype=float))


def flags_of(view: CellView) -> list[str]:
    """The flags of one cell, in a fixed order."""
    return [f"{code}: {sentence}" for code, check in CHECKS.items() if (sentence := check(view))]


def placebo(view: CellView) -> str:
    """Answers as alike as the control's own are, and no proof that it was treated.

    Without a second run of the control nobody knows how alike these are: then also a few may
    differ, unless what differs is lost.
    """
    found = view.agreement
    differs = (
        is_lopsided(view.result.losses, view.result.gains)
        if found.noise is None
        else found.exceeds_noise
    )
    if view.facts["proof"] in SHOWN or differs or not found.rules_out_a_change:
        return ""
    unknown = found.noise is None and found.equal < found.total
    return (
        f"{_said_of(found)}, and nothing proves that the budget was applied: possibly a placebo"
        + " (`aa: true` would tell noise from treatment)" * unknown
    )


def identical(view: CellView) -> str:
    """Nearly equal answers with proof: lossless here, or a task that cannot show a loss."""
    found = view.agreement
    nearly_all = SAME_ANSWERS * (found.total - (found.noise or 0))
    few = found.total < FEWEST_TEXTS or found.equal < nearly_all
    if view.facts["proof"] not in SHOWN or few or found.exceeds_noise:
        return ""
    return (
        f"{_said_of(found)} although the cache is proven smaller: lossless on this task, or a task "
        "that does not depend on what was dropped"
    )


def _said_of(found: Agreement) -> str:
    equal = f"{hints.part(found.equal, found.total, 'answer')} equal the control's"
    if not found.noise:
        return equal
    return f"{equal}, as do {found.total - found.noise} of the control's own second run"


def gain(view: CellView) -> str:
    """Better than the control, significantly."""
    low = view.result.ci_low
    if low is None or low <= 0:
        return ""
    return (
        f"treated is better than the control by {view.result.delta:.3f} (at least {low:.3f}): "
        "suspect prompt leakage, a metric that rewards short answers, or a truncated control"
    )


def failures(view: CellView) -> str:
    """More failures under treatment than under the control."""
    treated = float((view.rows["failure"] != "").mean())
    control = float((view.rows["failure_control"].fillna("") != "").mean())
    if treated - control <= MORE_FAILURES:
        return ""
    kinds = view.rows.loc[view.rows["failure"] != "", "failure"].value_counts()
    named = ", ".join(f"{n} {kind}" for kind, n in kinds.items())
    return (
        f"{treated:.0%} of treated requests failed ({named}), {control:.0%} of the control's: "
        "failures have no score, so delta says nothing about them"
    )


def cut(view: CellView) -> str:
    """Prompts that did not arrive whole."""
    found = cuts_of(view.rows)
    return arrival.sentence(found, len(view.rows)) if found else ""


def labels(view: CellView) -> str:
    """A drop that is gone without labelled answers."""
    delta, without = view.result.delta, view.facts["delta_unlabelled"]
    if delta is None or delta > -view.rules.margin / 2 or delta >= 0:
        return ""
    labelled = view.pairs[view.pairs["label"] != ""]
    named = ", ".join(f"{n} {label}" for label, n in labelled["label"].value_counts().items())
    if without is None:
        return f"every pair has a labelled answer ({named}): the drop may be one of format"
    if without < delta * (1 - LABELS_EXPLAIN) or labelled.empty:
        return ""
    return (
        f"delta is {delta:+.3f}, but {without:+.3f} without labelled answers ({named} of "
        f"{len(view.pairs)}): labels drive the drop"
    )


def truncation(view: CellView) -> str:
    """Many more answers cut at max_tokens in one arm than in the other."""
    pairs = view.pairs
    treated = float((pairs["finish_reason"] == "length").mean()) if len(pairs) else 0.0
    control = float((pairs["finish_reason_control"] == "length").mean()) if len(pairs) else 0.0
    if control - treated >= MORE_TRUNCATED:
        return (
            f"{control:.0%} of the control's answers reach max_tokens, {treated:.0%} of the "
            "treated: what the control could do is cut short, and a loss may not show; raise "
            "max_tokens"
        )
    if treated - control < MORE_TRUNCATED:
        return ""
    return (
        f"{treated:.0%} of treated answers reach max_tokens, {control:.0%} of the control's: "
        "raise max_tokens to see whether the answer comes later"
    )


def endings(view: CellView) -> str:
    """Answers of which nobody knows whether they are whole, by the server's word for their end."""
    reasons = [*view.pairs["finish_reason"], *view.pairs["finish_reason_control"]]
    unknown = Counter(reason for reason in reasons if reason not in finish.KNOWN)
    if not unknown:
        return ""
    named = ", ".join(f"{n} {reason or 'without any'}" for reason, n in unknown.most_common())
    return (
        f"{unknown.total()} of {len(reasons)} answers, the control's too, have a finish_reason "
        f"that is not known here ({named}): whether they are whole is not known either"
    )


def length(view: CellView) -> str:
    """Answers systematically longer or shorter than the control's."""
    names = ("completion_tokens", "completion_tokens_control")
    lengths = np.array([view.pairs[name].to_numpy(dtype=float) for name in names])
    treated, control = lengths[:, ~np.isnan(lengths).any(axis=0)]
    longer, shorter = int((treated > control).sum()), int((treated < control).sum())
    if 2 * bdtr(min(longer, shorter), longer + shorter, 0.5) >= LENGTH_LEVEL:
        return ""
    before, after = float(np.median(control)), float(np.median(treated))
    ratio = max(after, 1) / max(before, 1)
    if abs(after - before) < LENGTH_TOKENS or 1 / LENGTH_RATIO < ratio < LENGTH_RATIO:
        return ""
    return (
        f"the median answer has {after:.0f} tokens, the control's {before:.0f}: length drifts "
        "with the budget, and a metric that punishes length sees it as quality"
    )


def control_floor(view: CellView) -> str:
    """A control so low that a loss of the margin can hardly be seen."""
    control = view.result.control_mean
    if control is None or control > max(FLOOR, view.rules.margin):
        return ""
    return (
        f"the control scores {control:.3f}, and no loss can be larger: `holds` means little; "
        "use an easier task, a stronger model or shorter bins"
    )


def control_ceiling(view: CellView) -> str:
    """A control so high, with nothing lost, that the task may be too easy."""
    control, delta = view.result.control_mean, view.result.delta
    if control is None or delta is None or control < CEILING or delta < 0:
        return ""
    return f"the control scores {control:.3f} and nothing was lost: a harder task may show a loss"


def few_clusters(view: CellView) -> str:
    """Many examples that share few contexts."""
    n, clusters = view.result.n, view.result.clusters
    if not n or clusters >= FEW_CLUSTERS or clusters == n:
        return ""
    return f"{n} examples share {clusters} contexts: only more contexts narrow the interval"


def bounds(view: CellView) -> str:
    """Bounds of scores that lie on either side of the margin."""
    found = view.result.bounds
    if found is None or view.result.reason != APART:
        return ""
    return f"delta lies between {found[0]:+.3f} and {found[1]:+.3f}: {APART}"


OF_SCORES: Mapping[str, Callable[[CellView], str]] = {
    "bounds": bounds,
    "gain": gain,
    "control-floor": control_floor,
    "control-ceiling": control_ceiling,
    "few-clusters": few_clusters,
}
"""What scores alone can show, without a word of the answers."""


def flags_of_result(result: CellResult, rules: Rules) -> list[str]:
    """The flags of pairs of scores, a fixed order."""
    nothing: Facts = {
        "achieved": None,
        "proof": "unverified",
        "lost": 0,
        "lost_share": 0.0,
        "delta_unlabelled": None,
    }
    view = CellView(pd.DataFrame(), result, nothing, rules)
    return [f"{code}: {sentence}" for code, check in OF_SCORES.items() if (sentence := check(view))]


CHECKS: Mapping[str, Callable[[CellView], str]] = {
    "placebo": placebo,
    "identical": identical,
    "bounds": bounds,
    "gain": gain,
    "failures": failures,
    "cut": cut,
    "labels": labels,
    "truncation": truncation,
    "finish-reason": endings,
    "length-drift": length,
    "control-floor": control_floor,
    "control-ceiling": control_ceiling,
    "few-clusters": few_clusters,
}
