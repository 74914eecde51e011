"""`store.texts: hash`: no text of a log, and none of a reply's, is anywhere afterwards."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse

SECRET = "quetzalcoatlus"
EXPERIMENT = """\
group: g
tasks: ["chat:log.jsonl"]
bins: {n: 1, per_bin: 12}
kv: {policies: [snapkv], budgets: [1.0, 0.2]}
store: {texts: hash}
"""


def conversation(number: int) -> dict[str, object]:
    """Its secret is in every place that a text can have."""
    return {
        "id": number,
        "note": SECRET,
        "messages": [
            {"role": "system", "content": f"The word is {SECRET}."},
            {"role": "user", "content": f"I am {SECRET} {number}"},
            {"role": "assistant", "content": f"Hello {SECRET}."},
            {"role": "user", "content": f"Say {SECRET}{number} please"},
            {"role": "assistant", "content": f"{SECRET}{number}"},
        ],
    }


@pytest.fixture
def secret_project(project, mock):
    log = "\n".join(json.dumps(conversation(number)) for number in range(12))
    (project.path / "log.jsonl").write_text(log)
    text = (project.path / "exp.yaml").read_text()
    engine = text[text.index("engine:") :]
    (project.path / "exp.yaml").write_text(EXPERIMENT + engine)
    return project


def contents(path: Path) -> Iterator[bytes]:
    """What is in a file, and in those inside of it."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as inner:
            yield from (inner.extractfile(m).read() for m in inner if m.isfile())
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as inner:
            yield from map(inner.read, inner.namelist())


def places(root: Path) -> list[str]:
    """The files below `root` that have the secret in their name or inside."""
    word = SECRET.encode()
    return [
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file()
        and path.name != "log.jsonl"
        and any(word in one for one in (path.name.encode(), *contents(path)))
    ]


def test_a_text_is_nowhere(secret_project):
    result = secret_project.run("-n", "0", "--kvbench-report")
    print(result.stdout.str())
    assert (secret_project.path / "reports/g/kvbench.sqlite").is_file()
    assert places(secret_project.path) == []


def test_where_texts_are_kept_they_are_found(secret_project):
    """The search above can fail."""
    path = secret_project.path / "exp.yaml"
    path.write_text(path.read_text().replace("hash", "keep"))
    secret_project.run("-n", "0", "--kvbench-report")
    print(places(secret_project.path))
    assert 0
