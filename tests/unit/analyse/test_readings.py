"""Scores that lie between bounds: no reading of them contradicts a verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.analyse.judge import judge_pairs
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.readings import APART, Rule, judge_bins, judge_one
from pytest_kvbench.analyse.sequential import Drawn, Limits, Rung, advance, start
from pytest_kvbench.errors import UsageError

RULE = Rule(margin=0.10, alpha=0.05)


def pairs(treated: float, n: int = 60, *, width: float = 0.0, control: float = 1.0) -> Pairs:
    """Scores whose least are these; all that is known is that they lie within a width above."""
    low, high = np.full(n, treated), np.full(n, min(treated + width, 1.0))
    full = np.full(n, control)
    return Pairs(full, low, np.arange(n), control_high=full, treated_high=high)


@pytest.mark.parametrize(
    ("treated", "width", "verdict"),
    [
        (0.99, 0.01, "holds"),
        (0.97, 0.03, "holds"),
        (0.85, 0.10, "undetermined"),  # between 0.85 and 0.95: either may be
        (0.60, 0.10, "breaks"),
        (0.60, 0.35, "undetermined"),
        (0.80, 0.20, "undetermined"),
    ],
)
def test_a_verdict_rests_on_the_reading_that_makes_it_hardest(
    treated: float, width: float, verdict: str
) -> None:
    found = judge_one(pairs(treated, width=width), RULE)
    assert found.verdict == verdict
    assert found.bounds == pytest.approx((treated - 1, treated + width - 1))
    assert found.delta == pytest.approx(treated - 1), "of the least scores, as reports show them"
    assert found.ci_low < treated - 1 <= treated + width - 1 < found.ci_high  # type: ignore[operator]
    pooled = judge_bins([pairs(treated, 30, width=width)] * 2, RULE, family=3)
    assert pooled.verdict == verdict
    assert pooled.together[0]["ci_low"] <= pooled.ci_low < pooled.ci_high  # type: ignore[operator]


def test_a_control_between_bounds_counts_both_ways() -> None:
    blurred = Pairs(
        *(np.full(60, 0.85), np.full(60, 0.85), np.arange(60)),
        control_high=np.full(60, 1.0),
        treated_high=np.full(60, 1.0),
    )
    found = judge_one(blurred, RULE)
    assert (found.verdict, found.reason, found.needed) == ("undetermined", APART, None)
    assert found.bounds == pytest.approx((-0.15, 0.15))


def test_more_examples_are_advised_only_where_they_could_decide() -> None:
    assert judge_one(pairs(0.93, 20, width=0.02), RULE).needed
    assert judge_one(pairs(0.70, 4, width=0.02), RULE).needed
    apart = judge_one(pairs(0.85, 20, width=0.10), RULE)
    assert (apart.needed, apart.reason) == (None, APART)


def test_exact_scores_are_judged_as_before() -> None:
    plain = Pairs(np.ones(40), np.full(40, 0.93), np.arange(40))
    assert judge_one(plain, RULE) == judge_cell(*plain_columns(plain), margin=0.10, alpha=0.05)
    assert judge_bins([plain] * 2, RULE) == judge_pooled([plain] * 2, margin=0.10, alpha=0.05)


def plain_columns(some: Pairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return some.control, some.treated, some.clusters


SHARES = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=2, max_size=40))
def test_no_reading_is_outside_the_interval(drawn: list[tuple[float, float, float]]) -> None:
    one, other, share = map(np.array, zip(*drawn, strict=True))
    low, high = np.minimum(one, other), np.maximum(one, other)
    ones, clusters = np.ones(len(low)), np.arange(len(low))
    found = judge_one(Pairs(ones, low, clusters, control_high=ones, treated_high=high), RULE)
    reading = judge_cell(ones, low + share * (high - low), clusters, margin=0.10, alpha=0.05)
    slack = 0.01  # the saddlepoint's
    assert found.ci_low <= reading.ci_low + slack  # type: ignore[operator]
    assert reading.ci_high <= found.ci_high + slack  # type: ignore[operator]
    assert found.verdict in (reading.verdict, "undetermined") or slack > min(
        abs(found.p_holds - 0.025),  # type: ignore[operator]
        abs(found.p_breaks - 0.025),  # type: ignore[operator]
    )


def table(treated: float, width: float, n: int = 60) -> pd.DataFrame:
    cells = {"task": "t", "bin": 0, "policy": "p", "budget": 0.5}
    rows = [{**cells, "example_id": f"e{i}", "cluster": f"e{i}"} for i in range(n)]
    scores = {"control": 1.0, "treated": treated, "treated_high": treated + width}
    return pd.DataFrame(rows).assign(**scores, measure="overlap")


def test_tables_from_elsewhere_may_name_bounds() -> None:
    out = judge_pairs(table(0.85, 0.1), margin=0.10, alpha=0.05)
    for cell in out["cells"]:
        assert (cell["verdict"], cell["verdict_holm"]) == ("undetermined", "undetermined")
        assert cell["bounds"] == pytest.approx([-0.15, -0.05])
        assert [flag.partition(":")[0] for flag in cell["flags"]] == ["bounds"]
    (broken, *_) = judge_pairs(table(0.6, 0.1), margin=0.10, alpha=0.05)["cells"]
    assert (broken["verdict"], broken["flags"]) == ("breaks", [])
    (exact, *_) = judge_pairs(table(0.6, 0.0), margin=0.10, alpha=0.05)["cells"]
    assert exact["bounds"] == pytest.approx([-0.4, -0.4])


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("overlp", "did you mean overlap?"),
        ("Same_top", "did you mean same_top?"),
        ("kld", "less is better"),
        ("nll", "Valid: score, overlap, same_top, prefix"),
    ],
)
def test_a_measure_that_is_no_share_of_what_is_kept_is_refused(name: str, hint: str) -> None:
    frame = table(0.6, 0.0)
    frame.loc[3, "measure"] = name
    with pytest.raises(UsageError, match=f"measure of row 3 is '{name}'") as refused:
        judge_pairs(frame, margin=0.10, alpha=0.05)
    assert hint in str(refused.value.hint)


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(UsageError, match=r"treated_high of row 0 is 0\.5") as refused:
        judge_pairs(table(0.6, -0.1), margin=0.10, alpha=0.05)
    assert "at least treated, 0.6" in str(refused.value.hint)


def test_rounds_stop_where_every_reading_is_decided() -> None:
    limits = Limits(margin=0.10, alpha=0.05, least=8, most=200)
    rungs = {"sure": (-0.5, -0.4), "blurred": (-0.5, -0.05), "kept": (-0.02, 0.0)}
    lows, highs = (
        {Rung(name, 0.5): np.full(200, ends[side]) for name, ends in rungs.items()}
        for side in (0, 1)
    )
    drawn = Drawn(np.arange(200), lows, highs)
    done = advance(start([*lows], drawn.clusters, limits), drawn, limits)
    words = {rung.policy: standing.verdict for rung, standing in done.cells.items()}
    assert words == {"sure": "breaks", "blurred": "undetermined", "kept": "holds"}
    assert done.cells[Rung("sure", 0.5)].n < 40
