"""A one-off without Python: pytest evals/test_experiment.py --kvbench-experiment FILE."""

import pytest


@pytest.mark.kvbench
def test_quality(cell, control):
    cell.compare(control).check()
