"""Imports a class of a user's, `./FILE.py:Class` or `MODULE:Class`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import kvpress

from pytest_kvbench.errors import UsageError
from pytest_kvbench.policies import own
from pytest_kvbench.policies.own import parts

if TYPE_CHECKING:  # who only reads classes needs no model
    from pytest_kvbench.server.model import LocalModel


def with_classes(model: LocalModel, options: Sequence[str]) -> LocalModel:
    """A model to which these classes of users are known: `CLASS`, or `NAME=CLASS`.

    Raises:
        UsageError: one cannot be imported, or is no press.
    """
    named = dict(_named(option) for option in options)
    own.bring({name: spec for name, spec in named.items() if name != spec})
    return replace(
        model,
        classes={name: load_class(spec) for name, spec in named.items()},
        sources={name: own.digest(spec) for name, spec in named.items()},
    )


def _named(option: str) -> tuple[str, str]:
    name, _, spec = option.partition("=")
    if not own.is_spec(spec := spec or name):
        raise UsageError(
            f"--policy {option}: it is no class.",
            "Valid: ./FILE.py:Class, MODULE:Class, or NAME=CLASS.",
        )
    return name, spec


def load_class(spec: str) -> Any:
    """The class.

    Raises:
        UsageError: it cannot be imported, or is no press.
    """
    where, name = parts(spec)
    try:
        found = getattr(_module(where), name)
    except Exception as error:  # the file is a program: it may raise anything
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"policy {spec}: it cannot be imported: {message}",
            "Valid: a file or module of yours that can be, with that class in it.",
        ) from error
    if not (isinstance(found, type) and issubclass(found, kvpress.BasePress)):
        raise UsageError(
            f"policy {spec}: {name} is no press.",
            "Valid: a subclass of kvpress.BasePress, as of kvpress.ScorerPress.",
        )
    return found


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    file = Path(where).expanduser().resolve()
    sys.path.insert(0, str(file.parent))  # what it imports from beside it
    made = importlib.util.spec_from_file_location(file.stem, file)
    if made is None or made.loader is None:
        raise ImportError(f"{file.name} is no Python file")
    module = sys.modules[file.stem] = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    return module
