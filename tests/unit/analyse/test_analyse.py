"""`analyse`: from one row per request to cells, integrity and costs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

from pytest_kvbench.analyse import Rules, analyse
from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.errors import UsageError
from pytest_kvbench.observation import Cut

RULES = Rules(margin=0.10, alpha=0.05)
CONTROL = ("none", 1.0)


def request(example, policy="none", budget=1.0, score=1.0, **changes):
    return {
        "task": "niah/single",
        "bin": 0,
        "variant": "",
        "policy": policy,
        "budget": budget,
        "replicate": 0,
        "aa": False,
        "example_id": f"e{example}",
        "cluster": f"c{example}",
        "score": score,
        "em": score,
        "label": "",
        "failure": "",
        "text": f"answer {example} {score}",
        "finish_reason": "stop",
        "latency_s": 2.0 if policy == "none" else 1.0,
        "ttft_s": None,
        "prompt_tokens": 500 + example,
        "completion_tokens": 10,
        "achieved": budget,
        "kept_bytes": int(1000 * budget),
        "full_bytes": 1000,
        "proof": "proven",
        **changes,
    }


def failed(example, policy="none", budget=1.0, kind="TIMEOUT", **changes):
    nothing = dict.fromkeys(("score", "em", "text", "finish_reason", "latency_s", "achieved"))
    return request(example, policy, budget, **{"failure": kind, **nothing, **changes})


def arm(n, policy, budget, lost=0, **changes):
    """An arm's answers; the first `lost` examples are wrong."""
    return [request(i, policy, budget, 0.0 if i < lost else 1.0, **changes) for i in range(n)]


def run(rows, rules=RULES):
    out = analyse(pd.DataFrame(rows), rules)
    json.dumps(dataclasses.asdict(out), allow_nan=False)
    return out


def cell(out, policy="snapkv", budget=0.5, bin_=0):
    wanted = (policy, budget, bin_)
    return next(c for c in out.cells if (c["policy"], c["budget"], c["bin"]) == wanted)


def codes(row):
    return {flag.partition(":")[0] for flag in row["flags"]}


def test_cells_controls_and_pooled_rows():
    out = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5) + arm(40, "snapkv", 0.2, lost=30))
    assert cell(out)["verdict"] == cell(out, bin_="all")["verdict"] == "holds"
    assert cell(out, budget=0.2)["verdict"] == "breaks"
    control = cell(out, *CONTROL)
    assert (control["verdict"], control["n"], control["control_mean"]) == (None, 40, 1.0)
    assert {frozenset(row) for row in out.cells} == {frozenset(control)}
    assert out.transitions[0]["b_safe"] == 0.5
    assert out.transitions[0]["b_broken"] == 0.2
    assert cell(out)["achieved"] == 0.5


def test_pairs_follow_the_replicate_and_trials_are_averaged():
    """Wrong in trial 0 for one arm and in trial 1 for the other: half a point each, not noise."""
    rows = []
    for i in range(20):
        for r in (0, 1):
            rows.append(request(i, score=float(r == 0), replicate=r))
            rows.append(request(i, "snapkv", 0.5, score=float(r == 1), replicate=r))
    row = cell(run(rows))
    assert (row["n"], row["clusters"]) == (20, 20)
    assert (row["control_mean"], row["treated_mean"]) == (0.5, 0.5)
    lonely = [r for r in rows if not (r["policy"] == "none" and r["replicate"] == 1)]
    row = cell(run(lonely))
    assert (row["lost"], row["lost_share"], row["verdict"]) == (20, 0.5, "not-measured")
    assert (row["control_mean"], row["treated_mean"]) == (1.0, 0.0)


def test_averages_of_right_or_wrong_stay_right_or_wrong():
    rows = [
        request(i, *where, replicate=r)
        for i in range(40)
        for where in (CONTROL, ("snapkv", 0.5))
        for r in range(3)
    ]
    assert cell(run(rows))["method"].startswith("score")


def test_pairs_with_a_cut_prompt_are_flagged_and_too_many_end_the_cell():
    """Whichever of the two was cut; both numbers are named."""
    cut, rows = Cut(2_048, 4_102), [*arm(40, *CONTROL), *arm(40, "snapkv", 0.5)]
    rows[0]["cut"] = rows[41]["cut"] = cut
    out = run(rows)
    assert cell(out)["verdict"] == "holds"
    assert {"cut"} <= codes(cell(out)) & codes(cell(out, *CONTROL))
    assert "counts 2,048 tokens of 4,102" in next(n for n in out.integrity["notes"] if "cut" in n)
    rows[42]["cut"] = cut
    row = cell(run(rows))
    assert (row["verdict"], row["verdict_holm"], row["ci_low"]) == ("not-measured",) * 2 + (None,)
    assert row["reason"].startswith("3 of 40 pairs")
    assert cell(run(rows, Rules(0.1, 0.05, max_cut=1.0)))["verdict"] == "holds"


def test_tokens_that_a_server_did_not_count_are_missing_in_sums_and_never_0():
    rows = [*arm(40, *CONTROL), *arm(40, "snapkv", 0.5)]
    rows[3]["prompt_tokens"] = rows[50]["completion_tokens"] = None
    spent = run(rows).efficiency
    assert (spent["prompt_tokens"], spent["completion_tokens"]) == (None, None)
    sums = {a["policy"]: (a["prompt_tokens"], a["completion_tokens"]) for a in spent["arms"]}
    assert sums == {"none": (None, 400), "snapkv": (40 * 500 + 780, None)}


def test_failures_drop_their_pair_and_too_many_end_the_cell():
    treated = arm(40, "snapkv", 0.5)
    for i in range(2):
        treated[i] = failed(i, "snapkv", 0.5)
    row = cell(run(arm(40, *CONTROL) + treated))
    assert (row["n"], row["lost"], row["verdict"]) == (38, 2, "undetermined")
    assert "count as losses" in row["reason"]
    assert row["needed"] > 0
    treated[2] = failed(2, "snapkv", 0.5, kind="ENGINE_ERROR")
    out = run(arm(40, *CONTROL) + treated)
    row = cell(out)
    assert (row["verdict"], row["verdict_holm"], row["ci_low"]) == (
        "not-measured",
        "not-measured",
        None,
    )
    assert "3 pairs" in row["reason"]
    assert "failures" in codes(row)
    assert out.integrity["failures"] == {"TIMEOUT": 2, "ENGINE_ERROR": 1}
    assert out.integrity["answers"] + 3 == out.integrity["requests"] == 80
    assert cell(run(arm(40, *CONTROL) + treated, Rules(0.1, 0.05, max_lost=0.1)))["verdict"]


@pytest.mark.parametrize("n", [200, 400])
def test_a_loss_of_the_margin_half_of_it_by_failures_does_not_hold(n):
    """5% of treated requests fail and 5% are wrong: of the answers alone, 5.3% are lost."""
    treated = arm(n, "snapkv", 0.5, lost=n // 10)
    treated[: n // 20] = [failed(i, "snapkv", 0.5) for i in range(n // 20)]
    out = run(arm(n, *CONTROL) + treated)
    for row in (cell(out), cell(out, bin_="all")):
        assert (row["verdict"], row["lost"]) == ("undetermined", n // 20)
        assert "count as losses" in row["reason"]
    few = treated[:2] + arm(n, "snapkv", 0.5)[2:]
    assert cell(run(arm(n, *CONTROL) + few))["verdict"] == "holds"


def test_pairs_lost_by_the_control_never_make_a_cell_break():
    control = [failed(i) if i < 10 else row for i, row in enumerate(arm(200, *CONTROL))]
    row = cell(run(control + arm(200, "snapkv", 0.5, lost=20)))
    assert (row["verdict"], row["lost"]) == ("undetermined", 10)


@pytest.mark.parametrize("cut", [CONTROL, ("snapkv", 0.5)])
def test_answers_cut_short_in_one_arm_are_flagged_whichever_it_is(cut):
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5)
    for row in rows:
        if (row["policy"], row["budget"]) == cut and int(row["example_id"][1:]) < 12:
            row["finish_reason"] = "length"
    assert "truncation" in codes(cell(run(rows)))


@pytest.mark.parametrize(("word", "named"), [("whimsy", "2 whimsy"), ("", "2 without any")])
def test_answers_whose_end_nobody_knows_are_flagged(word, named):
    treated = arm(40, "snapkv", 0.5)
    assert "finish-reason" not in codes(cell(run(arm(40, *CONTROL) + treated)))
    for row in treated[:2]:
        row["finish_reason"] = word
    (flag,) = [f for f in cell(run(arm(40, *CONTROL) + treated))["flags"] if "finish_reason" in f]
    assert flag.startswith("finish-reason: 2 of 80 answers")
    assert named in flag


def test_a_failed_control_drops_the_pair_too():
    control = [failed(0), *arm(40, *CONTROL)[1:]]
    row = cell(run(control + arm(40, "snapkv", 0.5)))
    assert (row["n"], row["lost"]) == (39, 1)


def test_a_cell_of_failures_alone_is_not_measured():
    rows = arm(5, *CONTROL) + [failed(i, "snapkv", 0.5) for i in range(5)]
    row = cell(run(rows))
    assert (row["n"], row["verdict"], row["delta"]) == (0, "not-measured", None)


def test_what_was_not_applied_is_not_measured():
    out = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5, proof="not-applied", achieved=1.0))
    assert cell(out)["verdict"] == cell(out, bin_="all")["verdict"] == "not-measured"
    assert "not applied" in cell(out)["reason"]


def test_proof_is_as_weak_as_its_weakest_answer():
    treated = arm(40, "snapkv", 0.5)
    treated[0]["proof"] = "unverified"
    assert cell(run(arm(40, *CONTROL) + treated))["proof"] == "unverified"


def test_the_plan_counts_not_the_selection():
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5)
    assert cell(run(rows))["verdict_item"] == "holds"
    row = cell(run(rows, Rules(0.10, 0.05, planned_cells=30)))
    assert (row["verdict"], row["verdict_item"], row["verdict_holm"]) == (
        "holds",
        "undetermined",
        "undetermined",
    )


def test_a_drop_by_labels_is_said_to_be_one():
    treated = arm(40, "snapkv", 0.5)
    for i in range(20):
        treated[i] = request(i, "snapkv", 0.5, 0.0, label="TRUNCATED", finish_reason="length")
    out = run(arm(40, *CONTROL) + treated)
    row = cell(out)
    assert (row["delta"], row["delta_unlabelled"]) == (-0.5, 0.0)
    assert {"labels", "truncation"} <= codes(row)
    assert out.integrity["labels"] == {"TRUNCATED": 20}
    assert any("TRUNCATED" in note for note in out.integrity["notes"])
    honest = cell(run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5, lost=20)))
    assert not {"labels", "truncation"} & codes(honest)


def test_bins_too_small_to_tell_are_a_placebo_together():
    rows = [
        r
        for bin_ in range(3)
        for r in arm(4, *CONTROL, bin=bin_) + arm(4, "snapkv", 0.5, bin=bin_, proof="unverified")
    ]
    out = run(rows)
    assert "placebo" not in codes(cell(out))
    assert "placebo" in codes(cell(out, bin_="all"))
    assert len(out.integrity["placebos"]) == 1


def test_placebos():
    same = arm(40, *CONTROL) + arm(40, "snapkv", 0.5, proof="unverified")
    out = run(same)
    assert "placebo" in codes(cell(out))
    assert len(out.integrity["placebos"]) == 1
    assert "snapkv 0.5" in out.integrity["placebos"][0]
    proven = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5))
    assert "identical" in codes(cell(proven))
    assert proven.integrity["placebos"] == []
    other = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5, lost=10, proof="unverified"))
    assert not {"placebo", "identical"} & codes(cell(other))


def test_two_arms_that_are_one():
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5, lost=10) + arm(40, "pyramidkv", 0.5, lost=10)
    out = run(rows)
    assert "twin" in codes(cell(out)) & codes(cell(out, "pyramidkv"))
    assert "pyramidkv at 0.5 and snapkv at 0.5" in out.integrity["placebos"][0]
    easy = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5) + arm(40, "pyramidkv", 0.5))
    assert "twin" not in codes(cell(easy))
    apart = [
        request(i, "pyramidkv", 0.5, 0.0 if i < 10 else 1.0, text=f"mine {i}") for i in range(40)
    ]
    apart = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5, lost=10) + apart)
    assert "twin" not in codes(cell(apart))


def test_gains_floors_and_ceilings():
    gained = run([request(i, score=float(i < 2)) for i in range(40)] + arm(40, "snapkv", 0.5))
    assert {"gain", "control-floor"} <= codes(cell(gained))
    flawless = run(arm(40, *CONTROL) + arm(40, "snapkv", 0.5))
    assert "control-ceiling" in codes(cell(flawless))
    usual = run(arm(40, *CONTROL, lost=12) + arm(40, "snapkv", 0.5, lost=14))
    assert not {"gain", "control-floor", "control-ceiling"} & codes(cell(usual))


def test_length_drift():
    drifted = arm(40, "snapkv", 0.5, completion_tokens=40)
    assert "length-drift" in codes(cell(run(arm(40, *CONTROL) + drifted)))
    steady = arm(40, "snapkv", 0.5, completion_tokens=12)
    assert "length-drift" not in codes(cell(run(arm(40, *CONTROL) + steady)))


def test_few_contexts():
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5)
    for row in rows:
        row["cluster"] = f"c{int(row['example_id'][1:]) % 4}"
    row = cell(run(rows))
    assert (row["clusters"], row["verdict"]) == (4, "undetermined")
    assert "few-clusters" in codes(row)


def test_a_pool_that_lacks_a_bin_says_so():
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5) + arm(40, *CONTROL, bin=1)
    rows += [failed(i, "snapkv", 0.5, bin=1) for i in range(40)]
    out = run(rows)
    pooled = cell(out, bin_="all")
    assert "partial-pool" in codes(pooled)
    assert pooled["n"] == 40
    assert any("partial-pool" in note for note in out.integrity["notes"])


def test_the_noise_floor_is_the_second_run_of_the_control():
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5)
    assert run(rows).integrity["aa"] is None
    out = run(rows + arm(40, *CONTROL, lost=4, aa=True))
    floor = out.integrity["aa"]
    assert (floor["n"], floor["delta"], floor["losses"]) == (40, -0.1, 4)
    assert floor["ci_low"] < -0.1 < floor["ci_high"]
    assert cell(out)["delta"] == 0
    assert cell(out, *CONTROL)["n"] == 40


def test_bin_stats_describe_every_arm():
    treated = arm(20, "snapkv", 0.5, lost=5)
    treated[19] = failed(19, "snapkv", 0.5)
    treated[0]["label"] = "REFUSAL"
    stats = {s["policy"]: s for s in run(arm(20, *CONTROL) + treated).bin_stats}
    row = stats["snapkv"]
    assert row["n"] == 20
    assert row["acc_mean"] == row["em_mean"] == pytest.approx(14 / 19)
    assert row["fail_rate"] == pytest.approx(0.05)
    assert row["label_rate"] == pytest.approx(1 / 19)
    assert row["prompt_tokens_p50"] == 509
    assert (row["ttft_p50"], row["latency_p50"], row["achieved_mean"]) == (None, 1.0, 0.5)
    assert 0 <= row["ci_low"] < row["acc_mean"] < row["ci_high"] < 1
    assert stats["none"]["ci_high"] == 1.0
    assert stats["none"]["ci_low"] == pytest.approx(0.025 ** (1 / 20), abs=0.002)


def test_efficiency_sums_tokens_and_compares_arms():
    costs = run(arm(20, *CONTROL) + arm(20, "snapkv", 0.5)).efficiency
    assert (costs["answers"], costs["completion_tokens"]) == (40, 400)
    arms = {a["policy"]: a for a in costs["arms"]}
    assert (arms["none"]["latency_p50"], arms["snapkv"]["latency_p50"]) == (2.0, 1.0)
    assert (arms["snapkv"]["kept_bytes_mean"], arms["none"]["kept_bytes_mean"]) == (500, 1000)


def test_row_order_changes_nothing():
    rows = arm(40, *CONTROL) + arm(40, "snapkv", 0.5, lost=3) + arm(40, "knorm", 0.2, lost=20)
    whole, turned = run(rows), run(rows[::-1])
    assert whole.transitions == turned.transitions
    assert [c["verdict_holm"] for c in whole.cells] == [c["verdict_holm"] for c in turned.cells]


def test_refusals():
    good = arm(3, *CONTROL) + arm(3, "snapkv", 0.5)

    def refused(rows, named):
        with pytest.raises(UsageError, match=named) as caught:
            run(rows)
        assert len(str(caught.value).splitlines()) == 2

    refused([*good, good[-1]], "1 duplicate row,.*e2")
    refused([{**row, "score": 70.0} for row in good], "score of row 0 is 70")
    refused([{**row, "score": None} for row in good], "either an answer|has score nan")
    refused([{**row, "failure": "TIMEOUT"} for row in good], "failure 'TIMEOUT'")
    refused([{k: v for k, v in row.items() if k != "proof"} for row in good], "proof")


def test_controls_alone_are_described_but_not_judged():
    out = run(arm(10, *CONTROL))
    assert [c["verdict"] for c in out.cells] == [None]
    assert out.transitions == []


def test_nothing_is_lost_on_the_way():
    """Every treated request is in exactly one cell, as a pair or as a loss."""
    random, rows = np.random.default_rng(0), []
    for i in range(60):
        for policy, budget in (CONTROL, ("a", 0.5), ("b", 0.25)):
            make = failed if random.random() < 0.1 else request
            rows.append(make(i, policy, budget, bin=i % 3))
    out = run(rows)
    single = [c for c in out.cells if c["verdict"] and c["bin"] != "all"]
    assert sum(c["n"] + c["lost"] for c in single) == 120


def test_bets_are_scaled_to_the_largest_context_that_could_be_drawn():
    rows = [request(i, *of, largest=8) for i in range(30) for of in (CONTROL, ("snapkv", 0.5))]
    rules = dataclasses.replace(RULES, anytime=True)
    expected = judge_cell(
        np.ones(30), np.ones(30), np.arange(30), margin=0.10, alpha=0.05, anytime=True, largest=8
    )
    assert cell(run(rows, rules))["ci_low"] == expected.ci_low
    unknown = [{name: row[name] for name in row if name != "largest"} for row in rows]
    assert cell(run(unknown, rules))["ci_low"] > expected.ci_low + 0.1
