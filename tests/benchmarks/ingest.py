"""How many answers a group's database takes in: rows a second, bytes a row, from 10k to 1M.

    python tests/benchmarks/ingest.py [--rows 10000 100000 1000000] [--chunk 16]

Small answers, as choices and needles give them; each chunk is durable when the next one begins.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pytest_kvbench.records import (
    Answer,
    Arm,
    Example,
    Prompt,
    Request,
    Sampling,
    Telemetry,
)
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest
from pytest_kvbench.store.store import DATABASE, Store

BUDGETS = tuple(n / 100 for n in range(100, 0, -1))


def requests(examples: int) -> Iterator[Request]:
    """Every budget of every example."""
    arms = [
        Arm("openai", "m", "f", "none" if b == 1 else "snapkv", b, Sampling(), "t") for b in BUDGETS
    ]
    for n in range(examples):
        prompt = Prompt("", f"question {n}", 8)
        yield from (Request(arm, "t", 0, f"{n:016x}", 0, prompt) for arm in arms)


def manifest(examples: int) -> TaskManifest:
    """The examples, without their texts."""
    entries = tuple(
        ManifestEntry(Example(f"{n:016x}", "q", "c", ("a",)), 0, 100, "sha", 8)
        for n in range(examples)
    )
    return TaskManifest("t", "exact_match", "v", "approximate", (Bin(0, None, None),), entries)


def measure(rows: int, chunk: int) -> None:
    """Take in `rows` answers and print one line."""
    examples = rows // len(BUDGETS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / DATABASE
        with Store(path) as store:
            store.save_manifest(manifest(examples), {})
            before, started, spent = path.stat().st_size, time.perf_counter(), 0.0
            pending = requests(examples)
            while some := list(itertools.islice(pending, chunk)):
                answers = [
                    Answer(r.key, "The answer is 48213.", "stop", Telemetry(0.5, None, 1000, 8))
                    for r in some
                ]
                at = time.perf_counter()
                store.save_requests(some)
                store.save_answers(answers)
                spent += time.perf_counter() - at
            total = time.perf_counter() - started
        size = path.stat().st_size - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = (rows, rows / spent, rows / total, size / rows, peak)
    print("|", " | ".join(f"{figure:,.0f}" for figure in figures), "|")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--chunk", type=int, default=16)
    options = parser.parse_args()
    print(f"chunks of {options.chunk}\n")
    print("| answers | stored a second | with keys made | bytes each | peak MB |")
    print("|---|---|---|---|---|")
    for rows in options.rows:
        measure(rows, options.chunk)


if __name__ == "__main__":
    main()
