"""What was handed to whom: `reports/<group>/batches.json`, checksummed, replaced as a whole.

    written -> uploaded -> created -> done -> fetched
                                          └-> failed, cancelled

A batch is in the ledger from when its file is whole. Its id is ours, drawn once: the file's name
and the batch's metadata carry it, so that one sees which batches a server has and which it has not.
"""

from __future__ import annotations

import json
import re
import uuid
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from pytest_kvbench.batch.files import Written
from pytest_kvbench.errors import GuardError
from pytest_kvbench.files import is_unconfirmed, replace_json
from pytest_kvbench.hints import command
from pytest_kvbench.records import digest, to_json
from pytest_kvbench.store.origin import LEDGER, refuse_unconfirmed
from pytest_kvbench.wire.sound import Fields

State = Literal["written", "uploaded", "created", "done", "fetched", "failed", "cancelled"]

FOLDER = "batches"
MARK = "kvbench"
"""The key in a batch's metadata that holds our id."""

_ID = re.compile(r"[A-Za-z0-9_-]+")
_NAMED = 3  # in a line
_OPEN = frozenset({"written", "uploaded", "created", "done"})
_GOES_ON = frozenset(
    {"validating", "queued", "pending", "in_progress", "running", "finalizing", "cancelling"}
)
"""What servers call a batch that has not ended; any other word may mean that nothing will come."""


@dataclass(frozen=True)
class Batch:
    """One file of requests, and how far it has come.

    `status`, `completed` and `failed` are the server's words when it was last asked; `file` is
    relative to the group's folder.
    """

    id: str
    state: State
    file: str
    sha256: str
    bytes: int
    requests: int
    server: str
    base_url: str
    endpoint: str
    written_at: str
    file_id: str = ""
    batch_id: str = ""
    status: str = ""
    completed: int = 0
    failed: int = 0
    output_file_id: str = ""
    error_file_id: str = ""
    message: str = ""

    @property
    def is_open(self) -> bool:
        """Whether its requests may still be answered."""
        return self.state in _OPEN

    @property
    def is_strange(self) -> bool:
        """Whether its server gives no status that says whether it goes on."""
        return self.state == "created" and self.status not in _GOES_ON

    @property
    def name(self) -> str:
        """What people call it: the server's id, once there is one."""
        return self.batch_id or self.id

    @property
    def file_name(self) -> str:
        """What its file is called at the server."""
        return Path(self.file).name


class Ledger:
    """The ledger of one group. Whoever changes it holds the group's lock: see `desk`.

    Raises:
        GuardError: the file was altered.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LEDGER
        batches, self.synced = _read(self.path)
        self._batches = {batch.id: batch for batch in batches}

    @property
    def batches(self) -> tuple[Batch, ...]:
        """All of them, oldest first."""
        return tuple(self._batches.values())

    @property
    def open(self) -> tuple[Batch, ...]:
        """Those whose requests may still be answered."""
        return tuple(batch for batch in self.batches if batch.is_open)

    def by_id(self, batch_id: str) -> Batch:
        """The batch with an id of ours; a KeyError where there is none."""
        return self._batches[batch_id]

    def path_of(self, batch: Batch) -> Path:
        """Where a batch's file of requests is."""
        return self.folder / batch.file

    def note(self, file: Written, at: str) -> Batch:
        """Enter a file that is whole as a new batch, which is returned."""
        batch = Batch(
            id=file.path.stem,
            state="written",
            file=f"{FOLDER}/{file.path.name}",
            sha256=file.sha256,
            bytes=file.bytes,
            requests=file.requests,
            server=file.lane.server,
            base_url=file.lane.base_url,
            endpoint=file.lane.url,
            written_at=at,
        )
        return self._put(batch)

    def move(self, batch: Batch, state: State, **changes: Any) -> Batch:
        """Note how far a batch has come; the batch as it is then."""
        return self._put(replace(batch, state=state, **changes))

    def mark(self, run_id: str) -> None:
        """Note which run last fetched and submitted: its other processes need not."""
        self.synced = run_id
        self._save()

    def tidy(self) -> None:
        """Take away files of nothing that is open: of a death before the ledger knew them."""
        keep = {batch.file_name for batch in self.open}
        for path in (self.folder / FOLDER).glob("*"):
            if path.name not in keep:
                path.unlink(missing_ok=True)

    def _put(self, batch: Batch) -> Batch:
        if batch != self._batches.get(batch.id):
            self._batches[batch.id] = batch
            self._save()
        return batch

    def _save(self) -> None:
        content = {"batches": [to_json(b) for b in self.batches], "synced": self.synced}
        replace_json(self.path, {**content, "checksum": digest(content)})


def new_id() -> str:
    """An id that no other batch has, anywhere."""
    return f"{MARK}-{uuid.uuid4().hex[:20]}"


def waiting_for(batches: Iterable[Batch]) -> str:
    """A line that names some batches: `waiting for batch ID (n of m done)`; "" for none."""
    some = list(batches)
    if not some:
        return ""
    noun = "batch" if len(some) == 1 else "batches"
    names = [batch.name for batch in some[:_NAMED]]
    names += [f"{len(some) - _NAMED} more"] if len(some) > _NAMED else []
    done, total = sum(b.completed + b.failed for b in some), sum(b.requests for b in some)
    return f"waiting for {noun} {', '.join(names)} ({done:,} of {total:,} done)"


def strange(batches: Iterable[Batch]) -> list[str]:
    """A line for each batch of which nobody can say whether anything will come of it."""
    return [
        f"batch {batch.name}: its server says {batch.status or 'nothing'!r} of it, which is no "
        "status of a batch that goes on"
        for batch in batches
        if batch.is_strange
    ]


def refuse_foreign(folder: Path) -> None:
    """Refuse to ask after batches that came with a restored group, before that is confirmed.

    Raises:
        GuardError: there are such; or the ledger was altered.
    """
    if is_unconfirmed(folder) and Ledger(folder).open:
        refuse_unconfirmed(folder)


def waiting(folder: Path) -> str:
    """What a group waits for, in a line; "" for nothing.

    Raises:
        GuardError: its ledger was altered.
    """
    return waiting_for(Ledger(folder).open)


def warn_of_open(folder: Path) -> None:
    """Warn a run that asks live: some of its requests may be in open batches already.

    Raises:
        GuardError: the ledger was altered.
    """
    if reason := waiting(folder):
        warnings.warn(
            f"group {folder.name}: {reason}: what is asked live meanwhile is asked twice. "
            f"Before: {command('batch fetch', folder)}, or cancel in place of fetch",
            stacklevel=2,
        )


_KINDS = {field.name: int if field.type == "int" else str for field in fields(Batch)}


def _is_batch(entry: Fields) -> bool:
    """Whether an entry is one of ours: values of their types, and files where ours are."""
    whole = {name: type(value) for name, value in entry.items()} == _KINDS
    return (
        whole
        and entry["state"] in get_args(State)
        and _ID.fullmatch(str(entry["id"])) is not None
        and entry["file"] == f"{FOLDER}/{entry['id']}.jsonl"
    )


def _read(path: Path) -> tuple[list[Batch], str]:
    """The batches of a ledger, and when they were last looked after; of none that is there yet."""
    try:
        data = json.loads(path.read_bytes())
        checksum = data.pop("checksum")
        if checksum == digest(data) and all(map(_is_batch, data["batches"])):
            return [Batch(**batch) for batch in data["batches"]], data.get("synced", "")
    except FileNotFoundError:
        return [], ""
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    raise GuardError(
        f"{path}: was altered: its checksum does not fit what it says",
        "restore it; without it nobody knows what was submitted, and all may be asked twice",
    )
