"""Installed but unused, the plugin is silent: no files, no output, no heavy imports."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

FOREIGN = """
    import sys, pytest

    @pytest.mark.parametrize("x", range(20))
    def test_foreign(x):
        heavy = {"torch", "pandas", "matplotlib", "pydantic", "httpx", "numpy"} & set(sys.modules)
        assert not heavy
"""


@pytest.mark.parametrize("n", ["0", "1"])
def test_foreign_project_sees_nothing(pytester: pytest.Pytester, n: str) -> None:
    project = pytester.mkdir("project")
    (project / "test_foreign.py").write_text(textwrap.dedent(FOREIGN), encoding="utf-8")
    others = ("no:cacheprovider", "no:benchmark", "no:zarr")
    args = ("-n", n, *(f"-p{other}" for other in others), "project")
    result = pytester.runpytest_subprocess(*args, timeout=120)
    result.assert_outcomes(passed=20)
    created = {path.name for path in project.iterdir()}
    assert created <= {"test_foreign.py", "__pycache__"}
    assert "kvbench" not in result.stdout.str().replace("plugins: ", "").replace("kvbench-0", "")


def test_foreign_tests_keep_xdist_load_scheduling(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FOREIGN)
    pytester.makeconftest(
        """
        import pytest

        @pytest.hookimpl(trylast=True)
        def pytest_sessionfinish(session):
            dsession = session.config.pluginmanager.get_plugin("dsession")
            if dsession:
                print("chose", type(dsession.sched._chosen).__name__)
        """
    )
    result = pytester.runpytest_subprocess(
        "-n", "2", "-s", "-p", "no:benchmark", "-p", "no:zarr", timeout=120
    )
    result.stdout.fnmatch_lines(["*chose LoadScheduling*"])


def test_plugin_import_is_light() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_kvbench.plugin;"
        "new = set(sys.modules) - before;"
        "print(sorted({m.split('.')[0] for m in new} - {'pytest_kvbench'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path.home(),
        timeout=120,
    )
    heavy = {"torch", "pandas", "matplotlib", "numpy", "pydantic", "httpx", "yaml", "sqlite3"}
    assert not heavy & set(eval(done.stdout))
