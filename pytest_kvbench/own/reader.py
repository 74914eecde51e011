"""Has classes imported by a process of its own: nobody else loads their libraries."""

from __future__ import annotations

import json
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.processes import run_ours

_TIMEOUT_S = 300


def read(module: str, *arguments: str, what: str) -> Any:
    """What a module of ours says as a program, as JSON.

    Args:
        module: of this package.
        arguments: its command line.
        what: what it reads, for the message of one that ends without a word.

    Raises:
        UsageError: it failed; the message is its own.
    """
    done = run_ours(module, *arguments, timeout_s=_TIMEOUT_S)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        problem, hint = [*[f"{what} could not be read", *lines][-2:]]
        raise UsageError(problem, hint)
    return json.loads(done.stdout)
