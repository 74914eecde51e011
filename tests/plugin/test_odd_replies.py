"""A server that says odd things now and then: each is one answer or one failure, never the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.responses import Response

from tests.conftest import Project
from tests.plugin.test_trouble import stored
from tests.support.mock_server import MockServer, prompt_in

GOOD = {"finish_reason": "stop", "completion_tokens": 1}
USAGE = {"prompt_tokens": 50, "completion_tokens": 1}


def reply(body: dict[str, Any], content: Any = "odd", usage: Any = USAGE, **more: Any) -> str:
    """A choice for every arm."""
    choices = [
        {**GOOD, "index": index, "message": {"content": content}, "kv": {"achieved": arm["budget"]}}
        | more
        for index, arm in enumerate(body["kv"])
    ]
    return json.dumps({"choices": choices, "usage": usage})


ANSWERED: list[Callable[[dict[str, Any]], str | bytes]] = [
    lambda body: reply(body, "half \ud83d"),
    lambda body: reply(body, finish_reason="\udc00"),
    lambda body: reply(
        body, [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}]
    ),
    lambda body: reply(body, usage={"prompt_tokens": 10**39, "completion_tokens": -3}),
    lambda body: reply(body, usage="seven", kv={"achieved": float("inf"), "kept_bytes": 10**39}),
    lambda body: b"\xef\xbb\xbf" + reply(body).encode(),
]
LOST: list[Callable[[dict[str, Any]], str | bytes]] = [
    lambda body: "[" * 200_000,
    lambda body: reply(body, 3),
    lambda body: reply(body, "x" * 3_000_000),
    lambda body: json.dumps({"error": {"message": "no \ud83d\x1b[31m memory " * 999}}),
    lambda body: json.dumps({"choices": [3]}),
]


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_odd_replies_are_an_outcome_each_and_only_the_lost_are_asked_again(
    project: Project, mock: MockServer, n: str
) -> None:
    odd: dict[str, Callable[[dict[str, Any]], str | bytes] | None] = {}

    def trouble(number: int, body: dict[str, Any]) -> Response | None:
        prompt = prompt_in(body)
        is_long = len(prompt) > 1_000  # of either bin some are well: its control must stay sane
        left = [make for make in (LOST if is_long else ANSWERED) if make not in odd.values()]
        make = odd.setdefault(prompt, left[0] if left else None)
        return make and Response(make(body), media_type="application/json")

    mock.trouble = trouble
    file = project.path / "exp.yaml"
    file.write_text(file.read_text().replace("retries: 1", "retries: 0, max_reply_mb: 1"))
    result = project.run("-n", n)
    assert result.ret in (0, 10)
    assert "Traceback" not in result.stdout.str() + result.stderr.str()
    requests, answers, kinds, _ = stored(project)
    assert (requests, answers) == (60, 60 - 3 * len(LOST))
    assert kinds == {"ENGINE_ERROR": 3 * len(LOST)}
    mock.trouble = lambda number, body: None
    mock.posts = 0
    result = project.run("-n", n)
    result.assert_outcomes(passed=6)
    assert (result.ret, mock.posts) == (0, len(LOST))
    assert stored(project)[1] == 60
