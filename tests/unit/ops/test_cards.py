"""A card is its group's result and nothing else: the same bytes, asked again, beside others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pytest_kvbench import load_group
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import UsageError
from pytest_kvbench.ops.card_page import leaderboard
from pytest_kvbench.ops.cards import Card, card_of
from tests.support.chromium import chromium, needs_chromium
from tests.support.groups import make_group


def written(folder: Path, content: dict[str, Any]) -> Path:
    """A card of any content, with the name that it should have."""
    card = Card(content)
    file = folder / f"{card.name}.json"
    file.write_text(json.dumps({"card": card.name, **content}), encoding="utf-8")
    return file


def test_the_same_group_has_the_same_card_byte_for_byte(tmp_path: Path) -> None:
    prepared = make_group(tmp_path / "r")
    first = card_of(prepared).save(tmp_path / "a")
    again = card_of(make_group(tmp_path / "other")).save(tmp_path / "b")
    assert first.name == again.name
    for suffix in (".json", ".md"):
        assert first.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    card = Card.load(first)
    assert card.content == json.loads(json.dumps(dict(card_of(prepared).content)))
    assert {cell["verdict_holm"] for cell in card.content["cells"]} >= {"breaks"}
    read = first.with_suffix(".md").read_text()
    assert read.startswith(f"# {card.name}: g")
    assert "| breaks |" in read
    assert f"kvbench reproduce {first.name}" in read


def test_a_card_holds_no_text_and_nothing_of_a_place(tmp_path: Path) -> None:
    engine = {
        "name": "vllm",
        "model": "m",
        "headers": {"X-Team": "secret-team"},
        "api_key_env": "SECRET_KEY",
        "endpoints": {
            "none": {"base_url": "http://secret-host:1/v1"},
            "fp8": {"base_url": "http://secret-host:2/v1", "budget": 0.5},
        },
    }
    kv = {"policies": ["fp8"], "budgets": [1.0]}
    file = card_of(make_group(tmp_path / "r", engine=engine, kv=kv)).save(tmp_path)
    for path in (file, file.with_suffix(".md")):
        text = path.read_text()
        assert not [word for word in ("secret", "SECRET", str(tmp_path), "2026-") if word in text]
    plan = Card.load(file).plan
    assert plan["engine"]["endpoints"] == {
        "none": {"aa": False, "budget": None},
        "fp8": {"aa": False, "budget": 0.5},
    }


def test_a_card_that_was_altered_or_is_none_is_refused_in_two_lines(tmp_path: Path) -> None:
    file = card_of(make_group(tmp_path / "r")).save(tmp_path)
    content = json.loads(file.read_text())
    content["cells"][0]["n"] += 1
    file.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is not as it was written"):
        Card.load(file)
    content.pop("card")
    odd: list[dict[str, Any]] = [
        {},
        {**content, "cells": [{}]},
        {**content, "cells": 3},
        {**content, "schema": 9},
        {**content, "scores": None},
        {**content, "data": []},
        {**content, "plan": {"gate": "x"}},
        {**content, "bytes": [{"task": 1}]},
        {**content, "replies": []},
    ]
    for number, other in enumerate(odd):
        done = CliRunner().invoke(
            main,
            ["leaderboard", str(written(tmp_path, other)), "--to", str(tmp_path / "page.html")],
        )
        assert done.exit_code == 4, (number, done.output, done.exception)
        assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"card": "x", "schema": 1, "cells": 3}'])
def test_a_card_of_any_shape_is_refused_in_words(tmp_path: Path, content: str) -> None:
    file = tmp_path / "card.json"
    file.write_text(content)
    with pytest.raises(UsageError, match="is no card: ") as caught:
        Card.load(file)
    assert "object" not in str(caught.value)


@pytest.mark.parametrize("command", ["card g --to FILE/x", "save FILE/x/y g"])
def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, command: str) -> None:
    make_group(tmp_path, "g", bins=1, per_bin=5)
    (tmp_path / "file").write_text("no folder")
    words = command.replace("FILE", str(tmp_path / "file")).split()
    done = CliRunner().invoke(main, [*words, "--dir", str(tmp_path)])
    assert isinstance(done.exception, SystemExit)
    assert "file" in done.output


def test_a_leaderboard_ranks_by_verdict_then_bytes_and_keeps_other_data_apart(
    tmp_path: Path,
) -> None:
    good = make_group(tmp_path / "a", "good", draw=lambda cell, i, rng: 1.0, per_bin=45, bins=1)
    bad = make_group(tmp_path / "b", "bad", per_bin=45, bins=1)
    other = make_group(tmp_path / "c", "other", per_bin=45, bins=1, examples="another")
    cards = [card_of(prepared) for prepared in (bad, good, good, other)]
    page = leaderboard(cards)
    assert page.count("<h2") == 1 + 2, "one table for each data set"
    assert "3 cards" in page
    rows = page.split("<tr>")[2:]
    words = [
        next((w for w in ("holds", "undetermined", "breaks") if f'class="{w}' in row), "")
        for row in rows
    ]
    first = words[: words.index("")] if "" in words else words
    assert first == sorted(first, key=("holds", "undetermined", "breaks").index)
    assert "default-src 'none'" in page


@needs_chromium
def test_a_hostile_card_does_nothing_on_the_page(tmp_path: Path) -> None:
    content = json.loads(json.dumps(dict(card_of(make_group(tmp_path / "r")).content)))
    hostile = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\u202e`"
    content["plan"]["engine"]["model"] = hostile
    content["group"] = hostile
    for cell in content["cells"]:
        cell["proof"] = hostile if cell["policy"] != "none" else cell["proof"]
    page = tmp_path / "page.html"
    page.write_text(leaderboard([Card.load(written(tmp_path, content))]), encoding="utf-8")
    with chromium(tmp_path / "profile") as browser:
        browser.call("Page.navigate", url=page.as_uri())
        browser.wait("document.title.endsWith('of 1 card') && document.querySelector('td')")
        assert browser.run("document.querySelectorAll('td script, td img').length") == 0
        assert browser.complaints == []


@pytest.mark.usefixtures("pictures")
def test_a_notebook_shows_verdicts_and_figures(tmp_path: Path) -> None:
    make_group(tmp_path)
    group = load_group(tmp_path / "g")
    assert "not analysed yet" in group._repr_html_()
    done = CliRunner().invoke(main, ["analyse", "g", "--dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    shown = group._repr_html_()
    assert "<td>breaks</td>" in shown
    assert shown.count('<img src="data:image/png;base64,') >= 2
    assert "<script" not in shown


def test_parquet_comes_with_a_card_that_datasets_reads(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    make_group(tmp_path / "r")
    folder = tmp_path / "pq"
    done = CliRunner().invoke(main, ["export", "--dir", str(tmp_path / "r"), "--parquet", folder])
    assert done.exit_code == 0, done.output
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\n")
    assert "Groups: `g`." in readme
    cells = datasets.load_dataset(
        str(folder), "cells", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(cells) == 8
    assert set(cells["policy"]) == {"none", "snapkv"}


def test_logs_open_where_inspect_reads_headers_alone(tmp_path: Path) -> None:
    """Its reader of headers stops where the samples begin."""
    make_group(tmp_path / "r", failed=2)
    logs = tmp_path / "logs"
    options = ["export", "--dir", str(tmp_path / "r"), "--inspect", str(logs)]
    assert CliRunner().invoke(main, options).exit_code == 0
    for file in logs.glob("*.json"):
        assert list(json.loads(file.read_text()))[-1] == "samples"
    inspect = pytest.importorskip("inspect_ai.log")
    for file in logs.glob("*.json"):
        header = inspect.read_eval_log(str(file), header_only=True)
        assert header.status == "success"
        assert len(inspect.read_eval_log(str(file)).samples) == 40
