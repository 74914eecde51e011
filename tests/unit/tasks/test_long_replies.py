"""Tasks with long replies: steps that are worked out, and problems with a boxed answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.maths import last_boxed
from pytest_kvbench.score.metric import get_metric
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate


def test_arithmetic_is_right_and_long() -> None:
    task = get_task("reasoning/arithmetic", options={"steps": 9})
    examples = task.examples(BinSpec(1, (4,), range=(300, 500)), Approximate(), 0)
    for example in examples:
        value = int(re.search(r"the number (\d+)", example.context)[1])
        steps = re.findall(r"Step \d+: (add|subtract) (\d+)", example.context)
        assert len(steps) == 9
        for word, amount in steps:
            value += int(amount) if word == "add" else -int(amount)
            assert value >= 0
        assert example.answers == (str(value),)
    assert task.prompt(examples[0]).max_tokens >= 200


BOXED = [
    (r"so \boxed{42}.", "42"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
    (r"first \boxed{1}, no: \boxed{\sqrt{\frac{a}{b}}} holds", r"\sqrt{\frac{a}{b}}"),
    (r"\boxed{\left\{ x \right\}}", r"\left\{ x \right\}"),
    (r"\boxed{7} and then \boxed{8", "7"),
    (r"\fbox{3}", "3"),
    ("nothing", None),
]


@pytest.mark.parametrize(("text", "found"), BOXED)
def test_the_last_whole_box_counts(text: str, found: str | None) -> None:
    assert last_boxed(text) == found


@given(st.recursive(st.text("ab1\\", max_size=3).map(lambda t: t.replace("\\", "")),
                    lambda inner: st.lists(inner, max_size=3).map(lambda p: "{" + "".join(p) + "}"),
                    max_leaves=6))  # fmt: skip
def test_whatever_is_nested_in_a_box_is_read_whole(inner: str) -> None:
    assert last_boxed(f"thus \\boxed{{{inner}}}.") == inner


@pytest.mark.parametrize(
    ("metric", "reply", "answer", "score"),
    [
        ("boxed", r"\boxed{\dfrac{1}{2}}", r"\frac{1}{2}", 1.0),
        ("boxed", r"\boxed{ 1,200 }", "1200", 1.0),
        ("boxed", r"\boxed{12}", "13", 0.0),
        ("boxed", "the answer is 12", "12", 0.0),
        ("last_number", "Step 1: 3 + 4 = 7. The result is 7.", "7", 1.0),
        ("last_number", "The result is 1,007.0", "1007", 1.0),
        ("last_number", "7, or rather 8", "7", 0.0),
        ("last_number", "none", "7", 0.0),
        ("last_number", "it is -5", "5", 0.0),
    ],
)
def test_results_are_scored(metric: str, reply: str, answer: str, score: float) -> None:
    found = get_metric(metric)
    assert found.score(reply, [answer], {}) == score
    assert bool(found.ballot(reply, {})) == found.is_readable(reply, {})


@pytest.mark.parametrize("name", ["problem", "question"])
def test_a_file_of_problems_is_a_task(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {name: "What is 1/2 + 1/2?", "answer": "1", "level": 2}
    Path("p.jsonl").write_text(json.dumps(row) + "\n")
    task = get_task("math:p.jsonl")
    (example,) = task.examples(BinSpec(1, (1,)), Approximate(), 0)
    assert example.answers == ("1",)
    assert "\\boxed{}" in task.prompt(example).text
    Path("p.jsonl").write_text('{"problem": "?"}\n')
    with pytest.raises(UsageError, match=r"p\.jsonl:1"):
        get_task("math:p.jsonl").examples(BinSpec(1, (1,)), Approximate(), 0)
