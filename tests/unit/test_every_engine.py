"""The table of real servers: what `make engines` makes of a run."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from pytest_kvbench.policies import kv_types
from tests.support import every_engine
from tests.support.pages import PAGES

CELL = {"policy": "none", "bin": 0, "n": 3, "lost": 0, "proof": "proven", "achieved": 1.0}


def test_rows_say_what_was_answered_or_why_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(every_engine, "FOLDER", tmp_path)
    monkeypatch.delenv(every_engine.DATA, raising=False)
    folder = tmp_path / "engines_vllm"
    folder.mkdir()
    tasks = ["niah/single", "jsonl:/x/boxes.jsonl", "chat:/x/chats.jsonl"]
    cells = [{**CELL, "task": task} for task in tasks]
    cells += [{**CELL, "task": task, "policy": "fp8", "achieved": 0.5, "n": 2} for task in tasks]
    cells += [{**CELL, "task": tasks[-1], "measure": "same_top", "control_mean": 1.0}]
    nothing = {"n": 0, "lost": 3, "achieved": None, "proof": "unverified"}
    cells += [{**CELL, "task": task, "policy": "nvfp4", **nothing} for task in tasks]
    (folder / "summary.json").write_text(json.dumps({"cells": cells}))
    with sqlite3.connect(folder / "kvbench.sqlite") as db:
        db.executescript("""
            CREATE TABLE failures (key, message); CREATE TABLE requests (key, arm_id);
            CREATE TABLE arms (arm_id, policy); INSERT INTO failures VALUES (1, 'no /a/b/c.py | x');
            INSERT INTO requests VALUES (1, 2); INSERT INTO arms VALUES (2, 'nvfp4');
        """)
    control, fp8, nvfp4 = every_engine.rows("vllm", "vllm 1, today", ["fp8", "nvfp4"])
    no_data = "no data: `KVBENCH_LONGBENCH`"
    every = f"3 of 3 | 3 of 3 | {no_data} | 3 of 3 | 3 of 3, 1.00 | 1.000 | `proven`"
    assert control == f"| vllm 1, today | control | {every} |"
    assert (
        fp8
        == f"| vllm 1, today | `fp8` | 2 of 2 | 2 of 2 | {no_data} | 2 of 2 |  | 0.500 | "
        + ("`proven` |")
    )
    assert nvfp4.endswith("| 0 of 3 |  |  | no c.py |")


def test_new_rows_replace_those_of_the_same_program() -> None:
    page = "a\n<!-- servers -->\n\n<!-- end servers -->\nb"
    page = every_engine.with_rows(page, ["| vllm 1, x | old |"])
    page = every_engine.with_rows(page, ["| xllamacpp 2, x | other |"])
    page = every_engine.with_rows(page, ["| vllm 3, x | new |"])
    assert [line for line in page.splitlines() if line.startswith("| ")][1:] == [
        "| xllamacpp 2, x | other |",
        "| vllm 3, x | new |",
    ]
    assert page.startswith("a\n")
    assert page.endswith("\nb")


def test_the_page_has_what_was_tried() -> None:
    _, _, table = PAGES["docs/engines.md"].partition("<!-- servers -->")
    named = {row.split("`")[1] for row in table.splitlines() if row.count("`") > 2}
    assert named >= {*kv_types.GGML, "fp8"}
