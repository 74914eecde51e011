"""A full cache that has nothing to lose is found, and one with a low score is not."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_kvbench.analyse.at_floor import nothing_to_lose


def found(
    scores: object, chance: float = 0.0, floor: float | None = None, margin: float = 0.1
) -> str:
    control = np.asarray(scores, dtype=float)
    return nothing_to_lose(
        control,
        np.arange(len(control)),
        chance=chance,
        floor=floor,
        margin=margin,
        alpha=0.05,
    )


def right(count: int, of: int) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


@pytest.mark.parametrize(
    ("scores", "chance", "floor"),
    [
        (right(0, 90), 0.0, None),
        (right(0, 3), 0.0, None),
        (right(1, 90), 0.0, None),  # even a treatment that loses both would hold
        ([0.02] * 90, 0.0, None),
        (right(20, 90), 0.25, None),
        (right(26, 90), 0.25, None),  # as guessing may, by good luck
        (right(30, 90), 0.0, 0.4),
        (right(2, 8), 0.25, None),
    ],
)
def test_a_control_at_the_floor(scores: list[float], chance: float, floor: float | None) -> None:
    assert found(scores, chance, floor).endswith("there is nothing to lose")


@pytest.mark.parametrize(
    ("scores", "chance", "floor"),
    [
        ([], 0.0, None),
        (right(1, 8), 0.0, None),
        (right(9, 90), 0.0, None),
        (list(np.linspace(0.02, 0.18, 90)), 0.0, None),  # rouge
        (right(3, 8), 0.25, None),  # too few to tell from guessing, or to hold
        (right(36, 90), 0.25, None),
        (right(20, 90), 0.25, 0.0),
    ],
)
def test_a_low_score_is_one(scores: list[float], chance: float, floor: float | None) -> None:
    assert not found(scores, chance, floor)


def test_a_smaller_margin_measures_what_is_low() -> None:
    assert found([0.05] * 90)
    assert not found([0.05] * 90, margin=0.02)


def test_a_share_of_a_low_score_can_be_lost() -> None:
    control = np.array(right(1, 90))
    assert found(control, margin=0.1)
    assert not nothing_to_lose(
        control, np.arange(90), chance=0.0, floor=None, margin=0.1, alpha=0.05, retain=0.9
    )
