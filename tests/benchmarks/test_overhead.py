"""What the harness adds to the wire: whole runs against the fastest bare loop of aiohttp or httpx.

2,000 distinct requests of about 1,000 tokens, 32 in flight, one server on loopback that answers
after 20 ms. Run alone: `pytest tests/benchmarks/test_overhead.py --benchmark-only -n 0 -s`. Floor
and run alternate, so that a busy moment of the machine hits both; the fastest of each counts.
Runs have no other pytest plugins than `make install` brings: what only tests need is not loaded.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import floor

REQUESTS = 2000
CONCURRENCY = 32
LATENCY_S = 0.02
ROUNDS = 3
ROOT = Path(__file__).parents[2]


@dataclass
class Ran:
    """One process from start to exit."""

    seconds: float
    peak_mb: float
    output: str


@dataclass
class Bench:
    """A project of 2,000 questions on a server that is up."""

    folder: Path
    base_url: str
    floors: list[Ran] = field(default_factory=list)

    def run(self, *args: str) -> Ran:
        return timed([sys.executable, *args], self.folder)

    def whole(self, way: str) -> Ran:
        ran = self.run("-m", *WAYS[way])
        assert "1 passed" in ran.output or "0 failed" in ran.output, ran.output
        return ran

    def forget(self) -> None:
        for name in ("reports", ".pytest_cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def measure_floor(self) -> None:
        self.floors.append(self.run(floor.__file__, self.base_url, "rows.jsonl", str(CONCURRENCY)))

    @property
    def floors_s(self) -> dict[str, float]:
        """The best wall time of each bare loop, without its process's start."""
        found = re.findall(r"^(\w+): ([\d.]+) s$", "".join(f.output for f in self.floors), re.M)
        return {name: min(float(s) for of, s in found if of == name) for name, _ in found}

    @property
    def floor_s(self) -> float:
        """That of the fastest."""
        return min(self.floors_s.values())

    def answers_per_s(self) -> float:
        """Between the first request and the last answer."""
        query = "SELECT count(*), (max(julianday(created_at)) - min(julianday(created_at))) * 86400"
        with sqlite3.connect(self.folder / "reports" / "overhead" / "kvbench.sqlite") as db:
            answers, seconds = db.execute(f"{query} FROM answers").fetchone()
        assert answers == REQUESTS
        return float(answers / (seconds + LATENCY_S))


def timed(command: list[str], folder: Path) -> Ran:
    started = time.perf_counter()
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, text
    return Ran(seconds, usage.ru_maxrss / 1024, text)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("overhead")
    write_rows(folder / "rows.jsonl")
    command = [sys.executable, "-m", "tests.support.quick_server", "--latency", str(LATENCY_S)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        base_url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
        (folder / "exp.yaml").write_text(
            f"""\
group: overhead
tasks: ["jsonl:rows.jsonl"]
bins: {{n: 1, per_bin: {REQUESTS}}}
kv: {{policies: [none], budgets: [1.0]}}
engine: {{name: openai, model: mock, base_url: "{base_url}", concurrency: {CONCURRENCY}}}
tokenizer: approximate
"""
        )
        (folder / "test_exp.py").write_text(
            "import pytest\n\n\n@pytest.mark.kvbench('exp.yaml')\n"
            "def test_quality(cell, control):\n    cell.compare(control).check()\n"
        )
        yield Bench(folder, base_url)
        server.kill()


def write_rows(path: Path) -> None:
    rng = random.Random(0)
    words = [f"{a}{b}" for a in ("mo", "ri", "sta", "fle", "wi") for b in ("ver", "tt", "n", "sk")]
    with path.open("w") as file:
        for number in range(REQUESTS):
            context = " ".join(rng.choices(words, k=950))
            row = {"question": f"Say w{number}", "context": f"{context} {number}",
                   "answers": [f"w{number}"]}  # fmt: skip
            file.write(json.dumps(row) + "\n")


TESTS_ALONE = ("benchmark", "zarr", "hypothesispytest", "typeguard")
PYTEST = ("pytest", *(f"-pno:{name}" for name in TESTS_ALONE), "-q", "-n")
WAYS = {
    "pytest -n 0": (*PYTEST, "0"),
    "pytest -n 2": (*PYTEST, "2"),
    "kvbench run": ("pytest_kvbench.cli", "run", "exp.yaml"),
}
AT_MOST = {"pytest -n 0": 1.6, "pytest -n 2": 2.0, "kvbench run": 1.3}
"""What a whole run may take, in the better floor; of `-n 2` two more Pythons start on two cores."""

IDLE_AT_MOST_S = {"pytest -n 0": 0.8, "kvbench run": 0.4}


@pytest.mark.parametrize("way", AT_MOST)
def test_a_whole_run_and_the_wire(benchmark: Any, bench: Bench, way: str) -> None:
    def before() -> None:
        bench.forget()
        bench.measure_floor()

    ran: list[Ran] = []
    rates: list[float] = []

    def run() -> None:
        ran.append(bench.whole(way))
        rates.append(bench.answers_per_s())

    benchmark.pedantic(run, setup=before, rounds=ROUNDS)
    wall = min(r.seconds for r in ran)
    benchmark.extra_info.update(
        floors_s={name: round(seconds, 2) for name, seconds in bench.floors_s.items()},
        floor_s=round(bench.floor_s, 2),
        floor_per_s=round(REQUESTS / bench.floor_s),
        run_s=round(wall, 2),
        run_by_floor=round(wall / bench.floor_s, 2),
        answers_per_s=round(max(rates)),
        rate_by_floor=round(max(rates) * bench.floor_s / REQUESTS, 2),
        peak_mb=round(max(r.peak_mb for r in ran)),
    )
    print(benchmark.extra_info)
    assert wall / bench.floor_s <= AT_MOST[way]
    assert max(rates) * bench.floor_s / REQUESTS >= 0.8
    assert max(r.peak_mb for r in ran) <= 150


@pytest.mark.parametrize("way", IDLE_AT_MOST_S)
def test_a_run_with_nothing_left_to_do(benchmark: Any, bench: Bench, way: str) -> None:
    bench.forget()
    first = bench.whole(way)
    again: list[Ran] = []
    benchmark.pedantic(lambda: again.append(bench.whole(way)), rounds=ROUNDS)
    wall = min(r.seconds for r in again)
    benchmark.extra_info.update(first_s=round(first.seconds, 2), again_s=round(wall, 2))
    print(benchmark.extra_info)
    assert wall <= IDLE_AT_MOST_S[way]
