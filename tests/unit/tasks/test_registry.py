from __future__ import annotations

import subprocess
import sys

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.registry import check_task_name, get_task
from tests.support.names import task_names


@pytest.fixture(autouse=True)
def no_local_data(monkeypatch):
    monkeypatch.delenv("KVBENCH_LONGBENCH", raising=False)


def test_families_are_listed():
    names = task_names()
    assert {"longbench/multi_news", "longbench2/all", "ruler/niah_single_1"} <= set(names)
    assert sum(name.startswith("ruler/") for name in names) == 13


def test_every_name_makes_a_task_of_that_name():
    for name in task_names():
        check_task_name(name)
        assert get_task(name).name == name


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("niah/singel", "niah/single"),
        ("NIAH/single", "niah/single"),
        ("counting", "counting/words"),
        ("ruler/niah_single1", "ruler/niah_single_1"),
        ("longbench2/al", "longbench2/all"),
        ("longbench/QASPER", "longbench/qasper"),
    ],
)
def test_a_wrong_name_gets_the_nearest_and_all(wrong, near):
    for refuse in (check_task_name, get_task):
        with pytest.raises(UsageError) as caught:
            refuse(wrong)
        first, second = str(caught.value).splitlines()
        assert repr(wrong) in first
        assert near in first
        assert near in second


@pytest.mark.parametrize("wrong", ["", "jsonl:", "xyzzy"])
def test_names_near_nothing(wrong):
    with pytest.raises(UsageError, match="unknown task"):
        check_task_name(wrong)


def test_checking_a_name_imports_nothing_heavy_and_reads_no_data():
    code = (
        "import sys; from pytest_kvbench.tasks.registry import check_task_name;"
        "check_task_name('niah/single'); check_task_name('jsonl:not/there.jsonl');"
        "heavy = {'torch', 'pandas', 'tokenizers', 'numpy', 'pydoc_data.topics', 'jieba', 'rouge'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
