"""The tables in docs/ that the code's own texts make; `make docs` writes them.

Each stands between `<!-- generated: NAME -->` and `<!-- end -->`; a test compares it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.section import Section
from pytest_kvbench.policies.params import Param
from pytest_kvbench.policies.table import catalogue
from pytest_kvbench.tasks.base import TaskOptions
from pytest_kvbench.tasks.registry import BUILT_IN, FAMILIES
from tests.support.pages import ROOT

DOCS = ROOT / "docs"
_GENERATED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", flags=re.S)


def with_tables(page: str) -> str:
    """A page with every generated part as it must be."""
    return _GENERATED.sub(lambda found: f"{found[1]}\n{TABLES[found[2]]()}\n{found[3]}", page)


def keys() -> str:
    """All keys of an experiment: those of the top, then a table for each section."""
    top = {name: info for name, info in Experiment.model_fields.items() if not _section(info)}
    parts = ["", *_rows(top)]
    for name, info in Experiment.model_fields.items():
        if section := _section(info):
            parts += ["", *_of_section(name, section)]
    return "\n".join(parts[1:]) + "\n"


def _of_section(name: str, section: type[BaseModel]) -> Iterator[str]:
    yield f"### `{name}`\n"
    yield f"{_about(section)[0]}\n"
    yield from _rows(section.model_fields, f"{name}.")


def _rows(fields: Mapping[str, FieldInfo], prefix: str = "") -> Iterator[str]:
    yield "| key | valid | default |"
    yield "|---|---|---|"
    for key, info in _leaves(fields, prefix):
        yield f"| `{key}` | {_words(info.description or '')} | {_default(info)} |"


def _leaves(fields: Mapping[str, FieldInfo], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Keys by their whole names, those of sections within a key's values behind it."""
    for name, info in fields.items():
        if section := _section(info):
            yield from _leaves(section.model_fields, f"{prefix}{name}.")
            continue
        yield prefix + name, info
        for inner, named in _inner(info.annotation):
            yield from _leaves(inner.model_fields, f"{prefix}{name}.{'NAME.' if named else ''}")


def _section(info: FieldInfo) -> type[Section] | None:
    kind = info.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _inner(annotation: Any, named: bool = False) -> Iterator[tuple[type[Section], bool]]:
    """The sections that a key's value may be, and whether they are under names of one's own."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, named
    for part in get_args(annotation):
        yield from _inner(part, named or "Mapping" in str(annotation))


def _words(text: str) -> str:
    """Text for a table's cell: what is in braces is code."""
    return re.sub(r"(\{(?:[^{}]|\{[^{}]*\})*\})", r"`\1`", text).replace("|", r"\|")


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value = info.get_default(call_default_factory=True)
    return "unset" if value is None else f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float) and value.is_integer() and value > 1:
        return str(int(value))
    return value if isinstance(value, str) and value else json.dumps(value)


def policies() -> str:
    """The embedded server's policies: what each keeps, whose code it is, what may be set."""
    head = ["policy", "what it keeps", "class", "served by", "paper", "`kv.params`"]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for policy in catalogue().values():
        params = [f"`{name}` ({_of(p)})" for name, p in policy.params.items()]
        press = f"`{policy.press}`" if policy.press else ""
        paper = f"[{policy.paper}](https://arxiv.org/abs/{policy.paper})" if policy.paper else ""
        rows.append(
            f"| `{policy.name}` | {policy.note} | {press} | {policy.served} | {paper} | "
            f"{', '.join(params)} |"
        )
    return "\n".join(rows) + "\n"


def _of(param: Param) -> str:
    default = "required" if param.required else _yaml(param.default)
    return f"{default}; {param.valid}"


def options() -> str:
    """What `task_options` may hold, by family."""
    rows = ["| tasks | options and their defaults | what they do |", "|---|---|---|"]
    for family, kind in sorted(_options_by_family().items()):
        defaults = ", ".join(f"`{n}` ({_default(i)})" for n, i in kind.model_fields.items())
        rows.append(f"| `{family}` | {defaults} | {_text(kind)} |")
    return "\n".join(rows) + "\n"


def _options_by_family() -> dict[str, type[TaskOptions]]:
    modules = {name.split("/")[0]: made for name, made in (*BUILT_IN.items(), *FAMILIES.items())}
    modules |= {"jsonl": "jsonl:", "kvpress": "kvpress_rows:"}
    return {family: _options_in(made.split(":")[0]) for family, made in modules.items()}


def _options_in(module: str) -> type[TaskOptions]:
    task = import_module(f"pytest_kvbench.tasks.{module}")
    kinds = [k for k in vars(task).values() if isinstance(k, type) and issubclass(k, TaskOptions)]
    (kind,) = (kind for kind in kinds if kind.__module__ == task.__name__)
    return kind


def _text(kind: type[TaskOptions]) -> str:
    return re.sub(r"^Options of [^.:]*[.:] *", "", " ".join(_about(kind)))


def _about(kind: type) -> list[str]:
    """The paragraphs of a docstring."""
    return [" ".join(part.split()) for part in (inspect.getdoc(kind) or "").split("\n\n")]


TABLES: Mapping[str, Callable[[], str]] = {
    "keys": keys,
    "policies": policies,
    "options": options,
}


if __name__ == "__main__":
    for file in DOCS.glob("*.md"):
        file.write_text(with_tables(file.read_text(encoding="utf-8")), encoding="utf-8")
