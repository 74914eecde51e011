from __future__ import annotations

import pytest

from pytest_kvbench.score.metric import METRICS, score_answer


@pytest.mark.parametrize(
    ("reply", "value", "label"),
    [
        ("The correct answer is (B).", 1.0, ""),
        ("**The correct answer is (B)**", 1.0, ""),
        ("The correct answer is B", 1.0, ""),
        ("The correct answer is C. No, The correct answer is (B)", 1.0, ""),
        ("The correct answer is (A) or The correct answer is (B)", 0.0, ""),
        ("the correct answer is (B)", 0.0, "FORMAT_ERROR"),
        ("(B)", 0.0, "FORMAT_ERROR"),
        ("", 0.0, "EMPTY_OUTPUT"),
    ],
)
def test_extraction_is_upstreams(reply, value, label):
    score = score_answer("choice", reply, "stop", ["B"], {})
    assert (score.value, score.em, score.label) == (value, value, label)


def test_compensated():
    assert METRICS["choice"].score("no idea", ["B"], {"compensated": True}) == 0.25
    assert METRICS["choice"].score("The correct answer is (A)", ["B"], {"compensated": True}) == 0.0
    score = score_answer("choice", "no idea", "stop", ["B"], {"compensated": True})
    assert (score.value, score.em, score.label) == (0.25, 0.0, "FORMAT_ERROR")
