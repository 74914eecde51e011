"""Scores become counts and moments without losing what a posterior needs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pytest_kvbench.posterior.curves import MISSING, Pairs, curves, design_effect
from tests.unit.posterior.planted import LADDER, SLOPE, key, planted

binary = arrays.arrays(
    float, st.tuples(st.integers(1, 30), st.just(7)), elements=st.sampled_from([0.0, 1.0])
)


def of(scores: np.ndarray, where: str = "p", **options: object) -> Pairs:
    cluster = options.get("cluster", np.arange(len(scores)))
    return Pairs(key(where), LADDER, scores[:, 0], scores[:, 1:], np.asarray(cluster))


@given(binary, st.data())
def test_counts_hold_every_pair_whatever_its_place(scores: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(scores))))
    found, shuffled = (curves([of(s)]) for s in (scores, scores[list(order)]))
    assert found.counts.count.sum() == pytest.approx(len(scores))
    assert np.array_equal(found.counts.outcome, shuffled.counts.outcome)
    assert np.array_equal(found.counts.count, shuffled.counts.count)
    for rung in range(6):
        is_right = found.counts.outcome[:, rung] == 1
        assert found.counts.count[is_right].sum() == pytest.approx(scores[:, 1 + rung].sum())
    assert found.right[0] == pytest.approx(scores[:, 0].sum())


def test_controls_of_a_base_are_counted_once() -> None:
    rng = np.random.default_rng(1)
    one = planted(key("a"), SLOPE, 40, rng)
    other = Pairs(key("b"), LADDER, one.control, one.treated, one.cluster)
    found = curves([other, one])
    assert found.asked.tolist() == [40]
    assert [k.policy for k in found.keys] == ["a", "b"]


def test_what_was_not_measured_is_missing_and_ladders_may_differ() -> None:
    scores = np.array([[1, 1, np.nan], [1, 0, 0]], float)
    short = Pairs(key("a"), (0.5, 0.2), scores[:, 0], scores[:, 1:], np.arange(2))
    found = curves([short, planted(key("b"), SLOPE, 5, np.random.default_rng(1))])
    own = found.counts.outcome[found.counts.curve == 0]
    assert sorted(map(tuple, own)) == [
        (0, 0, *[MISSING] * 4),
        (1, MISSING, *[MISSING] * 4),
    ]
    assert found.octaves[0].tolist() == pytest.approx([1, *[np.log2(5)] * 5])


@given(binary)
def test_pairs_without_shared_contexts_count_in_full(scores: np.ndarray) -> None:
    assert design_effect(of(scores)) == pytest.approx(1)


def test_copies_of_one_pair_count_as_one() -> None:
    once = planted(key(), SLOPE, 50, np.random.default_rng(2))
    scores = np.column_stack([once.control, once.treated])
    copied = of(np.repeat(scores, 4, axis=0), cluster=np.repeat(np.arange(50), 4))
    assert design_effect(copied) == pytest.approx(4)
    assert curves([copied]).counts.count.sum() == pytest.approx(50)


def test_graded_scores_are_means_whose_noise_is_whitened() -> None:
    rng = np.random.default_rng(3)
    control = rng.uniform(0.6, 0.8, 4000)
    shared = rng.normal(0, 0.1, (4000, 1))  # budgets share their examples
    treated = (
        control[:, None]
        - [0.02, 0.05, 0.1, 0.15, 0.2, 0.25]
        + shared
        + rng.normal(0, 0.1, (4000, 6))
    )
    found = curves([Pairs(key(), LADDER, control, treated.clip(0, 1), np.arange(4000))])
    assert not len(found.counts.curve)
    each = np.arctanh(control[:, None] - treated.clip(0, 1))
    noise = found.moments.whitener[0] @ np.cov(each.T) @ found.moments.whitener[0].T / 4000
    assert noise == pytest.approx(np.eye(6), abs=0.15)
    assert found.moments.loss[0] == pytest.approx([0.02, 0.05, 0.1, 0.15, 0.2, 0.25], abs=0.01)


def test_a_rung_without_any_difference_is_not_taken_for_sure() -> None:
    control = np.full(25, 0.5)
    found = curves([Pairs(key(), (0.5,), control, control[:, None], np.arange(25))])
    assert 1 / found.moments.whitener[0, 0, 0] == pytest.approx(1 / 25)
