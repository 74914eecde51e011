"""Which examples were chosen, as rows of a group's database."""

from __future__ import annotations

import sqlite3
from functools import partial

from pytest_kvbench.records import Example, canonical
from pytest_kvbench.selection import ApartExample, Bin, ManifestEntry, Selection, TaskManifest
from pytest_kvbench.store.contexts import INLINE, Contexts
from pytest_kvbench.store.database import Database

_OWN = ("bin", "tokens", "prompt", "max_tokens")


def save(db: sqlite3.Connection, manifest: TaskManifest, selection: Selection) -> None:
    """Replace the selection of one task. Examples of earlier selections stay."""
    task = manifest.task
    db.execute("DELETE FROM datasets WHERE task=?", (task,))
    versions = (manifest.metric, manifest.template_version, manifest.tokenizer)
    db.execute(
        "INSERT INTO datasets VALUES (?,?,?,?,?,?)",
        (task, *versions, canonical(selection).decode(), len(manifest.entries)),
    )
    db.executemany(
        "INSERT INTO bins VALUES (?,?,?,?)",
        [(task, b.index, b.low, b.high) for b in manifest.bins],
    )
    db.executemany(
        "INSERT INTO examples VALUES (?,?,?,?,?,?)"
        " ON CONFLICT DO UPDATE SET meta=excluded.meta, cluster=excluded.cluster",
        (_example_row(entry.example) for entry in manifest.entries),
    )
    db.executemany(
        "INSERT INTO manifest_entries VALUES (?,?,?,?,?,?,?)",
        (
            (task, position, e.bin, e.example.example_id, e.tokens, e.prompt, e.max_tokens)
            for position, e in enumerate(manifest.entries)
        ),
    )


def load(db: Database, task: str) -> tuple[TaskManifest, Selection] | None:
    """The stored selection of one task and what it was made with; None where there is none.

    A long context stays in the database until it is asked for.
    """
    heads = db.read("SELECT * FROM datasets WHERE task=?", (task,))
    if not heads:
        return None
    head = heads[0]
    bins = db.read("SELECT bin, low, high FROM bins WHERE task=? ORDER BY bin", (task,))
    entries = db.read(
        "SELECT x.example_id, x.cluster, x.question, x.answers, x.meta, m.bin, m.tokens, m.prompt,"
        " m.max_tokens, iif(length(x.context) > ?, NULL, x.context) AS context"
        " FROM manifest_entries m JOIN examples x USING (example_id)"
        " WHERE m.task=? ORDER BY m.position",
        (INLINE, task),
    )
    contexts = Contexts(db.again, [row["example_id"] for row in entries])
    manifest = TaskManifest(
        task=task,
        metric=head["metric"],
        template_version=head["template_version"],
        tokenizer=head["tokenizer"],
        bins=tuple(Bin(*row) for row in bins),
        entries=tuple(
            ManifestEntry(_example(db, row, contexts), *map(row.__getitem__, _OWN))
            for row in entries
        ),
    )
    selection: Selection = db.parsed(head["selection"], dict)
    return manifest, selection


def check(db: Database) -> None:
    """Refuse a selection that lost some of its examples.

    Raises:
        StoreError: the first such task, and both counts.
    """
    for task, made, there in db.read(
        "SELECT task, examples, (SELECT count(*) FROM manifest_entries m WHERE m.task = d.task)"
        " FROM datasets d"
    ):
        if made != there:
            raise db.damaged(f"{task}: {there} examples of {made} are there")


def _example_row(example: Example) -> tuple[str, ...]:
    return (
        example.example_id,
        example.cluster,
        example.question,
        example.context,
        canonical(list(example.answers)).decode(),
        canonical(dict(example.meta)).decode(),
    )


def _example(db: Database, row: sqlite3.Row, contexts: Contexts) -> Example:
    others = {
        "example_id": row["example_id"],
        "question": row["question"],
        "answers": tuple(db.parsed(row["answers"], list)),
        "meta": db.parsed(row["meta"], dict),
    }
    if row["context"] is not None:
        return Example(**others, context=row["context"])
    return ApartExample.made(partial(contexts.of, row["example_id"]), row["cluster"], **others)
