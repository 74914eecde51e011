"""The tables of a data set: their columns and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BRACKET = ("b_safe", "b_broken", "b_safe_adjusted", "b_broken_adjusted")
"""Where quality is lost: a ladder on its own, and by the verdicts that count."""

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "answers": {
        **dict.fromkeys(("group", "run_id", "key", "task"), "string"),
        "bin": "int64",
        **dict.fromkeys(("variant", "policy"), "string"),
        "budget": "double",
        **dict.fromkeys(("engine", "model", "fingerprint", "template"), "string"),
        "question_aware": "bool",
        **dict.fromkeys(("params", "sampling", "example_id", "cluster"), "string"),
        "tokens": "int64",
        "prompt": "string",
        **dict.fromkeys(("max_tokens", "replicate"), "int64"),
        "aa": "bool",
        **dict.fromkeys(("text", "finish_reason", "origin", "created_at", "metric"), "string"),
        **dict.fromkeys(("score", "em"), "double"),
        **dict.fromkeys(("label", "parts", "failure"), "string"),
        **dict.fromkeys(("latency_s", "ttft_s"), "double"),
        **dict.fromkeys(("prompt_tokens", "completion_tokens"), "int64"),
        "achieved": "double",
        **dict.fromkeys(("kept_bytes", "full_bytes"), "int64"),
        "note": "string",
        "self_consistency": "int64",
        "elected": "bool",
    },
    "runs": {
        **dict.fromkeys(
            ("group", "source", "run_id", "started_at", "finished_at", "command"), "string"
        ),
        **dict.fromkeys(("engine", "model", "tasks", "policies", "budgets"), "string"),
        **dict.fromkeys(("bins", "trials", "self_consistency", "seed", "max_tokens"), "int64"),
        "question_aware": "bool",
        **dict.fromkeys(("temperature", "margin", "alpha"), "double"),
        "mode": "string",
        **dict.fromkeys(("answers", "failures"), "int64"),
        **dict.fromkeys(("holds", "breaks", "undetermined", "not_measured"), "int64"),
        **dict.fromkeys(("git_commit", "kvbench", "fingerprint", "snapshot"), "string"),
        "schema": "int64",
    },
    "cells": {
        **dict.fromkeys(
            ("group", "run_id", "started_at", "engine", "model", "dtype", "task", "bin"), "string"
        ),
        **dict.fromkeys(("low", "high"), "int64"),
        **dict.fromkeys(("variant", "policy"), "string"),
        **dict.fromkeys(("budget", "achieved"), "double"),
        "question_aware": "bool",
        **dict.fromkeys(("params", "template", "tokenizer", "metric"), "string"),
        "temperature": "double",
        **dict.fromkeys(("self_consistency", "max_tokens", "seed"), "int64"),
        **dict.fromkeys(("margin", "alpha"), "double"),
        **dict.fromkeys(("n", "clusters"), "int64"),
        **dict.fromkeys(("control_mean", "treated_mean", "delta", "ci_low", "ci_high"), "double"),
        "together": "string",
        **dict.fromkeys(("p_holds", "p_breaks"), "double"),
        **dict.fromkeys(("verdict", "verdict_holm", "proof", "flags", "reason"), "string"),
        **dict.fromkeys(BRACKET, "double"),
        **dict.fromkeys(
            ("fail_rate", "label_rate", "latency_p50", "kept_bytes_mean", "full_bytes_mean"),
            "double",
        ),
        **dict.fromkeys(("prompt_tokens_p50", "completion_tokens_p50"), "double"),
    },
}
"""The tables of a data set and the types of their columns, as pyarrow names them.

Where samples vote (`self_consistency` above 1) a reply that speaks for its vote is `elected`; any
other reply speaks for itself.
"""


Record = Mapping[str, object]
"""A row by the names of its columns."""


@dataclass(frozen=True)
class Table:
    """Rows of one kind, values in the order of `columns`."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @classmethod
    def of(cls, name: str, rows: Sequence[Record]) -> Table:
        """Rows as one of `COLUMNS`; what a row lacks is None."""
        columns = tuple(COLUMNS[name])
        return cls(columns, [tuple(row.get(column) for column in columns) for row in rows])
