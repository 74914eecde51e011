"""How long `judge_pairs` takes, by rows, and what it needs: run with `make bench`."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pytest_kvbench.analyse.judge import judge_pairs
from tests.benchmarks.calibration import big_table

SECONDS, MEGABYTES = 20, 1536
ROOT = Path(__file__).parents[2]
MILLION = """
import numpy as np, resource
from pytest_kvbench.analyse.judge import judge_pairs
from tests.benchmarks.calibration import big_table
out = judge_pairs(big_table(np.random.default_rng(0), 20, 1_000), margin=0.10, alpha=0.05)
assert len(out["cells"]) == 1_200, len(out["cells"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.parametrize(("tasks", "examples"), [(1, 200), (2, 1_000)])
def test_judge_pairs(benchmark, tasks, examples):
    table = big_table(np.random.default_rng(0), tasks, examples)
    judged = benchmark.pedantic(
        judge_pairs, args=(table,), kwargs={"margin": 0.10, "alpha": 0.05}, rounds=3
    )
    assert len(judged["cells"]) == 60 * tasks


def test_a_million_rows(benchmark):
    """In a process of its own, so that the peak is its own; making the table is part of it."""
    done = benchmark.pedantic(
        subprocess.run,
        args=([sys.executable, "-c", MILLION],),
        kwargs={"capture_output": True, "text": True, "check": True, "cwd": ROOT},
        rounds=1,
    )
    assert int(done.stdout) < MEGABYTES
    # processor time, not the clock: what else runs on the machine is no property of the code
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime < SECONDS
