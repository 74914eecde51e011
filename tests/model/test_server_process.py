"""The process: it ends when told, at once, and when the one it watches is gone."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.model.conftest import MODEL, launch
from tests.support.patience import wait_for

pytestmark = pytest.mark.model


def test_sigterm_ends_it_in_the_middle_of_a_prefill(tmp_path: Path) -> None:
    process, address = launch(tmp_path)
    body = {"model": MODEL, "prompt": "a b " * 3500, "max_tokens": 1}
    failures: list[Exception] = []

    def ask() -> None:
        try:
            httpx.post(f"{address['base_url']}/completions", json=body, timeout=60)
        except httpx.TransportError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1.5)  # 7,000 tokens take well over 10 s
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: process.poll() is not None, 2)
    asking.join(60)
    assert process.returncode == -signal.SIGTERM
    assert failures


def test_it_ends_with_the_process_it_watches(tmp_path: Path) -> None:
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process, _ = launch(tmp_path, "--watch-pid", str(watched.pid))
    watched.kill()  # not waited for: a zombie counts as gone
    wait_for(lambda: process.poll() is not None, 5)
    watched.wait(60)


def test_a_watched_process_may_go_while_the_model_loads(tmp_path: Path) -> None:
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1.5)"])
    command = [sys.executable, "-m", "pytest_kvbench.server", "--model", MODEL]
    process = subprocess.Popen([*command, "--watch-pid", str(watched.pid)])
    watched.wait(60)
    wait_for(lambda: process.poll() is not None, 10)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "no-such-model"], ["'no-such-model'", "smollm2-135m"]),
        (["--model", "./nowhere.gguf"], ["'./nowhere.gguf'", "folder of safetensors"]),
        (["--model", MODEL, "--watch-pid", "4194304"], ["4194304"]),
    ],
)
def test_a_wrong_command_line_is_two_lines_and_exit_code_4(
    arguments: list[str], words: list[str]
) -> None:
    command = [sys.executable, "-m", "pytest_kvbench.server", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 4
    assert len(done.stderr.splitlines()) == 2
    assert [word for word in words if word not in done.stderr] == []


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "pytest_kvbench.server", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 4
    assert port in done.stderr


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    process, address = launch(tmp_path)
    listening = [
        connection.laddr
        for connection in psutil.Process(process.pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    process.kill()
    process.wait(60)
    assert [place.ip for place in listening] == ["127.0.0.1"]
    assert address["pid"] == process.pid
