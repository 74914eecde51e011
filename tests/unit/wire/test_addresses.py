"""Addresses: what is refused by its form, and what never goes through a proxy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import ExperimentError
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.wire.addresses import is_loopback, is_same_server, problem_of, proxy_of

SOUND = [
    "http://127.0.0.1:8000/v1",
    "http://[::1]:8000/v1/",
    "https://api.deepseek.com",
    "https://openrouter.ai/api/v1",
    "https://host/v1beta/openai",
    "https://host/openai/v1",
    "http://under_score:1/v1",
]
WRONG = {
    "localhost:8000/v1": "no http://",
    "127.0.0.1:8000/v1": "no http://",
    "//h/v1": "no http://",
    "http:h/v1": "no http://",
    "ftp://h/v1": "no http://",
    "": "no http://",
    "http://": "names no host",
    "http:///v1": "names no host",
    "http://:8000/v1": "names no host",
    "http://h:0/v1": "port 0",
    "http://h:99999/v1": "Port out of range",
    "http://h:PORT/v1": "no address",
    "http://[::1/v1": "no address",
    "http://h/v1 ": "has a blank",
    " http://h/v1": "has a blank",
    "http://h\t/v1": "has a blank",
    "http://h/\u200bv1": "has a blank",
    "http://h/v1/v1": "/v1 twice",
    "http://h/v1/v1/": "/v1 twice",
    "http://h//v1": "// in its path",
    "http://http://h/v1": "// in its path",
    "http://h/v1?key=1": "nothing can follow",
    "http://h/v1#a": "nothing can follow",
    "http://h/v1/chat/completions": "which we add",
    "http://h/v1/completions/": "which we add",
}


@pytest.mark.parametrize("url", SOUND)
def test_what_people_use_is_taken(url: str) -> None:
    assert problem_of(url) == ""


@pytest.mark.parametrize(("url", "says"), WRONG.items())
@pytest.mark.parametrize("form", ["base_url", "also", "endpoint", "endpoints"])
def test_an_address_of_no_sound_form_is_two_lines(url: str, says: str, form: str) -> None:
    engine = {
        "base_url": {"base_url": url},
        "also": {"base_url": ["http://h/v1", url]},
        "endpoint": {"endpoints": {"none": url}},
        "endpoints": {"endpoints": {"none": ["http://h/v1", url]}},
    }[form]
    inline = {"group": "g", "tasks": ["niah/single"], "engine": {"name": "openai", **engine}}
    with pytest.raises(ExperimentError, match=r"engine\.") as caught:
        load_experiment(None, inline=inline)
    assert says in caught.value.what
    assert len(str(caught.value).splitlines()) == 2


@given(st.text())
def test_no_text_is_a_traceback(text: str) -> None:
    problem_of(text)
    problem_of(f"http://{text}")
    problem_of(f"http://h/{text}")


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "a.localhost", "[::1]",
             "[::ffff:127.0.0.1]", "0.0.0.0"]
)  # fmt: skip
def test_loopback_has_no_proxy(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://proxy:3128")
    assert is_loopback(f"http://{host}:8000/v1")
    assert proxy_of(f"http://{host}:8000/v1") is None


def test_other_hosts_have_the_one_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("no_proxy", "inside.example,h:8001")
    assert proxy_of("http://outside.example/v1") == "http://proxy:3128"
    assert proxy_of("http://localhost.example/v1") == "http://proxy:3128"
    assert proxy_of("http://a.inside.example/v1") is None
    assert proxy_of("http://h:8001/v1") is None
    assert proxy_of("http://h:8002/v1") == "http://proxy:3128"


def test_a_server_is_scheme_host_and_port() -> None:
    assert is_same_server("http://h/v1", "http://H:80/v2")
    for other in ("https://h/v1", "http://h:81/v1", "http://h.example/v1", "//h/v1", "http://[/"):
        assert not is_same_server("http://h/v1", other)


@pytest.mark.parametrize(
    "host", ["a..b", ".", ".a", "<host>", "300.1.1.1", "1.2.3", "xn--", f"{'a' * 64}.example", "*",
             "a,b", "{host}", "[::zz]"]
)  # fmt: skip
def test_what_cannot_be_a_host_is_no_address(host: str) -> None:
    assert problem_of(f"http://{host}:8000/v1")


@pytest.mark.parametrize(
    "host", ["h", "h.", "my_host", "10.0.0.1", "[::1]", "bücher.example", "xn--bcher-kva.example"]
)
def test_other_hosts_may_be(host: str) -> None:
    assert problem_of(f"http://{host}:8000/v1") == ""


def test_an_empty_proxy_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "  ")
    assert proxy_of("http://outside.example/v1") is None
