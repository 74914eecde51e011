"""The notes that a server keeps of files and batches, and how they are shown."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pytest_kvbench.server.protocol import ApiError

_UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")

log = logging.getLogger(__name__)

Note = dict[str, Any]
"""A file or a batch as the API has it: JSON, to which a batch adds a time a state."""

UNTOLD = (
    *("errors", "output_file_id", "error_file_id", "in_progress_at", "finalizing_at"),
    *("completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at"),
)
"""Fields of a batch that are null until they are known."""


def read_note(path: Path) -> Note | None:
    """The note in a file; None where there is none of ours."""
    if not path.is_file():
        return None
    try:
        note: Note = json.loads(path.read_bytes())
        if note["id"] == path.stem:
            return note
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        pass
    log.warning("%s: not a note of this server; left alone", path)
    return None


def shown(batch: Note) -> Note:
    """A note as the API shows it."""
    return {key: value for key, value in batch.items() if key != "fingerprint"}


def is_open(batch: Note) -> bool:
    """Whether it is still worked on, or will be."""
    return batch.get("status") in _UNDER_WAY


def output_of(batch: Note) -> str:
    """The id of the file with its answers."""
    return f"file-{batch['id']}-output"


def errors_of(batch: Note) -> str:
    """The id of the file with the lines that failed."""
    return f"file-{batch['id']}-errors"


def page(request: Request, notes: list[Note]) -> Response:
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
