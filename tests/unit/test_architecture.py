"""Promises about imports: one direction, and nothing heavy where it hurts."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pytest_kvbench
from tests.support.repeated import FEWEST, in_the_package, repeated

ROOT = Path(pytest_kvbench.__file__).parent
PACKAGE = "pytest_kvbench"

LAYERS = {
    "errors": 0,
    "alike": 0,
    "hints": 0,
    "extras": 1,
    "installed": 0,
    "canonical": 0,
    "processes": 0,
    "files": 1,
    "hub": 1,
    "reading": 1,
    "wire": 1,
    "divergence": 2,
    "records": 3,
    "own": 3,
    "observation": 4,
    "selection": 4,
    "cellkey": 4,
    "distances": 5,
    "rows": 6,
    "policies": 4,
    "experiment": 4,
    "score": 4,
    "analyse": 7,
    "posterior": 7,
    "server": 7,
    "tasks": 7,
    "store": 7,
    "engines": 8,
    "report": 8,
    "executors": 9,
    "pipeline": 10,
    "batch": 11,
    "ops": 11,
    "plugin": 12,
    "cli": 13,
}
"""A room imports from itself and from lower layers; two rooms of one layer do not meet."""


@cache
def tree(path: Path) -> ast.Module:
    """A module, parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> tuple[str, ...]:
    """What a module imports, late imports too, but not for annotations alone."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    module = tree(path)
    guarded = {
        id(inner)
        for node in ast.walk(module)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(module):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.removeprefix(PACKAGE).lstrip(".").split(".")[0]


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_imports_run_one_way() -> None:
    against = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in modules()
        if (here := room_of(path)) != "__init__"  # lazily exports what annotations need
        for module in imports(path)
        if module.startswith(f"{PACKAGE}.") and (there := room(module)) != here
        if LAYERS[there] >= LAYERS[here]
    ]
    assert not against


AT_HOME = {
    "plugin": {"pytest", "_pytest", "xdist"},
    "server": {"torch", "transformers", "kvpress"},
    "executors": {"parsl"},
}
"""Packages that one room alone imports."""


def test_pytest_and_torch_stay_in_their_rooms() -> None:
    away = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules()
        for name in sorted({name.split(".")[0] for name in imports(path)})
        for home, packages in AT_HOME.items()
        if name in packages and room_of(path) != home
    ]
    assert not away


def graph() -> dict[str, set[str]]:
    """Which module imports which, late imports too."""
    names = {name_of(path): path for path in modules()}
    return {name: {m for m in imports(path) if m in names} for name, path in names.items()}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def test_no_imports_run_in_a_circle_inside_a_room_either() -> None:
    TopologicalSorter(
        {name: used - packages_of(name) - {PACKAGE} for name, used in graph().items()}
    ).prepare()


FLOW = ("plan", "group", "prepare", "observe", "score", "ask", "judge", "conclude")
"""Stages, each before those that may call it: how far rounds are, one knows by what is stored."""


@pytest.mark.parametrize("stage", FLOW)
def test_a_stage_never_calls_a_later_one(stage: str) -> None:
    reached: set[str] = set()
    left = {ROOT / "pipeline" / f"{stage}.py"}
    while left:
        reached |= {path.stem for path in left}
        used = {name.rpartition(".") for path in left for name in imports(path)}
        names = {name for room, _, name in used if room == f"{PACKAGE}.pipeline"} - reached
        left = {ROOT / "pipeline" / f"{name}.py" for name in names}
    assert not reached & set(FLOW[FLOW.index(stage) + 1 :])


def packages_of(name: str) -> set[str]:
    """A module names its packages where it imports its neighbours."""
    parts = name.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)}


def test_no_module_is_longer_than_a_few_screens() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in modules()}
    assert {path: lines for path, lines in lengths.items() if lines > 350} == {}


FREE_FORM = {"report/markup.py:_environment"}
"""Filters of a template."""


@pytest.mark.parametrize("where", ["analyse", "report", "plugin", "cli"])
def test_an_analysis_and_its_readers_name_the_keys_of_their_rows(where: str) -> None:
    found = {
        f"{path.relative_to(ROOT).as_posix()}:{function.name}"
        for path in (ROOT / where).rglob("*.py")
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        if "[str, Any]" in f"{ast.unparse(function.args)} {ast.unparse(function.returns or _NONE)}"
    }
    assert found <= FREE_FORM


_NONE = ast.Constant(None)


FREE_ROWS = 28
"""Functions that take or give rows of any keys, as those of other people's JSON are."""


def test_rows_without_named_keys_become_fewer() -> None:
    functions = (
        function
        for path in modules()
        for function in ast.walk(tree(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    signatures = (f"{ast.unparse(f.args)} {ast.unparse(f.returns or _NONE)}" for f in functions)
    assert sum("[str, Any]" in signature for signature in signatures) <= FREE_ROWS


AS_FIELDS = [
    {"posterior/rows.py", "posterior/statements.py"},
    {"observation.py", "records.py"},
    {"server/bodies.py", "server/jobs.py"},
]
"""Records and the rows that they are written as, or read into, field by field."""


def test_nothing_is_said_twice() -> None:
    found = [p for p in in_the_package() if {p.one.file, p.other.file} not in AS_FIELDS]
    assert not found, "\n".join(map(str, found))
    lines = [f"{name} = {n}" for n, name in enumerate("abcdefg")]
    sources = {"x": "\n".join(lines), "y": "\n".join(["import x", *lines[:FEWEST], "a = 3"])}
    (pair,) = repeated(sources)
    assert (pair.one.number, pair.other.number, pair.lines) == (1, 2, FEWEST)
    assert not list(repeated({**sources, "y": "\n".join(lines[: FEWEST - 1])}))


def test_what_loads_an_experiment_knows_the_engines() -> None:
    """By `pipeline.declared`: else `kv.policies: [auto]` would be the full cache alone."""
    loads = {f"{PACKAGE}.experiment.load.{name}" for name in ("load_experiment", "load_stages")}
    loaders = {room_of(path) for path in modules() if loads & set(imports(path))}
    assert loaders <= {"experiment"}


def test_every_room_has_a_layer() -> None:
    assert {room_of(p) for p in modules()} - {"__init__"} <= set(LAYERS)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("pytest_kvbench.plugin", {"torch", "pandas", "matplotlib", "numpy", "pydantic", "httpx"}),
        ("pytest_kvbench.plugin.runtime", {"torch", "transformers", "pandas", "matplotlib"}),
        ("pytest_kvbench.pipeline.conclude", {"parsl", "torch"}),
        ("pytest_kvbench.pipeline.plan", {"httpx", "aiohttp", "torch", "pandas"}),
        ("pytest_kvbench.engines.kinds", {"httpx", "aiohttp", "torch", "numpy"}),
        ("pytest_kvbench.analyse.cell", {"torch", "pandas", "matplotlib"}),
        ("pytest_kvbench.cli", {"torch", "pandas", "matplotlib", "numpy", "httpx"}),
    ],
)
def test_importing_loads_nothing_heavy(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(*{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert not heavy & set(done.stdout.split())


def test_exported_names_exist() -> None:
    assert pytest_kvbench.__all__ == ["Comparison", "Controls", "MeasuredCell", "load_group"]
    for name in pytest_kvbench.__all__:
        assert getattr(pytest_kvbench, name).__name__ == name


def test_sql_is_spoken_in_the_store_alone() -> None:
    """But for a cache of token counts, which belongs to no group."""
    speak = {path.relative_to(ROOT) for path in modules() if "sqlite3" in imports(path)}
    assert {path for path in speak if path.parts[0] != "store"} == {Path("tasks/counted.py")}
