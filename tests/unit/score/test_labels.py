from __future__ import annotations

import pytest

from pytest_kvbench.score.labels import is_refusal, label_of
from pytest_kvbench.score.metric import score_answer


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot assist with this request.",
        "I cannot answer this question.",
        "Sorry, I am unable to provide that information.",
        "As an AI language model, I cannot comply with this request.",
        "Unfortunately, I'm not able to help.",
        '"I apologize, but I won\'t continue this."',
        "很抱歉，我无法回答这个问题。",
        "抱歉，我不能提供。",
    ],
)
def test_refusals(text):
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "unanswerable",
        "I cannot find the number in the text.",
        "The minister said: I'm sorry, but I can't help.",
        "Sorry is the hardest word.",
        "12345",
        "I can help: 12345.",
        "As an AI company, they sold it.",
        "文中没有提到。",
    ],
)
def test_not_refusals(text):
    assert not is_refusal(text)


@pytest.mark.parametrize(
    ("text", "finish", "readable", "label"),
    [
        (" \n\t", "length", False, "EMPTY_OUTPUT"),
        ("I cannot help with", "length", False, "REFUSAL"),
        ("The answer", "length", False, "TRUNCATED"),
        ("no idea", "stop", False, "FORMAT_ERROR"),
        ("12", "stop", True, ""),
    ],
)
def test_precedence(text, finish, readable, label):
    assert label_of(text, finish, readable=readable) == label


def test_a_reply_the_metric_cannot_read_is_a_format_error_and_scored_all_the_same():
    score = score_answer("count", "several", "stop", ["7"], {})
    assert (score.value, score.label) == (0.0, "FORMAT_ERROR")
    assert score_answer("f1", "several", "stop", ["7"], {}).label == ""


@pytest.mark.parametrize("text", ["", "the answer", "I cannot help with that."])
def test_what_the_server_says_of_a_reply_goes_first(text: str) -> None:
    assert label_of(text, "content_filter") == "REFUSAL"
    assert label_of(text, "tool_calls") == label_of(text, "function_call") == "FORMAT_ERROR"
