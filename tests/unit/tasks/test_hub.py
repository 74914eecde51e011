"""Every download path against a stand-in of the hub, through the hub's own client."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from tests.support.ask_hub import NEW, OLD
from tests.support.hub import Hub, Repo

WEIGHTS = bytes(range(256)) * 4000
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS,
         "README.md": b"not fetched"}  # fmt: skip
ROW = {"input": "Ann is in the garden.", "question": "Where is Ann?", "target": "garden"}
CARD = b"""---
configs:
- config_name: "4096"
  data_files: [{split: test, path: 4096/test-*}]
---
"""


def table():
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"question": ["Who?", "Where?"]}), file)
    return {"README.md": CARD, "4096/test-00000-of-00001.parquet": file.getvalue()}


@pytest.fixture(scope="module")
def hub():
    repos = {
        "org/m": Repo({NEW: MODEL, OLD: {**MODEL, "config.json": b'{"old": 1}'}}),
        "org/gated": Repo({NEW: MODEL}, gated=True),
        "org/table": Repo({NEW: table()}),
        "RMT-team/babilong": Repo({NEW: {"data/qa1/4k.json": json.dumps([ROW]).encode()}}),
        "zai-org/LongBench": Repo({"5e628be450b7e67fb7ae6e201bd6d8f7056f7672": {}}),
    }
    with Hub(repos, breaks=1) as server:
        yield server


@pytest.fixture(scope="module")
def said(hub, tmp_path_factory):
    """Its answers, all from one process: importing the hub's client takes seconds."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "KVBENCH_"))}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path_factory.mktemp("hf")),
                    "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "tests.support.ask_hub"],
                          env=environment, capture_output=True, text=True, check=False,
                          timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_model_comes_whole_and_goes_on_where_it_was_cut_off(said, hub):
    assert said["model"] == {
        "files": ["config.json", "model.safetensors", "tokenizer.json"],
        "commit": NEW, "config": "{}", "size": len(WEIGHTS),
    }  # fmt: skip
    assert f"bytes={len(WEIGHTS) // 2}-" in hub.ranges
    assert said["cached"] == said["model"]


def test_a_model_of_a_revision(said):
    assert (said["revision"]["commit"], said["revision"]["config"]) == (OLD, '{"old": 1}')


def test_what_is_gated_opens_with_a_token(said):
    assert said["with token"]["size"] == len(WEIGHTS)


def test_data_come_as_files_and_as_tables(said):
    assert said["data"] == ["Where is Ann?"]
    assert said["table"] == ["Who?", "Where?"]


@pytest.mark.parametrize(
    ("step", "what", "hint"),
    [
        ("offline", "engine.model: 'org/m' cannot be had: ", "HF_HUB_OFFLINE"),
        ("no revision", "'org/m@v9' cannot be had: the hub has it, but not this revision", "check"),
        ("gated", "it is gated, and this account has no access",
         "accept its terms on its page of the hub, then set HF_TOKEN"),
        ("no model", "the hub has none of that name, or it is private", "set HF_TOKEN"),
        ("no file", "data/qa1/8k.json of RMT-team/babilong cannot be had: the hub has it, but not "
         "this file", "KVBENCH_BABILONG"),
        ("no data revision", "but not this revision", "check the revision"),
        ("no zip", "data.zip of zai-org/LongBench cannot be had", "KVBENCH_LONGBENCH"),
        ("no data", "the hub has none of that name", "KVBENCH_LONGMEMEVAL"),
        ("gated tokenizer", "it is gated", "set HF_TOKEN"),
        ("no table", "4096 of org/none cannot be had: the hub has none of that name", "KVBENCH_R"),
        ("gated table", "or it is private or gated", "accept its terms"),
    ],
)  # fmt: skip
def test_why_nothing_came_and_what_to_do(said, step, what, hint):
    assert len(said[step]) == 2
    assert what in said[step][0]
    assert hint in said[step][1]
