"""A server from anybody's command line: started, awaited, explained, and ended with its run."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pytest_kvbench.engines.launch import stop, stop_all
from pytest_kvbench.engines.servers import Started
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.files import run_folder

SERVER = """
import http.server, os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("policy", sys.argv[2], "child", child.pid, flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/up" else 404)
        self.end_headers()
        self.wfile.write(f"{os.getpid()} {child.pid}".encode())

http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def run_id() -> Iterator[str]:
    name = f"watch{os.getpid()}"
    yield name
    stop_all(run_folder(name))


def started(
    run_id: str, folder: Path, command: str, owner: int | None = None, **more: Any
) -> Started:
    launch = {"command": command, "health": "/up"}
    engine = {"name": "openai", "model": "m", "launch": launch, **more}
    inline = {"group": "g", "tasks": ["niah/single"], "kv": {"policies": ["q8_0"]}}
    of = load_experiment(None, inline={**inline, "engine": engine}).experiment
    return Started(of.engine, of.kv, run_id, owner or os.getpid(), folder / "engine.log")


def command(folder: Path) -> str:
    script = folder / "server.py"
    script.write_text(SERVER)
    return f"{shlex.quote(sys.executable)} {script} {{port}} {{policy}}"


def pids(base_url: str) -> list[int]:
    text = httpx.get(base_url.removesuffix("/v1") + "/up").text
    return [int(pid) for pid in text.split()]


def gone(pids: list[int], seconds: float = 10) -> bool:
    return wait_for(lambda: not any(map(alive, pids)), seconds)


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_one_server_per_arm_each_with_its_log(run_id: str, tmp_path: Path) -> None:
    servers = started(run_id, tmp_path, command(tmp_path))
    servers.check()
    urls = {name: servers.open(name) for name in ("none", "q8_0", "none")}
    assert len(set(urls.values())) == 2
    assert "policy q8_0" in (tmp_path / "engine-q8_0.log").read_text()
    assert "policy none" in (tmp_path / "engine-none.log").read_text()
    running = [pid for url in urls.values() for pid in pids(url)]
    stop_all(run_folder(run_id))
    assert gone(running)


def test_one_server_ends_and_the_others_stay(run_id: str, tmp_path: Path) -> None:
    servers = started(run_id, tmp_path, command(tmp_path))
    first, second = (pids(servers.open(name)) for name in ("none", "q8_0"))
    servers.close("none")
    assert gone(first)
    assert all(map(alive, second))
    assert not set(pids(servers.open("none"))) & set(first)


def test_servers_end_when_the_controller_is_killed(run_id: str, tmp_path: Path) -> None:
    controller = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    try:
        servers = started(run_id, tmp_path, command(tmp_path), owner=controller.pid)
        running = pids(servers.open("none"))
    finally:
        controller.send_signal(signal.SIGKILL)
        controller.wait(60)
    assert gone(running)


def test_a_server_that_fails_to_start_shows_its_last_lines(run_id: str, tmp_path: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -c \"raise SystemExit('no memory for {{port}}')\""
    servers = started(run_id, tmp_path, line)
    with pytest.raises(EngineError, match=r"ended while starting: .*no memory for") as caught:
        servers.open("q8_0")
    assert "engine-q8_0.log" in caught.value.hint


def test_the_command_line_identifies_its_server(run_id: str, tmp_path: Path) -> None:
    servers = started(run_id, tmp_path, "serve {model} --port {port} --kv {kv} -x '{\"a\": 1}'")
    assert servers.facts("q8_0")["command"] == "serve m --port '{port}' --kv q8_0 -x '{\"a\": 1}'"
    assert "--kv auto" in servers.facts("none")["command"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/nowhere/serve --port {port}", "starts with '/nowhere/serve'"),
        ("python --port 8000", r"has no \{port\}"),
        ("python '{port}", "No closing quotation"),
    ],
)
def test_a_command_that_cannot_run_is_refused(
    run_id: str, tmp_path: Path, line: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        started(run_id, tmp_path, line).check()
    assert len(str(caught.value).splitlines()) == 2


def test_stopping_what_never_ran_does_nothing(run_id: str) -> None:
    folder = run_folder(run_id)
    folder.mkdir()
    stop(folder, "q8_0")
