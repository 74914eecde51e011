"""Replies whose servers name the likeliest tokens alone: what is certain of their distance."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from pytest_kvbench.divergence import measures, named
from pytest_kvbench.divergence.named import Step, step
from pytest_kvbench.divergence.records import Bounds, Divergence, UnsoundError

VOCABULARY = 9
K = 3


@st.composite
def replies(draw: st.DrawFn) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The log-probabilities of two replies, position by position."""
    size = draw(st.integers(1, 5))
    logits = st.lists(st.floats(-8, 8), min_size=VOCABULARY, max_size=VOCABULARY)
    full = [log_softmax(draw(logits)) for _ in range(size)]
    moves = draw(st.sampled_from([0.0, 0.1, 1.0]))
    return full, [log_softmax(logs + moves * np.array(draw(logits))) for logs in full]


def greedy(logs: list[np.ndarray]) -> list[Step]:
    return [one(at, int(at.argmax())) for at in logs]


def one(logs: np.ndarray, token: int) -> Step:
    return step(token, float(logs[token]), list(enumerate(logs.tolist())), K)


def written(record: Divergence) -> Divergence:
    return Divergence.from_json(json.loads(json.dumps(record.to_json())))


@given(replies())
def test_forced_replies_are_compared_at_every_position(
    pair: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    full, arm = pair
    reply = [int(logs.argmax()) for logs in full]
    control = written(named.own(greedy(full), "forced", K))
    steps = [one(logs, token) for logs, token in zip(arm, reply, strict=True)]
    found = written(named.against(control, steps))
    exact = np.mean([measures.overlap(a, b) for a, b in zip(full, arm, strict=True)])
    bounds = found.bounds("overlap")
    assert bounds is not None
    assert bounds.low - 1e-5 <= exact <= bounds.high + 1e-5
    kld = found.bounds("kld")
    assert kld is not None
    assert kld.low <= np.mean([measures.kld(a, b) for a, b in zip(full, arm, strict=True)]) + 1e-4
    assert (found.k, found.n, len(found.positions)) == (K, len(full), len(full))
    assert not found.positions.named


@given(replies())
def test_free_replies_are_compared_up_to_where_they_part(
    pair: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    full, arm = map(greedy, pair)
    control = written(named.own(full, "free", K))
    found = written(named.against(control, arm))
    tokens = [[step.token for step in steps] for steps in (full, arm)]
    assert found.prefix == measures.prefix(*tokens)
    assert len(found.positions) == min(found.prefix + 1, len(full))
    assert found.positions.same_top[: found.prefix] == (True,) * found.prefix
    if found.prefix < found.n:
        at = found.prefix
        assert not found.positions.same_top[at]
        assert found.positions.control_top[at] == tokens[0][at]
        assert found.positions.top[at] == tokens[1][at]


@given(replies(), st.sampled_from(["forced", "free"]))
def test_the_same_reply_again_is_equal(
    pair: tuple[list[np.ndarray], list[np.ndarray]], method: str
) -> None:
    full = greedy(pair[0])
    control = written(named.own(full, method, K))  # type: ignore[arg-type]
    again = named.against(control, full)
    for found in (control, again):
        assert found.prefix == found.n
        assert found.bounds("same_top") == found.bounds("prefix") == Bounds(1, 1)
        overlap = found.bounds("overlap")
        assert overlap is not None
        assert overlap.high == pytest.approx(1)
        assert found.bounds("kld").low == 0  # type: ignore[union-attr]


def test_equal_in_all_that_is_named_is_equal() -> None:
    """Log-probabilities hold the sum over the vocabulary; a few may be equal by chance."""
    random = np.random.default_rng(0)
    logs = log_softmax(2 * random.normal(size=200))
    for k, least in ((20, 1.0), (5, 0.0)):
        steps = [step(0, float(logs[0]), list(enumerate(logs.tolist())), k)]
        again = named.against(named.own(steps, "forced", k), steps).bounds("overlap")
        assert again is not None
        assert (again.low == 1) == (least == 1)
        assert again.high == pytest.approx(1)


def said(token: int | str, *more: tuple[int | str, float], log: float = -0.1) -> Step:
    return step(token, log, [(token, log), *more], K)


def test_an_end_that_no_token_says_is_one() -> None:
    stops = named.own([said("a")], "free", K, ends=True)
    goes_on = named.against(stops, [said("a"), said("b")])
    assert (goes_on.n, goes_on.prefix) == (2, 1)
    assert named.against(stops, [said("a")], ends=True).prefix == 2
    assert named.against(named.own([], "free", K, ends=True), [], ends=True).prefix == 1
    cut = named.own([said("a"), said("b")], "free", K)
    assert named.against(cut, [said("a")], ends=True).prefix == 1


def test_of_equally_likely_tokens_the_one_that_came_is_the_top() -> None:
    control = named.own([said("a", ("b", -0.1))], "forced", K)
    tied = step("a", -0.1, [("b", -0.1), ("a", -0.1)], K)
    assert named.against(control, [tied]).prefix == 1


def test_tokens_of_one_text_are_one() -> None:
    halves = step("", math.log(0.25), [("", math.log(0.25)), ("", math.log(0.5)), ("x", -9.0)], K)
    assert halves.named[0] == ("", pytest.approx(math.log(0.75), abs=1e-6))


def test_a_token_that_was_added_because_it_came_is_not_among_the_likeliest() -> None:
    came = step(9, -7.0, [(9, -7.0), (1, -1.0), (2, -2.0), (3, -3.0)], K)
    assert [token for token, _ in came.named] == [1, 2, 3]
    assert came.log == -7.0
    assert step(9, None, [(1, -1.0), (2, -2.0)], K).log == -2.0  # at most


def test_what_cannot_be_compared_is_refused() -> None:
    control = named.own([said("a")], "forced", K)
    for broken, steps in (
        (control, [said("b")]),
        (control, []),
        (control.without_tokens(), [said("a")]),
        (named.against(control, [said("a")]), [said("a")]),
    ):
        with pytest.raises(UnsoundError, match="valid: "):
            named.against(broken, steps)
    with pytest.raises(UnsoundError, match="names no token"):
        step("a", -0.1, [], K)
