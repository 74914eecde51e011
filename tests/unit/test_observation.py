"""Observations held as columns are the records they were made of."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.observation import Cut, Observation, Observations, Outcome
from pytest_kvbench.records import Cell

names = st.sampled_from(["", "a", "b"])
shares = st.sampled_from([0.0, 0.5, 1.0])
counts = st.none() | st.integers(0, 3)
parts: st.SearchStrategy[Mapping[str, float] | None] = st.none() | st.dictionaries(names, shares)
outcomes = st.builds(
    Outcome,
    key=st.text(),
    score=st.none() | shares,
    parts=parts,
    text=st.none() | st.text(),
    latency_s=st.none() | st.floats(0, 9),
    prompt_tokens=counts,
    achieved=st.none() | shares,
)
records = st.lists(
    st.builds(
        Observation,
        cell=st.builds(Cell, names, st.integers(0, 2), names, shares, names),
        replicate=st.integers(0, 2),
        aa=st.booleans(),
        example_id=names,
        cluster=names,
        chance=shares,
        proof=st.sampled_from(["proven", "unverified", "not-applied"]),
        outcome=outcomes,
        cut=st.none() | st.builds(Cut, st.integers(0, 2), st.integers(0, 2), st.booleans()),
        largest=st.integers(0, 3),
        samples=st.lists(names, max_size=2).map(tuple),
    ),
    max_size=5,
)


def same(one: object, other: object) -> bool:
    """Equal, and of the same types: 1, 1.0 and True are one to a dictionary."""
    return repr(one) == repr(other)


@given(records)
def test_they_are_read_as_they_were_given(rows: list[Observation]) -> None:
    held = Observations(iter(rows))
    assert len(held) == len(rows)
    assert same([*held, *held], [*rows, *rows])  # a second time too
    assert all(one in held for one in rows)
    assert Observations.of(held) is held
    assert [list(held.column("score")), list(held.column("largest"))] == [
        [one.outcome.score for one in rows],
        [one.largest for one in rows],
    ]


@given(records, st.lists(st.integers(0, 9)))
def test_some_of_them_and_other_columns_leave_the_rest_as_it_was(
    rows: list[Observation], wanted: list[int]
) -> None:
    held, places = Observations(rows), [place for place in wanted if place < len(rows)]
    assert same(list(held.at(places)), [rows[place] for place in places])
    assert same(list(held.where(lambda one: one.aa)), [one for one in rows if one.aa])
    other = held.with_columns(proof=["unverified"] * len(rows))
    assert same(list(other), [one._replace(proof="unverified") for one in rows])
    assert same(list(held), rows)


@given(st.lists(outcomes, max_size=5))
def test_what_repeats_is_held_once(some: list[Outcome]) -> None:
    cell = Cell("t", 0, "knorm", 0.5)
    rows = [Observation(cell, 0, False, "e", "c", 0.0, "proven", one) for one in some]
    scores = [s for s in Observations(rows).column("score") if s is not None]
    assert len({id(score) for score in scores}) == len(set(scores))
