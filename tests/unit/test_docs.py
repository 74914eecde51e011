"""README and .env.example say what is there."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from pytest_kvbench.cli import main
from pytest_kvbench.engines.local.policies import POLICIES
from pytest_kvbench.plugin import options
from pytest_kvbench.settings import Experiment, Section
from pytest_kvbench.tasks import BUILT_IN

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "pytest_kvbench"


def test_every_option_is_documented() -> None:
    declared = re.findall(r'"(--kvbench-[a-z-]+)"', Path(options.__file__).read_text())
    assert len(declared) >= 9
    missing = [option for option in declared if f"`{option}" not in README]
    assert not missing


def keys(section: type[Section] = Experiment, prefix: str = "") -> list[str]:
    found = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += keys(kind, f"{name}.")
        else:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", [k for k in keys() if k != "description"])
def test_every_key_is_documented(key: str) -> None:
    assert f"`{key}`" in README or f"`{key.rpartition('.')[2]}`" in README


def test_every_task_and_policy_is_named() -> None:
    assert not [name for name in (*BUILT_IN, *POLICIES) if f"`{name}`" not in README]


def test_every_environment_variable_is_listed() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    used = set(re.findall(r"KVBENCH_[A-Z0-9_]+", code))
    assert used
    assert not [name for name in used if f"{name}=" not in example]


def test_commands_in_the_readme_exist() -> None:
    assert isinstance(main, click.Group)
    named = set(re.findall(r"(?:^    |`)kvbench ([a-z][a-z-]*) ", README, flags=re.M))
    assert {"all", "judge", "validate", "resolve"} <= named
    assert named - set(main.commands) == set()


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = {"evals", "test", "lint", "bench"}
    assert targets <= set(re.findall(r"^([a-z]+):", makefile, flags=re.M))


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in lines)
    assert "torch==2.13.0" in lines
