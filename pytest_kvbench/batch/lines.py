"""A request as a line of a file, and a line of a result as an answer or a failure.

The format is OpenAI's (Batch API, input and output objects), which vLLM's `run-batch` shares.
`custom_id`, the request's key, links a result to its request; the order of lines never matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kvbench.batch.files import Lane
from pytest_kvbench.engines import arms, completion
from pytest_kvbench.engines.completion import NotACompletionError
from pytest_kvbench.engines.keys import decoded
from pytest_kvbench.engines.kinds import Kind, kind_of
from pytest_kvbench.errors import UsageError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.records import Answer, Failure, Request
from pytest_kvbench.wire import sound

_UNTRIED = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of requests that the provider did not get to."""


_KEY = re.compile(rb'"custom_id"\s*:\s*"([0-9a-f]{64})"')
_HEAD = 4096
"""Bytes of a line in which its key is looked for."""


@dataclass(frozen=True)
class Result:
    """What became of one request. `tried`: a model was asked, and may say the same again."""

    key: str
    outcome: Answer | Failure
    tried: bool = True


class Writer:
    """Writes the lines of one experiment's requests."""

    def __init__(self, experiment: Experiment) -> None:
        self._engine = experiment.engine
        self._kv = experiment.served_kv
        self._endpoints = arms.endpoints(experiment.engine)
        self._encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
        self._lanes: dict[tuple[str, float, str], Lane] = {}

    def line(self, request: Request) -> tuple[Lane, bytes]:
        """The line that asks a request, with its newline, and where it belongs."""
        path, body = kind_of(self._engine).request_body(self._engine, [request])
        url = f"/v1{path}"
        line = {"custom_id": request.key, "method": "POST", "url": url, "body": body}
        return self._lane(request, url), self._encoder.encode(line).encode() + b"\n"

    def _lane(self, request: Request, url: str) -> Lane:
        policy, budget = request.arm.policy, request.arm.budget
        lane = self._lanes.get((policy, budget, url))
        if lane is None:
            server = arms.server_name(self._engine, self._kv, policy, budget)
            endpoint = self._endpoints.get(server)
            lane = Lane(server, endpoint.base_url.rstrip("/") if endpoint else "", url)
            self._lanes[policy, budget, url] = lane
        return lane


def read(line: bytes, kind: Kind, key: str | None = None) -> Result:
    """What a line of an output or error file of a `kind` of server says.

    The API `key` that was sent is taken out of it.

    Raises:
        ValueError: it is no such line.
    """
    data = decoded(line, key)
    if not isinstance(data, dict) or not isinstance(data.get("custom_id"), str):
        raise ValueError("no custom_id")
    name, response = sound.text(data["custom_id"]), data.get("response") or {}
    error = data.get("error")
    if not isinstance(response, dict):
        raise ValueError("response is no object")
    body, status = response.get("body"), response.get("status_code", 200)
    if error or status != 200 or not isinstance(body, dict):
        return _failed(name, status, error or (body or {}))
    if (fault := completion.fault_in(body)) is not None:
        return Result(name, Failure(name, "ENGINE_ERROR", fault.message))
    try:
        (outcome,) = kind.read([name], body, None)
        return Result(name, outcome)
    except NotACompletionError as wrong:
        return Result(name, Failure(name, "ENGINE_ERROR", str(wrong)))


def key_in(line: bytes) -> str | None:
    """The request's key in a line that cannot be read, if it is in the first 4 kB; else None."""
    found = _KEY.search(line[:_HEAD])
    return found[1].decode() if found else None


def _failed(key: str, status: object, error: object) -> Result:
    inner = error.get("error", error) if isinstance(error, Mapping) else error
    fields = inner if isinstance(inner, Mapping) else {"message": inner}
    code, message = fields.get("code"), completion.error_of({"error": fields}) or "no reply"
    if isinstance(code, str) and code in _UNTRIED:
        return Result(key, Failure(key, "TIMEOUT", f"{code}: {message}"), tried=False)
    prefix = f"HTTP {sound.message(status, 20)}: " if status != 200 else ""
    return Result(key, Failure(key, "ENGINE_ERROR", f"{prefix}{message}"))


def check_addresses(experiment: Experiment) -> None:
    """Refuse what no batch can be handed to.

    Raises:
        UsageError: the experiment names no server that runs already.
    """
    if not experiment.engine.addresses:
        raise UsageError(
            f"group {experiment.group}: a batch needs a server that outlives the run",
            "name engine.base_url or engine.endpoints; or write files: kvbench batch export",
        )
