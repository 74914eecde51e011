"""The two sides of a batch on disk: the requests that were uploaded, the lines that answer them."""

from __future__ import annotations

import codecs
import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pydantic import ValidationError

from pytest_kvbench.server.batch_notes import Came
from pytest_kvbench.server.bodies import ErrorBody, ReplyBody
from pytest_kvbench.server.protocol import BatchLine, as_api_error, shortened

MOST_REQUESTS = 50_000
"""Of one input file, as at OpenAI's."""


class BadFile(ValueError):  # noqa: N818 - it is what it names
    """A batch that is not begun: one line that is no request is enough, as at OpenAI's.

    Args:
        message: what is wrong.
        line: where, counted from 1.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(shortened(f"line {line}: {message}" if line else message))
        self.line = line


@dataclass(frozen=True)
class Asked:
    """One request: the name its answer will have, and its body as JSON."""

    name: str
    body: bytes


def read_requests(path: Path, endpoint: str) -> Iterator[Asked]:
    """The requests of a file, read one after another.

    Raises:
        BadFile: a line is no request, or one for another endpoint, or there twice, or one too many.
        OSError: the file cannot be read.
    """
    names: set[str] = set()
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            try:
                asked = _request(raw.removeprefix(codecs.BOM_UTF8), endpoint)
            except (ValueError, RecursionError) as error:
                raise BadFile(str(error), number) from error
            if asked.name in names:
                raise BadFile(f"the custom_id {asked.name!r} comes twice", number)
            names.add(asked.name)
            if len(names) > MOST_REQUESTS:
                raise BadFile(f"a file has at most {MOST_REQUESTS} requests", number)
            yield asked


def _request(raw: bytes, endpoint: str) -> Asked:
    data = json.loads(raw.decode())
    if not isinstance(data, dict):
        raise ValueError("is not a JSON object")
    try:
        line = BatchLine.model_validate(data)
    except ValidationError as error:
        raise ValueError(str(as_api_error(error))) from error
    if line.url != endpoint:
        raise ValueError(f"url: is {line.url!r}, and the batch is for {endpoint}")
    return Asked(line.custom_id, json.dumps(line.body).encode())


class _Response(TypedDict):
    """What a request would have got live."""

    status_code: int
    request_id: str
    body: ReplyBody | ErrorBody


class _Refusal(TypedDict):
    """Why a request has no answer."""

    code: str
    message: str


class Results:
    """The lines a batch has so far; a last line that was torn by a kill is cut off.

    Args:
        output: where answers go.
        errors: where refusals go.
    """

    def __init__(self, output: Path, errors: Path) -> None:
        answered, refused = _whole_lines(output), _whole_lines(errors)
        self.done = {*answered, *refused}
        self.counts: Came = {"completed": len(answered), "failed": len(refused)}
        self._output = output.open("a", encoding="utf-8")
        self._errors = errors.open("a", encoding="utf-8")

    def add(self, name: str, status: int, body: ReplyBody | ErrorBody) -> None:
        """Write the answer to one request."""
        response: _Response = {"status_code": status, "request_id": new_id("req"), "body": body}
        self._write(name, response, None)

    def expire(self, name: str) -> None:
        """Write that one request was not answered in time."""
        error: _Refusal = {"code": "batch_expired", "message": "the batch's window is over"}
        self._write(name, None, error)

    def close(self) -> None:
        """Close both files."""
        self._output.close()
        self._errors.close()

    def _write(self, name: str, response: _Response | None, error: _Refusal | None) -> None:
        fine = response is not None and response["status_code"] < 400
        line = {"id": new_id("batch_req"), "custom_id": name, "response": response, "error": error}
        file = self._output if fine else self._errors
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        self.done.add(name)
        self.counts["completed" if fine else "failed"] += 1


def new_id(kind: str) -> str:
    """An id that sorts by the time it was made."""
    return f"{kind}-{time.time_ns():020d}{secrets.token_hex(4)}"


def _whole_lines(path: Path) -> list[str]:
    """The `custom_id` of every whole line; what follows the last of them is cut off."""
    names, end = [], 0
    path.touch()
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            names.append(json.loads(line)["custom_id"])
            end += len(line)
    with path.open("r+b") as file:
        file.truncate(end)
    return names
