from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pytest_kvbench.engines.base import TokenizerServer
from pytest_kvbench.errors import EngineError
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from pytest_kvbench.tasks.tokenizers import Approximate
from tests.support.shortened import shortened


class Handler(BaseHTTPRequestHandler):
    """`/tokenize` as llama.cpp or vLLM answers it: one token a blank-separated word."""

    protocol_version = "HTTP/1.1"
    style = "llama.cpp"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.style == "vllm" and "prompt" not in body:
            return self._send(400, {"error": "prompt is missing"})
        # llama.cpp takes a missing content for an empty one.
        words = body.get("prompt" if self.style == "vllm" else "content", "").split()
        return self._send(200 if self.path == "/tokenize" else 404, {"tokens": words})

    def _send(self, status, data):
        payload = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *arguments):
        pass


def at(url, **more):
    return TokenizerServer("m", lambda: url, **more)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path))


@pytest.fixture
def server():
    running = []

    def start(style):
        handler = type("Styled", (Handler,), {"style": style})
        made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return f"http://127.0.0.1:{made.server_port}/v1"

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


@pytest.mark.parametrize("style", ["llama.cpp", "vllm"])
def test_counts_and_cuts_as_the_server_does(server, style):
    tokenizer = load_tokenizer("auto", server=at(server(style)))
    assert tokenizer.count(["a b c", "", "d"]) == [3, 0, 1]
    words = " ".join(f"w{i}" for i in range(50))
    short = shortened(tokenizer, words, 10)
    assert short.split()[:5] == [f"w{i}" for i in range(5)]
    assert short.split()[-4:] == [f"w{i}" for i in range(46, 50)]
    assert tokenizer.count([short])[0] <= 10
    assert shortened(tokenizer, words, 50) == words


def test_the_name_tells_tokenizers_apart_and_not_servers(server):
    one, other = (load_tokenizer("auto", server=at(server(s))) for s in ("vllm", "llama.cpp"))
    assert one.name == other.name
    assert one.name.startswith("served:")


def test_a_server_without_tokenizer_is_an_engine_error():
    with pytest.raises(EngineError, match="no tokenizer behind") as caught:
        load_tokenizer("auto", server=at("http://127.0.0.1:9"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_folder_or_a_named_tokenizer_needs_no_server():
    server = at("http://127.0.0.1:9")
    assert load_tokenizer("approximate", server=server).name == Approximate().name
