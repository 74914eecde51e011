"""Distances between distributions: their range, exact values, and bounds that enclose them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from scipy.stats import entropy

from pytest_kvbench.divergence import measures

Logs = np.ndarray

logits = st.floats(-40, 40)


@st.composite
def pairs(draw: st.DrawFn, most: int = 12) -> tuple[Logs, Logs]:
    """Two distributions over one small vocabulary, far apart, close, or the same."""
    size = draw(st.integers(1, most))
    p = np.array(draw(st.lists(logits, min_size=size, max_size=size)))
    other = np.array(draw(st.lists(logits, min_size=size, max_size=size)))
    q = p + draw(st.sampled_from([0.0, 1e-6, 1e-2, 1.0])) * other
    return log_softmax(p), log_softmax(q)


def top(logs: Logs, k: int) -> dict[int, float]:
    return {int(token): float(logs[token]) for token in np.argsort(-logs, kind="stable")[:k]}


@given(pairs())
def test_overlap_is_a_symmetric_share_and_one_minus_the_total_variation(
    pair: tuple[Logs, Logs],
) -> None:
    p, q = pair
    overlap = measures.overlap(p, q)
    assert 0 <= overlap <= 1
    assert overlap == measures.overlap(q, p)
    assert overlap == pytest.approx(np.minimum(np.exp(p), np.exp(q)).sum(), abs=1e-12)


@given(pairs())
def test_kld_is_that_of_scipy_and_never_negative(pair: tuple[Logs, Logs]) -> None:
    p, q = pair
    kld = measures.kld(p, q)
    assert kld >= 0
    assert kld == pytest.approx(entropy(np.exp(p), np.exp(q)), rel=1e-9, abs=1e-12)


@given(pairs())
def test_nothing_has_moved_where_both_are_the_same(pair: tuple[Logs, Logs]) -> None:
    p, _ = pair
    assert measures.overlap(p, p) == 1
    assert measures.kld(p, p) == 0
    assert measures.same_top(p, p)


@given(pairs())
def test_every_k_encloses_the_exact_values(pair: tuple[Logs, Logs]) -> None:
    p, q = pair
    exact, kld = measures.overlap(p, q), measures.kld(p, q)
    for k in range(1, len(p) + 1):
        low, high = measures.overlap_bounds(top(p, k), top(q, k))
        assert 0 <= low <= exact + 1e-12
        assert exact - 1e-12 <= high <= 1
        assert measures.kld_lower(top(p, k), top(q, k)) <= kld + 1e-9


@given(pairs())
def test_the_whole_vocabulary_named_is_exact(pair: tuple[Logs, Logs]) -> None:
    p, q = pair
    every = [top(logs, len(logs)) for logs in pair]
    assert measures.overlap_bounds(*every) == pytest.approx(
        (measures.overlap(p, q),) * 2, abs=1e-12
    )
    assert measures.kld_lower(*every) == pytest.approx(measures.kld(p, q), rel=1e-9, abs=1e-10)


def test_a_token_that_one_side_names_may_still_be_shared() -> None:
    """Each names one token of .6, and the other's may be all of its .4: .8 are shared."""
    low, high = measures.overlap_bounds({"a": math.log(0.6)}, {"b": math.log(0.6)})
    assert (low, high) == pytest.approx((0.0, 0.8))


def test_bounds_do_not_take_the_rounding_of_a_sure_token_for_a_distance() -> None:
    """What a server's float32 leaves of 1 may be 0 on one side and 1e-7 on the other."""
    assert measures.kld_lower({"a": 0.0, "b": -20.0}, {"a": 1e-8, "b": -20.0}) < 1e-6
    assert measures.kld_lower({"a": -1e-7, "b": -20.0}, {"a": 0.0, "b": -20.0}) < 1e-6


def test_what_never_comes_keeps_distances_finite() -> None:
    p, q = np.log([0.5, 0.5]), np.array([0.0, -np.inf])
    assert measures.overlap(p, q) == 0.5
    assert math.isfinite(measures.kld(p, q))
    assert measures.kld(p, q) > 1000
    assert measures.kld(q, p) == pytest.approx(math.log(2))
    assert measures.kld_lower({1: math.log(0.5), 2: math.log(0.5)}, {1: 0.0, 2: -9999.0}) > 1000


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_a_prefix_is_what_both_begin_with(a: list[int], b: list[int]) -> None:
    length = measures.prefix(a, b)
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]


def test_a_perplexity_ratio_is_that_of_mean_log_probabilities() -> None:
    assert measures.perplexity_ratio(2.0, 2.0) == 1.0
    assert measures.perplexity_ratio(2.5, 2.0) == pytest.approx(math.exp(0.5))
    assert math.isfinite(measures.perplexity_ratio(9999.0, 0.0))


@pytest.mark.model
def test_tensors_give_what_arrays_give() -> None:
    import torch

    p, q = (torch.randn(3, 5, 97, generator=torch.manual_seed(seed)) for seed in (1, 2))
    logs = [part.log_softmax(-1) for part in (p, q)]
    arrays = [part.double().numpy() for part in logs]
    expected = torch.nn.functional.kl_div(logs[1], logs[0], log_target=True, reduction="none")
    assert torch.allclose(measures.kld(*logs), expected.sum(-1), atol=1e-6)
    for measure in (measures.overlap, measures.kld, measures.same_top):
        found = measure(*logs)
        assert found.shape == (3, 5)
        assert np.allclose(found.numpy(), measure(*arrays), atol=1e-6)
