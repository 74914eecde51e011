"""Real servers under every KV type that they take: the table of docs/engines.md.

    python -m tests.support.every_engine [--look] [--vllm PYTHON] [ENGINE ...]

An experiment a kind of server, its servers one after another: needles, a file, a benchmark and
logged chats, a few of each, graded and compared. A type whose server does not start is named with
its reason. What was answered is kept in reports/: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import KvbenchError
from pytest_kvbench.policies import kv_types
from pytest_kvbench.server import weights
from tests.support import recorded
from tests.support.pages import ROOT

_LOADING_S, _WHOLE_S = 300, 4 * 3600
FOLDER = ROOT / "reports" / "engines"
PAGE = ROOT / "docs" / "engines.md"
MODEL = "smollm2-135m"
PAIRS = 2
LONGBENCH = "longbench/multi_news"
DATA = "KVBENCH_LONGBENCH"

_BITS = (("k8v4", 6), ("k3v4", 3.5), ("nvfp4", 4.5), ("4_per_token", 4.5), ("8_per_token", 8.5))
"""Bits a value of types that we have no size of, by parts of their names: 64 values share a scale.

Of another type they are the number in its name."""
_FULL = ("auto", "float16", "bfloat16")
_TYPES = """
import json
from typing import get_args
from vllm import __version__
from vllm.config.cache import CacheDType
print(json.dumps([__version__, get_args(CacheDType)]))
"""


def llamacpp(_python: str) -> tuple[str, dict[str, Any], dict[str, float]]:
    """The program, an engine's settings, and all types: of some, bits a value."""
    threads = len(os.sched_getaffinity(0))
    launch = {"context": 2048, "at_once": 1}
    settings = {"name": "llamacpp", "model": MODEL, "threads": threads, "launch": launch}
    return f"xllamacpp {version('xllamacpp')}", settings, dict.fromkeys(kv_types.GGML, 0.0)


def vllm(python: str) -> tuple[str, dict[str, Any], dict[str, float]]:
    """As `llamacpp`, of the vLLM of another environment."""
    told = subprocess.run(
        [python, "-c", _TYPES], check=True, stdout=subprocess.PIPE, text=True, timeout=_LOADING_S
    )
    release, every = json.loads(told.stdout.splitlines()[-1])
    folder = str(weights.materialise(weights.resolve(MODEL)))
    variables = (f"{name}={value}" for name, value in recorded.VARIABLES.items())
    command = ["env", *variables, *recorded.command(python, folder, "{kv}"), "--served-model-name"]
    settings = {
        "name": "vllm",
        "model": folder,
        "dtype": "bfloat16",
        "declared": {"server": f"vllm {release}"},
        "launch": {"command": shlex.join([*command, folder]), "at_once": 1},
    }
    types = sorted(set(every) - {*_FULL}, key=lambda name: (name not in kv_types.FP8, name))
    return f"vllm {release}", settings, {name: _bits(name) for name in types}


def _bits(kv_type: str) -> float:
    """Bits a value; 0 of a type that we have the size of."""
    if kv_type in kv_types.FP8:
        return 0.0
    number = re.search("[0-9]+", kv_type)
    in_name = float(number[0]) if number else 8.0
    return next((bits for part, bits in _BITS if part in kv_type), in_name)


KINDS = {"llamacpp": llamacpp, "vllm": vllm}


def experiment(name: str, engine: Mapping[str, Any], types: Mapping[str, float]) -> dict[str, Any]:
    """All that a kind of server is asked."""
    data = [LONGBENCH] if DATA in os.environ else []
    return {
        "group": f"engines_{name}",
        "tasks": ["niah/single", f"jsonl:{FOLDER / 'boxes.jsonl'}", *data, f"chat:{_CHATS}"],
        "task_options": {"longbench": {"max_length": 500}, "chat": {"metric": "rouge_l"}},
        "bins": {"n": 1, "per_bin": PAIRS, "range": [128, 256]},
        "kv": {
            "policies": list(types),
            "params": {kv_type: {"bits": bits} for kv_type, bits in types.items() if bits},
        },
        "engine": {**engine, "start_timeout_s": 600, "concurrency": 1},
        "sampling": {"temperature": 0, "seed": 20261127, "max_tokens": 20},
        "measure": ["score", "divergence"],
    }


_CHATS = FOLDER / "chats.jsonl"


def write_tasks() -> None:
    """A file of questions and a log of chats with their replies: what a small model can answer."""
    facts = [f"The number of the {colour} box is {number}." for colour, number in _BOXES]
    asks = [f"What is the number of the {colour} box?" for colour, _ in _BOXES]
    rows = [
        {"context": fact, "question": f" {ask}", "answers": [str(number)]}
        for fact, ask, (_, number) in zip(facts, asks, _BOXES, strict=True)
    ]
    chats = [
        {"messages": [_message("user", f"{fact} {ask}"), _message("assistant", fact)]}
        for fact, ask in zip(facts, asks, strict=True)
    ]
    FOLDER.mkdir(parents=True, exist_ok=True)
    for file, lines in (("boxes.jsonl", rows), ("chats.jsonl", chats)):
        (FOLDER / file).write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


_BOXES = (("red", 4711), ("blue", 2983), ("green", 6150))


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def measure(name: str, wanted: Mapping[str, Any]) -> None:
    """Ask it all, as a user would; a cell that could not be measured ends nothing."""
    file = FOLDER / f"{name}.json"
    file.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "evals/test_experiment.py", "-n", "0"]
    options = ["--kvbench-experiment", str(file), "--kvbench-report", "--kvbench-dir", str(FOLDER)]
    subprocess.run([*command, *options], cwd=ROOT, check=False, timeout=_WHOLE_S)


def rows(name: str, program: str, types: Iterable[str]) -> Iterator[str]:
    """What became of each type, as rows of the table; those that were never asked have none."""
    folder = FOLDER / f"engines_{name}"
    cells = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["cells"]
    why = _reasons(folder / "kvbench.sqlite")
    for policy in ("none", *types):
        found = [cell for cell in cells if cell["policy"] == policy and cell["bin"] == 0]
        if not found:
            continue
        word = "control" if policy == "none" else f"`{policy}`"
        yield f"| {program} | {word} | {' | '.join(_columns(found, why.get(policy, '')))} |"


def _columns(cells: Iterable[Mapping[str, Any]], why: str) -> Iterator[str]:
    graded, compared = ({_family(c): c for c in cells if _is(c, m)} for m in (False, True))
    for family in _FAMILIES:
        lacks = family == "longbench" and DATA not in os.environ
        yield f"no data: `{DATA}`" if lacks else _share(graded.get(family)) or "not asked"
    chats = compared.get("chat", {})
    value = chats.get("treated_mean") or chats.get("control_mean")
    yield _share(chats) + ("" if value is None or why else f", {value:.2f}")
    answered = [cell for cell in cells if cell["n"]]
    kept = next((cell["achieved"] for cell in answered if cell["achieved"] is not None), None)
    yield "" if kept is None else f"{kept:.3f}"
    yield why or " ".join(sorted({f"`{cell['proof']}`" for cell in answered}))


_FAMILIES = ("niah", "jsonl", "longbench", "chat")


def _family(cell: Mapping[str, Any]) -> str:
    return re.split("[:/]", cell["task"])[0]


def _is(cell: Mapping[str, Any], compared: bool) -> bool:
    return (cell.get("measure", "score") != "score") == compared


def _share(cell: Mapping[str, Any] | None) -> str:
    return f"{cell['n']} of {cell['n'] + cell['lost']}" if cell else ""


def _reasons(database: Path) -> dict[str, str]:
    """By policy, in a server's own words, why requests of it failed."""
    query = (
        "SELECT policy, max(message) FROM failures JOIN requests USING (key)"
        " JOIN arms USING (arm_id) GROUP BY policy"
    )
    with closing(sqlite3.connect(database)) as db:
        return {policy: _brief(message) for policy, message in db.execute(query)}


def _brief(message: str) -> str:
    """Its first part, without folders of this machine."""
    return re.sub(r"/[\w./-]+/", "", message.split(" | ")[0])[:200]


def with_rows(page: str, lines: Sequence[str]) -> str:
    """The page with a program's rows in its table, those of others as they were."""
    before, mark, rest = page.partition("<!-- servers -->\n")
    old, end, after = rest.partition("<!-- end servers -->\n")
    others = [row for row in old.splitlines() if row.startswith("| ") and row not in _HEAD]
    kept = [row for row in others if row.split()[:2] != lines[0].split()[:2]]
    return before + mark + "\n".join(["", *_HEAD, *kept, *lines, "", end]) + after


_HEAD = (
    "| server | KV type | `niah/single` | `jsonl:` | `longbench/multi_news` | `chat:` | compared, "
    "same top token | kept | proof, or why there is none |",
    "|" + "---|" * 9,
)


def main() -> int:
    """Run and print; the rows of each kind replace those of docs/engines.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engines", nargs="*", help=", ".join(KINDS))
    parser.add_argument("--vllm", default=sys.executable, help="the python that has a vLLM")
    parser.add_argument("--look", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    write_tasks()
    names = options.engines or list(KINDS)
    seen = [_see(name, options) for name in names]
    return int(not all(seen))


def _see(name: str, options: argparse.Namespace) -> bool:
    """Whether a kind of server was asked; a type that it does not take is no fault."""
    try:
        program, engine, types = KINDS[name](options.vllm)
        print(f"{program}: {', '.join(types)}", flush=True)
        measure(name, experiment(name, engine, types))
        lines = list(rows(name, f"{program}, {datetime.date.today()}", types))
    except (OSError, subprocess.CalledProcessError, KvbenchError) as error:
        print(f"{name} was not asked: {error}", flush=True)
        return False
    print(*lines, sep="\n", flush=True)
    if not options.look:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_rows(page, lines), encoding="utf-8")
    return True


if __name__ == "__main__":
    sys.exit(main())
