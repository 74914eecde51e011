"""Preparing twice: what is reused, what is noticed, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pytest_kvbench.errors import GuardError
from pytest_kvbench.experiment.load import Declared, load_experiment
from pytest_kvbench.pipeline.group import Site
from pytest_kvbench.pipeline.prepare import prepare_data
from pytest_kvbench.tasks import tokenizers

ROW = {"question": "Who?", "context": "Ada wrote it. " * 20, "answers": ["Ada"]}


def _row(question: str, size: int) -> dict[str, Any]:
    return {"input": question, "context": "Ada wrote it. " * (20 + size), "answers": ["Ada"]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data" / "qasper.jsonl"
    write_rows(file, [_row(f"Who {i}?", i) for i in range(8)])
    (file.parent / "config").mkdir()
    for name, content in (
        ("dataset2prompt", {"qasper": "Read.\n{context}\nQ: {input}\nA:"}),
        ("dataset2maxlen", {"qasper": 12}),
    ):
        (file.parent / "config" / f"{name}.json").write_text(json.dumps(content))
    return file


def declared(**options: Any) -> Declared:
    inline: dict[str, Any] = {
        "group": "g",
        "tasks": ["longbench/qasper"],
        "task_options": {"longbench": {"path": "data", **options}},
        "bins": {"n": 2, "per_bin": 2},
        "tokenizer": "approximate",
    }
    return load_experiment(inline=inline)


def site(tmp_path: Path, *, force: bool = False) -> Site:
    return Site(tmp_path / "reports", "run", os.getpid(), "test", force=force)


pytestmark = pytest.mark.filterwarnings("ignore::pytest_kvbench.tasks.tokenizers.TokenizerWarning")


def test_a_second_prepare_counts_no_token(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare_data(declared(), site(tmp_path))

    def refuse(self: object, texts: object) -> None:
        raise AssertionError("tokenized again")

    monkeypatch.setattr(tokenizers.Approximate, "count", refuse)
    assert prepare_data(declared(), site(tmp_path)) == first


def test_changed_data_are_noticed(data: Path, tmp_path: Path) -> None:
    before = prepare_data(declared(), site(tmp_path))
    write_rows(data, [_row(f"Which {i}?", i) for i in range(8)])
    with pytest.raises(GuardError, match="data of longbench/qasper"):
        prepare_data(declared(), site(tmp_path))
    after = prepare_data(declared(), site(tmp_path, force=True))
    assert before != after
    questions = {e.example.question for e in after["longbench/qasper"].entries}
    assert all(q.startswith("Which") for q in questions)


def test_data_may_move(data: Path, tmp_path: Path) -> None:
    before = prepare_data(declared(), site(tmp_path))
    data.parent.rename(tmp_path / "elsewhere")
    assert prepare_data(declared(path="elsewhere"), site(tmp_path)) == before


def test_data_that_are_gone_are_not_needed_again(data: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [ROW])
    experiment = load_experiment(
        inline={"group": "g", "tasks": [f"jsonl:{rows}"], "tokenizer": "approximate"}
    )
    before = prepare_data(experiment, site(tmp_path))
    rows.unlink()
    with pytest.warns(UserWarning, match="cannot be compared"):
        assert prepare_data(experiment, site(tmp_path)) == before


def test_a_cut_that_moves_replaces_the_stored_example(data: Path, tmp_path: Path) -> None:
    prepare_data(declared(max_length=30), site(tmp_path))
    shorter = prepare_data(declared(max_length=20), site(tmp_path, force=True))
    assert prepare_data(declared(max_length=20), site(tmp_path)) == shorter
