"""YAML of experiments: plain data alone, each key once, aliases that stay small."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import yaml

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading.values import MAX_DEPTH, brief, odd_value

MAX_TEXT = 1 << 18
"""Characters; an experiment has some thousands."""

MAX_NODES = 10_000
"""Values, those that aliases repeat counted each time."""

_TAG = "tag:yaml.org,2002:"
_STR, _MAP, _SEQ, _MERGE = f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq", f"{_TAG}merge"
_SCALARS = frozenset({_STR, f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool", f"{_TAG}null"})
_WORDS = frozenset({f"{_TAG}timestamp", f"{_TAG}value", _MERGE})
"""Plain words that YAML 1.1 makes something else of: a date, `=` and `<<` are texts to us."""

_NUMBERS = frozenset({f"{_TAG}int", f"{_TAG}float"})
_BASES = re.compile(r"[-+]?(0[0-7_]+$|[0-9_]+:)")
"""Numbers that YAML 1.1 takes for others than are meant, 010 for 8 and 1:30 for 90: texts too."""

_LONGEST_NUMBER = 100
_CHECK = "check the indentation and the colons around that line"


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text.

    Keys are texts as they are written (`on:` is "on"), and so are dates.

    Raises:
        UsageError: naming `where` and the line: not YAML, a key that is there twice, aliases that
            grow or contain themselves, deep nesting, tags, or a number that is not finite.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"{where}: is longer than {MAX_TEXT:,} characters", "is it an experiment?")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node)
    except _Refused as refused:
        raise UsageError(
            f"{where}:{_place(refused)}: {refused.problem}", refused.note or ""
        ) from None
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
        raise UsageError(
            f"{where}:{_place(error, text)} is not YAML: {' '.join(problem.split())}", _CHECK
        ) from None


def _place(error: yaml.YAMLError, text: str = "") -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f" line {mark.line + 1}, column {mark.column + 1}"
    position = getattr(error, "position", None)  # of a character that no text may hold
    return "" if position is None else f" line {text.count(chr(10), 0, position) + 1}"


class _Refused(yaml.MarkedYAMLError):
    """Valid YAML that cannot be used; `note` says what to do."""

    def __init__(self, problem: str, mark: Any, note: str = _CHECK) -> None:
        super().__init__(problem=problem, problem_mark=mark, note=note)


class _Loader(yaml.SafeLoader):
    """Checks each node as soon as it is composed, before anything is made of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._size: dict[int, int] = {}
        self._height: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, checked."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Refused(f"is nested deeper than {MAX_DEPTH} levels", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or id(node) in self._size:
            return node
        if isinstance(event, yaml.AliasEvent):
            raise _Refused("an alias stands inside of what it names", event.start_mark)
        self._check(node)
        self._weigh(node)
        if len(self._size) > MAX_NODES:
            raise _too_many(event.start_mark)
        return node

    def _check(self, node: yaml.Node) -> None:
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)
        elif node.tag != (_MAP if isinstance(node, yaml.MappingNode) else _SEQ):
            raise _tagged(node)
        if isinstance(node, yaml.MappingNode):
            node.value = list(_texts_once(node))

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        if node.tag in _WORDS or (node.tag in _NUMBERS and _BASES.match(node.value)):
            node.tag = _STR
        node.value = _paired(node.value)
        if node.tag not in _SCALARS:
            raise _tagged(node)
        if node.tag == f"{_TAG}int" and len(node.value) > _LONGEST_NUMBER:
            raise _Refused(f"a number of {len(node.value)} digits", node.start_mark, "say less")
        try:
            value = self.construct_object(node)
        except (ValueError, LookupError, TypeError, OverflowError):
            kind = node.tag.removeprefix(_TAG)
            raise _Refused(f"{brief(node.value)} is no {kind}", node.start_mark) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise _Refused(
                f"{node.value} is no finite number",
                node.start_mark,
                "leave the key out where there is no limit",
            )
        if odd := odd_value(value, nul=False):
            raise _Refused(f"{brief(value)} {odd[1]}", node.start_mark, "leave it out")

    def _weigh(self, node: yaml.Node) -> None:
        inner = list(_inner(node))
        size = self._size[id(node)] = 1 + sum(self._size.get(id(one), 1) for one in inner)
        height = 1 + max((self._height.get(id(one), 1) for one in inner), default=0)
        self._height[id(node)] = height
        if size > MAX_NODES:
            raise _too_many(node.start_mark)
        if height > MAX_DEPTH:
            raise _Refused(f"is nested deeper than {MAX_DEPTH} levels", node.start_mark)


def _inner(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def _texts_once(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a mapping, their keys as texts; `<<` merges other mappings in, as in YAML."""
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _Refused("a key is a list or a mapping, not a text", key.start_mark)
        line = key.start_mark.line + 1
        if key.value in lines:
            raise _Refused(
                f"the key {brief(key.value)} is there twice, first in line {lines[key.value]}",
                key.start_mark,
                "keep one of the two",
            )
        lines[key.value] = line
        merges = key.value == "<<" and key.style is None
        yield yaml.ScalarNode(_MERGE if merges else _STR, key.value, key.start_mark), value


def _paired(text: str) -> str:
    """Two escapes that JSON writes for one character (an emoji) as that character."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text  # half of one: refused


def _too_many(mark: Any) -> _Refused:
    return _Refused(f"makes more than {MAX_NODES:,} values", mark, "is it an experiment?")


def _tagged(node: yaml.Node) -> _Refused:
    tag = node.tag.replace(_TAG, "!!")
    return _Refused(f"the tag {brief(tag)} means nothing here", node.start_mark, "leave it out")
