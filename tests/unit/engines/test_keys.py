"""API keys: dummies that are words, real ones that must be in no file, and what we start."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.engines.keys import api_key_of, check_absent, decoded, masked
from pytest_kvbench.engines.launch import stop_all
from pytest_kvbench.engines.servers import Started
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.files import run_folder
from pytest_kvbench.pipeline import judge_process
from pytest_kvbench.records import Prompt
from tests.support.wire import Wire
from tests.unit.engines.test_openai import answer, experiment, request, source

KEY = "sesame-4711"
PRINTS_ENVIRONMENT = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
print(*os.environ, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def settings(**engine: Any) -> EngineSettings:
    whole = {"name": "ollama", "model": "m", "base_url": "http://x/v1", **engine}
    inline = {"group": "g", "tasks": ["niah/single"], "engine": whole}
    return load_experiment(None, inline=inline).experiment.engine


@pytest.mark.parametrize("dummy", ["ollama", "none", "x", "m", "EMPTY", "http", "/", "dummy-key"])
def test_a_dummy_key_that_is_a_word_refuses_nothing(dummy: str) -> None:
    check_absent(settings(model="qwen-none:x", extra_body={"user": "dummy-key-2"}), dummy)


@pytest.mark.parametrize(
    "engine",
    [
        {"extra_body": {"a": {"b": [KEY]}}},
        {"headers": {"X-User": KEY}},
        {"headers": {"X-User": f"Token {KEY}"}},
        {"declared": {"note": KEY}},
        {"launch": {"command": f"serve --port {{port}} --key {KEY}"}, "base_url": None},
        {"launch": {"command": f"serve --port {{port}} --key={KEY}"}, "base_url": None},
    ],
)
def test_a_key_that_is_a_whole_value_is_refused_by_its_place(engine: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"engine\.\w+.*holds the API key") as caught:
        check_absent(settings(**engine), KEY)
    assert KEY not in str(caught.value)
    check_absent(settings(**engine), KEY[:-1])


def test_a_message_keeps_its_words_and_loses_the_key() -> None:
    assert masked("no x in none of six boxes", "x") == "no x in none of six boxes"
    assert masked(f"wrong: {KEY}, '{KEY}'.", KEY) == "wrong: ***, '***'."
    assert masked(f"{KEY}00 is another", KEY) == f"{KEY}00 is another"


@pytest.mark.parametrize("named", [None, "MY_KEY"])
def test_a_server_that_we_start_has_no_key_but_its_own(
    named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KVBENCH_API_KEY", "OPENAI_API_KEY", "MY_KEY"):
        monkeypatch.setenv(name, KEY)
    script = tmp_path / "server.py"
    script.write_text(PRINTS_ENVIRONMENT)
    command = f"{sys.executable} {script} {{port}}"
    engine = settings(base_url=None, launch={"command": command}, api_key_env=named)
    of = load_experiment(None, inline={"group": "g", "tasks": ["niah/single"]}).experiment
    run_id = f"keys{os.getpid()}{named}"
    try:
        Started(engine, of.kv, run_id, os.getpid(), tmp_path / "engine.log").open("none")
        had = (tmp_path / "engine-none.log").read_text().splitlines()[0].split()
    finally:
        stop_all(run_folder(run_id))
    assert {"PATH", "MY_KEY"} <= set(had), "what is no key of ours, or its own"
    assert not {"KVBENCH_API_KEY", "OPENAI_API_KEY"} & set(had)


def test_who_judges_has_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KVBENCH_API_KEY", "OPENAI_API_KEY", "MY_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, KEY)
    started: list[dict[str, str]] = []
    monkeypatch.setattr(
        judge_process.subprocess, "Popen", lambda command, env, **_: started.append(env)
    )
    judge_process.Analyst().warm()
    assert KEY not in started[0].values()
    assert "PATH" in started[0]


def test_the_end_of_a_keys_line_is_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVBENCH_API_KEY", f" {KEY}\r\n")
    assert api_key_of(settings()) == KEY
    monkeypatch.setenv("KVBENCH_API_KEY", "\n")
    monkeypatch.setenv("OPENAI_API_KEY", "")
    assert api_key_of(settings()) is None


@pytest.mark.parametrize("key", ["two\nlines", "a\rb", "a\x7fb", "ké" + KEY, "a\tb", "“" + KEY])
@pytest.mark.parametrize("named", [None, "OPENAI_API_KEY"])
def test_a_key_that_no_header_carries_is_refused_by_its_variable(
    key: str, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KVBENCH_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UsageError, match="variable OPENAI_API_KEY has characters") as caught:
        api_key_of(settings(api_key_env=named))
    assert key not in str(caught.value)


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.sampled_from([KEY, f"a\n{KEY}.", "a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([KEY, "n"]), inner),
    max_leaves=8,
)


@given(JSON)
def test_no_text_of_a_reply_holds_the_key(data: Any) -> None:
    told = decoded(json.dumps(data).encode(), KEY)
    assert KEY not in json.dumps(told)
    assert told == json.loads(json.dumps(data).replace(KEY, "***"))
    assert decoded(json.dumps(data).encode(), "x") == data


def test_a_reply_nested_too_deep_is_none() -> None:
    with pytest.raises(ValueError, match="too deep"):
        decoded(b"[" * 100_000, KEY)
    with contextlib.suppress(ValueError):
        decoded(b"[" * 900 + b"]" * 900, KEY)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_repeats_the_key_is_stored_without_it(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Wire() as wire:
        asked = replace(request(), prompt=Prompt("the lake ", f"Say {KEY}", 8))
        found = answer(experiment("openai", base_url=wire.base_url, stream=stream), asked)
    assert found.text == "***"


def test_what_a_server_tells_of_itself_holds_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Wire("vllm", version=f"for {KEY}") as wire:
        told = source(experiment("vllm", base_url=wire.base_url)).fingerprint()
    assert KEY not in json.dumps(told)
