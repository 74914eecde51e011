"""The benchmark for GPUs runs from its first line to its last, here on a tiny shape."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.model

ROOT = Path(__file__).parents[2]
LINES = (
    "copying",
    "prefill, 64",
    "a step of 8 rows, 128, masked, run anew",
    "a sweep of 8, 128, 4 new",
    "8 of 8 equal",
    "answers a minute, 64, 4 new, 4 in flight",
    "answers a minute, 64, 8 new, 4 in flight",
)


def test_each_line_is_printed_as_it_comes_and_again_in_a_table() -> None:
    command = [sys.executable, "-m", "pytest", "tests/benchmarks/test_gpu.py", "-n", "0", "-s"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},  # with a GPU it would measure that
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    as_they_come, _, table = done.stdout.partition("| --- |")
    for line in LINES:
        assert line in as_they_come
        assert line in table
