"""No test waits without an end: a suite that hangs tells nobody why."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
WAITS = {"wait", "join", "communicate"}
RUNS = {"run", "check_call", "check_output"}


def endless(tree: ast.AST) -> Iterator[str]:
    """Calls that may never return."""
    bounded = {
        id(argument)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
        if call.func.attr == "wait_for" and ast.unparse(call.func) == "asyncio.wait_for"
        for argument in call.args
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        name, given = call.func.attr, {keyword.arg for keyword in call.keywords}
        if name not in WAITS | RUNS | {"runpytest_subprocess"}:
            continue
        of = ast.unparse(call.func.value)
        waits = name in WAITS and not call.args and "timeout" not in given
        runs = (name in RUNS and of == "subprocess") or name == "runpytest_subprocess"
        if (waits or (runs and "timeout" not in given)) and id(call) not in bounded:
            yield f"line {call.lineno}: {of}.{name}"


def test_every_wait_has_an_end() -> None:
    found = [
        f"{path.relative_to(TESTS)} {wait}"
        for path in sorted(TESTS.rglob("*.py"))
        for wait in endless(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not found, "give each a timeout"
