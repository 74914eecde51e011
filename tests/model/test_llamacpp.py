"""Real llama.cpp, a server per KV type: budgets proven, mislabels caught, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_kvbench.engines.kinds import llamacpp
from pytest_kvbench.engines.launch import serve, stop_all
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.files import run_folder

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.model

EXPERIMENT = """\
group: kv
tasks: [niah/single]
bins: {n: 1, per_bin: 3, range: [128, 256]}
kv: {policies: [q8_0, q4_0]}
sampling: {max_tokens: 12}
"""
TEST = """\
import pytest

@pytest.mark.kvbench("exp.yaml")
def test_quality(cell, control):
    cell.compare(control).check()
"""
# One thread a server: two that spin for each other on shared cores are many times slower.
LAUNCHED = "engine: {name: llamacpp, threads: 1}\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    started: list[psutil.Process] = []

    def run(engine: str, *args: str) -> subprocess.Popen[bytes]:
        (tmp_path / "exp.yaml").write_text(EXPERIMENT + engine)
        (tmp_path / "test_exp.py").write_text(TEST)
        command = [sys.executable, "-m", "pytest", "-p", "no:benchmark", "-n", "0", *args]
        with (tmp_path / "out").open("wb") as out:
            process = subprocess.Popen(command, cwd=tmp_path, stdout=out, stderr=out)
        started.append(psutil.Process(process.pid))
        return process

    yield run
    for process in started:
        if process.is_running():
            for child in [*process.children(recursive=True), process]:
                child.kill()


def servers(owner: int) -> list[psutil.Process]:
    """llama.cpp servers that watch this controller."""
    wanted = ["--watch-pid", str(owner)]
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "pytest_kvbench.engines.llamacpp" in line and wanted == line[-4:-2]:
            found.append(process)
    return found


def summary(tmp_path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((tmp_path / "reports/kv/summary.json").read_text())
    return data


def proofs(tmp_path: Path) -> dict[str, str]:
    cells = [c for c in summary(tmp_path)["cells"] if c["bin"] == 0]
    return {c["policy"]: c["proof"] for c in cells}


def test_kv_types_are_proven_and_a_repeat_starts_nothing(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start(LAUNCHED, "--kvbench-report")
    most = 0
    while process.poll() is None:
        most = max(most, len(servers(process.pid)))
        time.sleep(0.2)
    assert process.returncode == 0, (tmp_path / "out").read_text()
    assert most == 3
    assert not servers(process.pid)
    assert proofs(tmp_path) == {"none": "proven", "q8_0": "proven", "q4_0": "proven"}
    found = {c["policy"]: c for c in summary(tmp_path)["cells"] if c["bin"] == 0}
    assert found["q4_0"]["achieved"] == pytest.approx(18 / 64, abs=0.005)
    assert found["q8_0"]["achieved"] == pytest.approx(34 / 64, abs=0.005)
    assert not summary(tmp_path)["partial"]
    assert (tmp_path / "reports/kv/report.md").is_file()
    logs = {file: file.read_bytes() for file in tmp_path.glob("reports/kv/engine-*.log")}
    assert len(logs) == 3
    assert start(LAUNCHED).wait(120) == 0
    assert {file: file.read_bytes() for file in logs} == logs


@pytest.mark.slow
def test_one_server_at_a_time(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start("engine: {name: llamacpp, threads: 1, launch: {at_once: 1}}\n")
    most = 0
    while process.poll() is None:
        most = max(most, len(servers(process.pid)))
        time.sleep(0.1)
    assert process.returncode == 0, (tmp_path / "out").read_text()
    assert most == 1
    assert set(proofs(tmp_path).values()) == {"proven"}


@pytest.mark.slow
def test_a_mislabelled_arm_is_not_measured(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    settings = EngineSettings(name="llamacpp")
    folder = run_folder(f"mislabel{os.getpid()}")
    kind = llamacpp.KIND.start
    assert kind is not None
    urls = {}
    try:
        for policy, served in {"none": "f16", "q8_0": "q8_0", "q4_0": "f16"}.items():
            up = serve(
                folder,
                policy,
                lambda at, t=served: kind.command(settings, (t, t), os.getpid(), at, 1),
                log=tmp_path / f"{policy}.log",
                timeout_s=60,
            )
            urls[policy] = up.base_url
        endpoints = ", ".join(f"{name}: '{url}'" for name, url in urls.items())
        process = start(f"engine: {{name: llamacpp, endpoints: {{{endpoints}}}}}\n")
        assert process.wait(240) == 10, (tmp_path / "out").read_text()
    finally:
        stop_all(folder)
    assert proofs(tmp_path) == {"none": "proven", "q8_0": "proven", "q4_0": "not-applied"}
    verdicts = {c["policy"]: c["verdict"] for c in summary(tmp_path)["cells"] if c["bin"] == 0}
    assert verdicts["q4_0"] == "not-measured"
    assert verdicts["q8_0"] != "not-measured"


def test_servers_end_with_a_killed_controller(
    start: Callable[..., subprocess.Popen[bytes]],
) -> None:
    process = start(LAUNCHED)
    deadline = time.monotonic() + 60
    while len(running := servers(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(running) >= 2
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    psutil.wait_procs(running, timeout=10)
    assert not servers(process.pid)


def test_a_prompt_beyond_the_context_is_a_failure_that_says_so(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    process = start(
        "engine: {name: llamacpp, threads: 1, launch: {context: 256}}\n",
        *("--kvbench-set", "kv.policies=[q8_0]", "--kvbench-set", "bins.range=[400, 500]"),
    )
    assert process.wait(120) == 10
    log = (tmp_path / "reports/kv/engine-none.log").read_text()
    assert "exceeds the available context size (256 tokens)" in log
    assert summary(tmp_path)["integrity"]["failures"] == {"ENGINE_ERROR": 6}
