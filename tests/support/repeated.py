"""What is written twice: six lines or more that are alike in two places, as pylint counts them.

Imports, docstrings, comments, signatures and blank lines say nothing twice. Pylint itself compares
every two modules and takes longer than all other checks; here each run of lines is looked up once.

    python -m tests.support.repeated
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest_kvbench

PACKAGE = Path(pytest_kvbench.__file__).parent
FEWEST = 6


class Line(NamedTuple):
    """A line of code without its indentation, and where it is."""

    file: str
    number: int
    text: str


class Pair(NamedTuple):
    """Two places that say the same in so many lines."""

    one: Line
    other: Line
    lines: int

    def __str__(self) -> str:
        places = (f"{line.file}:{line.number}" for line in (self.one, self.other))
        return f"{' and '.join(places)}: {self.lines} lines from {self.one.text!r}"


def code_of(file: str, source: str) -> list[Line]:
    """The lines that count."""
    silent = {n for node in ast.walk(ast.parse(source)) for n in _silent(node)}
    text = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            text[row - 1] = text[row - 1][:column]
    lines = (Line(file, n, line.strip()) for n, line in enumerate(text, 1) if n not in silent)
    return [line for line in lines if line.text]


def _silent(node: ast.AST) -> Iterable[int]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return range(node.lineno, (node.end_lineno or node.lineno) + 1)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return range(node.lineno, node.body[0].lineno)
    return ()


def repeated(sources: Mapping[str, str]) -> Iterator[Pair]:
    """Every two places that are alike in `FEWEST` lines or more, each as long as it goes on."""
    code = {file: code_of(file, source) for file, source in sources.items()}
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for file, lines in code.items():
        for at in range(len(lines) - FEWEST + 1):
            here = tuple(line.text for line in lines[at : at + FEWEST])
            for other, there in places[here]:
                if not at or not there or lines[at - 1].text != code[other][there - 1].text:
                    length = _alike(code[other][there:], lines[at:])
                    yield Pair(code[other][there], lines[at], length)
            places[here].append((file, at))


def _alike(one: Iterable[Line], other: Iterable[Line]) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0].text == pair[1].text, pairs))


def in_the_package() -> list[Pair]:
    """What the package says twice."""
    files = sorted(PACKAGE.rglob("*.py"))
    return list(repeated({str(f.relative_to(PACKAGE)): f.read_text("utf-8") for f in files}))


if __name__ == "__main__":
    for pair in in_the_package():
        print(pair)
