"""A server that cuts prompts: what it cut stops the treatments, and is named."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.mock_server import MockServer


@pytest.mark.parametrize("way", ["pytest", "kvbench"])
def test_a_control_whose_prompts_were_cut_stops_its_treatments(
    project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(project.path)
    mock.prompt_tokens = lambda prompt: min(len(prompt) // 4, 100)
    sets = ("engine.sweep=false",)
    if way == "pytest":
        done = project.run("-n", "0", *(f"--kvbench-set={one}" for one in sets))
        status, last = done.ret, done.outlines[-1]
    else:
        result = CliRunner().invoke(main, ["run", "exp.yaml", *(f"--set={one}" for one in sets)])
        status, last = result.exit_code, result.stderr
    assert status == 10
    assert "10 of 10 pairs have a prompt that the server cut: the server counts 100 tok" in last
    cut = [policy for prompt, policy, *_ in mock.asked if len(prompt) > 1_000]
    assert set(cut) == {"none"}
