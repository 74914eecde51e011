"""A posterior of 100,800 answers in a process of its own: compiled for the first time, and again.

pytest tests/benchmarks/test_posterior.py -n 0
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.unit.posterior.planted import CLIFF, FLAT, SLOPE, key, planted

pytestmark = pytest.mark.model

GROUPS, PAIRS = 12, 350
TRUTHS = {"cliff": CLIFF, "slope": SLOPE, "flat": FLAT, "slope2": SLOPE}
MOST_S, MOST_FIRST_S, MOST_GB = 60.0, 90.0, 1.0


def make(folder: str) -> None:
    """The posterior of four policies in each of twelve groups, in `folder`."""
    from pytest_kvbench.ops.posteriors import Inputs, make_posterior
    from pytest_kvbench.posterior.draws import Sampling

    rng = np.random.default_rng(1)
    pairs = [
        planted(key(policy, f"g{n}", low=500 * 2 ** (n % 4)), broken, PAIRS, rng)
        for n in range(GROUPS)
        for policy, broken in TRUTHS.items()
    ]
    made = make_posterior(Inputs("m", (), pairs), Sampling(), 0.1, Path(folder))
    answers = sum(p.treated.size for p in pairs)
    print(json.dumps({"answers": answers, "said": len(made.analysis["statements"])}))
    print(json.dumps(made.analysis["diagnostics"]))


def timed(folder: Path, numba: Path) -> tuple[float, str]:
    """Wall time of the process, imports and plots included, and what it prints."""
    code = f"from {__name__} import make; make({str(folder)!r})"
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "NUMBA_CACHE_DIR": str(numba)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=1200,
    )
    return time.perf_counter() - start, done.stdout


def test_a_hundred_thousand_answers(tmp_path: Path) -> None:
    first, said = timed(tmp_path / "first", tmp_path / "numba")
    again, said_again = timed(tmp_path / "again", tmp_path / "numba")
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"\n{first:.1f} s, again {again:.1f} s, {gigabytes:.2f} GB\n{said}")
    assert json.loads(said.splitlines()[0]) == {"answers": 100_800, "said": 16}
    assert said == said_again
    assert first < MOST_FIRST_S
    assert again < MOST_S
    assert gigabytes < MOST_GB
