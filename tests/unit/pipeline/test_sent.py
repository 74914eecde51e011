"""A plan holds no prompts: one is made when its request is sent."""

from __future__ import annotations

from pathlib import Path

from tests.support.groups import make_group


def test_a_prompt_is_made_when_its_request_is_sent(tmp_path: Path) -> None:
    prepared = make_group(tmp_path, per_bin=3)
    planned = prepared.requests()
    assert planned
    assert all(not request.prompt.text for _, request in planned)
    for _, request in planned:
        sent = prepared.sent(request)
        entries = prepared.manifests[request.task].entries
        example = next(e.example for e in entries if e.example.example_id == request.example_id)
        assert example.question in sent.prompt.text
        assert sent.key == request.key
        assert sent.prompt.max_tokens == request.prompt.max_tokens
        assert not request.prompt.text
