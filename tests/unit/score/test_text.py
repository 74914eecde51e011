from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.metric import METRICS, score_answer
from pytest_kvbench.score.text import normalise

texts = st.text(alphabet=string.ascii_letters + string.punctuation + " \n\t中文é", max_size=60)


@given(texts)
def test_normalising_twice_changes_nothing_more(text):
    # An article can appear only when punctuation inside a word is dropped, so once is enough.
    once = normalise(text)
    assert normalise(once) == once


@given(texts)
def test_normalised_text_has_no_punctuation_capitals_or_articles(text):
    result = normalise(text)
    assert not set(result) & set(string.punctuation)
    assert result == result.lower().strip()
    assert not {"a", "an", "the"} & set(result.split())
    assert "  " not in result


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "value"),
    [
        ("exact_match", "The  Cat!", ["a cat"], 1.0),
        ("exact_match", "the cats", ["a cat"], 0.0),
        ("exact_match", "", ["x"], 0.0),
        ("f1", "the big cat sat", ["cat sat down"], 2 / 3),
        ("f1", "cat cat", ["cat"], 2 / 3),
        ("f1", "nothing", ["cat", "nothing at all"], 0.5),
        ("f1", "", ["cat"], 0.0),
        ("f1", "the", ["a"], 0.0),
        ("all_of", "found 12345 and 67890.", ["12345", "67890"], 1.0),
        ("all_of", "found 12345.", ["12345", "67890", "11111", "22222"], 0.25),
        ("all_of", "PARIS", ["paris"], 1.0),
        ("any_of", "found 12345.", ["12345", "67890"], 1.0),
        ("any_of", "nothing", ["12345", "67890"], 0.0),
        ("count", "There are 12, or maybe 13.", ["12"], 0.5),
        ("count", "12", ["12"], 1.0),
        ("count", "none", ["12"], 0.0),
    ],
)
def test_metric_values(metric, prediction, answers, value):
    assert METRICS[metric].score(prediction, answers, {}) == pytest.approx(value, abs=1e-12)


PLAIN = ["exact_match", "f1", "all_of", "any_of", "count"]


@given(st.sampled_from(PLAIN), texts, st.lists(texts, min_size=1, max_size=3))
def test_every_metric_stays_between_zero_and_one(metric, prediction, answers):
    assert 0.0 <= METRICS[metric].score(prediction, answers, {}) <= 1.0


@given(st.sampled_from(["exact_match", "f1", "any_of"]), texts, st.lists(texts, max_size=3), texts)
def test_one_more_accepted_answer_never_costs_score(metric, prediction, answers, extra):
    measure = METRICS[metric].score
    assert measure(prediction, [*answers, extra], {}) >= measure(prediction, answers, {})


def test_score_carries_metric_exact_match_and_label():
    score = score_answer("f1", "The cat.", "stop", ["cat"], {})
    assert (score.value, score.em, score.label) == (1.0, 1.0, "")
    score = score_answer("f1", "the big cat", "length", ["cat"], {})
    assert (score.value, score.em, score.label) == (pytest.approx(2 / 3), 0.0, "TRUNCATED")


def test_unknown_metric_names_the_known():
    with pytest.raises(UsageError, match=r"(?s)'bleu'.*exact_match, f1"):
        score_answer("bleu", "x", "stop", ["x"], {})
