"""The engine of docs/engines.md, on the real model."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kvbench.server import weights
from tests.conftest import Project
from tests.model.conftest import MODEL
from tests.support import pages

pytestmark = pytest.mark.model


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model, unpacked before an inner pytest has a home of its own."""
    return weights.materialise(weights.resolve(MODEL))


def test_the_engine_of_the_page_is_measured(folder: Path, project: Project) -> None:
    code = pages.block("python", "class MyEngine")
    assert len(code.splitlines()) < 30
    (project.path / "myengine.py").write_text(code)
    declared = pages.block("yaml", "./myengine.py:MyEngine").replace(MODEL, str(folder))
    (project.path / "exp.yaml").write_text(
        "group: g\ntasks: [niah/single]\nbins: {n: 1, per_bin: 2, range: [256, 300]}\n"
        "sampling: {max_tokens: 12}\n" + declared.replace("[1.0, 0.5, 0.2]", "[1.0, 0.2]")
    )
    assert project.run("-n", "0").ret == 0
    cells = {cell["budget"]: cell for cell in project.summary()["cells"] if cell["bin"] == 0}
    assert [cells[budget]["proof"] for budget in (1.0, 0.2)] == ["proven", "proven"]
    assert cells[0.2]["achieved"] == pytest.approx(0.2, abs=0.01)
    assert cells[1.0]["control_mean"] == 1
