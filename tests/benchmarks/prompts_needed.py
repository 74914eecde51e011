"""How many prompts it takes to decide: graded answers beside distributions, on the real model.

    python -m tests.benchmarks.prompts_needed [FOLDER]

Five policies at three budgets. Of needles of about 300 tokens 40 are graded, and the replies to 20
compared; and so are ten texts to be summarised, without any label. Prints the tables of
docs/divergence.md. What was asked is kept in FOLDER, and not asked again. Some ten minutes.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pytest_kvbench import load_group
from pytest_kvbench.analyse.cell import judge_cell
from pytest_kvbench.pipeline.measures import ROUNDING

POLICIES, BUDGETS = ("tova", "snapkv", "keydiff", "knorm", "random"), (0.7, 0.5, 0.3)
MARGINS, ALPHA = {"score": 0.10, "overlap": 0.05}, 0.05
ROOMS = {"score": 1.0, "overlap": ROUNDING}
GRADED, COMPARED, LENGTHS = 40, 20, [256, 384]
TEXTS, CHARS, TOKENS = 10, 1500, 32
FEWEST = 2


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "prompts_needed")
    folder.mkdir(parents=True, exist_ok=True)
    texts = asked(folder, texts_of(folder))
    compared = asked(folder, needles_of("compared", COMPARED, "divergence"))
    graded = asked(folder, needles_of("graded", GRADED, "score"))
    frames = {"score": graded, "overlap": compared}
    print("\n".join([*needed_table(frames), "", *order_table(texts)]))


def experiment(group: str, tasks: list[str], **more: Any) -> dict[str, Any]:
    kv = {"policies": [*POLICIES], "budgets": [1.0, *BUDGETS]}
    engine = {"name": "local", "model": "smollm2-135m", "threads": 1, "concurrency": 1}
    return {"group": group, "tasks": tasks, "kv": kv, "engine": engine, "sensitivity": None, **more}


def needles_of(group: str, n: int, measure: str) -> dict[str, Any]:
    bins, sampling = {"n": 1, "per_bin": n, "range": LENGTHS}, {"max_tokens": 16}
    return experiment(group, ["niah/single"], bins=bins, sampling=sampling, measure=measure)


def texts_of(folder: Path) -> dict[str, Any]:
    """Python's own help pages: they are everywhere, and no test set."""
    pages = sorted(pydoc_data.topics.topics.items())
    asks = "\n\nSummarise the text above in three sentences."
    lines = [
        json.dumps({"messages": [{"role": "user", "content": page[:CHARS] + asks}]})
        for _, page in pages
        if len(page) >= CHARS
    ]
    (folder / "texts.jsonl").write_text("\n".join(lines[:TEXTS]), encoding="utf-8")
    bins, sampling = {"n": 1, "per_bin": TEXTS}, {"max_tokens": TOKENS}
    tasks = [f"chat:{folder.resolve() / 'texts.jsonl'}"]
    return experiment("texts", tasks, bins=bins, sampling=sampling, measure="divergence")


def asked(folder: Path, declared: dict[str, Any]) -> Any:
    """The group's frames."""
    group, started = declared["group"], time.monotonic()
    (folder / f"{group}.yaml").write_text(json.dumps(declared), encoding="utf-8")
    command = [sys.executable, "-m", "pytest_kvbench.cli", "all", f"{group}.yaml"]
    done = subprocess.run(command, cwd=folder, stdout=sys.stderr, check=False, timeout=3600)
    print(f"{group}: {time.monotonic() - started:.0f} s, exit {done.returncode}", file=sys.stderr)
    return load_group(folder / "reports" / group)


Pairs = tuple[np.ndarray, np.ndarray]


def pairs_of(frames: Any, policy: str, budget: float) -> Pairs:
    """Control and treated, example by example, in the order of the manifest."""
    rows = frames.answers
    full = rows[(rows["policy"] == "none") & ~rows["aa"]]
    control = full.set_index("example_id")["score"]
    arm = rows[(rows["policy"] == policy) & (rows["budget"] == budget)]
    treated = arm.set_index("example_id")["score"].reindex(control.index)
    return control.to_numpy(float), treated.to_numpy(float)


def needed(pairs: Pairs, measure: str) -> tuple[str, str, str]:
    """The verdict on all, the fewest first prompts from which on it stands, and what it takes."""
    control, treated = pairs
    words, last = [], None
    for n in range(FEWEST, len(control) + 1):
        rule = {"margin": MARGINS[measure], "alpha": ALPHA, "room": ROOMS[measure]}
        last = judge_cell(control[:n], treated[:n], np.arange(n), **rule)
        words.append(last.verdict)
    assert last is not None
    if last.verdict == "undetermined":
        more = f"about {len(control) + last.needed:,}" if last.needed else "-"
        return last.verdict, more, f"{last.delta:+.3f}"
    stands = next(n for n in range(len(words)) if set(words[n:]) == {last.verdict})
    return last.verdict, str(FEWEST + stands), f"{last.delta:+.3f}"


def needed_table(frames: Mapping[str, Any]) -> Iterator[str]:
    yield "| policy | budget | score | verdict | prompts | overlap | verdict | prompts |"
    yield "|---|---|---|---|---|---|---|---|"
    for policy in POLICIES:
        for budget in BUDGETS:
            found = {m: needed(pairs_of(of, policy, budget), m) for m, of in frames.items()}
            cells = [f"{delta} | {word} | {n}" for word, n, delta in found.values()]
            yield f"| {policy} | {budget:g} | {' | '.join(cells)} |"


def order_table(frames: Any) -> Iterator[str]:
    yield f"| policy | {' | '.join(f'{budget:g}' for budget in BUDGETS)} |"
    yield f"|---|{'---|' * len(BUDGETS)}"
    for policy in POLICIES:
        arms = [pairs_of(frames, policy, budget)[1] for budget in BUDGETS]
        shown = (f"{a.mean():.3f} ± {a.std(ddof=1) / len(a) ** 0.5:.3f}" for a in arms)
        yield f"| {policy} | {' | '.join(shown)} |"


if __name__ == "__main__":
    main()
