"""BABILong: rows of the documented shape made here."""

from __future__ import annotations

import csv
import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.predictions import score_file
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate

ROW = {"input": " Rain. Ann went to the office. Rain.\n", "question": "Where is Ann? ",
       "target": "office"}  # fmt: skip
PROMPTS = """
TASK_TEMPLATE = '{instruction}\\n{examples}\\n{post_prompt}'
USER_TEMPLATE = '<c>{context}</c> {question}'
DEFAULT_TEMPLATE = f'{TASK_TEMPLATE}{USER_TEMPLATE}'
DEFAULT_PROMPTS = {'qa1': {'instruction': 'Look. '
                                          'Well.', 'examples': '<e>', 'post_prompt': 'Short.'}}
"""


@pytest.fixture
def folder(tmp_path):
    for task in ("qa1", "qa2"):
        (tmp_path / "data" / task).mkdir(parents=True)
        (tmp_path / "data" / task / "4k.json").write_text(json.dumps([ROW]))
    (tmp_path / "data" / "qa1" / "8k.jsonl").write_text(json.dumps({**ROW, "target": "garden"}))
    return tmp_path


def load(task, folder, **options):
    made = get_task(f"babilong/{task}", options={"path": str(folder), **options})
    return made, made.examples(BinSpec(1, (9,)), Approximate(), 0)


def test_lengths_are_files(folder):
    _, examples = load("qa1", folder)
    assert [e.answers for e in examples] == [("office",)]
    made, examples = load("qa1", folder, lengths=["4k", "8k"])
    assert [e.meta["babilong"] for e in examples] == ["4k", "8k"]
    assert made.data_version != load("qa1", folder)[0].data_version
    with pytest.raises(UsageError, match=r"qa1/1k\.json") as caught:
        load("qa1", folder, lengths=["1k"])
    assert len(str(caught.value).splitlines()) == 2


def test_prompts_are_ours_or_the_authors(folder):
    made, (example,) = load("qa1", folder)
    prompt = made.prompt(example)
    assert prompt.head.endswith("Rain. Ann went to the office. Rain.")
    assert "Where is Ann?" in prompt.tail
    assert (prompt.max_tokens, made.template_version[:4]) == (20, "own-")
    (folder / "prompts.py").write_text(PROMPTS)
    made, (example,) = load("qa1", folder)
    assert made.prompt(example).text == (
        "Look. Well.\n<e>\nShort.\n\n<c>Rain. Ann went to the office. Rain.</c> Where is Ann? "
    )
    assert made.template_version.startswith("official-")
    assert load("qa2", folder)[0].template_version.startswith("own-")


@pytest.mark.parametrize(
    ("task", "target", "output", "score"),
    [
        ("qa1", "office", "In the office. Not in the garden.", 1),
        ("qa1", "office", "The office or the garden", 0),
        ("qa1", "office", "The Office", 1),
        ("qa8", "apple,milk", "milk and apple", 1),
        ("qa8", "apple,milk", "milk", 0),
        ("qa19", "e,s", "e,s", 1),
        ("qa7", "none", "none", 0),  # as upstream has it: `none` holds `one`
    ],
)
def test_its_own_files_are_scored_with_the_tasks_labels(tmp_path, task, target, output, score):
    path = tmp_path / "p.csv"
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, ["", "target", "output", "question"])
        rows.writeheader()
        rows.writerow({"": 0, "target": target, "output": output, "question": "Where is Ann?"})
    assert list(score_file(f"babilong/{task}", path)) == [{"score": float(score), "label": ""}]


def test_a_label_of_the_question_does_not_count(tmp_path):
    row = {"question": "What is north of the garden?", "answers": ["office"],
           "prediction": "North of the garden is the office"}  # fmt: skip
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row))
    assert [s["score"] for s in score_file("babilong/qa4", path)] == [1.0]
    path.write_text(json.dumps({**row, "question": None}))
    with pytest.raises(UsageError, match=r"row 1: .*question"):
        list(score_file("babilong/qa4", path))
