"""Imports what a user brings, `./FILE.py:Class` or `MODULE:Class`, and says what it was made of."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_kvbench.errors import KvbenchError, UsageError
from pytest_kvbench.own.classes import parts


def load(spec: str, kind: str) -> Any:
    """The class, or the object of that name.

    Raises:
        UsageError: it cannot be imported.
    """
    where, name = parts(spec)
    try:
        return getattr(_module(where), name)
    except Exception as error:  # the file is a program: it may raise anything
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"{kind} {spec}: it cannot be imported: {message}",
            "Valid: a file or module of yours that can be, with that class in it.",
        ) from error


def files_of(module: str, before: set[str]) -> list[str]:
    """The files of the user's that were imported since: of the module's package, and of no library.

    Args:
        module: that of what was loaded.
        before: the modules that there were.
    """
    package = module.partition(".")[0]
    found = {name: file for name in {*sys.modules, module} - before if (file := _file_of(name))}
    return sorted(
        file for name, file in found.items() if name.partition(".")[0] == package or _is_users(file)
    )


def packages_since(before: set[str]) -> list[str]:
    """The installed packages that were imported since."""
    added = {name for name in {*sys.modules} - before if _is_within(_file_of(name), "purelib")}
    if not added:  # to list all packages takes a second
        return []
    every = importlib.metadata.packages_distributions()
    return sorted({dist for name in added for dist in every.get(name.partition(".")[0], ())})


def _is_users(file: str) -> bool:
    """Neither Python's nor one that was installed."""
    return not _is_within(file, "stdlib", "platstdlib", "purelib")


def _file_of(module: str) -> str:
    file = getattr(sys.modules[module], "__file__", None)
    return file if isinstance(file, str) else ""


def _is_within(file: str, *libraries: str) -> bool:
    folders = [Path(folder).resolve() for name in libraries if (folder := sysconfig.get_path(name))]
    return bool(file) and any(Path(file).resolve().is_relative_to(folder) for folder in folders)


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


def told(read: Callable[[], Any]) -> int:
    """What a process that reads classes says: JSON, or an error in two lines. Its exit status."""
    stdout, sys.stdout = sys.stdout, sys.stderr  # what an imported module prints is no data
    try:
        found = read()
    except KvbenchError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    json.dump(found, stdout)
    return 0
