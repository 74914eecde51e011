"""All cells of an experiment: each judged, then adjusted as a family, then pooled over bins."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pytest_kvbench.analyse.cell import CellResult, tipped, verdict_of
from pytest_kvbench.analyse.ladder import CellPairs
from pytest_kvbench.analyse.multiplicity import Bonferroni, adjusted
from pytest_kvbench.analyse.readings import Rule, judge_bins, judge_one
from pytest_kvbench.analyse.rules import Correction, Rules
from pytest_kvbench.analyse.sequential import Rung, group_verdicts
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.records import VerdictWord
from pytest_kvbench.rows import Bounded, CellRow


@dataclass(frozen=True)
class Verdict:
    """The two corrected verdicts of a cell."""

    item: VerdictWord
    corrected: VerdictWord


Key = TypeVar("Key")


def judge_each(
    cells: Mapping[CellKey, CellPairs],
    worst: Mapping[CellKey, CellPairs],
    excluded: Mapping[CellKey, str],
    rules: Rules,
) -> dict[CellKey, CellResult]:
    """Judge every cell; those in `excluded` are not measured, for the reason given there.

    Args:
        cells: the pairs that have both scores.
        worst: of cells that lost pairs: these too, counted as losses.
        excluded: why a cell is not measured.
        rules: margin and alpha.
    """
    results = {key: _judged(pairs, worst.get(key), rules) for key, pairs in cells.items()}
    return {
        key: unmeasured(result, excluded[key]) if key in excluded else result
        for key, result in results.items()
    }


def _judged(pairs: CellPairs, worst: CellPairs | None, rules: Rules) -> CellResult:
    rule = _rule(rules)
    result, *tipping = (judge_one(p, rule) for p in (pairs, worst) if p is not None)
    return tipped(result, tipping[0], rules.alpha) if tipping else result


def _rule(rules: Rules) -> Rule:
    return Rule(rules.margin, rules.alpha, rules.anytime, rules.retain, rules.room)


def unmeasured(result: CellResult, reason: str) -> CellResult:
    """The same numbers without any conclusion: no interval, no p-value, no verdict."""
    return replace(
        result,
        ci_low=None,
        ci_high=None,
        together=(),
        bounds=None,
        p_holds=None,
        p_breaks=None,
        needed=None,
        verdict="not-measured",
        reason=reason,
    )


def judge_over_bins(
    cells: Mapping[CellKey, CellPairs],
    worst: Mapping[CellKey, CellPairs],
    results: Mapping[CellKey, CellResult],
    rules: Rules,
) -> dict[CellKey, CellResult]:
    """The pooled row of every task, variant, policy and budget, over the bins measured."""
    groups: dict[CellKey, list[CellKey]] = {}
    for key in sorted(cells, key=lambda key: key.bin):
        groups.setdefault(key.pooled, []).append(key)
    adjusted = rules.correction != "none"
    family = max(rules.planned_rows or 0, len(groups)) if adjusted else 1
    return {
        pooled: _over(members, cells, worst, results, rules, family)
        for pooled, members in groups.items()
    }


def _over(
    members: Sequence[CellKey],
    cells: Mapping[CellKey, CellPairs],
    worst: Mapping[CellKey, CellPairs],
    results: Mapping[CellKey, CellResult],
    rules: Rules,
    family: int,
) -> CellResult:
    measured = [key for key in members if results[key].verdict != "not-measured"]
    pooled = judge_bins([cells[key] for key in measured], _rule(rules), family)
    if any(key in worst for key in measured):
        tipping = judge_bins([worst.get(key, cells[key]) for key in measured], _rule(rules))
        pooled = tipped(pooled, tipping, rules.alpha)
    reasons = dict.fromkeys(results[key].reason for key in members)
    whys = "; ".join(reason for reason in reasons if reason)
    return pooled if measured or not whys else replace(pooled, reason=whys)


def corrected_verdicts(
    results: Mapping[Key, CellResult], members: int, rules: Rules
) -> dict[Key, Verdict]:
    """Verdicts of one family: at Bonferroni's level, and by the rules' correction.

    Args:
        results: the family's cells that were seen.
        members: the size of the whole planned family; never taken smaller than `results`.
        rules: alpha and correction.
    """
    members = max(members, len(results))
    tested = {key: result for key, result in results.items() if result.p_holds is not None}
    item = _verdicts(tested, members, rules.alpha, "bonferroni")
    corrected = _verdicts(tested, members, rules.alpha, rules.correction)
    return {
        key: Verdict(item[key], corrected[key])
        if key in tested
        else Verdict("not-measured", "not-measured")
        for key in results
    }


def family_verdicts(
    results: Mapping[CellKey, CellResult], members: int, rules: Rules
) -> dict[CellKey, Verdict]:
    """As `corrected_verdicts`; items that stopped when decided keep the level they stopped at."""
    verdicts = corrected_verdicts(results, members, rules)
    if not rules.anytime:
        return verdicts
    alpha = rules.alpha / max(members, len(results), 1)
    for ladder in by_chain(results):
        p = {Rung(key.policy, key.budget): p_of(results[key]) for key in ladder}
        found = group_verdicts(p, alpha)
        for key in ladder:
            if verdicts[key].item != "not-measured":
                word, _ = found[Rung(key.policy, key.budget)]
                verdicts[key] = replace(verdicts[key], item=word)
    return verdicts


def by_chain(keys: Iterable[CellKey]) -> list[list[CellKey]]:
    """Cells of one ladder together."""
    ordered = sorted(keys, key=lambda key: (repr(key.chain), key.budget))
    return [list(ladder) for _, ladder in itertools.groupby(ordered, key=lambda key: key.chain)]


def p_of(result: CellResult) -> tuple[float, float]:
    """A cell's p-values of holds and of breaks; 1 where it was not measured."""
    if result.p_holds is None or result.p_breaks is None:
        return 1.0, 1.0
    return result.p_holds, result.p_breaks


def _verdicts(
    tested: Mapping[Key, CellResult],
    members: int,
    alpha: float,
    correction: Correction | Bonferroni,
) -> dict[Key, VerdictWord]:
    def side(p_values: Iterable[float | None]) -> list[float]:
        return adjusted([1.0 if p is None else p for p in p_values], members, correction)

    holds = side(result.p_holds for result in tested.values())
    breaks = side(result.p_breaks for result in tested.values())
    return {key: verdict_of(h, b, alpha) for key, h, b in zip(tested, holds, breaks, strict=True)}


def cell_row(key: CellKey, result: CellResult, verdict: Verdict) -> CellRow:
    """A cell as `summary.json` has it, without what only an engine can know."""
    return {
        **key.columns(),
        "achieved": None,
        "n": result.n,
        "clusters": result.clusters,
        "control_mean": result.control_mean,
        "treated_mean": result.treated_mean,
        "delta": result.delta,
        "ci_low": result.ci_low,
        "ci_high": result.ci_high,
        "together": list(result.together),
        "losses": result.losses,
        "gains": result.gains,
        "method": result.method,
        "verdict": result.verdict,
        "verdict_holm": verdict.corrected,
        "verdict_item": verdict.item,
        "proof": "unverified",
        "flags": [],
        "lost": 0,
        "lost_share": 0.0,
        "delta_unlabelled": None,
        "retention": result.retention,
        "p_holds": result.p_holds,
        "p_breaks": result.p_breaks,
        "p_mcnemar": result.p_mcnemar,
        "needed": result.needed,
        "reason": result.reason,
        **_bounded(result),
    }


def _bounded(result: CellResult) -> Bounded:
    return {"bounds": [*result.bounds]} if result.bounds else {}
