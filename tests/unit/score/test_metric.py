"""A metric is one record in one table: score, strict form, format, parts, ballot, chance, needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_kvbench
from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.choice import among_options
from pytest_kvbench.score.metric import METRICS, Metric, check_meta, get_metric, score_answer
from pytest_kvbench.score.vote import ballot

PACKAGE = Path(pytest_kvbench.__file__).parent
TABLE = PACKAGE / "score" / "metric.py"
META = {
    "all_classes": ["Entity", "Human"],
    "labels": ["Entity", "Human"],
    "question": "Which?",
    "options": {"A": "one", "B": "two", "C": "three", "D": "four"},
    "context": "one two three four",
    "supports": {"A": [], "B": [], "C": [], "D": []},
}


def listed(tree: ast.AST) -> Iterator[set[str]]:
    """The texts by which a literal is keyed or of which it consists, of every literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            elements = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Set | ast.List | ast.Tuple):
            elements = node.elts
        else:
            continue
        if all(isinstance(e, ast.Constant) and isinstance(e.value, str) for e in elements):
            yield {str(e.value) for e in elements if isinstance(e, ast.Constant)}


def test_no_other_table_goes_by_metric() -> None:
    others = [
        (file.relative_to(PACKAGE).as_posix(), sorted(names))
        for file in PACKAGE.rglob("*.py")
        if file != TABLE
        for names in listed(ast.parse(file.read_text(encoding="utf-8")))
        if names and names <= {*METRICS}
    ]
    assert others == []


@pytest.mark.parametrize("name", sorted(METRICS))
def test_everything_that_is_asked_of_a_metric_is_its_record(name: str) -> None:
    metric = get_metric(name)
    answers, text = ["Paragraph 7 段落7"], "Entity 7"
    assert metric.name == name
    assert isinstance(metric, Metric)
    scored = score_answer(name, text, "stop", answers, META)
    assert scored.value == metric.score(text, answers, META)
    assert scored.em == metric.em(text, answers, META)
    assert scored.parts == metric.parts(text, answers, META)
    assert scored.label == ("" if metric.is_readable(text, META) else "FORMAT_ERROR")
    assert ballot(name, text, META) == metric.ballot(text, META)
    assert 0 <= metric.chance(META) < 1


def test_what_can_be_guessed_and_what_needs_a_meta() -> None:
    guessed = {m.name for m in METRICS.values() if m.chance({"options": ["a", "b", "c", "d"]})}
    assert guessed == {"choice", "credited", "option", "option_of_code"}
    refusing = set()
    for name in METRICS:
        try:
            check_meta(name, {})
        except ValueError:
            refusing.add(name)
    assert refusing == {"classification", "classification_first_line", "credited", "one_label"}
    with pytest.raises(UsageError, match="unknown metric 'f2'"):
        check_meta("f2", {})


@pytest.mark.parametrize(
    ("options", "chance"),
    [(["a", "b"], 0.5), ({"A": 1, "B": 2, "C": 3, "D": 4}, 0.25), ([], 0), (None, 0), ("ab", 0)],
)
def test_chance_is_that_of_the_options_an_example_lists(options: object, chance: float) -> None:
    assert among_options({"options": options}) == chance
