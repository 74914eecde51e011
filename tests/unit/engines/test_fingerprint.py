"""Which servers are known by what they say."""

from __future__ import annotations

import pytest

from pytest_kvbench.engines.fingerprint import is_unambiguous, merge

DIGEST = {"weights": "9f" * 32, "server": "x 1"}


@pytest.mark.parametrize(
    ("servers", "known"),
    [
        ({"auto": DIGEST}, True),
        ({"auto": DIGEST, "fp8": DIGEST | {"type": "fp8"}}, True),
        ({}, False),
        ({"auto": {}}, False),
        ({"auto": {"server": "vllm 1", "dtype": "bfloat16"}}, False),
        ({"auto": DIGEST | {"weights": "Qwen/Qwen3-8B"}}, False),
        ({"auto": DIGEST, "fp8": DIGEST | {"weights": "model.gguf"}}, False),
        ({"auto": DIGEST | {"base_url": "http://there/v1"}}, False),
        ({"auto": DIGEST, "fp8": DIGEST | {"command": "serve"}}, False),
    ],
)
def test_a_digest_of_weights_tells_servers_apart(servers, known):
    assert is_unambiguous(merge(servers)) is known
