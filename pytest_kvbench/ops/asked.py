"""How something was asked, in words: what tells a recipe from the others of its model and task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_kvbench.ops.recipes import RECIPE

if TYPE_CHECKING:
    import pandas as pd

WORDED = ("template", "draws")
"""What a variant's name stands for."""


def recipe_label(row: Any, rows: pd.DataFrame, dial: str = "") -> str:
    """What tells a row's recipe from the others of its model and task; empty where it is alone."""
    variant = "" if dial == "variant" else row.get("variant") or ""
    named = {"model", "task", dial, *(WORDED if dial == "variant" else ())}
    several = [name for name in _several(row, rows) if name not in named]
    return ", ".join(filter(None, [variant, *(_said(name, row) for name in several)]))


def asked(row: Any, rows: pd.DataFrame) -> Iterator[str]:
    """What is particular in how a row was asked, and what tells it from the others of its task."""
    several = _several(row, rows)
    if row["question_aware"] is False:
        yield "unseen question"
    if row["variant"]:
        yield f"variant {row['variant']}"
    if row["self_consistency"] > 1:
        yield f"{row['self_consistency']} votes"
    yield from (_said(name, row) for name in several if name in ("engine", "dtype", "template"))
    if (how := drawn(row["draws"])) != "greedy":
        yield how


def _several(row: Any, rows: pd.DataFrame) -> Iterator[str]:
    """Of a recipe what has several values; what a variant stands for, among those of its name."""
    same = rows[(rows["model"] == row["model"]) & (rows["task"] == row["task"])]
    worded = same[same["variant"] == row["variant"]]
    for name in RECIPE:
        if (worded if name in WORDED else same)[name].nunique(dropna=False) > 1:
            yield name


def _said(name: str, row: Any) -> str:
    if name == "question_aware":
        return "" if row[name] else "question unseen"
    if (name, row[name]) == ("dtype", "null"):
        return "dtype not declared"
    return drawn(row[name]) if name == "draws" else f"{name} {row[name]}"


def drawn(sampling: str) -> str:
    """A recipe's sampling in words: `greedy`, `temperature 0.7, at most 64 tokens`."""
    heat, nucleus, most = map(json.loads(sampling).get, ("temperature", "top_p", "max_tokens"))
    how = [f"temperature {heat:g}" if heat else "greedy"]
    how += [f"top-p {nucleus:g}"] if heat and nucleus and nucleus < 1 else []
    how += [f"at most {most:,} tokens"] if most else []
    return ", ".join(how)
