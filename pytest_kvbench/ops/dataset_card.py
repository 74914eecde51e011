"""The README of the Parquet data set: its header is what `datasets` and a hub go by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from pytest_kvbench.files import replace_text
from pytest_kvbench.ops.columns import COLUMNS

README = "README.md"
_TABLES = {
    "cells": "a row a cell: verdict, delta with its interval, bytes, proof, and what was declared",
    "answers": "a row a request: the reply or its failure, score and parts, tokens, bytes, times",
    "runs": "a row a run: what was declared, who answered, how many verdicts of each kind",
}


def write_card(folder: Path, groups: Iterable[str]) -> Path:
    """Write the card of a data set that `aggregate` made.

    Args:
        folder: the data set.
        groups: whose results are in it.
    """
    tables = [name for name in _TABLES if any((folder / name).glob("*.parquet"))]
    header = {
        "pretty_name": "Answers under smaller KV caches, by pytest-kvbench",
        "tags": ["kv-cache", "evaluation", "pytest-kvbench"],
        "configs": [
            {"config_name": name, "data_files": f"{name}/*.parquet", "default": n == 0}
            for n, name in enumerate(tables)
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).rstrip(),
        "---",
        "",
        "# Answers under smaller KV caches",
        "",
        "By pytest-kvbench: every treated answer is compared with the full cache's answer to the "
        "same example.",
        "",
        f"Groups: {', '.join(f'`{group}`' for group in sorted(groups))}.",
    ]
    for name in tables:
        lines += ["", f"## {name}", "", f"{_TABLES[name]}.", "", "| column | type |", "|---|---|"]
        lines += [f"| `{column}` | {kind} |" for column, kind in COLUMNS[name].items()]
    replace_text(folder / README, "\n".join(lines) + "\n")
    return folder / README
