"""Observations as the table that is judged, and as plain data."""

from __future__ import annotations

import pytest

from pytest_kvbench.analyse.pairs import OBSERVATIONS
from pytest_kvbench.observation import Observation, Observations, Outcome, Shared
from pytest_kvbench.pipeline.judge import columns_of
from pytest_kvbench.records import Cell

CONTROL, TREATED = Cell("t", 1, "none", 1.0), Cell("t", 1, "snapkv", 0.5)


def observed(cell: Cell, score: float) -> Observation:
    outcome = Outcome("k", score=score, em=score, parts={"cited": 1.0}, text="yes", origin="engine")
    return Observation(cell, 2, False, "e", "c", 0.0, "proven", outcome)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 0.0]])
def test_observations_become_every_column_that_is_judged(scores: list[float]) -> None:
    columns = columns_of(Observations(observed(TREATED, score) for score in scores))
    assert set(columns) == {*OBSERVATIONS, "parts", "cut", "chance", "largest"}
    assert {len(values) for values in columns.values()} == {len(scores)}
    assert list(columns["score"]) == scores
    assert set(columns["policy"]) <= {"snapkv"}


def test_a_treatment_and_its_control_share_what_they_are_compared_by() -> None:
    assert observed(TREATED, 0.0).shared == observed(CONTROL, 1.0).shared == Shared(CONTROL, "e", 2)


def test_plain_data_of_an_observation_are_flat() -> None:
    data = observed(TREATED, 1.0).to_json()
    assert (data["task"], data["budget"], data["replicate"], data["score"]) == ("t", 0.5, 2, 1.0)
    assert (data["proof"], data["key"], data["parts"]) == ("proven", "k", {"cited": 1.0})
    assert not {"cell", "outcome", "samples"} & set(data)
