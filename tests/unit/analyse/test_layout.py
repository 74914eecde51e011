"""What a plan can decide at best: the judge's own word on pairs that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.analyse.cell import CellResult
from pytest_kvbench.analyse.cells import corrected_verdicts
from pytest_kvbench.analyse.layout import Layout, Prospect, prospects, surely_hold
from pytest_kvbench.analyse.pooled import Pairs, judge_pooled
from pytest_kvbench.analyse.rules import Rules

SINGLES = (1,) * 5


def judge(layout: Layout, rules: Rules, treated: float) -> CellResult:
    bins = [
        Pairs(
            np.ones(sum(sizes)),
            np.full(sum(sizes), treated),
            np.repeat(np.arange(len(sizes)), sizes),
            largest=max(sizes),
        )
        for sizes in layout.bins
    ]
    return judge_pooled(bins, margin=rules.margin, alpha=rules.alpha, anytime=rules.anytime)


def words(layouts: list[Layout], rules: Rules, treated: float) -> list[str]:
    """What is said of each layout's rows, where every treated score is the same."""
    judged = [judge(layout, rules, treated) for layout in layouts]
    rows = [(place, row) for place, layout in enumerate(layouts) for row in range(layout.rows)]
    results = {(place, row): judged[place] for place, row in rows}
    verdicts = corrected_verdicts(results, 0, rules)
    return [verdicts[place, 0].corrected for place in range(len(layouts))]


contexts = st.lists(st.integers(1, 6), min_size=1, max_size=12).map(tuple)
layouts = st.builds(
    Layout, st.lists(contexts, min_size=1, max_size=3).map(tuple), st.integers(1, 6)
)


@settings(max_examples=8, deadline=None)
@given(
    st.lists(layouts, min_size=1, max_size=3),
    st.sampled_from([0.05, 0.1, 0.3]),
    st.sampled_from(["holm", "bh", "none"]),
)
def test_it_is_what_the_judge_will_say(plan, margin, correction):
    check(plan, Rules(margin, 0.05, correction=correction))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.sampled_from([0.05, 0.1, 0.3]))
def test_so_it_is_by_the_closed_form_of_equal_bins(bins, n, margin):
    check([Layout(((1,) * n,) * bins, 2)], Rules(margin, 0.05))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(layouts, min_size=1, max_size=3),
    st.integers(1, 150),
    st.sampled_from([(0.02, None), (0.1, None), (0.3, None), (0.05, 0.95), (0.5, 0.5)]),
    st.sampled_from(["holm", "bh", "none"]),
)
def test_what_surely_holds_does(plan, n, bar, correction):
    rules = Rules(bar[0], 0.05, retain=bar[1], correction=correction)
    grown = [layout.grown(n) for layout in plan]
    assert not surely_hold(grown, rules) or all(p.holds for p in prospects(grown, rules))


def test_a_plan_of_enough_examples_surely_holds() -> None:
    plan = [Layout(((1,) * 40, (3,) * 50), 4), Layout(((2, 1) * 60,), 1)]
    assert surely_hold(plan, Rules(0.10, 0.05))
    assert not surely_hold([*plan, Layout(((9,) * 12,), 1)], Rules(0.10, 0.05))
    assert not surely_hold(plan, Rules(0.10, 0.05, anytime=True))


@pytest.mark.parametrize("bins", [(SINGLES,) * 2, ((5, 2, 5, 1) * 9,)])
def test_so_it_is_in_rounds(bins):
    check([Layout(bins, 2), Layout(((1,) * 60,), 1)], Rules(0.10, 0.05, anytime=True))


def check(plan: list[Layout], rules: Rules) -> None:
    found = prospects(plan, rules)
    assert [p.holds for p in found] == [w == "holds" for w in words(plan, rules, 1.0)]
    assert [p.breaks for p in found] == [w == "breaks" for w in words(plan, rules, 0.0)]
    for place, prospect in enumerate(found):
        if prospect.needed is not None:
            for n, word in ((prospect.needed, "holds"), (prospect.needed - 1, "undetermined")):
                grown = [*plan[:place], plan[place].grown(n), *plan[place + 1 :]]
                assert not n or words(grown, rules, 1.0)[place] == word


@pytest.mark.parametrize(
    ("bins", "rows", "expected"),
    [
        ((SINGLES,) * 5, 2, Prospect(holds=False, breaks=True, needed=9)),  # .9 ** 45 < .0125
        (((1,) * 20,) * 2, 2, Prospect(holds=False, breaks=True, needed=21)),
        (((1,) * 33,) * 2, 24, Prospect(holds=True, breaks=True)),  # 66 pairs for 24 rows
        (((5,) * 30,), 1, Prospect(holds=False, breaks=True, needed=176)),  # the 36th context
        (((1,),), 1, Prospect(holds=False, breaks=False, needed=36)),
    ],
)
def test_lossless_plans(bins, rows, expected):
    assert prospects([Layout(bins, rows)], Rules(0.10, 0.05)) == [expected]


def test_what_no_number_decides_has_none():
    (found,) = prospects([Layout((SINGLES,))], Rules(1e-5, 0.05))
    assert not found.holds
    assert found.needed is None


def test_a_plan_of_full_caches_has_no_prospects() -> None:
    assert prospects([], Rules(margin=0.10, alpha=0.05)) == []
