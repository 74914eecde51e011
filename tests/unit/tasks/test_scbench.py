"""SCBench: rows of the documented shape made here."""

from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate

TURNS = [{"input": 'Key "a":', "answer": "x-1"}, {"input": 'Key "b":', "answer": ["x-2"]},
         {"input": 'Key "c":', "answer": 3}]  # fmt: skip
KV = {"id": 0, "context": '{"a": "x-1"}', "multi_turns": TURNS}
CHOICE = {"id": 0, "context": "Ann won.", "multi_turns": [
    {"input": "Who?", "answer": "Bea", "options": ["Ann", "Bea", "Cid", "Dan"]},
    {"input": "Who {x}?", "answer": "A", "options": ["Ann", "Bea", "Cid", "Dan"]},
]}  # fmt: skip


def load(task, folder, row, **options):
    (folder / f"scbench_{task}.jsonl").write_text(json.dumps(row), encoding="utf-8")
    made = get_task(f"scbench/{task}", options={"path": str(folder), **options})
    return made, made.examples(BinSpec(1, (9,)), Approximate(), 0)


def test_turns_share_one_context_and_so_one_compressed_cache(tmp_path):
    made, examples = load("kv", tmp_path, KV)
    assert [e.answers for e in examples] == [("x-1",), ("x-2",), ("3",)]
    prompts = [made.prompt(e) for e in examples]
    assert len({p.head for p in prompts}) == 1, "what a policy compresses is the same for all"
    assert prompts[0].head.endswith(KV["context"])
    assert [p.tail.strip() for p in prompts] == [turn["input"] for turn in TURNS]
    assert len({e.cluster for e in examples}) == 1
    assert len({e.example_id for e in examples}) == 3


def test_several_turns_have_the_right_answers_of_those_before(tmp_path):
    made, examples = load("kv", tmp_path, KV, mode="multi-turn")
    prompts = [made.prompt(e) for e in examples]
    assert len({p.head for p in prompts}) == 1
    assert prompts[2].tail.strip() == 'Key "a": x-1\n\nKey "b": x-2\n\nKey "c":'
    assert made.template_version != load("kv", tmp_path, KV)[0].template_version


def test_a_choice_goes_on_with_letters(tmp_path):
    made, examples = load("choice_eng", tmp_path, CHOICE, mode="multi-turn")
    assert [e.answers for e in examples] == [("Bea", "B"), ("Ann", "A")]
    tail = made.prompt(examples[1]).tail
    assert "The right letter: B\n\nWho {x}?\nA. Ann" in tail


@pytest.mark.parametrize(
    "row", [{"multi_turns": TURNS}, {"context": "c"}, {"context": "c", "multi_turns": [{}]}]
)
def test_a_row_that_lacks_something_is_named(tmp_path, row):
    with pytest.raises(UsageError, match="row 1: ") as caught:
        load("kv", tmp_path, row)
    assert len(str(caught.value).splitlines()) == 2


def test_data_in_a_folder_of_their_own(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "scbench_vt.jsonl").write_text(json.dumps({**KV, "input": "unused"}))
    made = get_task("scbench/vt", options={"path": str(tmp_path)})
    assert len(made.examples(BinSpec(1, (9,)), Approximate(), 0)) == 3
