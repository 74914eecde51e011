"""The tree of errors, and the exit status that each class ends a process with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_kvbench
import pytest_kvbench.wire.network  # defines an error of its own
from pytest_kvbench import errors
from pytest_kvbench.cli.root import Root
from pytest_kvbench.errors import KvbenchError

PACKAGE = Path(pytest_kvbench.__file__).parent
STATUSES = {
    "UsageError": 4,
    "GuardError": 4,
    "ControlError": 1,
    "CutError": 10,
    "InfrastructureError": 10,
    "KvbenchError": 10,
}


def tree(top: type[KvbenchError] = KvbenchError) -> Iterator[type[KvbenchError]]:
    yield top
    for below in top.__subclasses__():
        yield from tree(below)


def test_every_error_has_the_status_of_its_branch() -> None:
    for error in tree():
        branch = next(c.__name__ for c in error.__mro__ if c.__name__ in STATUSES)
        assert error.exit_status == STATUSES[branch], error


def test_the_docstring_draws_the_tree_with_its_statuses() -> None:
    drawn = re.findall(r"^[ │├└─]*(\w+Error)\b +(?:(\d+)  )?", errors.__doc__ or "", flags=re.M)
    own = [error for error in tree() if error.__module__ == errors.__name__]
    assert {name for name, _ in drawn} == {error.__name__ for error in own}
    for name, status in drawn:
        assert not status or getattr(errors, name).exit_status == int(status)
    assert {name for name, status in drawn if status} == {*STATUSES} - {"KvbenchError"}


def test_an_interrupted_command_has_found_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    group = Root("kvbench")

    @group.command()
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        group.main(["stop"])
    assert ended.value.code == errors.EXIT_INTERRUPTED
    assert capsys.readouterr().err == (f"kvbench: {errors.INTERRUPTED}\n")


@pytest.mark.parametrize("error", list(tree()))
def test_a_command_ends_with_it(
    error: type[KvbenchError], capsys: pytest.CaptureFixture[str]
) -> None:
    group = Root("kvbench")

    @group.command()
    def fail() -> None:
        raise error("what is wrong", "what is valid")

    with pytest.raises(SystemExit) as ended:
        group.main(["fail"], standalone_mode=False)
    assert ended.value.code == error.exit_status
    assert capsys.readouterr().err == "kvbench: what is wrong\nwhat is valid\n"


def test_no_other_module_keeps_a_status_of_its_own() -> None:
    spread = [
        f"{file.relative_to(PACKAGE)}: {line}"
        for file in PACKAGE.rglob("*.py")
        if file.name != "errors.py"
        for line in re.findall(
            r"^_?EXIT_\w+ =.*|sys\.exit\((?:[2-9]|\d\d)\)|return (?:4|10)$",
            file.read_text(encoding="utf-8"),
            flags=re.M,
        )
    ]
    assert spread == []
