"""Tasks that users bring: rows, a conftest's `extra`, an installed package's entry point."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from pytest_kvbench.errors import UsageError
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import check_task_name, get_task
from pytest_kvbench.tasks.rows import RowTask
from pytest_kvbench.tasks.tokenizers import Approximate

ROWS = [{"question": f"Capital {i}?", "context": "Rome. " * i, "answers": "Rome"} for i in range(6)]


def capitals(options):
    return RowTask(name="mine/capitals", rows=lambda: ROWS, **options)


EXTRA = {"mine/capitals": capitals, "niah/single": capitals}


def test_a_conftests_tasks_are_found_and_win():
    check_task_name("mine/capitals", extra=EXTRA)
    task = get_task("mine/capitals", options={"metric": "f1", "max_tokens": 3}, extra=EXTRA)
    manifest = build_task_manifest(task, BinSpec(2, (2,)), Approximate(), 0)
    assert (manifest.task, manifest.metric, len(manifest.entries)) == ("mine/capitals", "f1", 4)
    assert task.prompt(manifest.entries[-1].example).max_tokens == 3
    assert get_task("niah/single", extra=EXTRA).name == "mine/capitals"


def test_without_it_the_name_is_unknown_and_with_it_it_is_offered():
    with pytest.raises(UsageError, match="unknown task"):
        check_task_name("mine/capitals")
    with pytest.raises(UsageError, match="Did you mean mine/capitals"):
        check_task_name("mine/capitls", extra=EXTRA)


PACKAGE = """
from pytest_kvbench.tasks.rows import RowTask

def capitals(options):
    rows = [{"question": "Capital of Italy?", "context": "Rome is.", "answers": ["Rome"]}]
    return RowTask(name="mine/capitals", metric="any_of", rows=lambda: rows, **options)
"""
USE = """
from pytest_kvbench.tasks.registry import check_task_name, get_task
check_task_name("mine/capitals")
task = get_task("mine/capitals", options={"max_tokens": 9})
example, = task.examples(None, None, 0)
print(task.prompt(example).text)
"""


def test_an_installed_packages_tasks_are_found(tmp_path):
    (tmp_path / "mine.py").write_text(PACKAGE)
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        textwrap.dedent("""\
        [pytest_kvbench.tasks]
        mine/capitals = mine:capitals
        """)
    )
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{USE}"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "Rome is.\n\nQuestion: Capital of Italy?\nAnswer:\n"


@pytest.mark.parametrize("template", ["no fields", "{question} {context}", "{context}"])
def test_templates_without_their_fields_are_refused(template):
    with pytest.raises(UsageError, match="template"):
        RowTask(name="x/y", rows=list, template=template)


def test_braces_in_data_are_data():
    rows = [{"question": "{context}?", "context": "{question} {0}", "answers": "x"}]
    task = RowTask(name="x/y", rows=lambda: rows)
    (example,) = task.examples(BinSpec(1, (1,)), Approximate(), 0)
    assert task.prompt(example).text == "{question} {0}\n\nQuestion: {context}?\nAnswer:"
