"""What the package says of the hub at `HF_ENDPOINT`, step by step, as one JSON object.

The hub's client reads where the hub is when it is imported: this runs in a process of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import huggingface_hub.constants

from pytest_kvbench.errors import UsageError
from pytest_kvbench.server.weights import materialise, resolve
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.hub import hub_rows
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.tokenizer_choice import load_tokenizer
from pytest_kvbench.tasks.tokenizers import Approximate


def model(name: str) -> dict[str, Any]:
    """What was fetched of a model."""
    folder = materialise(resolve(name))
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "commit": folder.name,
        "config": (folder / "config.json").read_text(),
        "size": (folder / "model.safetensors").stat().st_size,
    }


def questions(name: str, **options: Any) -> list[str]:
    """The questions of a task whose data are the hub's."""
    task = get_task(name, options=options)
    return [e.question for e in task.examples(BinSpec(1, (9,)), Approximate(), 0)]


def with_token(step: Callable[[], Any]) -> Any:
    """The step with the right token."""
    os.environ["HF_TOKEN"] = "hf_right"  # the stand-in's
    try:
        return step()
    finally:
        del os.environ["HF_TOKEN"]


def offline(step: Callable[[], Any]) -> Any:
    """The step with the hub out of reach."""
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        return step()
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = False


# The client keeps what is whole: a chunk, of 10 MB where nothing else is said.
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 4096

OLD, NEW = "a" * 40, "b" * 40
STEPS: dict[str, Callable[[], Any]] = {
    "offline": lambda: offline(lambda: model("org/m")),
    "model": lambda: model("org/m"),
    "cached": lambda: offline(lambda: model("org/m")),
    "revision": lambda: model(f"org/m@{OLD}"),
    "no revision": lambda: model("org/m@v9"),
    "gated": lambda: model("org/gated"),
    "gated tokenizer": lambda: load_tokenizer("hf:org/gated").name,
    "with token": lambda: with_token(lambda: model("org/gated")),
    "no model": lambda: model("org/none"),
    "data": lambda: questions("babilong/qa1"),
    "no file": lambda: questions("babilong/qa1", lengths=["8k"]),
    "no data revision": lambda: questions("babilong/qa1", revision="v2"),
    "no zip": lambda: questions("longbench/qasper"),
    "no data": lambda: questions("longmemeval/s"),
    "table": lambda: [row["question"] for row in hub_rows("org/table", "4096", NEW, "KVBENCH_R")],
    "no table": lambda: list(hub_rows("org/none", "4096", NEW, "KVBENCH_R")),
    "gated table": lambda: list(hub_rows("org/gated", "4096", NEW, "KVBENCH_R")),
}


def _answer(step: Callable[[], Any]) -> Any:
    try:
        return step()
    except UsageError as error:
        return str(error).splitlines()


if __name__ == "__main__":
    print(json.dumps({name: _answer(step) for name, step in STEPS.items()}))
