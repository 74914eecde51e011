"""`gate.mode: certify` passes only what is shown, however one asks, and says what is not."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.responses import JSONResponse

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.batch_server import BatchServer
from tests.support.mock_server import MockServer, prompt_in

ENOUGH = 21
"""Examples in each of two bins: 42 pairs, the fewest that hold at an alpha shared by two arms."""


def knows_text(prompt: str) -> str:
    word = prompt.rsplit("Say ", 1)[1].split()[0]
    return word if "text" in prompt else "nothing"


def lossy(policy: str, budget: float) -> float:
    return 0.55 if budget == 0.2 else 1.0


@pytest.fixture
def certified(project: Project, mock: MockServer) -> Callable[..., Project]:
    """The project's experiment in mode certify, with changes to its text."""

    def make(more: str = "", per_bin: int = ENOUGH, **changes: str) -> Project:
        mock.word_of = knows_text
        file = project.path / "exp.yaml"
        text = file.read_text(encoding="utf-8").replace("per_bin: 10", f"per_bin: {per_bin}")
        for old, new in changes.items():
            text = text.replace(old, new)
        gate = "gate: {mode: certify}\n" if "gate:" not in more else ""
        file.write_text(f"{text}{gate}{more}\n", encoding="utf-8")
        return project

    return make


def last(result: pytest.RunResult) -> str:
    return "\n".join(line for line in result.outlines if line.startswith("kvbench: exit status"))


def test_an_arm_without_loss_passes_and_one_that_loses_does_not(
    certified: Callable[..., Project], mock: MockServer
) -> None:
    mock.accuracy = lossy
    project = certified()
    result = project.run("-n", "0", "--junitxml=out.xml", "--kvbench-report")
    assert result.ret == 1
    failed = re.findall(r"^FAILED .*\[(.*?)\]", result.stdout.str(), flags=re.M)
    assert "jsonl:words.jsonl-all-snapkv-0.20" in failed
    assert "jsonl:words.jsonl-all-snapkv-0.50" not in failed
    assert "g: certify: jsonl:words.jsonl-all-snapkv-0.20: not certified: breaks" in last(result)
    assert "worst bin" in last(result)
    rows = {row["budget"]: row for row in project.summary()["certificates"]}
    assert [rows[budget]["certified"] for budget in (0.5, 0.2)] == [True, False]
    assert rows[0.5]["worst"]["ci_low"] < rows[0.5]["ci_low"] <= 0
    names = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ET.parse(project.path / "out.xml").getroot().iter("testcase")
    }
    item = next(facts for name, facts in names.items() if "all-snapkv-0.50" in name)
    assert item["kvbench_certified"] == "True"
    report = (project.path / "reports/g/report.md").read_text(encoding="utf-8")
    assert "## Certificates" in report


def test_all_arms_without_loss_end_with_0(certified: Callable[..., Project]) -> None:
    result = certified().run("-n", "0")
    assert result.ret == 0
    assert "all-snapkv-0.20: certified (0.00" in result.stdout.str()


def placebo(mock: MockServer) -> None:
    mock.proves = False


def no_loss_to_be_seen(mock: MockServer) -> None:
    mock.word_of = lambda prompt: prompt.rsplit("Say ", 1)[1].split()[0]


def sick_control(mock: MockServer) -> None:
    mock.accuracy, mock.wrong = (lambda policy, budget: 0.0), ""


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (placebo, "nothing proves that the budget was applied"),
        (no_loss_to_be_seen, "withheld 1, known to be bad, does not break"),
        (sick_control, "is not sane"),
    ],
)
def test_what_is_not_shown_is_named(
    certified: Callable[..., Project],
    mock: MockServer,
    trouble: Callable[[MockServer], None],
    why: str,
) -> None:
    project = certified()
    trouble(mock)
    result = project.run("-n", "0")
    assert result.ret == 1
    assert why in json.dumps(project.summary()["certificates"])


def test_lost_pairs_count_as_losses(certified: Callable[..., Project], mock: MockServer) -> None:
    project = certified()
    no = JSONResponse({"error": {"message": "no"}}, status_code=400)
    first: list[str] = []

    def loses_the_first(number: int, body: dict[str, Any]) -> JSONResponse | None:
        first.append(prompt_in(body))
        return no if prompt_in(body) == first[0] else None

    mock.trouble = loses_the_first
    result = project.run("-n", "0")
    assert result.ret == 1
    assert "if the pairs lost to failures count as losses" in last(result)


@pytest.mark.parametrize(
    ("more", "changes", "said"),
    [
        ("", {"per_bin: 21": "per_bin: 20"}, "per_bin: 21 is the least that could"),
        ("aa: false", {}, "needs the control asked twice"),
        ("sensitivity: null", {}, "needs an arm that must break"),
        ("", {"[snapkv]": "[none]"}, "needs an arm beside the full cache"),
        ("", {"name: local": "name: openai", "[snapkv]": "[q8_0]"}, "proves nothing"),
    ],
)
def test_what_could_never_pass_is_refused_before_it_is_asked(
    certified: Callable[..., Project],
    mock: MockServer,
    more: str,
    changes: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = certified(more, **changes)
    if "openai" in str(changes):
        text = (project.path / "exp.yaml").read_text(encoding="utf-8")
        url = re.search(r'base_url: ("\S+?")', text)[1]  # type: ignore[index]
        both = f'endpoints: {{none: {url}, q8_0: {url[:-1]}2"}}'
        (project.path / "exp.yaml").write_text(text.replace(f"base_url: {url}", both))
    result = project.run("-n", "0")
    assert result.ret == 4
    assert said in result.stdout.str()
    monkeypatch.chdir(project.path)
    for command in ("validate", "run", "all"):
        done = CliRunner().invoke(main, [command, "exp.yaml"])
        assert (done.exit_code, said in done.stderr) == (4, True)
    assert mock.posts == 0


def test_data_that_are_too_few_are_refused_too(
    certified: Callable[..., Project], mock: MockServer
) -> None:
    project = certified()
    words = project.path / "words.jsonl"
    words.write_text("".join(words.open().readlines()[:30]), encoding="utf-8")
    result = project.run("-n", "0")
    assert result.ret == 4
    assert "can never hold a margin of 0.1" in last(result)
    assert mock.posts == 0


@pytest.mark.slow
def test_workers_find_the_same(certified: Callable[..., Project], mock: MockServer) -> None:
    mock.accuracy = lossy
    project = certified()
    result = project.run("-n", "2")
    assert result.ret == 1
    assert "all-snapkv-0.20: not certified: breaks" in last(result)
    rows = {row["budget"]: row["certified"] for row in project.summary()["certificates"]}
    assert rows == {0.5: True, 0.2: False}


def test_one_arm_alone_is_certified_among_all_planned(
    certified: Callable[..., Project], mock: MockServer
) -> None:
    project = certified()
    result = project.run("-n", "0", "-k", "all-snapkv-0.50")
    assert result.ret == 0
    assert {policy for _, policy, budget, _ in mock.asked if budget == 0.2} == set()
    result = project.run("-n", "0", "-k", "bin0")  # certifies nothing: that is no green
    assert result.ret == 1
    assert "all-snapkv-0.20: not certified" in last(result)


@pytest.mark.parametrize(
    "executor",
    ["", pytest.param("executor: {name: parsl, workers: 1}", marks=pytest.mark.slow)],
)
def test_the_command_line_ends_alike(
    executor: str,
    certified: Callable[..., Project],
    mock: MockServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mock.accuracy = lossy
    monkeypatch.chdir(certified(executor).path)
    assert CliRunner().invoke(main, ["run", "exp.yaml"]).exit_code == 0
    for command in (["wait", "g", "--then", "report"], ["analyse", "g"], ["all", "exp.yaml"]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1
        assert "all-snapkv-0.20: not certified: breaks" in done.stderr.splitlines()[-1]


def test_a_batch_that_is_waited_for_is_not_green(
    certified: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    with BatchServer() as server:
        server.reply = MockServer(accuracy=lossy, word_of=knows_text).completion
        project = certified()
        file = project.path / "exp.yaml"
        text = re.sub(r'base_url: "\S+?"', f'base_url: "{server.base_url}"', file.read_text())
        file.write_text(text.replace("retries: 1", "retries: 1, mode: batch"))
        first, second = project.run("-n", "0"), project.run("-n", "0")
        assert (first.ret, second.ret) == (10, 1)
        assert "waiting for batch" in last(first)
        assert "all-snapkv-0.20: not certified: breaks" in last(second)
        monkeypatch.chdir(project.path)
        done = CliRunner().invoke(main, ["all", "exp.yaml", "--set", "group=h"])
        assert done.exit_code == 10


@pytest.mark.parametrize("strategy", ["fixed", "sequential"])
def test_a_margin_may_be_a_share_of_what_the_control_gets_right(
    strategy: str, project: Project, mock: MockServer
) -> None:
    """A control at .5: a loss of .10 of score is a fifth of it."""
    mock.accuracy = lambda policy, budget: {1.0: 0.5, 0.5: 0.5, 0.2: 0.3}[budget]
    file = project.path / "exp.yaml"
    sampling = "sampling: {strategy: sequential}\n" if strategy == "sequential" else ""
    per_bin = "{min: 12, max: 50}" if sampling else "50"
    text = file.read_text(encoding="utf-8").replace("per_bin: 10", f"per_bin: {per_bin}")
    gate = "gate: {mode: gate, margin: {retain: 0.7}}\n"
    file.write_text(f"{text}{sampling}{gate}", encoding="utf-8")
    result = project.run("-n", "0", "--kvbench-report")
    rows = {c["budget"]: c for c in project.summary()["cells"] if c["bin"] == "all"}
    assert rows[0.5]["verdict_holm"] == "holds"
    assert rows[0.2]["verdict_holm"] != "holds"
    assert "(retain 0.7)" in result.stdout.str()
    report = (project.path / "reports/g/report.md").read_text(encoding="utf-8")
    assert "shown to keep 70% of what the control gets right" in report
