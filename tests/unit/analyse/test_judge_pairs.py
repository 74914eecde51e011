"""`judge_pairs`: anybody's table in, the shape of summary.json out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pytest_kvbench.analyse.judge import judge_pairs
from pytest_kvbench.errors import UsageError

CELL_KEYS = {
    *("task", "bin", "variant", "policy", "budget", "achieved", "n", "clusters", "control_mean"),
    *("treated_mean", "delta", "ci_low", "ci_high", "losses", "gains", "method", "verdict"),
    *("verdict_holm", "proof", "flags"),
}
TRANSITION_KEYS = {
    *("task", "bin", "policy", "b_safe", "b_broken", "estimate", "estimate_ci"),
    *("rule_budget", "shape"),
}


def table(n=60, bins=2, budgets=(0.9, 0.5, 0.2), policies=("snapkv",), seed=0):
    random, rows = np.random.default_rng(seed), []
    for bin_ in range(bins):
        for policy in policies:
            for i in range(n):
                for budget in budgets:
                    kept = random.random() > (0.5 if budget < 0.3 else 0.0)
                    rows.append(("qa", bin_, policy, budget, f"e{i}", f"c{i}", 1.0, kept * 1.0))
    columns = ["task", "bin", "policy", "budget", "example_id", "cluster", "control", "treated"]
    return pd.DataFrame(rows, columns=columns)


def judge(frame, **options):
    return judge_pairs(frame, **{"margin": 0.10, "alpha": 0.05, **options})


def test_the_contract():
    out = judge(table())
    json.dumps(out, allow_nan=False)
    assert list(out) == [
        "cells",
        "transitions",
        "integrity",
        "efficiency",
        "provenance",
        "partial",
    ]
    assert all(set(cell) >= CELL_KEYS for cell in out["cells"])
    assert all(set(row) >= TRANSITION_KEYS for row in out["transitions"])
    assert {cell["bin"] for cell in out["cells"]} == {0, 1, "all"}
    assert len(out["cells"]) == 9
    assert out["partial"] is False


def test_a_bin_whose_control_has_nothing_to_lose_is_neither_judged_nor_pooled():
    frame = table(budgets=(0.9,))
    frame.loc[frame["bin"] == 1, ["control", "treated"]] = 0.0
    frame.loc[(frame["bin"] == 0) & frame["example_id"].isin(["e1", "e2", "e3"]), "treated"] = 0.0
    short, long, pooled = judge(frame)["cells"]
    assert (short["verdict"], long["verdict"], long["delta"]) == ("undetermined", "not-measured", 0)
    assert "nothing to lose" in long["reason"]
    assert [pooled[name] for name in ("n", "delta", "verdict")] == [
        short[name] for name in ("n", "delta", "verdict")
    ]
    assert any(flag.startswith("partial-pool: bins 1 ") for flag in pooled["flags"])


def test_verdicts_are_those_of_the_data():
    cells = judge(table())["cells"]
    words = {(c["bin"], c["budget"]): c["verdict"] for c in cells}
    assert words[0, 0.9] == words["all", 0.5] == "holds"
    assert words[1, 0.2] == words["all", 0.2] == "breaks"


def test_row_order_and_ids_change_nothing():
    frame = table(n=25)
    shuffled = frame.sample(frac=1, random_state=1)
    renamed = frame.assign(
        example_id=frame["example_id"].map(lambda e: hash(e)),
        cluster=frame["cluster"].map(lambda c: f"x{c}"),
    )
    whole = judge(frame)
    for other in (judge(shuffled), judge(renamed)):
        for a, b in zip(whole["cells"], other["cells"], strict=True):
            assert [a["verdict"], a["verdict_holm"]] == [b["verdict"], b["verdict_holm"]]
            assert a["ci_low"] == pytest.approx(b["ci_low"])
        for a, b in zip(whole["transitions"], other["transitions"], strict=True):
            assert (a["b_safe"], a["b_broken"], a["shape"]) == (
                b["b_safe"],
                b["b_broken"],
                b["shape"],
            )
            assert a["estimate"] == pytest.approx(b["estimate"])


def test_more_cells_make_holm_stricter():
    few = judge(table(n=40, bins=1, budgets=(0.5,)))["cells"][0]
    many = judge(table(n=40, bins=1, budgets=tuple(np.linspace(0.3, 0.9, 20))))["cells"][0]
    assert few["verdict"] == many["verdict"] == few["verdict_holm"] == "holds"
    assert many["verdict_holm"] == "undetermined"
    loose = judge(table(n=40, bins=1, budgets=tuple(np.linspace(0.3, 0.9, 20))), correction="none")[
        "cells"
    ][0]
    assert loose["verdict_holm"] == "holds"


def test_variants_are_cells_of_their_own():
    frame = pd.concat([table(n=5).assign(variant=v) for v in ("short", "long")])
    assert {cell["variant"] for cell in judge(frame)["cells"]} == {"short", "long"}


def test_numeric_ids_and_clusters_are_fine():
    frame = table(n=10)
    frame["example_id"] = frame["cluster"] = frame["example_id"].str[1:].astype(int)
    assert judge(frame)["cells"][0]["clusters"] == 10


def test_budgets_need_not_share_examples():
    frame = table(n=40)
    frame["example_id"] += frame["budget"].astype(str)
    frame.loc[frame["budget"] == 0.5, "treated"] = 0.0
    row = judge(frame)["transitions"][0]
    assert (row["b_safe"], row["shape"]) == (0.9, "cliff")


def refused(frame, *named, **options):
    with pytest.raises(UsageError) as caught:
        judge(frame, **options)
    assert len(str(caught.value).splitlines()) == 2
    for name in named:
        assert name in str(caught.value)


def test_refusals_are_two_lines_that_name_the_value():
    good = table(n=3)
    refused(good.drop(columns=["cluster", "control"]), "cluster, control", "Needed: task, bin")
    refused(pd.concat([good, good.head(2)]), "2 duplicate rows", "e0")
    refused(good.assign(treated=good["treated"] * 100), "treated", "100", "[0, 1]")
    refused(good.assign(control="high"), "control", "'high'", "number")
    refused(good.assign(budget=0.0), "budget", "(0, 1]")
    refused(good.assign(bin=0.5), "0.5", "integer")
    refused(good.head(0), "no rows")
    holes = good.copy()
    holes.loc[4, "treated"] = np.nan
    refused(holes, "treated", "row 4")
    refused(good.assign(cluster=None), "cluster", "row 0")


def test_wrong_rules_are_refused():
    refused(table(n=3), "margin", "-0.1", margin=-0.1)
    refused(table(n=3), "alpha", "0.7", alpha=0.7)
    refused(table(n=3), "holm, bh, none", correction="bonferroni")


def test_a_string_example_id_may_be_shared_by_bins_and_tasks():
    out = judge(table(n=60, bins=2))
    pooled = next(c for c in out["cells"] if c["bin"] == "all")
    assert (pooled["n"], pooled["clusters"]) == (120, 120)
