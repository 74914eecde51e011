"""What a plan costs the controller, from 1k to 1M requests: time and peak memory of each command.

    python tests/benchmarks/plan_size.py [--requests 1000 10000 100000 1000000] [--run 100000]

Ten arms, five bins, short prompts. What asks and judges is left out above `--run` requests: the
server, a process of its own, answers at once, and is most of what one waits for. Every command is
a fresh process; two runs of different sizes tell what one answer costs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUDGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
BINS = 5
PLAN = {
    "prepare": ("prepare", "exp.yaml"),
    "export": ("batch", "export", "exp.yaml", "--to", "files"),
}
RUN = {
    "run": ("run", "exp.yaml"),
    "run, nothing left": ("run", "exp.yaml"),
    "score": ("score", "plan_size"),
    "analyse": ("analyse", "plan_size"),
}


@dataclass(frozen=True)
class Spent:
    """What one process took, from start to exit."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def spent_by(command: list[str], folder: Path) -> Spent:
    """Run a command to its end; this process stays small, for a child's peak includes its own."""
    started = time.perf_counter()
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            sys.exit(f"{command}\n{output.read()}")
    return Spent(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextmanager
def server(latency_s: float = 0.0) -> Iterator[str]:
    """The address of a server that answers after so long."""
    command = [sys.executable, "-m", "tests.support.quick_server", "--latency", str(latency_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
        finally:
            process.kill()


def declare(folder: Path, requests: int, base_url: str, *, words: int, in_flight: int) -> None:
    """An experiment of so many requests, with its questions."""
    host = base_url.removesuffix("/v1")  # an address for each arm; all of them lead to one server
    arms = {"none": base_url, **{f"mine@{b}": f"{host}/{b}/v1" for b in BUDGETS[1:]}}
    examples = requests // len(BUDGETS)
    experiment = {
        "group": "plan_size",
        "tasks": ["jsonl:rows.jsonl"],
        "bins": {"n": BINS, "per_bin": examples // BINS},
        "kv": {"policies": ["mine"], "budgets": BUDGETS},
        "engine": {"name": "openai", "model": "mock", "endpoints": arms, "concurrency": in_flight},
        "tokenizer": "approximate",
    }
    (folder / "exp.yaml").write_text(json.dumps(experiment))  # YAML holds JSON
    rng = random.Random(0)
    lexicon = [a + b for a in ("mo", "ri", "sta", "fle", "wi") for b in ("ver", "tt", "n", "sk")]
    with (folder / "rows.jsonl").open("w") as file:
        for n in range(examples):
            # Bins hold equally many because lengths are spread evenly.
            context = " ".join(rng.choices(lexicon, k=max(1, words * (1 + n % BINS) // 3)))
            row = {"question": f"Say w{n}", "context": f"{context} {n}", "answers": [f"w{n}"]}
            file.write(json.dumps(row) + "\n")


def measure(requests: int, base_url: str, *, words: int, in_flight: int, run: bool) -> None:
    """Print a row per command."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        declare(folder, requests, base_url, words=words, in_flight=in_flight)
        for what, arguments in {**PLAN, **(RUN if run else {})}.items():
            s = spent_by([sys.executable, "-m", "pytest_kvbench.cli", *arguments], folder)
            row = (f"{requests:,}", what, f"{s.wall_s:.1f}", f"{s.cpu_s:.1f}", f"{s.peak_mb:.0f}")
            print("|", " | ".join((*row, f"{requests / s.wall_s:,.0f}")), "|", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, nargs="+", default=[10**n for n in (3, 4, 5, 6)])
    parser.add_argument("--run", type=int, default=100_000, help="largest plan that is asked")
    parser.add_argument("--words", type=int, default=30, help="of a prompt, about")
    parser.add_argument("--in-flight", type=int, default=32)
    options = parser.parse_args()
    print(f"prompts of about {options.words} words, {options.in_flight} in flight\n")
    print("| requests | command | seconds | of them CPU | peak MB | requests a second |")
    print("|---|---|---|---|---|---|")
    with server() as base_url:
        for requests in options.requests:
            measure(
                requests,
                base_url,
                words=options.words,
                in_flight=options.in_flight,
                run=requests <= options.run,
            )


if __name__ == "__main__":
    main()
