"""From one row per request to an `Analysis`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from pytest_kvbench.analyse import arrival
from pytest_kvbench.analyse.artefacts import CellView, flags_of, placebo
from pytest_kvbench.analyse.binstats import bin_stats
from pytest_kvbench.analyse.efficiency import efficiency
from pytest_kvbench.analyse.facts import (
    NOT_ASKED,
    Requests,
    facts_of,
    pooled_facts,
    why_unmeasured,
)
from pytest_kvbench.analyse.floor import noise_floor, repeats, with_repeats
from pytest_kvbench.analyse.integrity import integrity
from pytest_kvbench.analyse.judge import Judged, judge_cells
from pytest_kvbench.analyse.ladder import CellPairs
from pytest_kvbench.analyse.pairs import checked_observations, measured_pairs, pair, worst_pairs
from pytest_kvbench.analyse.rules import Analysis, Rules
from pytest_kvbench.analyse.same_answers import Twins, twins
from pytest_kvbench.analyse.tables import GROUP, split_cells
from pytest_kvbench.cellkey import CellGroup, CellKey
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.rows import BinStats, Bounded, CellRow, Facts

Sick = Mapping[CellGroup, str]
"""What is wrong with the control of a group."""


def analyse_observations(observations: pd.DataFrame, rules: Rules, sick: Sick) -> Analysis:
    """The whole analysis; see `pytest_kvbench.analyse.analyse`."""
    table = checked_observations(observations)
    again = repeats(table)
    joined = with_repeats(pair(table), again)
    requests = Requests(joined)
    unasked = [key for key in rules.treated if key not in requests and _sickness(sick, key)]
    facts = {
        key: facts_of(requests[key], rules) if key in requests else NOT_ASKED
        for key in sorted([*requests, *unasked])
    }
    judged = judged_cells(joined, requests, facts, rules, sick)
    alike = twins(joined)
    for key, rows in requests.items():
        view = CellView(rows, judged.results[key], facts[key], rules)
        judged.rows[key]["flags"] += flags_of(view)
    flag_twins(judged, alike)
    flag_pooled_placebos(judged, requests, rules)
    stats = bin_stats(table, rules.alpha)
    return Analysis(
        cells=[*flagged(control_rows(stats, sick), table), *judged.rows.values()],
        transitions=judged.transitions,
        bin_stats=stats,
        integrity=integrity(
            table, judged.rows.values(), judged.transitions, alike, noise_floor(again, rules)
        ),
        efficiency=efficiency(table),
    )


def judged_cells(
    joined: pd.DataFrame,
    requests: Requests,
    facts: Mapping[CellKey, Facts],
    rules: Rules,
    sick: Sick,
) -> Judged:
    """Every treated cell with facts, judged where it may be, with them in its row."""
    measured, worst = (split_cells(of(joined)) for of in (measured_pairs, worst_pairs))
    nothing = CellPairs(*(np.array([]) for _ in range(4)))
    largest = largest_contexts(joined)
    cells, worst = (
        {
            key: replace(
                found.get(key, nothing),
                largest=largest.get(key[:2], 1),
                chance=float(requests[key]["chance"].mean()) if key in requests else 0.0,
            )
            for key in keys
        }
        for found, keys in ((measured, facts), (worst, worst))
    )
    excluded = {
        key: why
        for key in facts
        if (why := _sickness(sick, key) or why_unmeasured(facts[key], requests[key], rules))
    }
    judged = judge_cells(cells, excluded, rules, worst)
    asked = {key: known for key, known in facts.items() if key in requests}
    for key, known in {**facts, **pooled_facts(facts), **pooled_facts(asked)}.items():
        judged.rows[key] = {**judged.rows[key], **known}
    return judged


def largest_contexts(joined: pd.DataFrame) -> dict[Any, int]:
    """By task and bin: examples of the largest context there is, drawn or not."""
    if joined.empty:
        return {}
    sizes = joined.groupby(["task", "bin", "cluster"]).agg(
        drawn=("example_id", "nunique"), known=("largest", "max")
    )
    largest = sizes.max(axis=1).groupby(level=["task", "bin"]).max().items()
    return {place: int(size) for place, size in largest}


def _sickness(sick: Sick, key: CellKey) -> str:
    return sick.get(key.group, "") if key.group else ""


def flag_twins(judged: Judged, alike: Iterable[Twins]) -> None:
    """Put each sentence on both of its cells."""
    for found in alike:
        for key in (found.one, found.other):
            judged.rows[key]["flags"].append(f"twin: {found.said}")


def flag_pooled_placebos(judged: Judged, requests: Requests, rules: Rules) -> None:
    """Say on a row over bins, whose bins may each have too few answers to tell."""
    for key, row in judged.rows.items():
        parts = [requests[k] for k in requests if k.pooled == key]
        if key.is_pooled and parts:
            sentence = placebo(CellView(pd.concat(parts), judged.results[key], row, rules))
            row["flags"] += [f"placebo: {sentence}"] if sentence else []


def control_rows(stats: Sequence[BinStats], sick: Sick) -> list[CellRow]:
    """The control's cells: a mean with its interval, no difference and no verdict.

    The `reason` of one that is not sane says what is wrong with it.
    """
    return [
        control_row(s, _sickness(sick, key)) for s in stats if (key := CellKey.of_row(s)).is_control
    ]


def flagged(controls: list[CellRow], table: pd.DataFrame) -> list[CellRow]:
    """The same rows, where the prompts of a control were cut with the flag that says so."""
    asked = table[(table["policy"] == FULL_CACHE) & ~table["aa"]]
    for row in controls:
        places = [asked[name] == value for name, value in row.items() if name in GROUP]
        sent = asked.loc[np.logical_and.reduce(places), "cut"]
        found = [cut for cut in sent if cut is not None]
        row["flags"] += [f"cut: {arrival.sentence(found, len(sent))}"] if found else []
    return controls


def control_row(stats: BinStats, reason: str = "") -> CellRow:
    """A control's row with the keys of every other; its interval is in `bin_stats`."""
    answers = round(stats["n"] * (1 - stats["fail_rate"]))
    return {
        **CellKey.of_row(stats).columns(),
        **Bounded(),
        "achieved": stats["achieved_mean"],
        "n": answers,
        "clusters": stats["clusters"],
        "control_mean": stats["acc_mean"],
        "treated_mean": None,
        "delta": None,
        "ci_low": None,
        "ci_high": None,
        "together": [],
        "losses": 0,
        "gains": 0,
        "method": "none",
        "verdict": None,
        "verdict_holm": None,
        "verdict_item": None,
        "proof": "proven",  # nothing is asked for, so nothing can have been left undone
        "flags": [],
        "lost": stats["n"] - answers,
        "lost_share": stats["fail_rate"],
        "delta_unlabelled": None,
        "retention": None,
        "p_holds": None,
        "p_breaks": None,
        "p_mcnemar": None,
        "needed": None,
        "reason": reason,
    }
