"""Real llama.cpp, f16 against q8_0 and q4_0: four bits move the model more than eight do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from pytest_kvbench.divergence.records import Divergence, Measure
from pytest_kvbench.engines import reference
from pytest_kvbench.engines.client import Http
from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.server import weights
from tests.model.conftest import MODEL, prompt_parts
from tests.support.patience import wait_for

pytest.importorskip("xllamacpp")
pytestmark = pytest.mark.model

KIND = KINDS["llamacpp"]
TYPES = ("f16", "q8_0", "q4_0")
PROMPTS, CHARS, NEW = 2, 500, 12


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Their addresses, by KV type; a thread each."""
    folder = tmp_path_factory.mktemp("llamacpp")
    processes = [start(folder, kv_type) for kv_type in TYPES]
    addresses = [folder / f"{kv_type}.json" for kv_type in TYPES]
    wait_for(lambda: all(address.exists() for address in addresses), 120)
    try:
        yield {
            kv_type: json.loads(address.read_text())["base_url"]
            for kv_type, address in zip(TYPES, addresses, strict=True)
        }
    finally:
        for process in processes:
            process.kill()
            process.wait(60)


def start(folder: Path, kv_type: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "pytest_kvbench.engines.llamacpp", "--threads", "1"),
        *("--model", str(weights.resolve(MODEL).path), "--name", MODEL),
        *("--type-k", kv_type, "--type-v", kv_type, "--watch-pid", str(os.getpid())),
        *("--address-file", str(folder / f"{kv_type}.json")),
    ]
    with (folder / f"{kv_type}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def body(index: int) -> tuple[str, dict[str, Any]]:
    asks = " Then say in a sentence what the text is about."
    content = "".join(prompt_parts(index, CHARS)) + asks
    fields = {"model": MODEL, "messages": [{"role": "user", "content": content}]}
    return "/chat/completions", {**fields, "max_tokens": NEW, "temperature": 0, **KIND.extras}


async def free(http: Http, index: int, full: Any) -> Any:
    record = None if full is None else full[1]
    return await reference.free(http, KIND, "arm", body(index), record)


async def forced(http: Http, index: int, full: Any) -> Any:
    if full is None:
        return await reference.full_cache(http, KIND, "control", body(index))
    return await reference.arm(http, KIND, "arm", body(index), full, treated=False)


def asked(servers: dict[str, str], ask: Any) -> dict[str, list[Divergence]]:
    """What each server says of every prompt beside what f16 says, which is asked twice."""

    async def everything() -> dict[str, list[Divergence]]:
        https = {
            kv_type: Http(url, concurrency=1, timeout_s=120, retries=0)
            for kv_type, url in servers.items()
        }
        found: dict[str, list[Divergence]] = {}
        try:
            full = [await ask(https["f16"], index, None) for index in range(PROMPTS)]
            for name, http in https.items():
                arms = [await ask(http, index, one) for index, one in enumerate(full)]
                found[name] = [record for _, record in arms]
        finally:
            for http in https.values():
                await http.aclose()
        return found

    return asyncio.run(everything())


def mean(some: list[Divergence], measure: Measure) -> tuple[float, float]:
    bounds = [one.bounds(measure) for one in some]
    assert None not in bounds
    known = [one for one in bounds if one is not None]
    return fmean(one.low for one in known), fmean(one.high for one in known)


def test_forced_four_bits_move_more_than_eight(servers: dict[str, str]) -> None:
    found = asked(servers, forced)
    for again in found["f16"]:
        assert again.prefix == again.n
        assert again.positions.kld_low == (0.0,) * again.n
    assert mean(found["q4_0"], "overlap")[1] < mean(found["q8_0"], "overlap")[1] < 1
    assert mean(found["q4_0"], "kld")[0] > mean(found["q8_0"], "kld")[0] > 0
    assert mean(found["q4_0"], "same_top")[0] <= mean(found["q8_0"], "same_top")[0]
    assert {one.n for one in found["q4_0"]} == {one.n for one in found["f16"]}


@pytest.mark.slow
def test_free_replies_part_sooner_with_four_bits(servers: dict[str, str]) -> None:
    found = asked(servers, free)
    assert {one.prefix == one.n for one in found["f16"]} == {True}
    assert mean(found["q4_0"], "prefix") <= mean(found["q8_0"], "prefix")
    assert mean(found["q4_0"], "kld")[0] > mean(found["q8_0"], "kld")[0] > 0
    for one in found["q4_0"]:
        if one.prefix < one.n:
            seen, at = one.positions, one.prefix
            assert seen.control_top[at] != seen.top[at]
            assert seen.control_nll[at] <= seen.top_control_nll[at]
