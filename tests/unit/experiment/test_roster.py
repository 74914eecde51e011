"""One file for several models and seeds: which groups it makes, and what it refuses."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.load import load_experiment, load_stages
from pytest_kvbench.experiment.roster import members

BASE = {"group": "g", "tasks": ["niah/single"]}
MATRIX = {"engine.model": ["org/a", "b"], "sampling.seed": [0, 7]}


def test_each_combination_is_a_group_with_these_values():
    found = load_stages(None, inline={**BASE, "matrix": MATRIX})
    assert {
        d.experiment.group: (d.experiment.engine.model, d.experiment.sampling.seed) for d in found
    } == {
        "g@a.0": ("org/a", 0), "g@a.7": ("org/a", 7), "g@b.0": ("b", 0), "g@b.7": ("b", 7),
    }  # fmt: skip
    assert [d.member for d in found] == ["a.0", "a.7", "b.0", "b.7"]


def test_each_has_stages_of_its_own():
    stages = {"wide": {"bins": {"per_bin": 5}}, "deep": {}}
    found = load_stages(None, inline={**BASE, "matrix": MATRIX, "stages": stages})
    after = {d.experiment.group: d.experiment.after for d in found}
    assert len(after) == 8
    assert (after["g@a.0.wide"], after["g@a.0.deep"]) == (None, "g@a.0.wide")
    assert after["g@b.7.deep"] == "g@b.7.wide"
    assert {d.chain for d in found} == {"g@a.0", "g@a.7", "g@b.0", "g@b.7"}
    seeds = {d.experiment.group: d.experiment.sampling.seed for d in found}
    assert (seeds["g@b.7.wide"], seeds["g@b.7.deep"]) == (7, 8)


@pytest.mark.parametrize(
    "matrix",
    [
        {},
        ["engine.model"],
        {"engine.model": "a"},
        {"engine.model": []},
        {"group": ["a", "b"]},
        {"engine.model": ["a", "x/a"]},
        {"sampling.seed": [1, 1]},
        {"sampling.seed": ["many"]},
        {"engine.nothing": [1]},
    ],
)
def test_what_makes_no_roster_is_refused_in_two_lines(matrix):
    with pytest.raises(ExperimentError) as refused:
        load_stages(None, inline={**BASE, "matrix": matrix})
    assert len(str(refused.value).splitlines()) == 2


def test_a_command_of_one_experiment_names_the_groups():
    with pytest.raises(ExperimentError, match=r"matrix: this command takes one experiment"):
        load_experiment(None, inline={**BASE, "matrix": MATRIX})


@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=4, unique=True))
def test_whatever_models_are_called_their_groups_have_names_or_they_are_refused(models):
    try:
        found = members({"engine.model": models}, "f")
    except ExperimentError:
        return
    names = [one.name for one in found]
    assert len(set(names)) == len(models)
    assert all(name and set(name) <= set(_PLAIN) for name in names)


_PLAIN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        ({"group": ["a", "b"]}, "matrix.group: a roster says itself what its groups are called"),
        ({"after": ["a", "b"]}, "matrix.after: a roster says itself"),
        ({"engine.modle": ["a"]}, "matrix.engine.modle: unknown key\ndid you mean model?"),
        ({"sampling": {"seed": ["x"]}}, "matrix.sampling.seed: 'x' is not valid"),
    ],
)
def test_the_key_of_the_matrix_that_is_wrong_is_named(matrix, words):
    with pytest.raises(ExperimentError, match="^marker: " + re.escape(words)):
        load_stages(None, inline={**BASE, "matrix": matrix})
    if "after" not in matrix and "group" not in matrix:
        stages = {"wide": {"bins": {"per_bin": 5}}}
        with pytest.raises(ExperimentError, match="^marker: " + re.escape(words)):
            load_stages(None, inline={**BASE, "matrix": matrix, "stages": stages})
