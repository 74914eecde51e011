from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks import get_task
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.tokenizers import Approximate

TOKENIZER = Approximate()
NIAH = (
    "A special magic number is hidden within the following text.\n{text}\nWhat is the special "
    "magic number for {key} mentioned in the provided text? The special magic number for {key} is"
)
VT = "Memorize the chain.\n\n{text}\nQuestion: Find all variables that are 12345. Answer:"


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("KVBENCH_RULER", raising=False)


def niah_row(i, length):
    return {"index": i, "input": NIAH.format(text="grass is green. " * length, key=f"key{i}"),
            "outputs": [str(1000000 + i)], "length": length * 10}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """The layout of RULER's own generator, two lengths."""
    for length in (40, 80):
        data = tmp_path / str(length) / "data"
        for task, rows in {
            "niah_single_1": [niah_row(i, length) for i in range(3)],
            "vt": [{"index": 0, "input": VT.format(text="x " * length), "outputs": ["AAA", "BBB"]}],
        }.items():
            (data / task).mkdir(parents=True)
            (data / task / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def load(task, path, **options):
    made = get_task(f"ruler/{task}", options={"path": str(path), **options})
    return made, made.examples(BinSpec(1, (9,)), TOKENIZER, 0)


def test_the_generators_prompts_are_sent_as_they_are(folder):
    task, examples = load("niah_single_1", folder)
    assert len(examples) == 6
    prompts = {task.prompt(e).text for e in examples}
    assert prompts == {niah_row(i, n)["input"] for i in range(3) for n in (40, 80)}
    for e in examples:
        prompt = task.prompt(e)
        assert prompt.tail.startswith("\nWhat is the special magic number")
        assert (prompt.max_tokens, prompt.chat) == (128, False)
    assert len({e.cluster for e in examples}) == 2, "questions on one text are one cluster"


def test_lengths_are_bins(folder):
    task, _ = load("niah_single_1", folder)
    spec = BinSpec(2, (2,), edges=(600,), by="length")
    manifest = build_task_manifest(task, spec, TOKENIZER, 0)
    assert [e.example.meta["length"] for e in manifest.entries] == [400, 400, 800, 800]


def test_metrics_and_reply_lengths():
    for name, metric, tokens in [
        ("qa_1", "any_of", 32),
        ("vt", "all_of", 30),
        ("cwe", "all_of", 120),
    ]:
        task = get_task(f"ruler/{name}")
        assert task.metric == metric
        assert task.prompt(task_example()).max_tokens == tokens


def task_example():
    from pytest_kvbench.records import Example

    return Example("x", "q", "c", ("a",))


def test_the_question_is_the_last_one(folder):
    _, examples = load("vt", folder)
    assert examples[0].question.startswith("\nQuestion: Find all")
    assert examples[0].answers == ("AAA", "BBB")


def test_the_hub_mirrors_rows(tmp_path):
    rows = [
        {"context": "text ", "question": "Who?", "answer_prefix": " It is", "answer": ["Ann"],
         "task": task, "max_new_tokens": 32}
        for task in ("qa_1", "vt")
    ]  # fmt: skip
    path = tmp_path / "mirror.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    task, (example,) = load("qa_1", path, chat=True)
    assert task.prompt(example).text == "text Who? It is"
    assert task.prompt(example).chat
    assert example.answers == ("Ann",)


def test_what_is_missing_is_named(folder, tmp_path):
    with pytest.raises(UsageError, match="KVBENCH_RULER"):
        get_task("ruler/vt").examples(BinSpec(1, (1,)), TOKENIZER, 0)
    with pytest.raises(UsageError, match="niah_single_1"):
        load("cwe", folder)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"context": "c"}')
    with pytest.raises(UsageError, match="question"):
        load("vt", bad)
    with pytest.raises(UsageError, match="ruler/vt"):
        get_task("ruler/vtt")
