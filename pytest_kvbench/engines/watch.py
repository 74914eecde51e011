"""`python -m pytest_kvbench.engines.watch ... -- COMMAND`: a server that knows nothing of us.

Runs a command line on a free port, says when the server is up, and ends it (and all that it
started) when told to, or when the process that it watches is gone, however that ended.
"""

from __future__ import annotations

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from pytest_kvbench.files import replace_json
from pytest_kvbench.processes import end_tree, is_alive
from pytest_kvbench.wire.addresses import Announced

_EVERY_S = 0.2
_PROBE_S = 5.0


def main(arguments: list[str] | None = None) -> int:
    """Run the command until it ends or must end. Returns its exit status."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _exit)
    port = _free_port()
    command = [word.replace("{port}", str(port)) for word in options.command]
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 -- the user's own command line
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)  # noqa: T201 -- its log
        return 1
    try:
        return _attend(server, port, options)
    finally:
        end_tree(server.pid)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_kvbench.engines.watch")
    parser.add_argument("--watch-pid", type=int, required=True, help="end when this process does")
    parser.add_argument("--address-file", type=Path, required=True, help="written when it is up")
    parser.add_argument("--health", default="/v1/models", help="the path that answers 200 then")
    parser.add_argument("command", nargs="+", help="its command line, with {port}")
    return parser


def _attend(server: subprocess.Popen[bytes], port: int, options: argparse.Namespace) -> int:
    import psutil

    watched, announced = psutil.Process(options.watch_pid), False
    while is_alive(watched):
        status = server.poll()
        if status is not None:
            return status or 1  # a server does not end by itself
        if not announced and _answers(port, options.health):
            url = f"http://127.0.0.1:{port}/v1"
            address: Announced = {"base_url": url, "pid": os.getpid(), "fingerprint": {}}
            replace_json(options.address_file, address)
            announced = True
        time.sleep(_EVERY_S)
    return 0


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PROBE_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _exit(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def command_line(pid: int, address: Path, health: str, command: Sequence[str]) -> list[str]:
    """The command line of a watched server."""
    return [
        *(sys.executable, "-m", "pytest_kvbench.engines.watch", "--watch-pid", str(pid)),
        *("--address-file", str(address), "--health", health, "--", *command),
    ]


if __name__ == "__main__":
    sys.exit(main())
