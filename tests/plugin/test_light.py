"""What a session need not do it does not load: neither to collect, nor with nothing left to ask."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Project

JUDGES = {"numpy", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2"}
ASKS = {"aiohttp", "tenacity", "tokenizers", "transformers", "torch", "datasets", "parsl"}
PYTEST = ("pytest", "-q", "-n", "0", *(f"-pno:{name}" for name in ("benchmark", "zarr")))
COMMANDS = {
    *("cli", "__main__", "stages", "given", "options", "reasons", "root", "lost", "steps", "lines")
}
"""Modules of the command line that `kvbench run` needs: none of another command."""
LOADED = """
import atexit, runpy, sys
def shown():
    ours = (name for name in sys.modules if name.startswith("pytest_kvbench.cli"))
    print("loaded:", *{name.split(".")[0] for name in sys.modules}, *ours)
atexit.register(shown)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def loaded(project: Project, *command: str) -> tuple[str, set[str]]:
    """What a command printed, and the packages that its process had at its end."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *command],
        capture_output=True,
        text=True,
        check=True,
        cwd=project.path,
        timeout=120,
    )
    output, _, names = done.stdout.rpartition("loaded: ")
    return output + done.stderr, set(names.split())


def test_collection_neither_judges_nor_asks(project: Project) -> None:
    """Not even where it is looked up whether so many examples can be certified."""
    text = (project.path / "exp.yaml").read_text(encoding="utf-8")
    certified = text.replace("per_bin: 10", "per_bin: 40") + "gate: {mode: certify}\n"
    (project.path / "exp.yaml").write_text(certified, encoding="utf-8")
    output, names = loaded(project, *PYTEST, "--collect-only")
    assert "test_quality" in output
    assert names & (JUDGES | ASKS | {"httpx", "rich"}) == set()


@pytest.mark.parametrize("command", [PYTEST, ("pytest_kvbench.cli", "run", "exp.yaml")])
def test_with_nothing_left_to_do_it_neither_judges_nor_asks(
    project: Project, command: tuple[str, ...]
) -> None:
    """Ten examples in each bin can never hold, which is said every time."""
    assert project.run("-n", "0").ret == 0
    output, names = loaded(project, *command)
    assert "0 answered" in output or "6 passed" in output
    assert "can never hold" in output
    assert names & (JUDGES | ASKS) == set()


def test_a_command_loads_no_other_command_and_no_other_program(project: Project) -> None:
    """httpx it needs; what that brings for a program of its own it does not."""
    assert project.run("-n", "0").ret == 0
    _, names = loaded(project, "pytest_kvbench.cli", "run", "exp.yaml")
    ours = {name.rpartition(".")[2] for name in names if name.startswith("pytest_kvbench.cli")}
    assert ours <= COMMANDS
    assert "httpx" in names
    assert names & {"rich", "pygments", "psutil"} == set()
