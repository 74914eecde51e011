"""Metrics of InfiniteBench and BABILong against the scores of the authors' own code."""

from __future__ import annotations

import json

import pytest

from pytest_kvbench.score.metric import METRICS
from pytest_kvbench.tasks.predictions import score_file
from tests.support.pages import ROOT

CASES = ROOT.parent / "shared" / "data" / "metric_cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the replies of real models")
@pytest.mark.parametrize("task", ["infinitebench/passkey", "babilong/qa1"])
def test_every_reply_of_a_real_model_scores_as_the_authors_have_it(task):
    """The rows say their own tasks."""
    path = CASES / f"{task.partition('/')[0]}.jsonl"
    wanted = [json.loads(line)["score"] for line in path.read_text(encoding="utf-8").splitlines()]
    found = [scored["score"] for scored in score_file(task, path)]
    assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("metric", "reply", "answers", "score"),
    [
        ("first_digits", "Key 7, then 71432.", ["71432"], 0),
        ("first_digits", "It is 71432.", ["71432"], 1),
        ("first_digits", "none", ["71432"], 0),
        ("word_of", '{"a": "x-1"}', ["x-1"], 1),
        ("word_of", "x-12", ["x-1"], 0),
        ("word_in_capitals", "Ann Lee.", ["ANN", "ANN LEE"], 1),
        ("word_in_capitals", "Ann Lee.", ["ANN LEE"], 0),
        ("last_word_as_number", "so it is `-4`.", ["-4"], 1),
        ("last_word_as_number", "-4 it is", ["-4"], 0),
        ("first_number", "about 3.50 or 2", ["3.5"], 1),
        ("first_number", "3.5", ["3"], 0),
        ("numbers_in_order", "[1, 03, 5]", ["1", "3", "4"], 2 / 3),
        ("numbers_in_order", "9" * 5000, ["9"], 0),
        ("option_of_code", "B. f", ["f", "B"], 1),
        ("option_of_code", "The answer is: **Option B**", ["f", "B"], 1),
        ("option_of_code", "I think it is f", ["f", "B"], 0),
        ("option", "B", ["f", "B"], 1),
        ("option", "The answer is: B", ["f", "B"], 1),
        ("option", "Cats", ["f", "B"], 0),
        ("option", "", ["f", "B"], 0),
        ("f1_characters", "北京。", ["北京市"], 0.8),
    ],
)
def test_what_a_metric_reads(metric, reply, answers, score):
    assert METRICS[metric].score(reply, answers, {}) == pytest.approx(score, abs=1e-12)


def test_rouge_by_lines_counts_a_word_once():
    """By hand: of "a b c", "a d" (five words) and "a c d a" (four) four are shared."""
    found = METRICS["rouge_l_sum"].score("A c d, a", ["a b c\na d"], {})
    assert found == pytest.approx(2 * 4 / 9)
