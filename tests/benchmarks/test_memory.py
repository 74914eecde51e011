"""How much memory every stage takes, and that four times the requests need hardly more.

Ten arms, five bins, short prompts, a server on loopback that answers at once; every stage a process
of its own, of whose children the largest counts. Run alone, some minutes:
`pytest tests/benchmarks/test_memory.py --benchmark-only -n 0 -s`. Other sizes, as a table:
`python -m tests.benchmarks.test_memory 50000 200000 [--words 5000]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.plan_size import declare, server, spent_by

FEW, MANY = 10_000, 40_000
GROWS_AT_MOST_MB = 100
KVBENCH = ("-m", "pytest_kvbench.cli")
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider", "-q", "-n", "0")
STAGES = {
    "run": (*KVBENCH, "run", "exp.yaml"),
    "score": (*KVBENCH, "score", "plan_size"),
    "analyse": (*KVBENCH, "analyse", "plan_size"),
    "report": (*KVBENCH, "report", "plan_size"),
    "pytest, nothing left to ask": PYTEST,
}
TEST = """\

@pytest.mark.kvbench("exp.yaml")
def test_quality(cell, control):
    cell.compare(control)
"""


def peaks(requests: int, folder: Path, base_url: str, words: int = 30) -> dict[str, float]:
    """The peak of every stage in MB; each judges anew where it judges."""
    folder.mkdir(exist_ok=True)
    declare(folder, requests, base_url, words=words, in_flight=32)
    (folder / "test_exp.py").write_text(TEST)
    found = {}
    for stage, arguments in STAGES.items():
        if stage != "report":
            (folder / "reports/plan_size/summary.json").unlink(missing_ok=True)
        spent = spent_by([sys.executable, *arguments], folder)
        found[stage] = spent.peak_mb
        row = f"{requests:,} | {stage} | {spent.peak_mb:.0f} MB | {spent.wall_s:.1f} s"
        print("|", row, f"| {spent.cpu_s:.1f} s |", flush=True)
    return found


def test_every_stage_needs_hardly_more_for_four_times_the_requests(
    benchmark: Any, tmp_path: Path
) -> None:
    found: list[dict[str, float]] = []

    def measure() -> None:
        with server() as base_url:
            found.extend(peaks(n, tmp_path / str(n), base_url) for n in (FEW, MANY))

    benchmark.pedantic(measure, rounds=1)
    few, many = found
    grown = {stage: round(many[stage] - few[stage]) for stage in STAGES}
    benchmark.extra_info.update(few=few, many=many, grown=grown)
    assert max(grown.values()) <= GROWS_AT_MOST_MB, grown


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("requests", type=int, nargs="+")
    parser.add_argument("--words", type=int, default=30, help="of a prompt, about")
    options = parser.parse_args()
    print("| requests | stage | peak | time | of it processor |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, server() as base_url:
        for requests in options.requests:
            peaks(requests, Path(folder) / str(requests), base_url, options.words)


if __name__ == "__main__":
    main()
