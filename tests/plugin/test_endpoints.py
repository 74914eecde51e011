"""`engine.base_url` may be a list: several servers share the work, and one may die."""

from __future__ import annotations

from collections import Counter

import pytest
from starlette.responses import Response

from tests.conftest import Project
from tests.support.mock_server import MockServer


@pytest.mark.parametrize("n", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_one_of_two_servers_may_die(project: Project, mock: MockServer, n: str) -> None:
    with MockServer() as other:
        both = f"engine.base_url=['{mock.base_url}', '{other.base_url}']"

        def die(number: int, body: object) -> Response | None:
            if number == 4:
                other._server.end()
            return None

        other.trouble = die
        result = project.run("-n", n, "--kvbench-set", both)
        result.assert_outcomes(passed=6)
        assert other.posts >= 4
    assert project.summary()["integrity"]["failures"] == {}
    asked: Counter[object] = mock.asked + other.asked
    assert len(asked) == 2 * 10 * 3


def test_servers_that_differ_are_refused(project: Project, mock: MockServer) -> None:
    with MockServer(fingerprint={"weights": "mock", "kv": "q4_0"}) as other:
        both = f"engine.base_url=['{mock.base_url}', '{other.base_url}']"
        result = project.run("--kvbench-set", both)
        assert result.ret == 4
        result.stdout.fnmatch_lines(["*are not the same server: kv is None and 'q4_0'*"])
        assert mock.posts == other.posts == 0
