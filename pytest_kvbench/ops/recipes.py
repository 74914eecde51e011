"""Answers of all groups with what they were asked by, and each treated one beside its control's.

What is compared is named by content: two variants, or two groups, that ask alike are one recipe.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_kvbench.divergence.records import JUDGED
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Keys, Snapshot
from pytest_kvbench.own.classes import are_in, is_spec
from pytest_kvbench.pipeline import assay, plan
from pytest_kvbench.records import FULL_CACHE

if TYPE_CHECKING:
    import pandas as pd

RECIPE = [
    "engine",
    "model",
    "dtype",
    "task",
    "question_aware",
    "self_consistency",
    "template",
    "draws",
]
"""All that is asked alike, but for the cache: `draws` is the sampling without its seed."""

UNREAD = frozenset(
    [
        *("key", "text", "finish_reason", "origin", "created_at", "label", "note", "fingerprint"),
        *("max_tokens", "ttft_s", "prompt_tokens", "completion_tokens"),
    ]
)
"""Columns of answers by which nothing is compared."""

ARM = ["policy", "params", "budget"]
CELL = ["group", "task", "variant", "policy", "budget"]
ALL_LENGTHS = "all"
OF_DISTRIBUTIONS = frozenset({*JUDGED, "divergence"})
"""The metrics of what is no reply's score; the last where it failed, whatever was to be said."""

_AWARE = "question_aware"  # of a full cache it says nothing
_TOGETHER = ["group", *(name for name in RECIPE if name != _AWARE), "variant", "bin"]
_ASKED = [*_TOGETHER, "example_id", "replicate"]


def of_scores(table: pd.DataFrame) -> pd.DataFrame:
    """What is about scores: what compares groups and dials knows no other measure."""
    return table[~table["metric"].isin(OF_DISTRIBUTIONS)] if "metric" in table else table


def counted(rows: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The answers and failures that count, of those that `with_recipe` gives.

    Left out are second runs of a control (A/A), samples that were outvoted, cells that were not
    measured, those of a control that is not sane, and arms that are known to be bad.
    """
    rows = rows[~rows["aa"] & rows["elected"]]
    rows = rows[~_places(rows).isin(_places(cells[~is_measured(cells)]))]
    return rows[~_arms(rows).isin(list(_asked_beside(runs)))]


def with_dials(answers: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """The answers that count, with every dial: as `counted`, scored answers alone."""
    rows = counted(with_recipe(answers, runs), runs, cells)
    return rows[rows["score"].notna()]


def with_recipe(answers: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The answers with their `dtype`, `draws`, `length` and `stratum`, without their texts.

    `length` is the octave of an answer's own prompt, `stratum` that of its bin's median.
    """
    dtypes = runs[["run_id", "snapshot"]].drop_duplicates("run_id").copy()
    dtypes["dtype"] = dtypes.pop("snapshot").map(_dtype)
    read = answers.drop(columns="text", errors="ignore")
    rows = read.merge(dtypes, on="run_id", how="left").fillna({"dtype": "null"})
    draws = {text: _without_seed(text) for text in rows["sampling"].unique()}
    medians = rows.groupby(["group", "task", "bin"])["tokens"].transform("median")
    return rows.assign(
        draws=rows["sampling"].map(draws),
        length=_octaves(rows["tokens"]),
        stratum=_octaves(medians),
    )


def _octaves(tokens: pd.Series[float]) -> pd.Series[str]:
    return tokens.map({count: octave(count) for count in tokens.unique()}).astype(str)


def octave(tokens: float) -> str:
    """`128 to 255`, the octave of a number of tokens; unknown where there is none."""
    if tokens is None or math.isnan(tokens):
        return "unknown"
    low = 1 << max(0, int(tokens).bit_length() - 1)
    return f"{low:,} to {2 * low - 1:,}" if low > 1 else "0 to 1"


def by_length(label: str) -> tuple[int, str]:
    """By which classes of length are ordered: all first, then shorter ones."""
    first = label.split()[0].replace(",", "")
    return (int(first) if first.isdigit() else -1), label


def is_measured(cells: pd.DataFrame) -> pd.Series[bool]:
    """Of each cell whether its answers say something of its arm; of a control, if it is sane."""
    sick = (cells["policy"] == FULL_CACHE) & (cells["reason"].fillna("") != "")
    return ~sick & (cells["verdict_holm"] != "not-measured")


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Every treated answer beside its group's control to the same example, as `counted` gives them.

    Returns:
        The treated rows; `control` is the control's score, `lost` whether either has none.
    """
    is_control = rows["policy"] == FULL_CACHE
    scores = rows[is_control].groupby(_ASKED, dropna=False, as_index=False)
    controls = scores.agg(control=("score", "mean"), control_latency_s=("latency_s", "median"))
    both = rows[~is_control].merge(controls, on=_ASKED, how="inner")
    return both.assign(lost=both["score"].isna() | both["control"].isna())


def _places(rows: pd.DataFrame) -> pd.MultiIndex:
    """The group and cell of each row; a cell's bin may be "all"."""
    import pandas as pd

    names = ["group", "task", "bin", "variant", "policy", "budget"]
    return pd.MultiIndex.from_frame(rows[names].astype({"bin": str}))


def _arms(rows: pd.DataFrame) -> pd.MultiIndex:
    import pandas as pd

    return pd.MultiIndex.from_frame(rows[["group", "task", "policy", "budget"]])


def _asked_beside(runs: pd.DataFrame) -> Iterator[tuple[str, str, str, float]]:
    """The arms that were asked only because they are known to be bad, by group and task."""
    for group, snapshot in set(zip(runs["group"], runs["snapshot"], strict=True)):
        with contextlib.suppress(ValueError):  # a snapshot of another version
            experiment = Experiment.model_validate(_without_classes(json.loads(snapshot)))
            for arm in assay.bad_arms(experiment, plan.cells(experiment)):
                if not arm.is_listed:
                    yield group, arm.task, arm.policy, arm.budget


def _without_classes(stored: Keys) -> Keys:
    """An experiment without users' classes, which another one's archive may name: none is imported.

    None of them is known to be bad, and asked for that alone.
    """
    keys, bad = Snapshot(stored), stored.get("sensitivity")
    name, kv = keys.get("engine.name"), keys.get("kv")
    if not are_in([kv, name, bad]):
        return {"sensitivity": None, **stored}
    every = keys.get("kv.named") or {}
    named = {own: recipe for own, recipe in every.items() if not are_in(recipe)}
    params = keys.get("kv.params") or {}
    params = {policy: own for policy, own in params.items() if not are_in([policy, own])}
    listed = [p for p in keys.get("kv.policies") or () if not is_spec(p)]
    known = [p for p in listed if p in named or p not in every]
    kv = {**(kv or {}), "policies": known or [_ANY], "named": named, "params": params}
    engine = {"engine": {**keys.get("engine"), "name": "openai"}} if are_in([name]) else {}
    return {**stored, **engine, "kv": kv, "sensitivity": None if are_in([bad]) else bad}


_ANY = "knorm"  # in the place of classes: a plan of the full cache alone has nothing to lose


def _dtype(snapshot: str) -> str | None:
    """The declared dtype of weights and cache; None where none was declared."""
    dtype: str | None = Snapshot(json.loads(snapshot)).get("engine.dtype")
    return dtype


def _without_seed(sampling: str) -> str:
    drawn = {name: value for name, value in json.loads(sampling).items() if name != "seed"}
    return json.dumps(drawn, sort_keys=True)
