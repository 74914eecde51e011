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


def tokens(answers: pd.DataFrame) -> dict[str, int]:
    """Answers and tokens, summed."""
    return {
        "answers": len(answers),
        "prompt_tokens": int(answers["prompt_tokens"].sum()),
        "completion_tokens": int(answers["completion_tokens"].sum()),
    }


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
