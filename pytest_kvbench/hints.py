"""Next commands, as they can be pasted where they are printed."""

from __future__ import annotations

import os
import shlex
from pathlib import Path


def default_reports() -> Path:
    """The folder in which groups are kept where none is named."""
    return Path(os.environ.get("KVBENCH_DIR", "reports"))


def command(stage: str, folder: Path) -> str:
    """`kvbench STAGE GROUP`, with `--dir` where the group is not below the default folder.

    Args:
        stage: a command's name: `run`, `batch fetch`.
        folder: the group's.
    """
    return _pasted(stage, folder.name, folder.absolute().parent)


def command_of_file(stage: str, file: Path, reports: Path) -> str:
    """`kvbench STAGE FILE.yaml` likewise, of an experiment whose group is below `reports`."""
    return _pasted(stage, str(file), reports.absolute())


def _pasted(stage: str, target: str, reports: Path) -> str:
    words = ["kvbench", *stage.split(), target]
    if reports.resolve() != default_reports().resolve():
        here = Path.cwd()
        shown = reports.relative_to(here) if reports.is_relative_to(here) else reports
        words += ["--dir", str(shown)]
    return shlex.join(words)
