"""One row per run, newest first; and per model and task, the smallest budget that holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report.results import doubt_of

if TYPE_CHECKING:
    import pandas as pd

    from pytest_kvbench.rows import Together

CATALOG = [
    "started_at",
    "group",
    "engine",
    "model",
    "tasks",
    "policies",
    "budgets",
    "answers",
    "failures",
    "holds",
    "breaks",
    "undetermined",
    "not_measured",
    "question_aware",
    "temperature",
    "max_tokens",
    "trials",
    "self_consistency",
    "seed",
    "margin",
    "alpha",
    "mode",
    "run_id",
    "finished_at",
    "git_commit",
    "kvbench",
    "command",
    "source",
]
SETTING = [
    "engine",
    "model",
    "dtype",
    "task",
    "variant",
    "question_aware",
    "self_consistency",
    "margin",
]
"""What must be equal for budgets to be compared."""

CHOSEN = [
    "policy",
    "budget",
    "delta",
    "ci_low",
    "ci_high",
    "n",
    "kept_bytes_mean",
    "full_bytes_mean",
    "latency_p50",
    "params",
    "group",
    "contradicted",
]
"""What is said of the cell that was found."""


def catalog(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, newest first. Verdicts are those of a group's last run; none for the others.

    Those of one group are in the order in which they were stored, whatever the clock said: none
    counts as later than the run after it.
    """
    backwards = runs.iloc[::-1]
    began = backwards["started_at"].rank(method="dense")
    no_later = began.groupby(backwards["source"], sort=False).cummin()
    ordered = backwards.loc[no_later.sort_values(ascending=False, kind="stable").index]
    return ordered[CATALOG].reset_index(drop=True)


def headline(cells: pd.DataFrame) -> pd.DataFrame:
    """The rows that answer for a whole task: those over all bins, or those of an only bin."""
    bins = cells.groupby(["group", "task", "variant"])["bin"].transform(
        lambda bins: (bins != ALL_BINS).sum() if bins.nunique() > 1 else bins.nunique()
    )
    only = cells.groupby(["group", "task", "variant"])["bin"].transform("nunique") == 1
    return cells[(cells["bin"] == ALL_BINS) | (only & (bins == 1))]


def best(cells: pd.DataFrame) -> pd.DataFrame:
    """Per setting, the smallest budget down to which a policy holds in every step, and its cost.

    It is chosen among all rows of the setting, whatever their group and policy, so that they are
    one family: by Holm, the chance that what is named loses the margin after all is `error` at most
    (one-sided), and its interval holds for all `chosen_from` rows together.

    A policy that another group shows to break at that budget, in the same setting, is not
    believed: `contradicted` counts those groups, and what stands uncontradicted comes first.

    Returns:
        One row per setting: policy, budget, delta and that interval, n, kept and full bytes of an
        answer's prompt, median latencies in seconds, what makes it doubtful. Policy and budget are
        None where nothing was shown to hold.
    """
    import pandas as pd

    rows = headline(cells)
    treated = rows[rows["policy"] != FULL_CACHE]
    control = cells[cells["policy"] == FULL_CACHE]
    found = [
        {**dict(zip(SETTING, key, strict=True)), **_smallest(arms, control)}
        for key, arms in treated.groupby(SETTING, dropna=False)
    ]
    columns = [*SETTING, *CHOSEN, "doubt", "control_latency_p50", "groups", "chosen_from", "error"]
    return pd.DataFrame(found, columns=columns)


def _smallest(arms: pd.DataFrame, control: pd.DataFrame) -> dict[str, Any]:
    about = {
        "groups": arms["group"].nunique(),
        "chosen_from": len(arms),
        "error": float(arms["alpha"].min()) / 2,
    }
    safe = _safe(arms, about["error"])
    if safe.empty:
        return {"policy": None, "budget": None, **about}
    broken = arms[arms["verdict_holm"] == "breaks"]
    safe["contradicted"] = [
        broken.loc[
            (broken["policy"] == row.policy)
            & (broken["params"] == row.params)
            & (broken["budget"] == row.budget),
            "group",
        ].nunique()
        for row in safe.itertuples()
    ]
    order = ["contradicted", "budget", "kept_bytes_mean", "ci_low", "group"]
    first = safe.sort_values(order, ascending=[True, True, True, False, True]).iloc[0]
    same = control[(control["group"] == first["group"]) & (control["task"] == first["task"])]
    low, high = _covering(first, len(arms))
    return {
        **{name: first[name] for name in CHOSEN},
        "ci_low": low,
        "ci_high": high,
        "doubt": _doubt(first),
        "control_latency_p50": same["latency_p50"].mean(),
        **about,
    }


def _safe(arms: pd.DataFrame, error: float) -> pd.DataFrame:
    """The smallest budget to which each ladder holds, all rows one family."""
    from pytest_kvbench.analyse.multiplicity import adjusted

    p = adjusted(arms["p_holds"].fillna(1.0).to_list(), len(arms), "holm")
    falling = arms.assign(holds=p < error).sort_values("budget", ascending=False)
    ladders = falling.groupby(["group", "policy", "params"], dropna=False)
    still = falling[ladders["holds"].cummin().astype(bool)]
    return still.groupby(["group", "policy", "params"], dropna=False).tail(1).copy()


def _covering(row: pd.Series[Any], rows: int) -> tuple[float | None, float | None]:
    """The narrowest of a row's intervals that hold for so many together; none where none does."""
    of_rows = ((one["ci_low"], one["ci_high"]) for one in _together(row) if one["rows"] >= rows)
    return next(of_rows, (None, None))


def _together(row: pd.Series[Any]) -> list[Together]:
    found: list[Together] = json.loads(row["together"] or "[]")
    return found


def _doubt(row: pd.Series[Any]) -> str:
    """What makes a row doubtful, also that bins are not in it: those of a sick control, say."""
    flags = json.loads(row["flags"] or "[]")
    lacks = any(flag.startswith("partial-pool:") for flag in flags)
    of_cache = doubt_of(flags, row["proof"], (row["verdict_holm"], row["verdict"]))
    return ", ".join(filter(None, (of_cache, "lacks bins" if lacks else "")))
