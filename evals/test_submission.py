"""One task, five lengths, three budgets."""

import pytest


@pytest.mark.kvbench("submission.yaml")
def test_quality(cell, control):
    cell.compare(control).check()
