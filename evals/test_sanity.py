"""The gate of a deployment: does the harness measure what it says? Nothing on the policy."""

import pytest


@pytest.mark.kvbench("sanity.yaml")
def test_harness(cell, control):
    cell.compare(control).check_harness()
