"""Files shared between processes: replaced whole or not at all, and where a run meets."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def replace_text(path: Path, text: str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        Path(temporary).chmod(0o644)  # mkstemp's 0600 would hide a report from its readers
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def replace_json(path: Path, data: Any) -> None:
    """`replace_text` of readable JSON: sorted keys, no NaN, one newline at the end."""
    text = json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    replace_text(path, text + "\n")


def run_folder(run_id: str) -> Path:
    """Where the processes of one run meet. Made when the first server starts."""
    return Path(tempfile.gettempdir()) / f"kvbench-{os.getuid()}-{run_id}"
