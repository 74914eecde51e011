"""Per model, task and length: the smallest budget that holds, by all that was measured of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_kvbench import hints
from pytest_kvbench.ops import doubts
from pytest_kvbench.ops.columns import Record
from pytest_kvbench.ops.recipes import ALL_LENGTHS, RECIPE
from pytest_kvbench.records import UNVERIFIED, digest

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

MOST_PLACES = 3
"""Of groups in which an arm breaks: the rest is counted."""

_NAMED = {"together_low": "ci_low", "together_high": "ci_high"}


@dataclass(frozen=True)
class Default:
    """What a model can be run with on the tasks that were measured; no policy where nothing can."""

    model: str
    tasks: tuple[str, ...]
    engine: str
    question_aware: bool = True
    policy: str = ""
    params: str = "{}"
    budget: float = 1.0
    doubts: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a file of it may be called: the shortest that no other has; the last is alone."""
        model = _slug(self.model)
        engine = f"{model}-{_slug(self.engine)}"
        return model, engine, f"{engine}-{digest([self.model, self.engine])[:8]}"

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


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"


def files(found: Sequence[Default]) -> dict[str, Default]:
    """Each by the name of its file, whatever case a file system knows."""
    every = Counter(name.casefold() for one in found for name in set(one.names))
    return {next(n for n in one.names if every[n.casefold()] == 1): one for one in found}


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
        chosen_from, error, and `notes`, a tuple of sentences: what contradicts itself, or was left
        out and why. Policy and budget are None where nothing was shown to hold.
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
        "notes": (*contradictions(line), *left_out(line)),
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
    sound = (line["verdict_holm"] == "holds") & (line["doubt"].map(doubts.why_left_out) == "")
    broken = line[(line["verdict"] == "breaks") | line["breaks_at"].map(bool)]
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
    """Arms that hold here and break there, and what all their pairs say together."""
    over = line["length"] == ALL_LENGTHS  # where an arm breaks stands there, for every length
    holds = (line["verdict_holm"] == "holds") | (over & (line["holds_in"] > 0))
    for row in line[holds & (line["breaks_in"] > 0)].to_dict("records"):
        kept = f"holds in {row['holds_in']} and " if row["holds_in"] else ""
        yield (
            f"{arm_label(row)} {_place(row)} {kept}breaks in {row['breaks_in']} of "
            f"{hints.count(row['measured_in'], 'group')} ({_first(row['broken_in'])}): "
            f"{row['delta']:+.2f} over their {row['n']:,} pairs, {row['verdict_holm']}"
        )
    for row in line[line["breaks_at"].map(bool)].to_dict("records"):
        if row["length"] == ALL_LENGTHS and len(row["breaks_at"]) < row["lengths"]:
            yield f"{arm_label(row)} breaks at {' and at '.join(row['breaks_at'])} tokens"


def _place(row: Mapping[Any, Any]) -> str:
    length = row["length"]
    return "over all lengths" if length == ALL_LENGTHS else f"at {length} tokens"


def _first(places: Sequence[str]) -> str:
    more = len(places) - MOST_PLACES
    return ", ".join([*places[:MOST_PLACES], *([f"{more} more"] if more > 0 else [])])


def left_out(line: pd.DataFrame) -> Iterator[str]:
    """Arms that cannot be chosen whatever they score."""
    rows = line.to_dict("records")
    yield from doubts.notes((arm_label(row), str(row["doubt"])) for row in rows)


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
        _default(str(engine), str(model), rows)
        for (engine, model), rows in over.groupby(["engine", "model"], dropna=False)
    ]


def _default(engine: str, model: str, rows: pd.DataFrame) -> Default:
    lines = [line for _, line in rows.groupby(SETTING, dropna=False)]
    allowed = [set(_keys(line[candidates(line)])) for line in lines]
    common = sorted(set.intersection(*allowed), key=lambda key: (key[-1], *map(str, key)))
    tasks = tuple(sorted(set(rows["task"])))
    if not common:
        return Default(model, tasks, engine)
    same = [key == common[0] for key in _keys(rows)]
    about = tuple(sorted(set(rows[same]["doubt"]) - {""}))
    chosen = dict(zip(_DEPLOYED, common[0], strict=True))
    return Default(model, tasks, engine, doubts=about, **chosen)


def _keys(rows: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(rows[_DEPLOYED].itertuples(index=False, name=None))


_DEPLOYED = ["question_aware", "policy", "params", "budget"]
