from __future__ import annotations

import json
import os
import warnings
import zipfile
from pathlib import Path

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.longbench import FACTS, IN_E
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizers import Approximate
from tests.support.names import task_names
from tests.support.shortened import shortened

REAL = Path(
    os.environ.get("KVBENCH_LONGBENCH")
    or Path(__file__).parents[3] / "shared" / "data" / "longbench"
)
TOKENIZER = Approximate()
ONE = BinSpec(1, (5,))
PROMPTS = {
    "qasper": "Article: {context}\n\nQ: {input}\nA:",
    "samsum": "Shots.\n{context}\n\n{input}",
}


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KVBENCH_LONGBENCH", raising=False)


def rows(count=4):
    return [
        {"input": f"q{i}?", "context": "Wort {input} " * (i + 1) * 20, "answers": [f"a{i}", "b"],
         "length": 1000 * i, "dataset": "x", "language": "en", "all_classes": None, "_id": str(i)}
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """What a LongBench download looks like, with official config files of our own making."""
    folder = tmp_path / "longbench"
    (folder / "config").mkdir(parents=True)
    for name in ("qasper", "qasper_e", "samsum"):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows())))
    (folder / "config" / "dataset2prompt.json").write_text(json.dumps(PROMPTS))
    (folder / "config" / "dataset2maxlen.json").write_text('{"qasper": 77, "samsum": 5}')
    return folder


def load(name, folder, **options):
    task = get_task(f"longbench/{name}", options={"path": str(folder), **options})
    return task, task.examples(ONE, TOKENIZER, 0)


def test_official_prompts_and_lengths_are_read_beside_the_data(folder):
    task, examples = load("qasper", folder)
    for example, row in zip(examples, rows(), strict=True):
        prompt = task.prompt(example)
        assert prompt.text == PROMPTS["qasper"].format(**row)
        assert prompt.head.endswith(row["context"])
        assert (prompt.max_tokens, prompt.chat, prompt.stop) == (77, True, ())
        assert (example.answers, example.meta["length"]) == (tuple(row["answers"]), row["length"])
    assert task.template_version.startswith("official-")


def test_the_e_half_shares_prompt_and_metric(folder):
    task, examples = load("qasper_e", folder)
    assert task.prompt(examples[0]).text.startswith("Article: ")
    assert task.metric == "f1"
    by_length = BinSpec(2, (2,), edges=(2000,), by="length")
    manifest = build_task_manifest(task, by_length, TOKENIZER, 0)
    assert [(e.bin, e.example.meta["length"] // 2000) for e in manifest.entries] == [
        (0, 0), (0, 0), (1, 1), (1, 1)
    ]  # fmt: skip


def test_samsum_goes_without_chat_template_and_stops_at_the_line(folder):
    task, examples = load("samsum", folder)
    prompt = task.prompt(examples[0])
    assert (prompt.chat, prompt.stop, task.metric) == (False, ("\n",), "rouge_l_first_line")


def test_which_tasks_have_what():
    no_chat = {name for name, facts in FACTS.items() if not facts.chat}
    assert no_chat == {"trec", "triviaqa", "samsum", "lsht", "lcc", "repobench-p"}
    first_line = {name for name, facts in FACTS.items() if facts.metric.endswith("_first_line")}
    assert first_line == {"trec", "triviaqa", "samsum", "lsht"}
    assert (len(FACTS), len(IN_E)) == (21, 13)
    assert set(IN_E) <= set(FACTS)


def test_prompts_are_cut_in_the_middle_before_any_chat_template(folder):
    whole, (_, _, _, plain) = load("qasper", folder)
    task, (_, _, _, example) = load("qasper", folder, max_length=40)
    text = whole.prompt(plain).text
    assert task.prompt(example).text == shortened(TOKENIZER, text, 40)
    assert task.prompt(example).text.endswith("Q: q3?\nA:")
    assert example.cluster == plain.cluster
    assert example.example_id == plain.example_id
    assert task.template_version != whole.template_version


def test_without_config_files_our_own_wording_is_used_visibly(folder):
    for file in (folder / "config").iterdir():
        file.unlink()
    task, examples = load("qasper", folder)
    with pytest.warns(UserWarning, match="own wording"):
        assert task.template_version.startswith("own-")
    prompt = task.prompt(examples[0])
    assert prompt.head.endswith(rows()[0]["context"])
    assert "q0?" in prompt.tail
    assert prompt.max_tokens == 128


@pytest.mark.parametrize("name", FACTS)
def test_our_own_wording_holds_everything(name):
    template = FACTS[name].template
    head, context, tail = template.partition("{context}")
    assert context
    asks = name not in {"gov_report", "multi_news", "vcsum", "passage_count"}
    assert ("{input}" in tail) == asks
    assert "{" not in head


@pytest.mark.parametrize("inner", ["data/", ""])
def test_a_zip_and_a_folder_with_one_are_read_alike(folder, tmp_path, inner):
    expected = load("qasper", folder)[1]
    packed = tmp_path / "packed"
    packed.mkdir()
    with zipfile.ZipFile(packed / "data.zip", "w") as archive:
        archive.write(folder / "qasper.jsonl", f"{inner}qasper.jsonl")
    (folder / "config").rename(packed / "config")
    for path in (packed / "data.zip", packed):
        task, examples = load("qasper", path)
        assert examples == expected
        assert task.template_version.startswith("official-")


def test_names_come_from_the_data_and_are_case_sensitive(folder, monkeypatch):
    with pytest.raises(UsageError) as caught:
        load("Qasper", folder)
    assert "Did you mean longbench/qasper" in str(caught.value)
    assert str(caught.value).splitlines()[1] == (
        "valid: longbench/qasper, longbench/qasper_e, longbench/samsum"
    )
    monkeypatch.setenv("KVBENCH_LONGBENCH", str(folder))
    listed = [name for name in task_names() if name.startswith("longbench/")]
    assert listed == ["longbench/qasper", "longbench/qasper_e", "longbench/samsum"]


def test_a_data_set_that_longbench_does_not_have_needs_a_metric(folder):
    (folder / "mine.jsonl").write_text(json.dumps(rows(1)[0]))
    with pytest.raises(UsageError, match="metric"):
        load("mine", folder)[0].metric  # noqa: B018  # asking is what raises
    task, (example,) = load("mine", folder, metric="f1", template="{context} | {input}")
    assert task.metric == "f1"
    assert task.prompt(example).tail == " | q0?"


def test_missing_data_say_what_to_do(tmp_path):
    with pytest.raises(UsageError, match="neither a folder nor a zip"):
        load("qasper", tmp_path / "nowhere")
    (tmp_path / "lcc.jsonl").touch()
    with pytest.raises(UsageError, match="valid: longbench/lcc"):
        load("qasper", tmp_path)
    task = get_task("longbench/qasper")
    with pytest.raises(UsageError, match="KVBENCH_LONGBENCH") as caught:
        task.examples(ONE, TOKENIZER, 0)
    assert len(str(caught.value).splitlines()) == 2


def test_rows_without_fields_are_refused(folder):
    (folder / "samsum.jsonl").write_text('{"input": "x"}')
    with pytest.raises(UsageError, match="context"):
        load("samsum", folder)


needs_real_data = pytest.mark.skipif(
    not (REAL / "multi_news.jsonl").is_file(),
    reason=f"NO LONGBENCH DATA at {REAL}: set KVBENCH_LONGBENCH to run the tests on real data",
)


@needs_real_data
def test_the_real_multi_news():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task, examples = load("multi_news", REAL, max_length=3500)
        assert task.template_version.startswith("official-")
    assert len(examples) == 200
    assert all("length" in example.meta for example in examples)
    template = json.loads((REAL / "config" / "dataset2prompt.json").read_text())["multi_news"]
    by_id = {e.meta["_id"]: e for e in examples}
    with (REAL / "multi_news.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            prompt = task.prompt(by_id[row["_id"]])
            full = template.format(**row)
            assert prompt.text == shortened(TOKENIZER, full, 3500)
            assert prompt.tail == "\n\nNow, write a one-page summary of all the news.\n\nSummary:"
            assert prompt.max_tokens == 512
    assert sum("cut" in e.meta for e in examples) > 10
    manifest = build_task_manifest(task, BinSpec(3, (2,)), TOKENIZER, 0)
    assert [e.bin for e in manifest.entries] == [0, 0, 1, 1, 2, 2]
    assert max(e.tokens for e in manifest.entries) <= 3500


@needs_real_data
def test_the_official_templates_fill_as_upstream_fills_them():
    """All 21 templates: head and tail together are `template.format(**row)`."""
    templates = json.loads((REAL / "config" / "dataset2prompt.json").read_text())
    assert set(templates) == set(FACTS)
    for name, template in templates.items():
        before, _, after = template.partition("{context}")
        row = {"context": "C{input}{x}", "input": "I{context}"}
        assert before + row["context"] + after.replace("{input}", row["input"]) == (
            template.format(**row)
        ), name
