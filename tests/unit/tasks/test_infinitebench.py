"""InfiniteBench: rows of the documented shape made here, the authors' prompts read from a file."""

from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.infinitebench import FACTS
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate

OPTIONS = ["Ann", "Bea", "Cid", "Dan"]
ROWS = {
    "passkey": {"context": "Hay.", "input": "Which key?", "answer": ["71432"], "options": []},
    "longbook_choice_eng": {
        "context": "Ann won.", "input": "Who {won}?", "answer": ["Ann"], "options": OPTIONS
    },
    "code_debug": {"context": "code", "input": "", "answer": ["Cid", "C"], "options": OPTIONS},
    "code_run": {"context": "def f", "input": "What is func_3(-2)?", "answer": [14]},
    "math_calc": {"context": "1 + 2 - 4", "input": "", "answer": [1, 3, -1]},
    "longdialogue_qa_eng": {"context": "$$MASK$$: Hi", "input": "", "answer": ["ANN", "ANN LEE"]},
}  # fmt: skip
PROMPTS = """
import os
gpt4_templates = {"passkey": "gpt " + os.name}
yarn_mistral_templates = {
    "passkey": "Look.\\n{context}\\n{input}\\nKey:",  # noqa
    "longbook_choice_eng": "{context} {question} {OPTION_A}{OPTION_D} {{x}}",
    "code_run": "{func}: {context} {func_call} is",
    "math_find": "{prefix} {context} {input}",
    "passkey2": "a" + str(1),
}
"""


@pytest.fixture
def folder(tmp_path):
    for task, row in ROWS.items():
        (tmp_path / f"{task}.jsonl").write_text(json.dumps({"id": 7, **row}), encoding="utf-8")
    return tmp_path


def load(task, folder, **options):
    made = get_task(f"infinitebench/{task}", options={"path": str(folder), **options})
    (example,) = made.examples(BinSpec(1, (9,)), Approximate(), 0)
    return made, example


@pytest.mark.parametrize("task", ROWS)
def test_our_own_words_hold_the_context_and_what_is_asked(folder, task):
    made, example = load(task, folder)
    prompt = made.prompt(example)
    assert made.template_version.startswith("own-")
    assert prompt.head.endswith(ROWS[task]["context"])
    assert "{" not in prompt.text.replace("{won}", "")
    assert all(option in prompt.tail for option in ROWS[task].get("options", ()))
    assert (prompt.max_tokens, prompt.chat) == (FACTS[task].max_tokens, True)


def test_a_choice_has_the_text_and_its_letter(folder):
    assert load("longbook_choice_eng", folder)[1].answers == ("Ann", "A")
    assert load("code_debug", folder)[1].answers == ("Cid", "C")


def test_numbers_are_answers(folder):
    assert load("math_calc", folder)[1].answers == ("1", "3", "-1")
    made, example = load("code_run", folder)
    assert "func_3(-2)" in made.prompt(example).tail
    assert example.answers == ("14",)


def test_the_authors_prompts_are_read_where_they_lie_beside_the_data(folder):
    (folder / "src").mkdir()
    (folder / "src" / "prompt.py").write_text(PROMPTS, encoding="utf-8")
    made, example = load("passkey", folder)
    assert made.prompt(example).text == "Look.\nHay.\nWhich key?\nKey:"
    assert made.template_version.startswith("official-")
    made, example = load("longbook_choice_eng", folder)
    assert made.prompt(example).text == "Ann won. Who {won}? AnnDan {x}", "a value is no template"
    made, example = load("code_run", folder)
    assert made.prompt(example).text == "func_3: def f func_3(-2) is"
    made, _ = load("passkey", folder, prompts="gpt4")
    assert made.template_version.startswith("own-"), "what is no constant is not run"
    made, _ = load("code_debug", folder)
    assert made.template_version.startswith("own-"), "a set may lack a task"


def test_the_middle_is_cut(folder):
    (folder / "passkey.jsonl").write_text(
        json.dumps({**ROWS["passkey"], "context": " ".join(map(str, range(500)))})
    )
    made, example = load("passkey", folder, max_length=100)
    prompt = made.prompt(example)
    assert Approximate().count([prompt.text])[0] <= 100
    assert " 499" in prompt.text, "the end stays"
    assert " 250 " not in prompt.text


@pytest.mark.parametrize(
    ("task", "row", "says"),
    [
        ("code_debug", {"options": OPTIONS[:2]}, "2 options"),
        ("code_debug", {"answer": ["Eve"]}, "Eve"),
        ("code_run", {"input": "What?"}, "names no call"),
        ("passkey", {"answer": None}, "answers are missing"),
    ],
)
def test_a_row_that_lacks_something_is_named(folder, task, row, says):
    (folder / f"{task}.jsonl").write_text(json.dumps({**ROWS[task], **row}))
    with pytest.raises(UsageError, match=f"row 1: .*{says}") as caught:
        load(task, folder)
    assert len(str(caught.value).splitlines()) == 2


def test_a_template_that_asks_for_more_is_refused(folder):
    (folder / "prompt.py").write_text('yarn_mistral_templates = {"passkey": "{context} {bill}"}')
    made, example = load("passkey", folder)
    with pytest.raises(UsageError, match=r"\{bill\}"):
        made.prompt(example)
    (folder / "prompt.py").write_text("yarn = {")
    with pytest.raises(UsageError, match="is no Python"):
        load("passkey", folder)[0].template_version  # noqa: B018  # read on first use
