"""Log-probabilities as real servers say them, and as none should."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given

from pytest_kvbench.divergence import named
from pytest_kvbench.divergence.records import UnsoundError
from pytest_kvbench.engines import logprobs
from tests.support.odd_json import odd_values

CHAT_TEXT = {  # vLLM's chat, OpenAI's
    "message": {"content": "Hello"},
    "finish_reason": "stop",
    "logprobs": {
        "content": [
            {
                "token": "Hello",
                "logprob": -0.5,
                "bytes": [72, 101, 108, 108, 111],
                "top_logprobs": [
                    {"token": "Hello", "logprob": -0.5, "bytes": [72, 101, 108, 108, 111]},
                    {"token": "I", "logprob": -1.5, "bytes": [73]},
                ],
            }
        ]
    },
}
CHAT_IDS = {  # vLLM's with ids: the bytes of the others are those of the text "token_id:57"
    "message": {"content": "Hello"},
    "finish_reason": "stop",
    "logprobs": {
        "content": [
            {
                "token": "token_id:19556",
                "logprob": -0.5,
                "bytes": [72, 101, 108, 108, 111],
                "top_logprobs": [
                    {"token": "token_id:19556", "logprob": -0.5, "bytes": [116]},
                    {"token": "token_id:57", "logprob": -9999.0, "bytes": [116]},
                ],
            },
            {
                "token": "token_id:2",
                "logprob": -0.1,
                "bytes": [60, 124, 62],
                "top_logprobs": [{"token": "token_id:2", "logprob": -0.1, "bytes": [116]}],
            },
        ]
    },
}
LLAMACPP = {
    "message": {"content": "The"},
    "finish_reason": "stop",
    "logprobs": {
        "content": [
            {
                "id": 504,
                "token": "The",
                "bytes": [84, 104, 101],
                "logprob": -0.5,
                "top_logprobs": [
                    {"id": 504, "token": "The", "bytes": [84, 104, 101], "logprob": -0.5},
                    {"id": 10345, "token": "A", "bytes": [65], "logprob": -1.5},
                ],
            },
            {
                "id": 2,
                "token": "",
                "bytes": [],
                "logprob": -0.1,
                "top_logprobs": [{"id": 2, "token": "", "bytes": [], "logprob": -0.1}],
            },
        ]
    },
}
PLAIN = {  # vLLM's and OpenAI's completions
    "text": " Paris.",
    "finish_reason": "length",
    "logprobs": {
        "text_offset": [0, 6],
        "token_logprobs": [-0.2628, -0.3889],
        "tokens": [" Paris", "."],
        "top_logprobs": [{" Paris": -0.2628, " the": -2.7628}, {".": -0.3889, ",": -1.6389}],
    },
}
PROMPT = [
    None,
    {"5": {"logprob": -7.8, "rank": 146, "decoded_token": "system"}, "29": {"logprob": -0.1}},
    {"6": {"logprob": -7.0, "rank": 3}, "7": {"logprob": -0.2}, "8": {"logprob": -2.5}},
    {"2": {"logprob": -0.01, "rank": 1}, "9": {"logprob": -9999.0}},
]


@pytest.mark.parametrize(
    ("choice", "tokens", "unsaid"),
    [
        (CHAT_TEXT, ["Hello"], True),
        (CHAT_IDS, [19556, 2], False),
        (LLAMACPP, [504, 2], False),
        (PLAIN, [" Paris", "."], False),
        ({**PLAIN, "finish_reason": "stop"}, [" Paris", "."], True),
    ],
)
def test_a_reply_is_read_in_every_form(
    choice: dict[str, Any], tokens: list[Any], unsaid: bool
) -> None:
    steps = logprobs.of_reply(choice)
    assert [step.token for step in steps] == tokens
    assert all(step.top == (step.token, step.log) for step in steps)
    assert logprobs.ends_unsaid(choice) == unsaid
    record = named.own(steps, "free", logprobs.K)
    assert named.against(record, steps).prefix == len(steps)


def test_a_token_that_is_no_text_is_its_bytes() -> None:
    halves = [{"token": "\ufffd", "logprob": -1.0, "bytes": [byte]} for byte in (0xE2, 0xE3)]
    entry = {**halves[0], "top_logprobs": halves}
    (step,) = logprobs.of_reply({"logprobs": {"content": [entry]}})
    assert [token for token, _ in step.named] == ["<226>", "<227>"]


def test_the_end_of_a_prompt_is_a_reply() -> None:
    steps = logprobs.of_prompt(PROMPT, [6, 2], k=2)
    assert [step.token for step in steps] == [6, 2]
    assert steps[0].named == ((7, -0.2), (8, -2.5))  # 6 was added: it is not among the likeliest
    assert steps[0].log == -7.0
    assert steps[1].named == ((2, -0.01), (9, -9999.0))


def test_the_next_token_is_one_position() -> None:
    content = LLAMACPP["logprobs"]["content"]  # type: ignore[index]
    reply = {"content": "The", "completion_probabilities": content[:1]}
    assert logprobs.of_next(reply, 10345).log == -1.5
    assert logprobs.of_next(reply, 7).log == -1.5  # not named: at most the least likely one's
    assert logprobs.of_next(reply, 7).top == (504, -0.5)


@given(odd_values())
def test_what_is_no_log_probability_is_refused_or_read(odd: Any) -> None:
    content = LLAMACPP["logprobs"]["content"]  # type: ignore[index]
    shapes = [
        {"logprobs": odd},
        {"logprobs": {"content": odd}},
        {"logprobs": {"content": [odd]}},
        {"logprobs": {"tokens": odd, "token_logprobs": odd, "top_logprobs": odd}},
        {"logprobs": {"tokens": [odd], "token_logprobs": [odd], "top_logprobs": [odd]}},
        {**CHAT_TEXT, "logprobs": {"content": [{**content[0], "logprob": odd}]}},
        {**CHAT_TEXT, "logprobs": {"content": [{**content[0], "top_logprobs": odd}]}},
        {**CHAT_TEXT, "logprobs": {"content": [{**content[0], "bytes": odd, "id": odd}]}},
        {**CHAT_TEXT, "logprobs": {"content": [{**content[0], "token": odd, "id": None}]}},
    ]
    for choice in shapes:
        check(lambda choice=choice: logprobs.of_reply(choice))
        assert logprobs.ends_unsaid({"finish_reason": "stop", **choice}) in (True, False)
    for prompt in (odd, [None, odd], [None, {"5": odd}], [None, {"x": {"logprob": odd}}]):
        check(lambda prompt=prompt: logprobs.of_prompt(prompt, [5]))
    for reply in (odd, {"completion_probabilities": odd}, {"completion_probabilities": [odd]}):
        check(lambda reply=reply: [logprobs.of_next(reply, 5)])


def check(read: Any) -> None:
    """Either a sound record comes of it, or it is refused."""
    with contextlib.suppress(UnsoundError):
        steps = read()
        named.against(named.own(steps, "free", logprobs.K), steps)
