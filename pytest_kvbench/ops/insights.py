"""What all runs together say, in words and tables: INSIGHTS.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.ops.aggregate import records
from pytest_kvbench.ops.arms import judged_arms
from pytest_kvbench.ops.asked import asked, recipe_label
from pytest_kvbench.ops.best import arm_label, best
from pytest_kvbench.ops.effects import CONTROL, effects
from pytest_kvbench.ops.listing import Row
from pytest_kvbench.ops.recipes import ALL_LENGTHS, RECIPE, is_measured, with_dials
from pytest_kvbench.records import FULL_CACHE
from pytest_kvbench.report import text
from pytest_kvbench.report.blocks import Block, Bullets, Document, Paragraph, Section, Table, Value
from pytest_kvbench.report.text import name

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 2_000
FEWEST_CELLS = 8
"""Cells below which a correlation says nothing."""
MOST_EFFECTS = 40
CHOSEN = (
    "What holds at the smallest budget was chosen among all policies and budgets of its line, by "
    "the pairs of all groups that asked alike: Holm's correction over these arms bounds the chance "
    "that it loses the margin after all (2.5% at alpha 0.05), and the interval of its delta holds "
    "for all of them together. No arm is named that breaks at some length of its line."
)
FEATURES = {
    "budget": "budget, nominal",
    "achieved": "budget, achieved",
    "prompt_tokens_p50": "prompt tokens (median)",
    "control_mean": "the control's score",
    "label_rate": "share of labelled answers",
}


def insights(
    answers: pd.DataFrame, runs: pd.DataFrame, cells: pd.DataFrame, alpha: float = 0.05
) -> Document:
    """The whole document, a section per model.

    Args:
        answers, runs, cells: the tables of the data set.
        alpha: two-sided level of every interval.
    """
    scored, arms = with_dials(answers, runs, cells), judged_arms(answers, runs, cells)
    models = sorted({*answers["model"], *cells["model"]})
    sections = [
        _basis(answers, runs, alpha),
        *(_model(model, scored, arms, cells, alpha) for model in models),
        _between(scored, arms, alpha),
    ]
    return Document("What moves quality", (), tuple(s for s in sections if s.blocks))


def _basis(answers: pd.DataFrame, runs: pd.DataFrame, alpha: float) -> Section:
    failed = int((answers["failure"] != "").sum())
    sentences = (
        f"{hints.count(runs['group'].nunique(), 'group')}, {hints.count(len(runs), 'run')}, "
        f"{hints.count(len(answers) - failed, 'answer')} and "
        f"{hints.count(failed, 'failure')}, from "
        f"{_day(runs['started_at'].min())} to {_day(runs['started_at'].max())}. "
        f"Intervals are at {text.percent(1 - alpha)}, examples that share a context kept "
        "together, and not corrected for how many there are: read them as a map, not as a test. "
        "Groups chose their tasks and policies, so that an average over them is about what was "
        "measured."
    )
    return Section("Basis", [Paragraph(sentences)])


def _day(stamp: str) -> str:
    return str(stamp)[:10]


def _model(
    model: str, scored: pd.DataFrame, arms: pd.DataFrame, cells: pd.DataFrame, alpha: float
) -> Section:
    scored, arms, cells = (table[table["model"] == model] for table in (scored, arms, cells))
    chosen = best(arms)
    blocks: list[Block] = [Paragraph(CHOSEN), _best_table(chosen)] if len(chosen) else []
    notes = dict.fromkeys(
        f"{_asked(row, chosen)}: {note}" for row in records(chosen) for note in row["notes"]
    )
    blocks += [Bullets(tuple(notes))] if notes else []
    blocks += [block for task, rows in arms.groupby("task") for block in _lost(str(task), rows)]
    blocks += _correlations(cells, alpha)
    inside = effects(scored, arms, alpha)
    inside = inside[inside["dial"] != CONTROL]
    blocks += [_effect_table("Effect of each dial, like for like", inside)] if len(inside) else []
    return Section(f"Model {name(model)}", blocks)


def _between(scored: pd.DataFrame, arms: pd.DataFrame, alpha: float) -> Section:
    """Dials that only differ between models."""
    if scored["model"].nunique() < 2:
        return Section("Between models", [])
    rows = effects(scored, arms, alpha)
    rows = rows[rows["dial"].isin(["model", "engine"])]
    return Section("Between models", [_effect_table("", rows)] if len(rows) else [])


# -- tables --------------------------------------------------------------------------------------


def _best_table(rows: pd.DataFrame) -> Table:
    columns = (
        "Task",
        "Length, tokens",
        "Arm",
        "Margin",
        "Control",
        "Delta",
        "Pairs",
        "Groups",
        "Keeps",
        "KV kept",
        "Latency p50",
        "Proof",
    )
    return Table(
        "Smallest budget that holds",
        columns,
        tuple(_best_row(row, _asked(row, rows)) for row in records(rows)),
        frozenset(range(3, 11)),
    )


def _best_row(row: Row, asked_of: str) -> tuple[Value, ...]:
    head = (Value(asked_of), Value(str(row["length"])))
    margin, control = Value(_margin(row)), Value(text.score(_known(row["control_mean"])))
    if _known(row["budget"]) is None:
        nothing = Value(text.NOTHING)
        return (*head, Value("none shown to hold"), margin, control, *([nothing] * 7))
    return (
        *head,
        Value(name(arm_label(row))),
        margin,
        control,
        Value(f"{text.signed(row['delta'])} {_interval(row)}"),
        Value(text.whole(row["n"])),
        Value(text.whole(row["groups"])),
        Value(text.achieved(_known(row["achieved"]))),
        Value(text.size(_known(row["kept_bytes_mean"]))),
        Value(
            f"{text.seconds(_known(row['latency_p50']))} "
            f"(control {text.seconds(_known(row['control_latency_p50']))})"
        ),
        Value(row["doubt"] or row["proof"]),
    )


def _asked(row: Row, rows: pd.DataFrame) -> str:
    """The task, and what is particular in how it was asked."""
    marks = ", ".join(asked(row, rows))
    return f"{name(row['task'])} ({marks})" if marks else name(row["task"])


def _margin(row: Row) -> str:
    retained = _known(row["retain"])
    return text.score(row["margin"]) if retained is None else f"retain {retained:g}"


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _lost(task: str, arms: pd.DataFrame) -> list[Block]:
    """What every arm lost on one task, and where most was lost."""
    measured = arms[arms["n"] > 0].drop_duplicates(
        [*RECIPE, "length", "policy", "params", "budget"]
    )
    if measured.empty:
        return [Paragraph(f"On {name(task)} no arm was measured.")]
    over = measured[measured["length"] == ALL_LENGTHS]
    worst = min(records(over), key=lambda row: float(row["delta"]))
    where = f"On {name(task)} the largest loss is {_named(worst, over)}: {_difference(worst)}. "
    kept = [
        row
        for row in records(over)
        if row["verdict_holm"] == "holds" and not row["doubt"] and not row["breaks_at"]
    ]
    said = ", ".join(f"{_named(row, over)} ({_difference(row)})" for row in kept)
    holds = (
        f"Shown to hold, as one of all its arms: {said}." if kept else "No arm is shown to hold."
    )
    return [Paragraph(where + holds), _loss_table(task, measured)]


def _named(row: Row, rows: pd.DataFrame) -> str:
    marks = recipe_label(row, rows)
    return name(arm_label(row)) + (f" ({marks})" if marks else "")


def _difference(row: Row) -> str:
    effect = row["effect"] if "effect" in row else row["delta"]
    return f"{text.signed(effect)} {_interval(row)}"


def _interval(row: Row) -> str:
    return text.interval(_known(row["ci_low"]), _known(row["ci_high"]))


def _loss_table(task: str, lost: pd.DataFrame) -> Table:
    """A row a policy, recipe and length, a column a budget."""
    budgets = sorted(lost["budget"].unique(), reverse=True)
    rows = []
    keys = [*RECIPE, "policy", "params", "length"]
    for _, own in lost.groupby(keys, sort=False, dropna=False):
        by = {row["budget"]: row for row in records(own)}
        first = records(own)[0]
        params = "" if first["params"] == "{}" else f" {first['params']}"
        marks = ", ".join(filter(None, [recipe_label(first, lost), str(first["doubt"])]))
        shown = (
            Value(f"{_difference(by[b])} n={by[b]['n']:,}" if b in by else text.NOTHING)
            for b in budgets
        )
        label = name(first["policy"] + params) + (f" ({marks})" if marks else "")
        rows.append((Value(label), Value(str(first["length"])), *shown))
    columns = ("Policy", "Length, tokens", *(text.budget(b) for b in budgets))
    title = f"Treated minus control on {name(task)}"
    return Table(title, columns, tuple(rows), frozenset(range(2, len(columns))))


def _effect_table(title: str, rows: pd.DataFrame) -> Table:
    order = rows["effect"].abs().sort_values(ascending=False).index[:MOST_EFFECTS]
    columns = ("Dial", "Task", "At", "From", "To", "Pairs", "From score", "To score", "Effect")
    return Table(
        title,
        columns,
        tuple(
            (
                Value(row["dial"]),
                Value(name(row["task"])),
                Value(name(row["at"]) if row["at"] else ""),
                Value(name(row["from"])),
                Value(name(row["to"])),
                Value(text.whole(row["n"])),
                Value(text.score(row["mean_from"])),
                Value(text.score(row["mean_to"])),
                Value(_difference(row)),
            )
            for row in records(rows.loc[order])
        ),
        frozenset({5, 6, 7, 8}),
    )


# -- correlations --------------------------------------------------------------------------------


def _correlations(cells: pd.DataFrame, alpha: float) -> list[Block]:
    single = (cells["policy"] != FULL_CACHE) & (cells["bin"] != ALL_BINS)
    rows = cells[single & is_measured(cells)].dropna(subset=["delta"])
    sentences = [
        line for key, label in FEATURES.items() if (line := _correlation(rows, key, label, alpha))
    ]
    if not sentences:
        return []
    intro = "Rank correlation of a cell's delta with what is known of it (bins kept whole):"
    return [Paragraph(intro), Bullets(tuple(sentences))]


def _correlation(rows: pd.DataFrame, key: str, label: str, alpha: float) -> str:
    known = rows.dropna(subset=[key])
    if len(known) < FEWEST_CELLS or known[key].nunique() < 2 or known["delta"].nunique() < 2:
        return ""
    places = known.groupby(["group", "task", "bin"]).ngroup().to_numpy()
    seen, low, high = rank_correlation(
        known[key].rank().to_numpy(), known["delta"].rank().to_numpy(), places, alpha
    )
    return (
        f"{label}: {text.signed(seen)} {text.interval(low, high)}, "
        f"{hints.count(len(known), 'cell')}"
    )


def rank_correlation(
    x: np.ndarray, y: np.ndarray, clusters: np.ndarray, alpha: float, seed: int = 0
) -> tuple[float, float, float]:
    """Correlation of ranks with a Bayesian bootstrap interval over clusters.

    Args:
        x, y: ranks, shape (n,).
        clusters: integer codes, shape (n,), resampled whole.
        alpha: two-sided level.
        seed: of the resampling.
    """
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    totals = np.stack([np.bincount(clusters, weights=m) for m in moments])
    draws = np.random.default_rng(seed).standard_exponential((DRAWS, totals.shape[1]))
    resampled = _pearson(totals @ draws.T)
    low, high = np.quantile(resampled, [alpha / 2, 1 - alpha / 2])
    return float(_pearson(totals.sum(axis=1))), float(low), float(high)


def _pearson(moments: np.ndarray) -> Any:
    n, x, y, xx, yy, xy = moments
    spread = np.sqrt(np.maximum(n * xx - x * x, 1e-12) * np.maximum(n * yy - y * y, 1e-12))
    return np.clip((n * xy - x * y) / spread, -1, 1)
