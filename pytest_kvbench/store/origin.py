"""Groups that came from elsewhere: what they would do is shown, and done once it is confirmed.

`restore` marks a group before it gets its name; no archive may hold the mark. While it is there,
nothing that the group stores is started, addressed or sent; reading needs no leave.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import GuardError, StoreError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.files import UNCONFIRMED, is_unconfirmed, replace_text, scratch, writing
from pytest_kvbench.hints import command
from pytest_kvbench.store.database import copy_database
from pytest_kvbench.store.store import DATABASE, Store

LEDGER = "batches.json"
_SECTIONS = (
    *("engine", "executor", "kv", "sensitivity"),
    *("tasks", "task_options", "tokenizer", "after"),
)
"""The keys of an experiment that name programs, servers, files or what is sent."""

_SETTLED = frozenset({"fetched", "failed", "cancelled"})
_SHOWN = 400  # characters of an error's line; the command that confirms shows everything


def mark(folder: Path) -> None:
    """Note that a group came from elsewhere."""
    replace_text(
        folder / UNCONFIRMED, "restored from an archive; kvbench trust shows what it would do\n"
    )


def confirm(folder: Path) -> None:
    """Confirm a group: from now on it is like one that was made here.

    Raises:
        StoreError: its folder cannot be written.
    """
    with writing(folder / UNCONFIRMED):
        (folder / UNCONFIRMED).unlink(missing_ok=True)


def refuse_unconfirmed(folder: Path) -> None:
    """Refuse to use what a group stores before somebody has confirmed it.

    Raises:
        GuardError: naming what it would do, and the command that confirms it.
    """
    if not is_unconfirmed(folder):
        return
    actions = "; ".join(claims(folder))
    shown = actions if len(actions) <= _SHOWN else f"{actions[:_SHOWN]} ..."
    raise GuardError(
        f"group {folder.name}: was restored from an archive, and nobody has confirmed what it "
        f"would do: {shown}",
        f"read all of it and confirm it once: {command('trust', folder)}",
    )


def claims(folder: Path) -> list[str]:
    """What a group stores that could start, reach or send something, a line each.

    Keys of its last run, and of what was prepared since, as far as they are not the defaults; its
    open batches, and its Python files. All of it is printable: strings are JSON in ASCII.
    """
    lines = [*_declared(folder), *_batches(folder / LEDGER)]
    code = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return [*lines, *(f"a Python file: {_shown(name)}" for name in code)]


def _declared(folder: Path) -> Iterator[str]:
    try:
        snapshots = _snapshots(folder)
    except (StoreError, ValueError, TypeError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        yield f"what it declares cannot be read: {_shown(reason)}"
        return
    usual = dict(_leaves(_defaults()))
    lines = (
        f"{key}: {_shown(value)}"
        for snapshot in snapshots
        for key, value in _leaves({name: snapshot.get(name) for name in _SECTIONS})
        if value not in (None, [], {}) and usual.get(key) != value
    )
    yield from dict.fromkeys(lines)


def _snapshots(folder: Path) -> list[Keys]:
    """What a run could be of. From a copy: to look at a group must not change it."""
    if not (folder / DATABASE).is_file():
        return []
    with scratch() as room:
        copy_database(folder / DATABASE, room / DATABASE)
        with Store(room / DATABASE) as store:
            found = [run.snapshot for run in store.runs()[-1:]]
            found += [prepared] if (prepared := store.prepared()) is not None else []
    if not all(isinstance(snapshot, Mapping) for snapshot in found):
        raise ValueError("it is no experiment")
    return found


def _defaults() -> Keys:
    least = Experiment(group="g", tasks=("niah/single",))
    declared = {**least.snapshot(), "executor": least.executor.model_dump(mode="json")}
    return {name: declared[name] for name in _SECTIONS if name != "tasks"}


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, object]]:
    if not isinstance(value, Mapping) or not value:
        yield key, value
        return
    for name, inner in value.items():
        shown = name if name.isidentifier() and name.isascii() else _shown(name)
        yield from _leaves(inner, f"{key}.{shown}" if key else shown)


def _batches(ledger: Path) -> Iterator[str]:
    """The open batches of a ledger that nobody has looked at yet."""
    if not ledger.exists():
        return
    try:
        found = json.loads(ledger.read_bytes())["batches"]
        places = Counter(str(b["base_url"]) for b in found if b["state"] not in _SETTLED)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        yield f"{LEDGER}: cannot be read"
        return
    for place, count in places.items():
        yield f"{LEDGER}: {count} open at {_shown(place)}"


def _shown(value: Any) -> str:
    with contextlib.suppress(RecursionError):
        return json.dumps(value, ensure_ascii=True)
    return "nested too deeply to be shown"
