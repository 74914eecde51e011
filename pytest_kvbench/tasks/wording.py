"""The words of a prompt: the authors' where their file lies beside the data, else our own."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import read_text
from pytest_kvbench.tasks.base import template_version

_FIELD = re.compile(r"\{\{|\}\}|\{(\w+)\}")


@dataclass(frozen=True)
class Wording:
    """A template with `{context}` and other fields, and whether it is the authors' own."""

    template: str
    official: bool = False

    def version(self, **shaping: object) -> str:
        """Whose wording it is, then the digest of it and of all else that shapes a prompt."""
        source = "official" if self.official else "own"
        return f"{source}-{template_version(text=self.template, **shaping)}"

    def parts(self, context: str, fields: Mapping[str, str]) -> tuple[str, str]:
        """Head and tail of the prompt; they part where the context ends."""
        before, _, after = self.template.partition("{context}")
        return filled(before, fields) + context, filled(after, fields)


def filled(template: str, fields: Mapping[str, str]) -> str:
    """`template` as `str.format` fills it, once: braces in a value stay as they are.

    Raises:
        UsageError: it has a field that is not in `fields`.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        if found[1] not in fields:
            raise UsageError(
                f"the template has {{{found[1]}}}, which a row does not give",
                f"valid: {', '.join(sorted({'context', *fields}))}",
            )
        return fields[found[1]]

    return _FIELD.sub(value, template)


def constants(place: Path | None, *names: str) -> dict[str, object]:
    """The constants of the first of the Python files `names` under `place`; it is read, not run.

    Empty where there is none.

    Raises:
        UsageError: it is no Python.
    """
    folder = place if place is None or place.is_dir() else place.parent
    files = [folder / name for name in names] if folder else []
    file = next((file for file in files if file.is_file()), None)
    return {} if file is None else _assigned(file)


def _assigned(file: Path) -> dict[str, object]:
    try:
        body = ast.parse(read_text(file)).body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"{file}: is no Python: {error}", "get the authors' file anew") from error
    found: dict[str, object] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _literal(node.value)
            if value is not None:
                found[node.targets[0].id] = value
    return found


def _literal(node: ast.expr) -> Any:
    """The value of a literal; of a dict, of the entries that are one. None of anything else."""
    if isinstance(node, ast.Dict):
        entries = zip(node.keys, node.values, strict=True)
        read = {_literal(key): _literal(value) for key, value in entries if key is not None}
        return {key: value for key, value in read.items() if value is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
