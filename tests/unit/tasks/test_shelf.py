"""Texts of examples take no memory while others are chosen, asked and judged."""

from __future__ import annotations

import json
from pathlib import Path

from pytest_kvbench.records import Example
from pytest_kvbench.selection import ApartExample, TaskManifest
from pytest_kvbench.store.store import DATABASE, Store
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.manifest import build_task_manifest, pinned_prompt, write_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.shelf import Shelf
from pytest_kvbench.tasks.tokenizers import Approximate

LONG = "Där står mer än tusen tecken. " * 50
SPEC = BinSpec(n=1, per_bin=(9,), edges=None, range=(1, 9_000), by="tokens")


def test_a_long_context_is_put_away_and_read_when_asked_for() -> None:
    shelf = Shelf()
    examples = [Example(f"e{n}", "q", f"{n} {LONG}", ("a",), {"n": n}) for n in range(3)]
    apart = [shelf.put(example) for example in examples]
    assert all("context" not in vars(one) for one in apart)
    assert apart == examples
    assert examples == apart
    assert [one.cluster for one in apart] == [one.cluster for one in examples]
    noted = apart[1].noting({"cut": [1, 2]})
    assert (noted.context, noted.meta) == (examples[1].context, {"cut": [1, 2]})
    assert "context" not in vars(noted)


def test_a_short_one_stays() -> None:
    example = Example("e", "q", "short", ("a",))
    assert Shelf().put(example) is example


def manifest(folder: Path) -> TaskManifest:
    rows = [{"question": f"Say {n}", "context": f"{n} {LONG}", "answers": [str(n)], "tags": ["x"]}
            for n in range(5)]  # fmt: skip
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return build_task_manifest(get_task(f"jsonl:{file}"), SPEC, Approximate(), 0)


def test_a_manifest_and_what_is_stored_of_it_hold_no_long_text(tmp_path: Path) -> None:
    made = manifest(tmp_path)
    with Store(tmp_path / DATABASE) as store:
        store.save_manifest(made, {})
        stored = store.manifest(made.task)
    assert stored is not None
    for entry in (*made.entries, *stored[0].entries):
        assert isinstance(entry.example, ApartExample)
        assert "context" not in vars(entry.example)
    assert stored[0] == made
    task = get_task(made.task)
    assert pinned_prompt(task, stored[0].entries[0]) == pinned_prompt(task, made.entries[0])
    write_manifest(tmp_path / "manifest.json", [made], {"group": "g"})
    read = json.loads((tmp_path / "manifest.json").read_bytes())
    assert read.keys() == {"meta", "schema", "tasks"}
    assert TaskManifest.from_json(read["tasks"][0]) == made
