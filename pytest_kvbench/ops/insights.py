"""What all runs together say, in words and tables: INSIGHTS.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.ops.aggregate import records
from pytest_kvbench.ops.catalog import best
from pytest_kvbench.ops.effects import effects, is_measured, losses, with_dials
from pytest_kvbench.ops.listing import Row
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
    "What holds at the smallest budget was chosen among all policies, budgets and groups of its "
    "line: Holm's correction over these rows bounds the chance that it loses the margin after all "
    "(2.5% at alpha 0.05), and the interval of its delta holds for all of them together."
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
    scored = with_dials(answers, runs, cells)
    models = sorted({*answers["model"], *cells["model"]})
    sections = [
        _basis(answers, runs, alpha),
        *(
            _model(model, scored[scored["model"] == model], cells[cells["model"] == model], alpha)
            for model in models
        ),
        _between(scored, alpha),
    ]
    return Document("What moves quality", (), tuple(s for s in sections if s.blocks))


def _basis(answers: pd.DataFrame, runs: pd.DataFrame, alpha: float) -> Section:
    failed = int((answers["failure"] != "").sum())
    sentences = (
        f"{text.count(runs['group'].nunique(), 'group')}, {text.count(len(runs), 'run')}, "
        f"{len(answers) - failed:,} answers and {text.count(failed, 'failure')}, from "
        f"{_day(runs['started_at'].min())} to {_day(runs['started_at'].max())}. "
        f"Intervals are at {text.percent(1 - alpha)}, examples that share a context kept "
        "together, and not corrected for how many there are: read them as a map, not as a test. "
        "Groups chose their tasks and policies, so that an average over them is about what was "
        "measured."
    )
    return Section("Basis", [Paragraph(sentences)])


def _day(stamp: str) -> str:
    return str(stamp)[:10]


def _model(model: str, scored: pd.DataFrame, cells: pd.DataFrame, alpha: float) -> Section:
    lost = losses(scored, alpha) if (scored["policy"] != FULL_CACHE).any() else None
    blocks: list[Block] = [Paragraph(CHOSEN), _best_table(best(cells))] if len(cells) else []
    if lost is not None and len(lost):
        blocks += [Paragraph(_steepest(lost)), _loss_table(lost)]
    blocks += _correlations(cells, alpha)
    inside = effects(scored, alpha)
    blocks += [_effect_table("Effect of each dial, like for like", inside)] if len(inside) else []
    return Section(f"Model {name(model)}", blocks)


def _between(scored: pd.DataFrame, alpha: float) -> Section:
    """Dials that only differ between models."""
    if scored["model"].nunique() < 2:
        return Section("Between models", [])
    rows = effects(scored, alpha)
    rows = rows[rows["dial"].isin(["model", "engine"])]
    return Section("Between models", [_effect_table("", rows)] if len(rows) else [])


# -- tables --------------------------------------------------------------------------------------


def _best_table(rows: pd.DataFrame) -> Table:
    columns = (
        "Task",
        "Policy",
        "Holds down to",
        "Delta",
        "Pairs",
        "KV kept",
        "Latency p50",
        "Group",
    )
    return Table(
        "Smallest budget that holds",
        columns,
        tuple(_best_row(row) for row in records(rows)),
        frozenset({2, 3, 4, 5, 6}),
    )


def _best_row(row: dict[str, Any]) -> tuple[Value, ...]:
    aware = "" if row["question_aware"] else " (question unseen)"
    voted = f" ({row['self_consistency']} votes)" if row["self_consistency"] > 1 else ""
    task = Value(f"{name(row['task'])}{aware}{voted}")
    if _known(row["budget"]) is None:
        nothing = Value(text.NOTHING)
        found = text.count(int(row["groups"]), "group")
        return (task, Value("none shown to hold"), *([nothing] * 5), Value(found))
    unproven = f" ({row['doubt']})" if isinstance(row["doubt"], str) and row["doubt"] else ""
    doubt = f" (broke in {row['contradicted']} others)" if row["contradicted"] else ""
    return (
        task,
        Value(name(row["policy"]) + unproven + doubt),
        Value(text.budget(row["budget"])),
        Value(f"{text.signed(row['delta'])} {_interval(row)}"),
        Value(text.whole(row["n"])),
        Value(f"{text.size(_known(row['kept_bytes_mean']))}"),
        Value(
            f"{text.seconds(_known(row['latency_p50']))} "
            f"(control {text.seconds(_known(row['control_latency_p50']))})"
        ),
        Value(name(row["group"])),
    )


def _known(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _steepest(lost: pd.DataFrame) -> str:
    rows = records(lost)
    worst = min(rows, key=lambda row: float(row["effect"]))
    kept = [row for row in rows if row["ci_low"] > -0.1]
    sentences = (
        f"The largest loss is {name(worst['policy'])} at {text.budget(worst['budget'])}: "
        f"{_difference(worst)}. "
    )
    if not kept:
        return sentences + "No interval leaves a loss of 0.10 out."
    least = min(kept, key=lambda row: float(row["budget"]))
    return sentences + (
        f"Of the intervals that leave a loss of 0.10 out, one by one and not corrected, that of "
        f"{name(least['policy'])} at {text.budget(least['budget'])} is at the smallest budget: "
        f"{_difference(least)}."
    )


def _difference(row: Row) -> str:
    return f"{text.signed(row['effect'])} {_interval(row)}"


def _interval(row: Row) -> str:
    return text.interval(row["ci_low"], row["ci_high"])


def _loss_table(lost: pd.DataFrame) -> Table:
    """A row a policy, a column a budget."""
    budgets = sorted(lost["budget"].unique(), reverse=True)
    rows = []
    for policy, of_policy in lost.groupby("policy", sort=False):
        by = {row["budget"]: row for row in records(of_policy)}
        shown = (
            Value(f"{_difference(by[b])} n={by[b]['n']:,}" if b in by else text.NOTHING)
            for b in budgets
        )
        rows.append((Value(name(policy)), *shown))
    columns = ("Policy", *(text.budget(b) for b in budgets))
    return Table("Treated minus control", columns, tuple(rows), frozenset(range(1, len(columns))))


def _effect_table(title: str, rows: pd.DataFrame) -> Table:
    order = rows["effect"].abs().sort_values(ascending=False).index[:MOST_EFFECTS]
    columns = ("Dial", "From", "To", "Pairs", "Contexts", "From score", "To score", "Effect")
    return Table(
        title,
        columns,
        tuple(
            (
                Value(row["dial"]),
                Value(name(row["from"])),
                Value(name(row["to"])),
                Value(text.whole(row["n"])),
                Value(text.whole(row["clusters"])),
                Value(text.score(row["mean_from"])),
                Value(text.score(row["mean_to"])),
                Value(_difference(row)),
            )
            for row in records(rows.loc[order])
        ),
        frozenset({3, 4, 5, 6, 7}),
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
    return f"{label}: {text.signed(seen)} {text.interval(low, high)}, {len(known):,} cells"


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
