from __future__ import annotations

import json

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
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


MIRROR_CARD = """---
configs:
- config_name: "4096"
  data_files: [{split: test, path: 4096/test-*}]
- config_name: "8192"
  data_files: [{split: test, path: 8192/test-*}]
---
"""


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """The hub mirror's layout on disk: a table of all tasks for each length."""
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "mirror"
    for length in (4096, 8192):
        rows = [
            {"context": f"text {length} ", "question": "Who?", "answer_prefix": " It is",
             "answer": ["Ann"], "task": task, "max_new_tokens": 32}
            for task in ("qa_1", "vt")
        ]  # fmt: skip
        (place / str(length)).mkdir(parents=True)
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, place / str(length) / "test-00000-of-00001.parquet")
    (place / "README.md").write_text(MIRROR_CARD)
    return place


def test_without_a_path_the_mirror_is_read(mirror, monkeypatch):
    monkeypatch.setattr("pytest_kvbench.tasks.ruler.MIRROR", str(mirror))
    both = get_task("ruler/qa_1", options={"lengths": [4096, 8192]})
    examples = both.examples(BinSpec(1, (9,)), TOKENIZER, 0)
    assert {e.context for e in examples} == {"text 4096 ", "text 8192 "}
    one = get_task("ruler/qa_1")
    assert [e.context for e in one.examples(BinSpec(1, (9,)), TOKENIZER, 0)] == ["text 4096 "]
    assert one.data_version != both.data_version
    assert one.template_version == both.template_version


def test_downloaded_parquet_files_are_read(mirror):
    _, examples = load("qa_1", mirror)
    assert {(e.context, e.answers) for e in examples} == {
        ("text 4096 ", ("Ann",)), ("text 8192 ", ("Ann",)),
    }  # fmt: skip
    (mirror / "4096" / "test-00000-of-00001.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="is not a parquet file"):
        load("qa_1", mirror)


def test_what_is_missing_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_kvbench.tasks.ruler.MIRROR", str(tmp_path / "nowhere"))
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
