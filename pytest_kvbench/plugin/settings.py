"""What a project's configuration file says in place of options that are typed each time.

    [tool.pytest.ini_options]
    kvbench_report = "reports"
    kvbench_set = ["gate.mode=gate"]

An option of the command line wins; `kvbench_set` comes before what the command line sets.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kvbench.hints import SPANS, seconds_of

_TEXTS = ("engine", "model", "base_url", "executor", "save", "compare", "deadline", "report")
_PATHS = ("dir", "experiment")
_TRUE = {"true", "yes", "1"}


def add_settings(parser: pytest.Parser) -> None:
    """Declare `kvbench_*` of the configuration file."""
    for name in (*_TEXTS, *_PATHS):
        option = f"--kvbench-{name.replace('_', '-')}"
        parser.addini(f"kvbench_{name}", f"As {option}, where it is not given.", default="")
    parser.addini("kvbench_set", "As --kvbench-set, a key a line.", type="linelist")


def take_settings(config: pytest.Config) -> None:
    """Fill in the options that the command line left out.

    Raises:
        pytest.UsageError: a value is not valid.
    """
    option, root = config.option, config.rootpath
    option.kvbench_dir = option.kvbench_dir or os.environ.get("KVBENCH_DIR")
    option.kvbench_set = [*config.getini("kvbench_set"), *option.kvbench_set]
    for name in (*_TEXTS, *_PATHS):
        value = str(config.getini(f"kvbench_{name}"))
        if value and getattr(option, f"kvbench_{name}") is None:
            read = _READERS.get(name, _as_it_is)
            setattr(option, f"kvbench_{name}", read(value, root))
    option.kvbench_dir = option.kvbench_dir or "reports"


def _as_it_is(value: str, _root: Path) -> str:
    return value


def _below(value: str, root: Path) -> str:
    return str(root / Path(value).expanduser())


def _baseline(value: str, root: Path) -> str:
    return _below(value, root) if "/" in value else value


def _report(value: str, root: Path) -> str:
    """`true`: into the group's own folder."""
    return "" if value.lower() in _TRUE else _below(value, root)


def _span(value: str, _root: Path) -> float:
    found = seconds_of(value)
    if found is None:
        raise pytest.UsageError(f"kvbench_deadline: {value!r} is no span; valid: {SPANS}")
    return found


_READERS: dict[str, Callable[[str, Path], object]] = {
    "experiment": _below,
    "dir": _below,
    "save": _baseline,
    "compare": _baseline,
    "report": _report,
    "deadline": _span,
}
