"""Per model, task and length: the smallest budget that holds, by all that was measured of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_kvbench.ops.arms import PLACEBO
from pytest_kvbench.ops.columns import Record
from pytest_kvbench.ops.recipes import ALL_LENGTHS, RECIPE
from pytest_kvbench.records import UNVERIFIED

if TYPE_CHECKING:
    import pandas as pd

SETTING = [*RECIPE, "margin", "retain", "length"]
"""What must be equal for budgets to be compared."""

CHOSEN = [
    *("policy", "params", "budget", "n", "clusters", "groups", "control_mean", "treated_mean"),
    *("delta", "together_low", "together_high", "achieved", "kept_bytes_mean", "full_bytes_mean"),
    *("latency_p50", "control_latency_p50", "proof", "doubt", "variant"),
]
"""What is said of the arm that was found."""

_NAMED = {"together_low": "ci_low", "together_high": "ci_high"}


@dataclass(frozen=True)
class Default:
    """What a model can be run with on the tasks that were measured; no policy where nothing can."""

    model: str
    tasks: tuple[str, ...]
    engine: str = ""
    question_aware: bool = True
    policy: str = ""
    params: str = "{}"
    budget: float = 1.0
    doubts: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The model's name as that of a file."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.model).strip("-.") or "model"

    def yaml(self) -> str:
        """The `kv` section of an experiment, with what it rests on as a comment."""
        import yaml

        basis = f"# {self.model}: {{}} on {', '.join(self.tasks)}\n"
        if not self.policy:
            return basis.format("no arm is shown to hold")
        named = {"params": {self.policy: json.loads(self.params)}} if self.params != "{}" else {}
        section = {
            "policies": [self.policy],
            "budgets": [1.0, self.budget],
            "question_aware": bool(self.question_aware),
            **named,
        }
        doubts = "".join(f"# {doubt}\n" for doubt in self.doubts)
        found = basis.format("the smallest budget that holds")
        return found + doubts + yaml.safe_dump({"kv": section}, sort_keys=False)


def best(arms: pd.DataFrame) -> pd.DataFrame:
    """Per setting, the arm with the smallest budget that holds, and its cost.

    An arm can be chosen if it holds as one of all arms of its line, whatever their groups (Holm),
    neither it nor a larger budget of its policy breaks at any length of the line, and its answers
    are not the control's own. What is proven comes before what is not. So the chance that what is
    named loses the margin after all is `error` at most (one-sided), and its interval holds for all
    `chosen_from` arms together.

    Args:
        arms: as `arms.judged_arms` gives them.

    Returns:
        One row per setting: `SETTING`, `CHOSEN` with that interval as `ci_low` and `ci_high`,
        chosen_from, error, and `notes`: what contradicts itself, or was left out and why. Policy
        and budget are None where nothing was shown to hold.
    """
    import pandas as pd

    found = [
        {**dict(zip(SETTING, key, strict=True)), **_smallest(line)}
        for key, line in arms.groupby(SETTING, dropna=False, sort=False)
    ]
    columns = [_NAMED.get(name, name) for name in CHOSEN]
    return pd.DataFrame(found, columns=[*SETTING, *columns, "chosen_from", "error", "notes"])


def _smallest(line: pd.DataFrame) -> Record:
    about: dict[str, Any] = {
        "variant": ", ".join(sorted(set(line["variant"]) - {""})),
        "chosen_from": int(line["chosen_from"].max()),
        "error": float(line["alpha"].min()) / 2,
        "notes": "; ".join([*contradictions(line), *left_out(line)]),
    }
    safe = line[candidates(line)]
    if safe.empty:
        nothing = {"policy": None, "budget": None, "n": None, "doubt": ""}
        return {**nothing, **about, "control_mean": line["control_mean"].mean()}
    by_proof = safe.assign(unproven=safe["doubt"].str.contains(UNVERIFIED))
    order = ["unproven", "breaks_in", "budget", "kept_bytes_mean", "together_low"]
    first = by_proof.sort_values(order, ascending=[True, True, True, True, False]).iloc[0]
    chosen = {_NAMED.get(name, name): first[name] for name in CHOSEN}
    contradicted = ["contradicted"] if first["breaks_in"] else []
    doubt = ", ".join(filter(None, [first["doubt"], *contradicted]))
    return {**chosen, **about, "variant": first["variant"], "doubt": doubt}


def candidates(line: pd.DataFrame) -> pd.Series[bool]:
    """Which arms of a line may be chosen."""
    sound = (line["verdict_holm"] == "holds") & ~line["doubt"].str.contains(PLACEBO, regex=False)
    broken = line[(line["verdict"] == "breaks") | (line["breaks_at"] != "")]
    lowest = [
        not (
            (broken["policy"] == arm.policy)
            & (broken["params"] == arm.params)
            & (broken["budget"] >= arm.budget)
        ).any()
        for arm in line[["policy", "params", "budget"]].itertuples()
    ]
    return sound & np.array(lowest, dtype=bool)


def contradictions(line: pd.DataFrame) -> Iterator[str]:
    """Arms that hold in some groups and break in others, and what all their pairs say together."""
    for row in line[(line["holds_in"] > 0) & (line["breaks_in"] > 0)].to_dict("records"):
        yield (
            f"{arm_label(row)} holds in {row['holds_in']} and breaks in {row['breaks_in']} groups: "
            f"{row['delta']:+.2f} over their {row['n']:,} pairs, {row['verdict_holm']}"
        )
    for row in line[line["breaks_at"] != ""].to_dict("records"):
        if row["length"] == ALL_LENGTHS and len(row["breaks_at"].split("; ")) < row["lengths"]:
            yield f"{arm_label(row)} breaks at {row['breaks_at']} tokens"


def left_out(line: pd.DataFrame) -> Iterator[str]:
    """Arms that cannot be chosen whatever they score."""
    for doubt in (PLACEBO, "not measured"):
        rows = line[line["doubt"].str.contains(doubt, regex=False)].to_dict("records")
        if rows:
            yield f"left out, {doubt}: {', '.join(map(arm_label, rows))}"


def arm_label(row: Any) -> str:
    """`snapkv 0.20`, with its parameters where it has some."""
    params = "" if row["params"] in ("{}", "", None) else f" {row['params']}"
    return f"{row['policy']}{params} {row['budget']:g}"


def defaults(arms: pd.DataFrame) -> list[Default]:
    """By engine and model the arm with the smallest budget that may be chosen on every task.

    Each task, margin and way of asking of the model must allow it, so that one error is enough.
    """
    over = arms[arms["length"] == ALL_LENGTHS]
    return [
        _default(str(model), rows)
        for (_, model), rows in over.groupby(["engine", "model"], dropna=False)
    ]


def _default(model: str, rows: pd.DataFrame) -> Default:
    lines = [line for _, line in rows.groupby(SETTING, dropna=False)]
    allowed = [set(_keys(line[candidates(line)])) for line in lines]
    common = sorted(set.intersection(*allowed), key=lambda key: (key[-1], *map(str, key)))
    tasks = tuple(sorted(set(rows["task"])))
    if not common:
        return Default(model, tasks)
    same = [key == common[0] for key in _keys(rows)]
    doubts = tuple(sorted(set(rows[same]["doubt"]) - {""}))
    return Default(model, tasks, doubts=doubts, **dict(zip(_DEPLOYED, common[0], strict=True)))


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(rows[_DEPLOYED].itertuples(index=False, name=None))


_DEPLOYED = ["engine", "question_aware", "policy", "params", "budget"]
