"""`kvbench serve` is the embedded server, with its own command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.server import __main__ as server


def help_of(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


def test_its_options_are_those_of_the_server() -> None:
    served = help_of("pytest_kvbench.cli", "serve")
    assert "--batches" in served
    assert served.startswith("usage: kvbench serve [")
    alone = help_of("pytest_kvbench.server")
    one, other = (text.partition("options:")[2].split() for text in (served, alone))
    assert one == other
    flags = ("--model", "--host", "--port", "--dtype", "--device", "--threads", "--watch-pid")
    assert all(flag in served for flag in flags)


def test_every_argument_reaches_it_as_given(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(server, "_serve", seen.append)
    monkeypatch.setattr(server.signal, "signal", lambda *_: None)  # this process keeps its own
    arguments = ["--model", "m", "--port", "8123", "--batches", "b c", "--dtype=bfloat16"]
    done = CliRunner().invoke(main, ["serve", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (options,) = seen
    assert options == server._parser("kvbench serve").parse_args(arguments)
    assert vars(options)["batches"] == Path("b c")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--model", "no-such-model"], 4, "smollm2-135m"),
        (["--prot", "1"], 2, "kvbench serve: error"),
        (["--port", "x"], 2, "invalid int"),
    ],
)
def test_a_wrong_command_line_is_refused_at_once(
    arguments: list[str], status: int, words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_kvbench.cli", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_loads_no_server() -> None:
    code = (
        "import sys; from pytest_kvbench.cli import main\n"
        "print(*[m for m in sys.modules if m.startswith(('torch', 'pytest_kvbench.server'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []
