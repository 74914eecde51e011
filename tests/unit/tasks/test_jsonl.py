from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate
from tests.support.shortened import shortened


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def read(text, **options):
        (tmp_path / "data.jsonl").write_text(text, encoding="utf-8")
        task = get_task("jsonl:data.jsonl", options=options)
        return task, task.examples(BinSpec(1, (1,)), Approximate(), 0)

    return read


def test_rows_become_examples(read):
    row = {"question": "Wer?", "context": "Tee 茶", "answers": ["a", "b"], "_id": "7", "length": 3}
    task, (first, second) = read(json.dumps(row) + "\n\n" + '{"question": "q", "answers": "x"}')
    assert (first.question, first.context, first.answers) == ("Wer?", "Tee 茶", ("a", "b"))
    assert first.meta == {"_id": "7", "length": 3}
    assert (second.context, second.answers) == ("", ("x",))
    assert task.metric == "any_of"
    prompt = task.prompt(first)
    assert prompt.head.strip() == first.context
    assert prompt.tail.lstrip().startswith("Question: Wer?")
    assert task.prompt(second).head == ""


def test_long_prompts_are_cut_in_the_middle(read):
    words = " ".join(f"w{i}" for i in range(200))
    task, (example,) = read(
        json.dumps({"question": "q", "context": words, "answers": "x"}), max_length=40
    )
    text = task.prompt(example).text
    assert example.context == words, "the example keeps its context, and so its cluster"
    assert Approximate().count([text])[0] == 40
    assert text == shortened(Approximate(), f"{words}\n\nQuestion: q\nAnswer:", 40)
    assert task.prompt(example).tail.endswith("Answer:")


def test_options(read):
    task, (example,) = read('{"question": "q", "answers": "x"}', metric="f1", max_tokens=5)
    assert (task.metric, task.prompt(example).max_tokens) == ("f1", 5)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('{"question": "q", "answers": "x"}\n{"question": 1, "answers": ["x"]}', ": row 2"),
        ('{"question": "q"}', ": row 1"),
        ('{"question": "q", "answers": []}', ": row 1"),
        ('{"question": "q", "answers": [3]}', ": row 1"),
        ('{"question": "q", "answers": "x", "context": [1]}', ": row 1"),
        ("[1]", ":1"),
        ("{", ":1"),
    ],
)
def test_wrong_rows_name_the_line_and_the_fields(read, text, where):
    with pytest.raises(UsageError, match=f"data.jsonl{where}") as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 2


def test_missing_file():
    task = get_task("jsonl:nowhere.jsonl")
    with pytest.raises(UsageError, match=r"nowhere\.jsonl"):
        task.examples(BinSpec(1, (1,)), Approximate(), 0)


def test_an_unknown_metric_is_refused_at_once():
    with pytest.raises(UsageError, match="'bleu'"):
        get_task("jsonl:x.jsonl", options={"metric": "bleu"})


def test_a_row_may_name_its_cluster(read):
    rows = [{"question": f"q{n}", "answers": "x", "cluster": n // 2} for n in range(6)]
    _, examples = read("\n".join(map(json.dumps, rows)))
    assert len({example.cluster for example in examples}) == 3
    _, examples = read("\n".join(json.dumps(row | {"cluster": None}) for row in rows))
    assert len({example.cluster for example in examples}) == 6


@pytest.mark.parametrize("value", [True, 0.5, ["a"], {}])
def test_an_odd_cluster_is_refused(read, value):
    with pytest.raises(UsageError, match="row 1: cluster is"):
        read(json.dumps({"question": "q", "answers": "x", "cluster": value}))
