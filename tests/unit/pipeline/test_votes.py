"""Self-consistency: what a ballot is, who is elected, and what becomes of a vote's samples."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.observation import Observation, Observations, Outcome
from pytest_kvbench.pipeline import plan
from pytest_kvbench.pipeline.votes import votes
from pytest_kvbench.records import Cell, Example, Proof
from pytest_kvbench.score.metric import METRICS
from pytest_kvbench.score.vote import ballot, elect
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest

LETTERS = st.sampled_from(["A", "B", "C", "D", ""])


# -- ballots -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "text", "says"),
    [
        ("choice", "Let me think. The correct answer is (B)", ["B"]),
        ("choice", "It may be B.", []),
        ("credited", '{"choice": "c", "quotes": ["x"]}', ["C"]),
        ("credited", '{"choice": "IDK", "quotes": []}', []),
        ("credited", "no object", []),
        ("count", "There are 7 of them", ["7"]),
        ("count", "There are several", []),
        ("retrieval", "Paragraph 12", ["12"]),
        ("retrieval_zh", "段落3", ["3"]),
        ("classification", "an Entity, I believe", ["Entity"]),
        ("classification_first_line", "Entity\nHuman", ["Entity"]),
        ("classification", "neither", []),
        ("exact_match", "The  Red, fox!", ["red", "fox"]),
        ("f1", "", []),
        ("f1_first_line", "one two\nthree", ["one", "two"]),
        ("rouge_l_first_line", "\none\nthree", ["one"]),
        ("f1_zh", "北京，", ["北京"]),
        ("rouge_l_zh", "北京。", ["北京"]),
        ("code_similarity", "return  x", ["return", "x"]),
        ("any_of", "I'm sorry, but I cannot help with that.", []),
    ],
)
def test_a_ballot_is_what_the_metric_reads(metric: str, text: str, says: list[str]) -> None:
    assert list(ballot(metric, text, {"all_classes": ["Entity", "Human"]})) == says


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_empty_replies_and_refusals_abstain_whatever_the_metric(metric: str) -> None:
    for text in ("", " \n", "I cannot assist with that: B 7 Entity"):
        assert not ballot(metric, text, {"all_classes": ["Entity"]})


# -- elections ---------------------------------------------------------------------------------


@given(st.lists(LETTERS, min_size=1, max_size=9))
def test_ballots_of_one_word_are_a_plurality_vote(letters: list[str]) -> None:
    counted = Counter(letter for letter in letters if letter)
    elected = letters[elect([(letter,) if letter else () for letter in letters])]
    if not counted:
        assert elected == letters[0]
        return
    most = max(counted.values())
    tied = [letter for letter, n in counted.items() if n == most]
    assert elected == min(tied, key=letters.index), "of a tie the earliest"


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=4), min_size=1, max_size=7))
def test_the_elected_agrees_most_and_a_twin_never_unseats_it(ballots: list[list[str]]) -> None:
    first = elect(ballots)
    assert ballots[first] or not any(ballots)
    assert Counter(ballots[elect([*ballots, ballots[first]])]) == Counter(ballots[first])


def test_of_prose_the_one_that_says_what_the_others_say_is_elected() -> None:
    said = ["a dog barked", "the moon is made of cheese", "the moon is made of rock", "moon rock"]
    assert elect([ballot("f1", text, {}) for text in said]) == 2


# -- observations ------------------------------------------------------------------------------


def experiment(**sampling: object) -> Experiment:
    return Experiment(
        group="g",
        tasks=["t"],
        bins={"n": 1, "per_bin": 1},
        kv={"policies": ["snapkv"], "budgets": [1.0, 0.5]},
        sampling={"temperature": 0.7, **sampling},
    )


MANIFESTS = {
    "t": TaskManifest(
        "t",
        "exact_match",
        "v",
        "approximate",
        (Bin(0, None, None),),
        (ManifestEntry(Example("e", "q", "c", ("yes",)), 0, 10, "sha", 8),),
    )
}


def sample(
    replicate: int, text: str | None, proof: Proof = "proven", latency_s: float | None = 1.5
) -> Observation:
    key = f"key{replicate}"
    outcome = Outcome(
        key,
        text=text,
        score=None if text is None else float(text == "yes"),
        failure="TIMEOUT" if text is None else "",
        latency_s=latency_s,
        prompt_tokens=10,
        completion_tokens=2,
    )
    cell = Cell("t", 0, "snapkv", 0.5)
    return Observation(cell, replicate, False, "e", "c", 0.0, proof, outcome)


def test_a_vote_is_the_elected_sample_at_the_price_of_all() -> None:
    samples = [sample(0, "no"), sample(1, "yes", proof="unverified"), sample(2, "yes")]
    (vote,) = votes(Observations(samples), experiment(self_consistency=3), MANIFESTS)
    said = vote.outcome
    assert (said.score, said.text, vote.replicate, said.key) == (1.0, "yes", 0, "key1")
    assert vote.keys == ("key0", "key1", "key2")
    assert (said.latency_s, said.prompt_tokens, said.completion_tokens) == (4.5, 30, 6)
    assert vote.proof == "unverified"


def test_costs_that_are_not_all_known_are_not_known() -> None:
    samples = [sample(0, "yes", latency_s=None), sample(1, "yes")]
    (vote,) = votes(Observations(samples), experiment(self_consistency=2), MANIFESTS)
    assert (vote.outcome.latency_s, vote.outcome.prompt_tokens) == (None, 20)


def test_samples_are_split_into_trials_whatever_their_order() -> None:
    said = ["yes", "yes", "no", "no", "no", "yes"]
    samples = [sample(6 + n, text) for n, text in enumerate(said)]
    found = votes(Observations(samples[::-1]), experiment(self_consistency=3, trials=2), MANIFESTS)
    assert {v.replicate: v.outcome.text for v in found} == {2: "yes", 3: "no"}


def test_of_a_tie_the_earliest_sample_wins_in_any_order() -> None:
    samples = [sample(0, "no"), sample(1, "yes")]
    for order in (samples, samples[::-1]):
        (vote,) = votes(Observations(order), experiment(self_consistency=2), MANIFESTS)
        assert vote.outcome.text == "no"


def test_a_vote_lacking_a_sample_is_none_and_one_with_a_failure_has_failed() -> None:
    three = experiment(self_consistency=3)
    assert not votes(Observations([sample(0, "yes"), sample(1, "yes")]), three, MANIFESTS)
    order = [sample(0, "yes"), sample(1, None), sample(2, "yes")]
    (vote,) = votes(Observations(order), three, MANIFESTS)
    failed = vote.outcome
    assert (failed.failure, failed.score, failed.text) == ("TIMEOUT", None, None)


def test_without_votes_observations_are_as_they_were() -> None:
    samples = [sample(0, "yes")]
    held = Observations(samples)
    assert votes(held, experiment(), MANIFESTS) is held


@given(st.integers(1, 4), st.integers(1, 4))
def test_every_sample_is_paid_for(trials: int, samples: int) -> None:
    asked = experiment(trials=trials, self_consistency=samples)
    cells = plan.cells(asked)
    (cost,) = plan.costs(asked, cells, MANIFESTS)
    assert cost.requests == 2 * trials * samples
    assert cost.prompt_tokens == 10 * cost.requests


def test_greedy_samples_cannot_vote() -> None:
    with pytest.raises(ValidationError, match="self_consistency is 5 at temperature 0"):
        experiment(self_consistency=5, temperature=0)


def test_a_greedy_variant_beside_a_drawn_one_has_one_sample() -> None:
    both = experiment(self_consistency=5).model_copy(update={"variants": {}})
    both = Experiment(**{**both.snapshot(), "variants": {"cold": {"temperature": 0}, "warm": {}}})
    assert (both.draws_of("cold"), both.draws_of("warm")) == (1, 5)
    assert both.votes
