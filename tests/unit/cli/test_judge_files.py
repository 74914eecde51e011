"""`kvbench judge --control A --treated B`: result files of other programs, joined by example."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.baselines import side_of
from pytest_kvbench.ops.cards import card_of
from pytest_kvbench.pipeline.baseline import save_baseline
from tests.support.groups import make_group

N = 60


def judge(*args: object) -> Result:
    words = ["judge", "--control", "a", "--treated", "b", *map(str, args)]
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("b").mkdir()


def lines(file: Path, rows: Iterable[object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def lm_eval(folder: Path, right: Callable[[int], bool]) -> None:
    """As lm-eval 0.4 writes them: a line for each filter, a metric under its own name."""
    rows = [
        {
            "doc_id": n,
            "doc": {"question": f"q{n}", "answer": "x"},
            "target": "x",
            "arguments": {},
            "resps": [["x"]],
            "filtered_resps": ["x"],
            "filter": name,
            "metrics": ["exact_match"],
            "doc_hash": f"h{n}",
            "exact_match": float(right(n)) if name == "strict-match" else 0.0,
        }
        for n in range(N)
        for name in ("strict-match", "flexible-extract")
    ]
    lines(folder / "model" / "samples_gsm8k_2026-01-02T03-04-05.678901.jsonl", rows)
    stale = "samples_gsm8k_2025-01-02T03-04-05.678901.jsonl"
    lines(folder / "model" / stale, [{**row, "exact_match": 0.0} for row in rows])


def lm_eval_cut(folder: Path, right: Callable[[int], bool]) -> None:
    """As people keep them: without what was sent."""
    lm_eval(folder, right)
    for file in folder.rglob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        lines(file, ({k: row[k] for k in row if k not in ("arguments", "resps")} for row in rows))


def inspect_log(right: Callable[[int], bool]) -> dict[str, Any]:
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "mine", "dataset": {"name": "data"}},
        "samples": [
            {
                "id": n,
                "epoch": epoch,
                "scores": {"match": {"value": "C" if right(n) else "I"}, "f1": {"value": 0.0}},
            }
            for n in range(N)
            for epoch in (1, 2)
        ],
    }


def as_json(folder: Path, right: Callable[[int], bool]) -> None:
    (folder / "log.json").write_text(json.dumps(inspect_log(right)))


def as_eval(folder: Path, right: Callable[[int], bool]) -> None:
    log = inspect_log(right)
    with zipfile.ZipFile(folder / "log.eval", "w") as archive:
        for sample in log.pop("samples"):
            archive.writestr(
                f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample)
            )
        archive.writestr("header.json", json.dumps(log))


def kvpress(folder: Path, right: Callable[[int], bool]) -> None:
    with (folder / "predictions.csv").open("w", newline="") as file:
        names = ["task", "context", "question", "answer", "predicted_answer"]
        rows = csv.DictWriter(file, names)
        rows.writeheader()
        for n in range(N):
            said = f" The number is {n}7." if right(n) else " none"
            row = dict(zip(names, ("niah_single_1", f"c{n}", "q", f"['{n}7']", said), strict=True))
            rows.writerow(row)


def ours(folder: Path, right: Callable[[int], bool]) -> None:
    lines(folder / "scores.jsonl", ({"id": n, "score": float(right(n))} for n in range(N)))


KINDS = {
    "lm-eval": (lm_eval, "gsm8k"),
    "lm-eval, cut": (lm_eval_cut, "gsm8k"),
    "inspect": (as_json, "data"),
    "inspect-zip": (as_eval, "data"),
    "kvpress": (kvpress, "niah_single_1"),
    "ours": (ours, "all"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_people_have_is_joined_and_judged(kind: str) -> None:
    write, task = KINDS[kind]
    options = ("--task", "ruler/niah_single_1") if kind == "kvpress" else ()
    write(Path("a"), lambda n: n > 1)
    write(Path("b"), lambda n: n > 1)
    same = judge(*options)
    assert same.exit_code == 0, same.output
    assert same.output.startswith(f"{task} holds: control 0.967, treated 0.967, delta +0.000 [")
    assert "n=60, margin 0.1" in same.output
    write(Path("b"), lambda n: n % 2 == 0)
    assert judge(*options).output.startswith(f"{task} breaks: control 0.967, treated 0.500, ")
    (cell, *_) = json.loads(judge(*options, "--json").output)["cells"]
    assert (cell["n"], cell["verdict"]) == (60, "breaks")


def test_one_metric_of_several(tmp_path: Path) -> None:
    as_json(Path("a"), lambda n: True)
    as_json(Path("b"), lambda n: True)
    nothing = judge("--metric", "f1").output
    assert nothing.startswith("data not-measured: ")
    wrong = judge("--metric", "f2")
    assert (wrong.exit_code, "valid: match, f1" in wrong.output) == (4, True)


def test_what_has_no_counterpart_is_left_out_and_said() -> None:
    ours(Path("a"), lambda n: True)
    lines(Path("b/scores.jsonl"), ({"id": n, "score": 1} for n in range(10, N + 5)))
    done = judge()
    assert "n=50" in done.output
    assert "warning: 10 examples of a and 5 of b have no counterpart" in done.output
    lines(Path("b/scores.jsonl"), ({"id": f"x{n}", "score": 1} for n in range(3)))
    apart = judge()
    assert apart.exit_code == 4
    assert "a and b have no example in common" in apart.output
    lm_eval(Path("c"), lambda n: True)
    tasks = judge("--treated", "c").output
    assert "they hold 60 examples and 60 examples of gsm8k: are they of one task" in tasks


def test_examples_of_one_context_are_kept_together() -> None:
    for side in ("a", "b"):
        rows = ({"id": n, "score": 1, "context": f"c{n // 20}"} for n in range(N))
        lines(Path(side, "scores.jsonl"), rows)
    (cell, *_) = json.loads(judge("--json").output)["cells"]
    assert (cell["clusters"], cell["verdict"]) == (3, "undetermined")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("readme.md", "", "a: holds no result file"),
        ("x.jsonl", '{"prediction": "p", "answers": ["p"]}\n', "holds replies without a score"),
        ("x.jsonl", '{"id": 1, "score": "good"}\n', "score is 'good', no score in [0, 1]"),
        ("x.jsonl", '{"id": 1, "score": 7}\n', "control"),
        ("x.eval", "no zip", "is no log of Inspect"),
        ("x.json", '{"samples": []}', "holds no scored example"),
    ],
)
def test_what_cannot_be_read_is_two_lines(name: str, text: str, problem: str) -> None:
    for side in ("a", "b"):
        Path(side, name).write_text(text)
    done = judge()
    assert done.exit_code == 4, done.output
    assert problem in done.output
    assert len(done.output.splitlines()) == 2


def test_one_side_alone_is_refused() -> None:
    done = CliRunner().invoke(main, ["judge", "--control", "a"])
    assert (done.exit_code, "kvbench judge --control A --treated B" in done.output) == (4, True)


COLUMNS = "task,bin,policy,budget,example_id,cluster,control,treated"


def judged_text(header: str, **more: str) -> Any:
    values = ",".join(more.values())
    rows = [f"chat,0,q8_0,0.5,e{n},e{n},1,0.98,{values}" for n in range(40)]
    Path("pairs.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    command = ["judge", "pairs.csv", "--margin", "0.07"]
    return CliRunner().invoke(main, command)


def test_the_margin_that_is_shown_is_the_one_that_judged() -> None:
    done = judged_text(f"{COLUMNS},measure", measure="same_top")
    assert (done.exit_code, "(same_top, margin 0.07)" in done.output) == (0, True), done.output


def test_what_a_table_may_mean_is_asked() -> None:
    near = judged_text(f"{COLUMNS},Measure", measure="same_top")
    assert "warning: pairs.csv: column Measure is not read; is it measure?" in near.output
    for mark, name in (("\t", "tabs"), (";", "semicolons")):
        done = judged_text(f"{COLUMNS},measure".replace(",", mark), measure="same_top")
        assert (done.exit_code, f"{name} stand between" in done.output) == (4, True), done.output


def test_groups_baselines_and_cards_of_ours_are_sides_too(tmp_path: Path) -> None:
    reports = tmp_path / "r"
    control = make_group(reports, "control", kv={"policies": ["none"], "budgets": [1.0]})
    make_group(reports, "other")
    full = make_group(reports, "smaller", kv={"policies": ["none"], "budgets": [1.0]})
    for options in (
        (control.folder, reports / "other"),
        (save_baseline(side_of(control), reports, "b"), reports / "other"),
        (card_of(control).save(tmp_path), reports / "other"),
    ):
        told = judge("--control", options[0], "--treated", options[1]).output.splitlines()
        arms = [line for line in told if line.startswith("jsonl:words.jsonl snapkv 0.")]
        assert len(arms) == 2
        assert any("snapkv 0.2 breaks: control 1.000, treated 0." in line for line in arms)
    alone = judge("--control", control.folder, "--treated", full.folder).output
    assert alone.startswith("jsonl:words.jsonl none 1 ")
    assert "delta +0.000" in alone


@pytest.mark.parametrize("write", [as_json, as_eval])
def test_a_log_of_a_run_that_did_not_end_well_says_so(
    write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("a"), lambda n: True)
    made = inspect_log(lambda n: True)
    made["status"] = "error"
    for sample in made["samples"][-3:]:
        sample["scores"] = {}
    monkeypatch.setitem(globals(), "inspect_log", lambda right: made)
    write(Path("b"), lambda n: True)
    (told,) = (line for line in judge().output.splitlines() if "warning" in line and "b/" in line)
    assert "its run ended with status 'error'; 3 samples without a score left out" in told


def test_a_file_against_itself_is_said() -> None:
    ours(Path("a"), lambda n: True)
    done = CliRunner().invoke(main, ["judge", "--control", "a", "--treated", "./a"])
    assert "warning: a is compared with itself" in done.output
