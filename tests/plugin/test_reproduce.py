"""A card that is asked again elsewhere: equal, within noise, or different, by its exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.cards import Card
from tests.conftest import Project
from tests.support.mock_server import MockServer


def kvbench(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def accuracy(policy: str, budget: float) -> float:
    return 1.0 if policy == "none" else 0.4 + budget / 2


@pytest.fixture
def card(project: Project, mock: MockServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project.path)
    mock.accuracy = accuracy
    assert kvbench("all", "exp.yaml").exit_code == 0
    done = kvbench("card", "g")
    assert done.exit_code == 0, done.output
    return Path(done.output.strip())


def again(card: Path, server: MockServer, *more: str) -> Result:
    return kvbench("reproduce", card, "--set", f"engine.base_url={server.base_url}", *more)


def test_a_card_is_asked_again_and_compared(card: Path, mock: MockServer) -> None:
    refused = again(card, mock)
    assert refused.exit_code == 4
    assert "names code or files of this machine: tasks: jsonl:words.jsonl" in refused.stderr

    asked = mock.posts
    equal = again(card, mock, "--trust")
    assert equal.exit_code == 0, equal.output
    assert mock.posts > asked, "controls too: nothing is taken over from the group here"
    assert f"{card.stem}: equal: of 6 cells 6 word for word the same" in equal.output
    (folder,) = Path("reports").glob("g.*")
    shutil.rmtree(folder)

    def a_little_less(policy: str, budget: float) -> float:
        return accuracy(policy, budget) - (0.1 if budget == 0.5 else 0)

    with MockServer(accuracy=a_little_less, fingerprint={"weights": "another"}) as elsewhere:
        noisy = again(card, elsewhere, "--trust")
    assert noisy.exit_code == 0, noisy.output
    assert f"{card.stem}: differs within noise: " in noisy.output
    assert "answered by another weights: mock in the card, another now" in noisy.output
    shutil.rmtree(folder)

    with MockServer(accuracy=lambda policy, budget: float(policy == "none")) as broken:
        worse = again(card, broken, "--trust")
    assert worse.exit_code == 1
    assert f"{card.stem}: differs: " in worse.output
    assert f"exit status 1: {card.stem}: differs: jsonl:words.jsonl" in worse.stderr


def test_other_data_or_no_server_is_neither_equal_nor_different(
    card: Path, mock: MockServer, project: Project
) -> None:
    nobody = kvbench("reproduce", card, "--trust", "--set", "engine.base_url=http://127.0.0.1:9/v1")
    assert nobody.exit_code == 10
    assert "no server answers" in nobody.stderr

    lines = (project.path / "words.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    text = "".join(json.dumps({**row, "context": f"{row['context']}!"}) + "\n" for row in rows)
    (project.path / "words.jsonl").write_text(text)
    other = again(card, mock, "--trust")
    assert other.exit_code == 10, other.output
    assert "its examples or prompts are not those of the card" in other.output
    assert f"{card.stem}: other data: jsonl:words.jsonl" in other.stderr


def test_a_card_cannot_bring_addresses_programs_or_classes(
    card: Path, tmp_path: Path, mock: MockServer
) -> None:
    content = json.loads(card.read_text())
    assert not {"base_url", "launch", "headers", "api_key_env"} & content["plan"]["engine"].keys()
    content.pop("card")
    content["plan"]["engine"]["launch"] = {"command": "touch owned"}
    content["plan"]["kv"]["policies"] = ["os.path:join"]
    hostile = Card(content)
    file = tmp_path / "hostile.json"
    file.write_text(json.dumps({"card": hostile.name, **content}))
    refused = kvbench("reproduce", file)
    assert refused.exit_code == 4
    assert "engine.launch, tasks: jsonl:words.jsonl and kv: os.path:join" in refused.stderr
    content["plan"]["kv"]["policies"] = ["snapkv"]
    trusted = Card(content)
    file.write_text(json.dumps({"card": trusted.name, **content}))
    kvbench("reproduce", file, "--trust", "--set", f"engine.base_url={mock.base_url}")
    assert not Path("owned").exists()
