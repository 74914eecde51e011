from __future__ import annotations

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.show import QUESTION, show_task
from pytest_kvbench.tasks.tokenizers import Approximate

SPEC = BinSpec(2, (2,), range=(300, 700))


def test_shows_the_prompt_as_sent_and_its_counts():
    task, tokenizer = get_task("niah/single"), Approximate()
    entry = build_task_manifest(task, SPEC, tokenizer, 5).entries[3]
    text = "\n".join(show_task(task, SPEC, tokenizer, 5, index=3))
    prompt = task.prompt(entry.example)
    assert f"{prompt.head}\n{QUESTION}\n{prompt.tail}" in text
    head, tail = tokenizer.count([prompt.head, prompt.tail])
    assert f"tokens: {entry.tokens} (context part {head}, question part {tail})" in text
    assert entry.example.example_id in text
    assert entry.example.answers[0] in text
    assert "500-700 tokens: 2" in text


def test_there_is_no_such_example():
    with pytest.raises(UsageError, match="valid: 0 to 3"):
        list(show_task(get_task("niah/single"), SPEC, Approximate(), 5, index=4))
