"""README and .env.example say what is there."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pytest_kvbench.cli import main
from pytest_kvbench.engines.local.policies import POLICIES
from pytest_kvbench.plugin import options
from pytest_kvbench.settings import Experiment, Section
from pytest_kvbench.tasks import BUILT_IN
from tests.support import readme
from tests.support.readme import README, ROOT

PACKAGE = ROOT / "pytest_kvbench"
FOREIGN = {
    *("--cache-clear", "--cache-show", "--junitxml"),  # pytest
    *("--batches", "--kv-cache-dtype", "--model", "--port", "--slot-save-path"),  # servers
    *("--no-deps", "--seed", "--strict"),  # pip, calibration.py, mypy
}
"""Options in README that are not ours."""


def test_every_option_is_documented_and_there() -> None:
    declared = set(re.findall(r'"(--kvbench-[a-z-]+)"', Path(options.__file__).read_text()))
    assert len(declared) >= 9
    assert declared == set(re.findall(r"--kvbench-[a-z-]+", README))


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


def ours(group: click.Group) -> Iterator[click.Command]:
    """All commands of `kvbench`, those of a group inside it too."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from ours(command)
        else:
            yield command


def test_every_command_is_documented_and_there() -> None:
    assert isinstance(main, click.Group)
    named = {command.split()[1] for command in readme.commands() if command.startswith("kvbench ")}
    assert named == set(main.commands)
    controls = main.commands["controls"]
    assert isinstance(controls, click.Group)
    assert {f"kvbench controls {name}" for name in controls.commands} <= set(readme.commands())


def test_options_in_the_readme_exist() -> None:
    assert isinstance(main, click.Group)
    known = {flag for command in ours(main) for option in command.params for flag in option.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert {name for name in named if not name.startswith("--kvbench-")} <= known | FOREIGN
    assert named >= FOREIGN


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    made = [command.split()[1:] for command in readme.commands() if command.startswith("make ")]
    named = {target for words in made for target in words}
    assert {"install", "evals", "test", "lint"} <= named
    assert named <= targets


def test_links_files_and_modules_in_the_readme_exist() -> None:
    links = readme.links()
    assert links
    assert {link[1:] for link in links if link.startswith("#")} <= readme.anchors()
    relative = {link.partition("#")[0] for link in links if not re.match(r"#|https?:", link)}
    files = re.findall(r"(?<![\w./])(?:evals|tests|pytest_kvbench)/[\w./-]*\w", README)
    files += re.findall(r"(?<![\w./<])[\w.-]+\.(?:example|toml|txt)\b|Makefile", README)
    assert {"evals/experiments/longbench.yaml", "constraints.txt"} <= set(files)
    assert not [file for file in {*files, *relative} if not (ROOT / file).exists()]
    modules = re.findall(r"-m (pytest_kvbench[\w.]*)", README)
    assert modules
    assert all(importlib.util.find_spec(module) for module in modules)


def test_messages_and_flags_in_the_readme_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    quoted = [re.findall(r"`([^`]+)`", row[0]) for row in readme.table("what you see")]
    letters = {"E", "F"}
    messages = {message for found in quoted for message in found} - letters - {"rejudge"}
    assert len(messages) >= 10
    assert not [message for message in messages if message not in code]


def test_constraints_are_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in lines)
    assert "torch==2.13.0" in lines
