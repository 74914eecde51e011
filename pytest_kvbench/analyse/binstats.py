"""What each arm did on each bin, controls included: plain descriptions, with one valid interval."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from pytest_kvbench.analyse.bounded import BoundedMean
from pytest_kvbench.analyse.evidence import interval
from pytest_kvbench.analyse.tables import CELL, cell_key, grouped
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.rows import BinStats, Costs, ScoreInterval


def bin_stats(table: pd.DataFrame, alpha: float) -> list[BinStats]:
    """One row per task, bin, variant, policy and budget of checked observations, A/A runs left out.

    `n` counts requests; means are over answers, `fail_rate` and `label_rate` are shares of requests
    and of answers. `acc_std` is the deviation of single scores (None for one). The interval is that
    of `acc_mean` at 1 - alpha, clusters kept together.
    """
    return [
        arm_stats(cell_key(key), rows, alpha) for key, rows in grouped(table[~table["aa"]], CELL)
    ]


def arm_stats(key: CellKey, rows: pd.DataFrame, alpha: float) -> BinStats:
    """Counts, means and quantiles of one arm's requests on one bin."""
    answers = rows[rows["failure"] == ""]
    return {
        **key.columns(),
        **costs(answers),
        **mean_interval(answers, alpha),
        "n": len(rows),
        "acc_mean": mean(answers["score"]),
        "acc_std": float(answers["score"].to_numpy().std(ddof=1)) if len(answers) > 1 else None,
        "em_mean": mean(answers["em"]),
        "parts_mean": part_means(answers["parts"]),
        "clusters": int(answers["cluster"].nunique()),
        "fail_rate": 1 - len(answers) / len(rows),
        "label_rate": mean(answers["label"] != ""),
        "prompt_tokens_p50": quantile(answers["prompt_tokens"], 0.5),
        "prompt_tokens_p95": quantile(answers["prompt_tokens"], 0.95),
        "completion_tokens_p50": quantile(answers["completion_tokens"], 0.5),
        "completion_tokens_p95": quantile(answers["completion_tokens"], 0.95),
    }


def costs(answers: pd.DataFrame) -> Costs:
    """Latency and memory of one arm's answers."""
    return {
        "latency_p50": quantile(answers["latency_s"], 0.5),
        "latency_p95": quantile(answers["latency_s"], 0.95),
        "ttft_p50": quantile(answers["ttft_s"], 0.5),
        "achieved_mean": mean(answers["achieved"]),
        "kept_bytes_mean": mean(answers["kept_bytes"]),
        "full_bytes_mean": mean(answers["full_bytes"]),
    }


def part_means(parts: pd.Series[Any]) -> dict[str, float | None]:
    """The mean of every part of the score, over the answers that have it."""
    table = pd.DataFrame(parts.tolist())
    return {str(name): mean(table[name]) for name in table.columns}


def mean_interval(answers: pd.DataFrame, alpha: float) -> ScoreInterval:
    """The interval of the mean score in [0, 1]; None without an answer."""
    if answers.empty:
        return {"ci_low": None, "ci_high": None}
    values = answers["score"].to_numpy()
    codes = pd.factorize(answers["cluster"])[0]
    estimate = float(values.mean())
    totals = np.bincount(codes, weights=values - estimate)
    evidence = BoundedMean(len(values), estimate, totals, np.bincount(codes) * 1.0, floor=0.0)
    low, high = interval(evidence, alpha)
    return {"ci_low": low, "ci_high": high}


def mean(values: ArrayLike) -> float | None:
    """The mean of what is there."""
    every = np.asarray(values, dtype=float)
    there = ~np.isnan(every)
    return float(np.where(there, every, 0.0).sum() / there.sum()) if there.any() else None


def quantile(values: ArrayLike, share: float) -> float | None:
    """A quantile of what is there."""
    every = np.asarray(values, dtype=float)
    there = every[~np.isnan(every)]
    return float(np.percentile(there, 100 * share)) if len(there) else None
