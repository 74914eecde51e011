"""Every arm against the control: over all groups that asked alike, by task and by length.

The pairs of all groups are judged together, so that no group is picked for its luck; what the
groups found on their own stands beside it, and where they contradict each other it is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_kvbench.analyse.judge import judged_rows
from pytest_kvbench.analyse.ladder import CellPairs
from pytest_kvbench.analyse.pairs import measured_pairs, worst_pairs
from pytest_kvbench.analyse.rules import Rules
from pytest_kvbench.analyse.tables import split_cells
from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.experiment.snapshot import Snapshot
from pytest_kvbench.ops.columns import Record
from pytest_kvbench.ops.doubts import NOT_MEASURED, TOO_LOW, Told, doubt_of
from pytest_kvbench.ops.recipes import (
    ALL_LENGTHS,
    ARM,
    CELL,
    RECIPE,
    by_length,
    compared,
    counted,
    is_measured,
    with_recipe,
)
from pytest_kvbench.records import FULL_CACHE, SCORE, UNVERIFIED
from pytest_kvbench.report import text
from pytest_kvbench.rows import CellRow

if TYPE_CHECKING:
    import pandas as pd

_BIN = ["group", "task", "bin"]

COLUMNS = [
    *RECIPE,
    "variant",
    "margin",
    "retain",
    "alpha",
    "length",
    "lengths",
    *ARM,
    *("n", "clusters", "groups", "control_mean", "treated_mean", "delta", "ci_low", "ci_high"),
    *("together_low", "together_high", "verdict", "verdict_holm", "p_holds", "breaks_at"),
    *("achieved", "kept_bytes_mean", "full_bytes_mean", "latency_p50", "control_latency_p50"),
    *("proof", "doubt", "measured_in", "holds_in", "breaks_in", "broken_in", "not_measured"),
    "chosen_from",
]
"""Of an arm, `ci` is its interval alone, `together` that for whichever of `chosen_from` is chosen.

`verdict` is the arm's alone, `verdict_holm` that among all of its line. `breaks_at`: the lengths at
which it breaks, a tuple. By the verdicts of groups' own cells that reach the length, each group
once: `breaks_in` where any breaks, `holds_in` where some hold and none breaks; `broken_in` names
group and tokens of what breaks, a tuple. `not_measured`: cells.
"""


@dataclass(frozen=True)
class _Rule:
    """What groups of a recipe declared to be acceptable; `retain` a share of the control's."""

    margin: float
    retain: float | None
    alpha: float
    anytime: bool


def judged_arms(answers: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """All arms of all recipes, by length and over all lengths: see `COLUMNS`.

    A row for each margin that any group of the recipe declared. Lengths are the octaves of the
    bins' median tokens, and over all lengths each weighs the same. At a length count all pairs of
    its bins, and of any other bin those whose prompts are of that length.
    """
    import pandas as pd

    every = with_recipe(answers, runs)
    pairs = compared(counted(every, runs, cells))
    stated = _stated(cells, every)
    rules = _rules(runs)
    rows: list[Record] = []
    for recipe, arms in stated.groupby(RECIPE, dropna=False):
        own = _of(pairs, recipe)
        for rule in _together(rules[g] for g in set(arms["group"]) if g in rules):
            named = dict(zip(RECIPE, recipe, strict=True))
            rows += [{**named, **row} for row in _lines(own, arms, rule)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _together(rules: Iterable[_Rule]) -> list[_Rule]:
    """One rule a margin: at the least error, and as if all had stopped when they pleased."""
    found: dict[str, list[_Rule]] = {}
    for rule in rules:
        found.setdefault(repr((rule.margin, rule.retain)), []).append(rule)
    return [
        replace(
            same[0],
            alpha=min(rule.alpha for rule in same),
            anytime=any(rule.anytime for rule in same),
        )
        for _, same in sorted(found.items())
    ]


def _of(pairs: pd.DataFrame, recipe: Sequence[Any]) -> pd.DataFrame:
    fits = [pairs[name] == value for name, value in zip(RECIPE, recipe, strict=True)]
    return pairs[np.logical_and.reduce(fits)]


def _rules(runs: pd.DataFrame) -> dict[str, _Rule]:
    """By group what its last run declared."""
    last = runs.drop_duplicates("group", keep="last")
    return {
        group: _rule(Snapshot(json.loads(text)))
        for group, text in zip(last["group"], last["snapshot"], strict=True)
    }


def _rule(declared: Snapshot) -> _Rule:
    retain = declared.get("gate.margin.retain")
    anytime = declared.get("sampling.strategy") == "sequential"
    return _Rule(declared.margin or 0.0, retain, declared.get("gate.alpha"), anytime)


def _stated(cells: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """What groups found on their own of each treated cell, with its recipe, arm and lengths.

    A cell is there once for every length that a prompt of its bin has.
    """
    import pandas as pd

    names = list(dict.fromkeys([*CELL, *RECIPE, *ARM]))
    known = answers[names].drop_duplicates(CELL)
    bins = answers.groupby(["group", "task", "bin"])["tokens"]
    seen = answers.assign(shortest=bins.transform("min"), longest=bins.transform("max"))
    reached = pd.concat([seen, seen.assign(length=seen["stratum"])])
    places = reached[[*_BIN, "length", "shortest", "longest"]].drop_duplicates([*_BIN, "length"])
    places = places.astype({"bin": str})
    own = cells[cells["policy"] != FULL_CACHE]
    own = own[[*CELL, "bin", "verdict_holm", "proof", "flags", "reason"]]
    rows = own.merge(known, on=CELL).merge(places, on=["group", "task", "bin"], how="left")
    return rows.assign(
        length=rows["length"].where(rows["bin"] != ALL_BINS, ALL_LENGTHS),
        measured=is_measured(rows),
    )


def _lines(pairs: pd.DataFrame, arms: pd.DataFrame, rule: _Rule) -> Iterator[Record]:
    """The arms of one recipe: over all lengths, then at each."""
    found = sorted(set(pairs["stratum"]), key=by_length)
    at = {length: _at(pairs, length) for length in found}
    judged = {length: _judged(rows, rule, arms) for length, rows in at.items()}
    over = _judged(pairs, rule, arms) if len(found) != 1 else judged[found[0]]
    for length, rows in {ALL_LENGTHS: over, **(judged if len(found) > 1 else {})}.items():
        own = arms if length == ALL_LENGTHS else arms[arms["length"] == length]
        for arm, told in own.groupby(ARM, dropna=False):
            broken = [
                place
                for place, there in judged.items()
                if length in (place, ALL_LENGTHS)
                and arm in there
                and there[arm]["verdict"] == "breaks"
            ]
            figures, said = _figures(rows.get(arm)), _found(told)
            low = [TOO_LOW] if _is_too_low(figures, rule) else []
            yield {
                "margin": rule.margin,
                "retain": rule.retain,
                "alpha": rule.alpha,
                "length": length,
                "lengths": len(found) if length == ALL_LENGTHS else 1,
                **dict(zip(ARM, arm, strict=True)),
                **figures,
                **_costs(_of_arm(at.get(length, pairs), arm)),
                **said,
                "doubt": ", ".join(filter(None, [str(said["doubt"]), *low])),
                "breaks_at": tuple(broken),
                "chosen_from": own.groupby(ARM, dropna=False).ngroups,
            }


def _is_too_low(figures: Record, rule: _Rule) -> bool:
    control = figures.get("control_mean")
    return isinstance(control, float) and rule.retain is None and control <= rule.margin


def _at(pairs: pd.DataFrame, length: str) -> pd.DataFrame:
    """The pairs that count at a length, all of one stratum."""
    own = (pairs["stratum"] == length) | (pairs["length"] == length)
    return pairs[own].assign(stratum=length)


def _judged(
    pairs: pd.DataFrame, rule: _Rule, arms: pd.DataFrame
) -> Mapping[tuple[Any, ...], CellRow]:
    """The row over strata of each arm, all of them one family."""
    codes = {key: code for code, key in enumerate(dict.fromkeys(_keys(pairs)))}
    places = {length: code for code, length in enumerate(sorted(set(pairs["stratum"])))}
    family = arms.groupby(ARM, dropna=False).ngroups
    rules = Rules(
        rule.margin,
        rule.alpha,
        retain=rule.retain,
        anytime=rule.anytime,
        planned_rows=max(1, family),
    )
    table = _once(pairs).assign(
        task="",
        variant="",
        measure=SCORE,
        bin=lambda rows: rows["stratum"].map(places),
        policy=lambda rows: [str(codes[key]) for key in _keys(rows)],
    )
    measured, worst = (_with_largest(of(table)) for of in (measured_pairs, worst_pairs))
    found = judged_rows(measured, rules, worst)
    by_code = {row["policy"]: row for key, row in found.items() if key.bin == ALL_BINS}
    return {key: by_code[str(code)] for key, code in codes.items() if str(code) in by_code}


def _with_largest(table: pd.DataFrame) -> dict[CellKey, CellPairs]:
    """The cells, each with the size of its largest context: that of those that were drawn."""
    return {
        key: replace(pairs, largest=int(np.bincount(pairs.clusters).max()))
        for key, pairs in split_cells(table).items()
    }


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(rows[ARM].itertuples(index=False, name=None))


def _once(pairs: pd.DataFrame) -> pd.DataFrame:
    """A row per arm and example, whatever groups asked it: of those with scores the mean.

    An example that is in several strata counts in the first.
    """
    order = pairs.sort_values("lost", kind="stable")
    kept = order[~order["lost"] | ~order.duplicated([*ARM, "example_id"])]
    rows = kept.groupby([*ARM, "example_id"], as_index=False, dropna=False).agg(
        cluster=("cluster", "first"),
        stratum=("stratum", "first"),
        score=("score", "mean"),
        score_control=("control", "mean"),
        lost=("lost", "min"),
    )
    return rows.assign(lost=rows["lost"].astype(bool))


def _of_arm(pairs: pd.DataFrame, arm: tuple[Any, ...]) -> pd.DataFrame:
    fits = [pairs[name] == value for name, value in zip(ARM, arm, strict=True)]
    return pairs[np.logical_and.reduce(fits)]


_NAMES = ("n", "clusters", "control_mean", "treated_mean", "delta", "ci_low", "ci_high")
_WORDS = ("verdict", "verdict_holm", "p_holds")


def _figures(row: CellRow | None) -> Record:
    if row is None:
        return {"n": 0, "verdict": "not-measured", "verdict_holm": "not-measured"}
    wide = next(iter(row["together"]), None)
    figures = {name: value for name, value in row.items() if name in (*_NAMES, *_WORDS)}
    alone = (row["ci_low"], row["ci_high"])
    low, high = (wide["ci_low"], wide["ci_high"]) if wide else alone
    return {**figures, "together_low": low, "together_high": high}


def _costs(rows: pd.DataFrame) -> Record:
    return {
        "variant": ", ".join(sorted(set(rows["variant"]) - {""})),
        "groups": rows["group"].nunique(),
        "achieved": rows["achieved"].mean(),
        "kept_bytes_mean": rows["kept_bytes"].mean(),
        "full_bytes_mean": rows["full_bytes"].mean(),
        "latency_p50": rows["latency_s"].dropna().median(),
        "control_latency_p50": rows["control_latency_s"].dropna().median(),
    }


def _found(told: pd.DataFrame) -> Record:
    """What the groups' own verdicts say of an arm, and what makes it doubtful."""
    told = told.drop_duplicates([*CELL, "bin"])
    measured = told[told["measured"]]
    cells = [
        Told(is_measured, proof, json.loads(flags))
        for is_measured, proof, flags in told[["measured", "proof", "flags"]].to_numpy()
    ]
    doubt = doubt_of(cells)
    unproven = (measured["proof"] == UNVERIFIED).any()
    broken = measured[measured["verdict_holm"] == "breaks"]
    kept = set(measured.loc[measured["verdict_holm"] == "holds", "group"])
    return {
        "proof": "" if doubt == NOT_MEASURED else UNVERIFIED if unproven else "proven",
        "doubt": doubt,
        "measured_in": measured["group"].nunique(),
        "holds_in": len(kept - set(broken["group"])),
        "breaks_in": broken["group"].nunique(),
        "broken_in": tuple(_broken(broken)),
        "not_measured": len(told) - len(measured),
    }


def _broken(cells: pd.DataFrame) -> Iterator[str]:
    """Groups with the tokens of their bins that break, or of all where only their mean does."""
    for group, rows in cells.groupby("group"):
        bins = rows[rows["bin"] != ALL_BINS]
        edges = sorted(set(zip(bins["shortest"], bins["longest"], strict=True)))
        ranges = [f"{text.whole(low)} to {text.whole(high)}" for low, high in edges]
        yield f"{group} at {' and '.join(ranges)} tokens" if ranges else f"{group} over its lengths"
