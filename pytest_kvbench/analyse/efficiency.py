"""What an experiment cost and what each budget saved."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pytest_kvbench.analyse.binstats import mean, named, quantile

ARM = ["variant", "policy", "budget"]


def efficiency(table: pd.DataFrame) -> dict[str, Any]:
    """Totals over all answers, and one row per variant, policy and budget in `arms`.

    Tokens are sums; latencies in seconds; bytes are means over answers of the prompt's KV tensors.
    """
    answers = table[table["failure"] == ""]
    return {
        **tokens(answers),
        "arms": [
            {**named(key, ARM), **tokens(rows), **costs(rows)}
            for key, rows in answers.groupby(ARM, sort=True)
        ],
    }


def tokens(answers: pd.DataFrame) -> dict[str, int | None]:
    """Answers and tokens, summed; None where an answer lacks its count."""
    return {
        "answers": len(answers),
        "prompt_tokens": total(answers["prompt_tokens"]),
        "completion_tokens": total(answers["completion_tokens"]),
    }


def total(counts: pd.Series[Any]) -> int | None:
    """Their sum; None where one is missing: a sum of some would look like that of all."""
    return None if counts.isna().any() else int(counts.sum())


def costs(answers: pd.DataFrame) -> dict[str, float | None]:
    """Latency and memory of one arm."""
    return {
        "latency_p50": quantile(answers["latency_s"], 0.5),
        "latency_p95": quantile(answers["latency_s"], 0.95),
        "ttft_p50": quantile(answers["ttft_s"], 0.5),
        "achieved_mean": mean(answers["achieved"]),
        "kept_bytes_mean": mean(answers["kept_bytes"]),
        "full_bytes_mean": mean(answers["full_bytes"]),
    }
