"""The main job on the real model: one server however many workers, gone whatever ends the run."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.patience import answered, wait_for

ROOT = Path(__file__).parents[2]
DATABASE = "reports/sanity/kvbench.sqlite"
WORKER_BYTES = 150 * 2**20
ANSWERS = 10 * 3
"""Ten examples of the full cache, of the arm, and of the one that is known to be bad."""

pytestmark = pytest.mark.model


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts pytest on a smaller sanity experiment; nothing of it outlives the test."""
    started: list[psutil.Process] = []

    def run(*args: str) -> subprocess.Popen[bytes]:
        command = [
            *(sys.executable, "-m", "pytest", "evals/test_sanity.py", "-p", "no:benchmark"),
            *("--kvbench-dir", str(tmp_path / "reports"), "-o", f"cache_dir={tmp_path / 'cache'}"),
            *("--kvbench-set", "bins.range=[128, 256]", *args),
        ]
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        started.append(psutil.Process(process.pid))
        return process

    yield run
    for process in started:
        if process.is_running():
            for child in [*process.children(recursive=True), process]:
                child.kill()


def servers(owner: int) -> list[psutil.Process]:
    """Embedded servers that watch this controller."""
    wanted = ["--watch-pid", str(owner)]
    processes = psutil.process_iter(["cmdline"])
    return [p for p in processes if _has(p.info["cmdline"] or [], wanted)]


def _has(line: list[str], wanted: list[str]) -> bool:
    return any(line[n : n + 2] == wanted for n in range(len(line)))


def test_one_server_and_light_workers(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start("-n", "3")
    most_servers, heaviest, seen = 0, 0, set()
    while process.poll() is None:
        most_servers = max(most_servers, len(servers(process.pid)))
        try:
            workers = psutil.Process(process.pid).children()
            for worker in workers:
                if "pytest_kvbench.server" in " ".join(worker.cmdline()):
                    continue
                seen.add(worker.pid)
                heaviest = max(heaviest, worker.memory_info().rss)
                assert not any("libtorch" in m.path for m in worker.memory_maps())
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.2)
    assert process.returncode == 0, (tmp_path / "out").read_text()
    assert most_servers == 1
    assert len(seen) >= 3
    assert heaviest < WORKER_BYTES, f"{heaviest / 2**20:.0f} MiB"
    assert not servers(process.pid)
    summary = json.loads((tmp_path / "reports/sanity/summary.json").read_text())
    treated = [c for c in summary["cells"] if c["verdict"] and c["bin"] != "all"]
    assert len(treated) == 3
    for cell in treated:
        assert cell["proof"] == "proven"
        assert cell["achieved"] == pytest.approx(cell["budget"], abs=0.02)
    assert summary["integrity"]["failures"] == {}


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    "end",
    [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
)
def test_the_server_ends_with_the_run_and_answers_stay(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path, end: signal.Signals
) -> None:
    process = start("-n", "0" if end is signal.SIGTERM else "2")
    wait_for(lambda: answered(tmp_path / DATABASE) >= 2)
    process.send_signal(end)
    process.wait(60)
    wait_for(lambda: not servers(process.pid), 15)
    kept = answered(tmp_path / DATABASE)
    assert 2 <= kept < ANSWERS
    if end is signal.SIGINT:
        again = start("-n", "0")
        assert again.wait(180) == 0, (tmp_path / "out").read_text()
        assert answered(tmp_path / DATABASE) == ANSWERS


def test_a_killed_server_is_errors_and_exit_code_10(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start("-n", "2")
    wait_for(lambda: answered(tmp_path / DATABASE) >= 2)
    (server,) = servers(process.pid)
    server.kill()
    assert process.wait(120) == 10
    out = (tmp_path / "out").read_text()
    assert "is gone" in out
    assert "Traceback" not in out
    assert " failed" not in out.splitlines()[-1]
    assert answered(tmp_path / DATABASE) >= 2


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_the_run_completes(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start("-n", "2")
    wait_for(lambda: answered(tmp_path / DATABASE) >= 2)
    worker = next(
        child
        for child in psutil.Process(process.pid).children()
        if "engines.local" not in " ".join(child.cmdline())
    )
    worker.kill()
    assert process.wait(240) == 10
    assert answered(tmp_path / DATABASE) == ANSWERS
    assert not servers(process.pid)
