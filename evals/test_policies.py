"""Several policies side by side: where does each lose the needle?"""

import pytest


@pytest.mark.kvbench("policies.yaml")
def test_quality(cell, control):
    cell.compare(control).check()
