"""What was found at every position: JSON both ways, and nothing that is no sound number."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.divergence.records import Bounds, Divergence, Positions, UnsoundError

NATS = st.floats(0, 100)
SHARES = st.floats(0, 1)
TOKENS = st.integers(0, 200_000) | st.text(st.characters(codec="utf-8"), max_size=5)


@st.composite
def found(draw: st.DrawFn) -> Divergence:
    """Anything that a forced pass or two free replies may show."""
    method = draw(st.sampled_from(["forced", "free"]))
    n = draw(st.integers(0, 6))
    prefix = draw(st.integers(0, n))
    size = draw(st.integers(0, n if method == "forced" else min(n, prefix + 1)))

    def column(values: st.SearchStrategy[Any]) -> tuple[Any, ...]:
        whole = st.lists(values, min_size=size, max_size=size)
        return tuple(draw(whole | st.just([])))

    pairs = column(st.tuples(SHARES, SHARES))
    return Divergence(
        method,
        n,
        prefix,
        draw(st.none() | st.integers(1, 100)),
        Positions(
            reference=column(TOKENS),
            nll=column(NATS),
            control_nll=column(NATS),
            top=column(TOKENS),
            same_top=column(st.booleans()),
            overlap_low=tuple(map(min, pairs)),
            overlap_high=tuple(map(max, pairs)),
            kld_low=column(NATS),
        ),
    )


@given(found())
def test_what_is_written_is_read_back(divergence: Divergence) -> None:
    assert Divergence.from_json(json.loads(json.dumps(divergence.to_json()))) == divergence


@given(found())
def test_every_value_lies_in_its_range(divergence: Divergence) -> None:
    for measure in ("overlap", "same_top", "prefix"):
        bounds = divergence.bounds(measure)
        assert bounds is None or -1e-9 <= bounds.low <= bounds.high + 1e-9 <= 1 + 2e-9
    assert divergence.perplexity_ratio is None or math.isfinite(divergence.perplexity_ratio)


EXACT = Divergence(
    "forced",
    4,
    1,
    None,
    Positions(
        reference=(5, 6, 7, 8),
        nll=(0.5, 1.5, 1.0, 1.0),
        control_nll=(0.5, 0.5, 0.5, 0.5),
        top=(5, 9, 7, 8),
        control_top=(5, 6, 7, 8),
        same_top=(True, False, True, True),
        overlap_low=(1.0, 0.5, 0.9, 0.8),
        overlap_high=(1.0, 0.5, 0.9, 0.8),
        kld_low=(0.0, 0.4, 0.1, 0.3),
        kld_high=(0.0, 0.4, 0.1, 0.3),
    ),
)


def test_an_example_has_one_value_of_each_measure() -> None:
    assert EXACT.bounds("overlap") == Bounds(pytest.approx(0.8), pytest.approx(0.8))
    assert EXACT.bounds("same_top") == Bounds(0.75, 0.75)
    assert EXACT.bounds("kld") == Bounds(pytest.approx(0.2), pytest.approx(0.2))
    assert EXACT.bounds("nll") == Bounds(1.0, 1.0)
    assert EXACT.bounds("prefix") == Bounds(0.25, 0.25)
    assert EXACT.perplexity_ratio == pytest.approx(math.exp(0.5))


@given(st.lists(NATS, min_size=1, max_size=30))
def test_quantiles_are_those_of_numpy(klds: list[float]) -> None:
    divergence = Divergence("forced", len(klds), 0, None, Positions(kld_low=tuple(klds)))
    expected = np.quantile(klds, [0.5, 0.9, 0.99, 1.0])
    assert list(divergence.kld_quantiles.values()) == pytest.approx(list(expected))


def test_without_an_upper_bound_a_divergence_may_be_infinite() -> None:
    bounded = replace(EXACT, k=20, positions=replace(EXACT.positions, kld_high=()))
    assert bounded.bounds("kld") == Bounds(pytest.approx(0.2), math.inf)
    assert replace(EXACT, positions=Positions()).bounds("overlap") is None


def test_two_replies_that_never_differ_or_are_empty_are_equal() -> None:
    assert Divergence("free", 0, 0, 20, Positions()).bounds("prefix") == Bounds(1.0, 1.0)


def test_nothing_can_be_read_back_from_what_has_no_tokens() -> None:
    written = json.dumps(replace(EXACT.without_tokens()).to_json())
    assert not {"reference", "top", "control_top"} & set(json.loads(written)["positions"])
    assert Divergence.from_json(json.loads(written)).bounds("overlap") == EXACT.bounds("overlap")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("overlap_low", [1.0, 0.5, 0.9, 1.1]),
        ("overlap_low", [1.0, 0.6, 0.9, 0.8]),  # above the high one
        ("overlap_high", [1.0, math.nan, 0.9, 0.8]),
        ("kld_low", [0.0, -0.1, 0.1, 0.3]),
        ("kld_high", [0.0, math.inf, 0.1, 0.3]),
        ("nll", [0.0, "1", 1.0, 1.0]),
        ("nll", [0.0, True, 1.0, 1.0]),
        ("nll", [0.0, 10**400, 1.0, 1.0]),
        ("nll", "0123"),
        ("nll", [0.0, 1.0]),
        ("top", [1.5, 1, 1, 1]),
        ("top", [-1, 1, 1, 1]),
        ("top", ["\ud800", 1, 1, 1]),
        ("same_top", [1, 1, 1, 1]),
        ("surprise", [1, 1, 1, 1]),
    ],
)
def test_values_that_are_not_sound_are_refused_by_name(name: str, value: object) -> None:
    written = EXACT.to_json()
    written["positions"][name] = value
    with pytest.raises(UnsoundError, match=f"{name.removesuffix('_high')}|positions|{name}"):
        Divergence.from_json(written)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "guessed"},
        {"n": -1},
        {"n": 2.5},
        {"n": 3},  # fewer than there are positions
        {"prefix": 5},
        {"prefix": None},
        {"k": 0},
        {"method": "free"},  # it ends at the first difference
        {"more": 1},
        {"positions": [1]},
    ],
)
def test_a_record_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UnsoundError, match="valid: "):
        Divergence.from_json({**EXACT.to_json(), **change})


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_anything_else_is_refused_too(data: object) -> None:
    with pytest.raises(UnsoundError):
        Divergence.from_json(data)
    with pytest.raises(UnsoundError):
        Divergence.from_json({**EXACT.to_json(), "positions": {"nll": [data] * 4, "n": data}})
