"""The notes that a server keeps of files and batches, and how they are shown."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pytest_kvbench.server.protocol import ApiError

_UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")

_ID = re.compile(r"[A-Za-z0-9-]{1,100}")

log = logging.getLogger(__name__)


class FileNote(TypedDict):
    """A file as the API has it."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str


class Came(TypedDict):
    """How many requests of a batch came to what."""

    completed: int
    failed: int


class Counts(Came):
    """The same, and how many there are."""

    total: int


class Problem(TypedDict):
    """Why a batch failed, and in which line of its file."""

    code: str
    message: str
    param: None
    line: int | None


class Problems(TypedDict):
    """As the API has them."""

    object: Literal["list"]
    data: list[Problem]


class Ends(TypedDict):
    """What is null in a batch until it is known: its files, and when it came to each state."""

    errors: Problems | None
    output_file_id: str | None
    error_file_id: str | None
    in_progress_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None


class ShownBatch(Ends):
    """A batch as the API has it."""

    id: str
    object: Literal["batch"]
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    created_at: int
    expires_at: int
    metadata: dict[str, str] | None
    request_counts: Counts


class BatchNote(ShownBatch):
    """A batch as it is noted: also the server that began it."""

    fingerprint: str


UNKNOWN: Ends = {
    "errors": None,
    "output_file_id": None,
    "error_file_id": None,
    "in_progress_at": None,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
}


def path_of(folder: Path, kind: str, identity: str) -> Path:
    """Where the note of a file or a batch is."""
    return folder / kind / f"{identity}.json"


def files_in(folder: Path) -> list[FileNote]:
    """The files of a server's folder, oldest first: an id begins with the time it was made at."""
    return _notes(folder / "files")


def batches_in(folder: Path) -> list[BatchNote]:
    """The batches, oldest first."""
    return _notes(folder / "batches")


def file_of(folder: Path, identity: str) -> FileNote:
    """A file by its id.

    Raises:
        ApiError: 404: there is none.
    """
    note: FileNote = _note_of(folder, "files", identity)
    return note


def batch_of(folder: Path, identity: str) -> BatchNote:
    """A batch by its id.

    Raises:
        ApiError: 404: there is none.
    """
    note: BatchNote = _note_of(folder, "batches", identity)
    return note


def _notes(folder: Path) -> list[Any]:
    found = map(_read, sorted(folder.glob("*.json")))
    return [note for note in found if note is not None]


def _note_of(folder: Path, kind: str, identity: str) -> Any:
    note = _read(path_of(folder, kind, identity)) if _ID.fullmatch(identity) else None
    if note is None:
        raise ApiError(404, f"{identity!r}: there is none such.", code="not_found")
    return note


def _read(path: Path) -> Any:
    """The note in a file; None where there is none of ours."""
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_bytes())
        if note["id"] == path.stem:
            return note
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        pass
    log.warning("%s: not a note of this server; left alone", path)
    return None


def shown(batch: BatchNote) -> ShownBatch:
    """A note as the API shows it."""
    known: Any = {key: value for key, value in batch.items() if key != "fingerprint"}
    seen: ShownBatch = known
    return seen


def is_open(batch: BatchNote) -> bool:
    """Whether it is still worked on, or will be."""
    return batch.get("status") in _UNDER_WAY


def output_of(batch: BatchNote) -> str:
    """The id of the file with its answers."""
    return f"file-{batch['id']}-output"


def errors_of(batch: BatchNote) -> str:
    """The id of the file with the lines that failed."""
    return f"file-{batch['id']}-errors"


def page(request: Request, notes: Sequence[FileNote | ShownBatch]) -> Response:
    """As much of a list as was asked for, behind `after`.

    Raises:
        ApiError: 400: the limit is no number from 1 to 10000.
    """
    after, limit = request.query_params.get("after"), request.query_params.get("limit", "100")
    if not re.fullmatch("[0-9]{1,5}", limit) or not 1 <= int(limit) <= 10_000:
        raise ApiError(400, "limit: valid are 1 to 10000.", code="invalid", param="limit")
    names = [entry["id"] for entry in notes]
    start = names.index(after) + 1 if after in names else 0
    listed = notes[start : start + int(limit)]
    return JSONResponse(
        {
            "object": "list",
            "data": listed,
            "first_id": listed[0]["id"] if listed else None,
            "last_id": listed[-1]["id"] if listed else None,
            "has_more": start + len(listed) < len(notes),
        }
    )
