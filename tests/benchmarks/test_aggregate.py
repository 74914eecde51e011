"""200 groups of 2,000 answers as one data set: the first time, and again with nothing new.

pytest tests/benchmarks/test_aggregate.py -n 0
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pytest_kvbench.pipeline.judge import judge
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.store.store import DATABASE
from tests.support.groups import make_group

GROUPS = 200
SHAPE = {
    "per_bin": 100,
    "bins": 4,
    "kv": {"policies": ["snapkv", "tova"], "budgets": [1.0, 0.5, 0.2]},
}
MOST_S, MOST_AGAIN_S = 30.0, 2.0


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    first = make_group(folder, "g000", **SHAPE)
    analysis = judge(first.experiment, observed(first).rows)
    for i in range(1, GROUPS):
        make_group(folder, f"g{i:03d}", analysis=analysis, **SHAPE)
    broken = folder / "broken"
    broken.mkdir()
    content = (folder / "g000" / DATABASE).read_bytes()
    (broken / DATABASE).write_bytes(content[: len(content) // 2])
    return folder


def aggregate(folder) -> tuple[float, str, str]:
    """Wall time and output of the command, interpreter and imports included."""
    code = "from pytest_kvbench.cli import main; main()"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, "aggregate", "--dir", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=1200,
    )
    return time.perf_counter() - start, done.stdout, done.stderr


def test_two_hundred_groups(reports):
    first, said, skipped = aggregate(reports)
    again, said_again, skipped_again = aggregate(reports)
    print(f"\n{GROUPS} groups: {first:.1f} s, again {again:.2f} s\n{said}{skipped}")
    assert f"{GROUPS * 2000:,} answers; {GROUPS} groups read" in said
    assert f"0 groups read, {GROUPS + 1} unchanged" in said_again
    assert "broken" in skipped
    assert "broken" in skipped_again
    assert first < MOST_S
    assert again < MOST_AGAIN_S
