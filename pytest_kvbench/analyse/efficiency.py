"""What an experiment cost and what each budget saved."""

from __future__ import annotations

from typing import Any

import pandas as pd

from pytest_kvbench.analyse.binstats import costs
from pytest_kvbench.analyse.tables import grouped
from pytest_kvbench.rows import ArmName, ArmRow, Efficiency, Tokens

ARM = ["variant", "policy", "budget"]


def efficiency(table: pd.DataFrame) -> Efficiency:
    """Totals over all answers, and one row per variant, policy and budget in `arms`.

    Tokens are sums; latencies in seconds; bytes are means over answers of the prompt's KV tensors.
    """
    answers = table[table["failure"] == ""]
    whole = tokens(answers)
    return {
        "answers": whole["answers"],
        "prompt_tokens": whole["prompt_tokens"],
        "completion_tokens": whole["completion_tokens"],
        "arms": [arm_row(key, rows) for key, rows in grouped(answers, ARM)],
    }


def arm_row(key: Any, answers: pd.DataFrame) -> ArmRow:
    """What the answers of one arm cost; `key` has its values of `ARM`."""
    variant, policy, budget = key
    name: ArmName = {"variant": str(variant), "policy": str(policy), "budget": float(budget)}
    return {**name, **tokens(answers), **costs(answers)}


def tokens(answers: pd.DataFrame) -> Tokens:
    """Answers and tokens, summed; None where an answer lacks its count."""
    return {
        "answers": len(answers),
        "prompt_tokens": total(answers["prompt_tokens"]),
        "completion_tokens": total(answers["completion_tokens"]),
    }


def total(counts: pd.Series[Any]) -> int | None:
    """Their sum; None where one is missing: a sum of some would look like that of all."""
    return None if counts.isna().any() else int(counts.sum())
