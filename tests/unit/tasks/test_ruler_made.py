"""RULER's tasks made here, also against rows of RULER's own generator."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.score.metric import METRICS
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.ruler import TOKENS
from pytest_kvbench.tasks.ruler_contexts import DEPTHS
from pytest_kvbench.tasks.tokenizers import Approximate
from tests.support.pages import ROOT

OWN_FILE = ROOT.parent / "shared" / "data" / "ruler" / "niah_multikey_3_4096.jsonl"
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
TEXTS = [f"Fact {n} is {'of a certain length, ' * 8}and ends." for n in range(60)]
SQUAD = {"data": [{"paragraphs": [
    {"context": text, "qas": [
        {"question": f"Which fact is {n}?", "answers": [{"text": f"Fact {n}"}] * 2},
        {"question": "None?", "answers": [], "is_impossible": True},
    ]} for n, text in enumerate(TEXTS)
]}]}  # fmt: skip
HOTPOT = [{"question": f"Q{n}?", "answer": "yes",
           "context": [[f"T{n}", ["One. ", text]], [f"U{n}", ["Two."]]]}
          for n, text in enumerate(TEXTS)]  # fmt: skip


@pytest.fixture
def questions(tmp_path):
    for name, rows in {"qa_1": SQUAD, "qa_2": HOTPOT}.items():
        (tmp_path / name).write_text(json.dumps(rows))
    return tmp_path


def made(task, spec=None, seed=0, **options):
    task = get_task(f"ruler_made/{task}", options=options)
    spec = spec or BinSpec(2, (3,), range=(1100, 2300))
    return task, build_task_manifest(task, spec, Approximate(), seed)


@pytest.mark.parametrize("name", TOKENS)
def test_any_task_at_any_length(name, questions):
    path = {"path": str(questions / name)} if name.startswith("qa") else {}
    task, manifest = made(name, **path)
    assert len(manifest.entries) == 6
    assert len({e.example.context for e in manifest.entries}) == 6
    for e in manifest.entries:
        prompt, answers = task.prompt(e.example), e.example.answers
        assert prompt.head.endswith(e.example.context)
        assert (prompt.max_tokens, prompt.chat) == (TOKENS[name], False)
        assert not re.search(r"\{\w+\}", prompt.text)
        assert METRICS[task.metric].score(", ".join(answers), answers, {}) == 1
        if answers != ("yes",):
            assert all(answer in e.example.context for answer in answers)
    again = made(name, **path)[1]
    assert [e.example for e in again.entries] == [e.example for e in manifest.entries]
    other = made(name, seed=1, **path)[1]
    assert {e.example.context for e in other.entries}.isdisjoint(
        e.example.context for e in manifest.entries
    )


@pytest.mark.parametrize(
    ("name", "answers", "value"),
    [
        ("niah_single_1", 1, r"\d{7}"),
        ("niah_single_3", 1, UUID),
        ("niah_multikey_1", 1, r"\d{7}"),
        ("niah_multivalue", 4, r"\d{7}"),
        ("niah_multiquery", 4, r"\d{7}"),
    ],
)
def test_needles_are_of_rulers_kinds(name, answers, value):
    _, manifest = made(name)
    hidden = {"niah_single_1": 1, "niah_single_3": 1}.get(name, 4)
    for e in manifest.entries:
        assert len(e.example.answers) == answers
        assert all(re.fullmatch(value, answer) for answer in e.example.answers)
        assert len(re.findall(rf"reads: {value}\.", e.example.context)) == hidden
        assert set(e.example.meta["depths"]) <= set(DEPTHS)


def test_counts_of_words_are_rulers():
    task, manifest = made("cwe", BinSpec(1, (1,), range=(3900, 4096)))
    (entry,) = manifest.entries
    counts = Counter(re.findall(r"\d+\. (\w+)", entry.example.context))
    assert {counts[word] for word in entry.example.answers} == {30}
    assert {n for word, n in counts.items() if word not in entry.example.answers} == {3}
    assert task.prompt(entry.example).head.count("numbered list") == 2, "a worked example first"
    task, manifest = made("cwe", BinSpec(1, (1,), range=(3900, 4096)), shot=False)
    assert task.prompt(manifest.entries[0].example).head.count("numbered list") == 1
    _, manifest = made("fwe", BinSpec(1, (1,), range=(3900, 4096)))
    (entry,) = manifest.entries
    ranked = [word for word, _ in Counter(entry.example.context.split()).most_common(4)]
    assert ranked == ["...", *entry.example.answers]


@pytest.mark.skipif(not OWN_FILE.is_file(), reason="needs rows of RULER's own generator")
def test_against_rows_of_rulers_own_generator(tmp_path):
    """Its wording, taken from the rows: as many needles, as long, of one kind, at any depth."""
    rows = [json.loads(line) for line in OWN_FILE.read_text(encoding="utf-8").splitlines()]
    write_templates(tmp_path, rows[0]["input"])
    tokens = Approximate().count([row["input"] for row in rows])
    line = re.compile(rf"^One of .* for {UUID} is: {UUID}\.$", re.MULTILINE)
    spec = BinSpec(1, (40,), range=(min(tokens) - 30, max(tokens) + 31))
    task, manifest = made("niah_multikey_3", spec, templates=str(tmp_path))
    assert task.template_version.startswith("official-")
    prompts = [task.prompt(e.example).text for e in manifest.entries]
    assert {len(line.findall(row["input"])) for row in rows} == {51}
    assert {len(line.findall(prompt)) for prompt in prompts} == {51}
    mean = sum(map(len, prompts)) / len(prompts)
    assert mean == pytest.approx(sum(len(row["input"]) for row in rows) / len(rows), rel=0.01)
    for row in rows:  # the same text but for what is drawn
        assert re.sub(UUID, "", row["input"]) == re.sub(UUID, "", prompts[0])
    depths = sorted(e.example.meta["depth"] for e in manifest.entries)
    assert depths == pytest.approx(DEPTHS, abs=0.03), "even from the first line to the last"


def write_templates(folder, text):
    """RULER's constants as its files have them, from a prompt of its generator."""
    first, _, rest = text.partition("\n")
    line = rest.partition("\n")[0]
    question = text.rpartition("\n")[2]
    key = re.search(UUID, question)[0]
    question = question.replace(key, "{query}").replace("uuid", "{type_needle_v}")
    template = f"{first.replace('uuid', '{type_needle_v}')}\n{{context}}\n{question}"
    sentence = re.sub(UUID, "{key}", line, count=1)
    sentence = re.sub(UUID, "{value}", sentence).replace("uuids", "{type_needle_v}")
    tasks = {"niah": {"template": template, "answer_prefix": "", "tokens_to_generate": 128}}
    (folder / "constants.py").write_text(f"TASKS = {tasks!r}\n")
    (folder / "niah.py").write_text(f"import os\nneedle = {sentence!r}\n")


def test_questions_need_a_file(tmp_path):
    with pytest.raises(UsageError, match="no file with questions"):
        made("qa_1")
    (tmp_path / "odd.json").write_text('{"data": [{}]}')
    with pytest.raises(UsageError, match=r"odd\.json: KeyError: 'paragraphs'"):
        made("qa_1", path=str(tmp_path / "odd.json"))
    with pytest.raises(UsageError, match="cannot read"):
        made("qa_2", path=str(tmp_path / "none.json"))
