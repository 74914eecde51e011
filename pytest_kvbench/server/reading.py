"""What kvpress's classes are, and classes of users: read by a process of its own, written as JSON.

    python -m pytest_kvbench.server.reading            all that the installed kvpress exports
    python -m pytest_kvbench.server.reading SPEC       one class of a user's, see `own.classes`

Nothing is known by name: parameters are those of a class's constructor, and how it must be served
follows from which methods it has and what they do. A class may say it itself: `kvbench_serving`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import kvpress

from pytest_kvbench.errors import UsageError
from pytest_kvbench.own.classes import Found
from pytest_kvbench.own.loading import files_of, told
from pytest_kvbench.policies.entries import KindEntry, ParamEntry, PressEntry
from pytest_kvbench.policies.naming import name_of
from pytest_kvbench.policies.params import Kind
from pytest_kvbench.policies.policy import Serving
from pytest_kvbench.server.loading import load_class

SERVINGS: tuple[Serving, ...] = ("shared", "own", "decoding")
_PLAIN: Mapping[type, Kind] = {bool: "flag", int: "integer", float: "number", str: "text"}
_PAPER = re.compile(r"arxiv\.org/abs/(\d{4}\.\d{4,5})")


def every() -> list[PressEntry]:
    """Every press that kvpress exports and that does something, by name."""
    exported = [getattr(kvpress, name) for name in kvpress.__all__]
    found = [read(one) for one in exported if _is_press(one) and not _is_abstract(one)]
    return sorted(found, key=lambda entry: entry["name"])


def read(press: type) -> PressEntry:
    """One class as plain data; its name is that of a class of kvpress."""
    document = inspect.getdoc(press) or ""
    paper = _PAPER.search(document)
    params = dict(_params(press))
    return {
        "name": name_of(press.__name__),
        "press": press.__name__,
        "note": " ".join(document.split("\n\n")[0].split()),
        "paper": paper[1] if paper else "",
        "params": params,
        "serving": _serving(press),
        "eager": _serving(press) == "shared" and _wants_attention(press),
        "dial": _dial(press, params),
        "score_uses_budget": _score_uses_budget(press),
    }


def _is_press(one: object) -> bool:
    return isinstance(one, type) and issubclass(one, kvpress.BasePress)


def _is_abstract(press: Any) -> bool:
    base, scorer = kvpress.BasePress, kvpress.ScorerPress
    unscored = issubclass(press, scorer) and press.score is scorer.score
    same = [getattr(press, name) is getattr(base, name) for name in ("compress", "forward_hook")]
    return all([*same, press.__call__ is base.__call__]) or (
        unscored and press.compress is scorer.compress
    )


def _params(press: type) -> Iterator[tuple[str, ParamEntry]]:
    """What the constructor takes, but for the budget."""
    hints = _hints(press)
    for name, parameter in inspect.signature(press).parameters.items():
        plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if plain and name != "compression_ratio" and not name.startswith("_"):
            required = parameter.default is parameter.empty
            kind = _kind(hints.get(name, type(parameter.default)))
            if kind["kind"] or required:
                yield name, {**kind, "default": _plain(parameter.default), "required": required}


def _plain(default: object) -> bool | int | float | str | None:
    return default if isinstance(default, bool | int | float | str) else None


def _hints(press: type) -> dict[str, object]:
    try:
        return typing.get_type_hints(inspect.getattr_static(press, "__init__"))
    except (NameError, TypeError):  # an annotation for type checkers alone
        return {}


def _kind(hint: object) -> KindEntry:
    """A parameter's kind, "" where no YAML can give it, with what is valid."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        members = [one for one in typing.get_args(hint) if one is not type(None)]
        return {**_kind(members[0]), "optional": len(members) < len(typing.get_args(hint))}
    if typing.get_origin(hint) is typing.Literal:
        return {"kind": "choice", "choices": list(typing.get_args(hint))}
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return {"kind": "policies" if _is_press(inner) else "numbers" if inner is float else ""}
    return {
        "kind": "policy"
        if _is_press(hint)
        else _PLAIN.get(hint, "")
        if isinstance(hint, type)
        else ""
    }


def _dial(press: Any, params: Mapping[str, ParamEntry]) -> str:
    """The parameter or property that the budget sets; "" where there is none."""
    for name in ("target_compression_ratio", "target_size"):
        if name in params:
            return name
    ratio = inspect.getattr_static(press, "compression_ratio", None)
    if isinstance(ratio, property):
        return "compression_ratio" if ratio.fset and not _only_raises(ratio.fset) else ""
    takes_it = "compression_ratio" in inspect.signature(press).parameters
    if takes_it or not dataclasses.is_dataclass(press):
        return "compression_ratio"
    inner = [name for name, one in params.items() if one["kind"] in ("policy", "policies")]
    return ",".join(inner)


def _only_raises(function: Callable[..., Any]) -> bool:
    tree = _tree(function)
    body = [line for line in tree.body if not isinstance(line, ast.Expr)] if tree else []
    return bool(body) and all(isinstance(line, ast.Raise) for line in body)


def _serving(press: Any) -> Serving:
    """How it is served, as it says itself or by what it does.

    Raises:
        UsageError: it says what is none.
    """
    if given := getattr(press, "kvbench_serving", ""):
        return _named_serving(given, press)
    base = kvpress.BasePress
    own_hook = press.forward_hook is not base.forward_hook
    if own_hook and _acts_while_decoding(press):
        return "decoding"
    return "own" if own_hook or press.__call__ is not base.__call__ else "shared"


def _named_serving(given: object, press: type) -> Serving:
    for serving in SERVINGS:
        if given == serving:
            return serving
    raise UsageError(
        f"policy {press.__name__}: kvbench_serving is {given!r}.",
        f"Valid: {', '.join(SERVINGS)}.",
    )


def _acts_while_decoding(press: Any) -> bool:
    """Whether the hook tells the prompt's pass from later ones, and does not leave the latter."""
    tree = _tree(press.forward_hook)
    if tree is None or "is_prefilling" not in {_name(node) for node in ast.walk(tree)}:
        return False
    return not any(isinstance(node, ast.If) and _leaves(node) for node in ast.walk(tree))


def _leaves(node: ast.If) -> bool:
    """`if not is_prefilling(...): return output`, whatever the result was called."""
    negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
    return negated and isinstance(node.body[0], ast.Return)


def _wants_attention(press: Any) -> bool:
    """Whether it reads attention weights and cannot do without."""
    trees = [tree for method in ("score", "compress") if (tree := _of(press, method))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    tested = [n.test for n in nodes if isinstance(n, ast.If | ast.IfExp)]
    does_without = any(_name(part) == "attentions" for test in tested for part in ast.walk(test))
    used = [
        part for n in nodes if isinstance(n, ast.Attribute | ast.Subscript) for part in [n.value]
    ]
    return not does_without and any(_name(part) == "attentions" for part in used)


def _score_uses_budget(press: Any) -> bool:
    """Whether `score`, or a method that it calls, looks at the ratio: then no two budgets share."""
    waiting, met = ["score"], {"score"}
    while waiting:
        tree = _of(press, waiting.pop())
        for node in ast.walk(tree) if tree else ():
            if isinstance(node, ast.Attribute) and node.attr == "compression_ratio":
                return True
            if isinstance(node, ast.Attribute) and _name(node.value) == "self":
                waiting += {node.attr} - met
                met.add(node.attr)
    return not hasattr(press, "score")


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _of(press: Any, method: str) -> ast.FunctionDef | None:
    found = inspect.getattr_static(press, method, None)
    function = found.__func__ if isinstance(found, classmethod | staticmethod) else found
    return _tree(function) if inspect.isfunction(function) else None


@functools.cache
def _tree(function: Callable[..., Any]) -> ast.FunctionDef | None:
    """A function's source; None where there is none to read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None


def own(spec: str) -> Found[PressEntry]:
    """A class of a user's as plain data, and the user's files that it was made from.

    Raises:
        UsageError: it cannot be imported, or is no press.
    """
    before = set(sys.modules)
    press = load_class(spec)
    return {"entry": read(press), "files": files_of(press.__module__, before)}


if __name__ == "__main__":
    sys.exit(told(lambda: own(sys.argv[1]) if sys.argv[1:] else every()))
