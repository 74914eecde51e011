from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_kvbench.records import Example
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest, write_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.rows import RowTask
from pytest_kvbench.tasks.tokenizers import Approximate

text = st.text(max_size=20).filter(lambda t: t.isprintable())
meta = st.dictionaries(
    text, st.none() | st.integers() | text | st.lists(text, max_size=2), max_size=3
)
examples = st.builds(Example, text, text, text, st.lists(text, max_size=3).map(tuple), meta)
bins = st.lists(st.builds(Bin, st.integers(0, 9), st.none(), st.integers(1, 99)), max_size=2)
entries = st.lists(
    st.builds(ManifestEntry, examples, st.integers(0, 9), st.integers(0)), max_size=3
)
manifests = st.builds(TaskManifest, text, text, text, text, bins.map(tuple), entries.map(tuple))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.lists(manifests, max_size=2), meta)
def test_round_trip(tmp_path, made, about):
    path = tmp_path / "manifest.json"
    write_manifest(path, made, about)
    stored = json.loads(path.read_bytes())
    assert [TaskManifest.from_json(task) for task in stored["tasks"]] == made
    assert stored["meta"] == about
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


SCRIPT = """
import sys, pathlib
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest, write_manifest
from pytest_kvbench.tasks.rows import RowTask
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
out, data = map(pathlib.Path, sys.argv[1:])
made = [
    build_task_manifest(get_task(name), BinSpec(2, (3,)), load_tokenizer("approximate"), 7)
    for name in ["niah/multikey", "counting/words", "tracking/variables", f"jsonl:{data.name}"]
]
write_manifest(out, made, {"seed": 7})
"""


def test_same_seed_and_data_give_the_same_bytes_in_another_process_and_row_order(tmp_path):
    rows = [{"question": f"q{i}?", "context": "word " * i, "answers": ["a"]} for i in range(20)]
    outputs = []
    for name, ordered, hash_seed in [("one", rows, "1"), ("two", rows[::-1], "2")]:
        folder = tmp_path / name
        folder.mkdir()
        data = folder / "data.jsonl"
        data.write_text("\n".join(map(json.dumps, ordered)))
        out = folder / "manifest.json"
        command = [sys.executable, "-c", SCRIPT, str(out), str(data)]
        subprocess.run(
            command, check=True, cwd=folder, env={"PYTHONHASHSEED": hash_seed}, timeout=120
        )
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]
    assert str(tmp_path).encode() not in outputs[0]


def test_manifest_of_a_data_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"q{i}?", "context": "word " * i * 10, "answers": "a"} for i in range(9)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    tokenizer = Approximate()
    task = get_task("jsonl:data.jsonl", options={"metric": "f1"})
    made = build_task_manifest(task, BinSpec(3, (2,)), tokenizer, 0)
    assert (made.task, made.metric, made.tokenizer) == ("jsonl:data.jsonl", "f1", tokenizer.name)
    assert [e.bin for e in made.entries] == [0, 0, 1, 1, 2, 2]
    for e in made.entries:
        assert e.tokens == tokenizer.count([task.prompt(e.example).text])[0]
        low, high = made.bins[e.bin].low, made.bins[e.bin].high
        assert (low or 0) <= e.tokens < (high or 10**9)


def test_fewer_examples_than_asked_and_empty_bins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"question": "q?", "answers": ["a"]}\n')
    task = get_task("jsonl:data.jsonl")
    made = build_task_manifest(task, BinSpec(3, (5,), edges=(100, 200)), Approximate(), 0)
    assert [len(made.of_bin(b.index)) for b in made.bins] == [1, 0, 0]
    task = RowTask(name="mine/none", rows=list)
    empty = build_task_manifest(task, BinSpec(2, (5,)), Approximate(), 0)
    assert (len(empty.bins), empty.entries) == (2, ())


def test_bins_that_equal_lengths_leave_empty_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"question {i}?", "answers": ["a"]} for i in range(10, 30)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = get_task("jsonl:data.jsonl")
    with pytest.warns(UserWarning, match="bins 0 to 1 are empty: 20 examples have only 1 diff"):
        made = build_task_manifest(task, BinSpec(3, (5,)), Approximate(), 0)
    assert [len(made.of_bin(b.index)) for b in made.bins] == [0, 0, 5]


def test_repeated_rows_are_left_out_with_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"question": "q?", "answers": ["a"]}\n' * 3)
    with pytest.warns(UserWarning, match="2 of 3 examples are repeats"):
        made = build_task_manifest(get_task("jsonl:data.jsonl"), BinSpec(1, (5,)), Approximate(), 0)
    assert len(made.entries) == 1
