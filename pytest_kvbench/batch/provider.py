"""The HTTP of OpenAI's files and batches: streamed both ways; nothing is made twice unnoticed.

What only reads is retried. What makes something is retried by `desk`, which first looks whether
the last try made it after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from pytest_kvbench.batch.files import clipped, part_of
from pytest_kvbench.batch.ledger import MARK
from pytest_kvbench.engines.completion import PASSING, error_message
from pytest_kvbench.engines.keys import decoded, masked
from pytest_kvbench.errors import EngineError
from pytest_kvbench.files import writing
from pytest_kvbench.wire import bounded, sound
from pytest_kvbench.wire.lean import httpx
from pytest_kvbench.wire.network import client_of
from pytest_kvbench.wire.sound import Fields

_PAGE = 100
_WINDOW = "24h"
_T = TypeVar("_T")


class _TransientError(Exception):
    """A try that is worth repeating. `refused`: the server says that it did nothing."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        self.refused = refused
        super().__init__(message)


@dataclass(frozen=True)
class Remote:
    """A batch as its server has it; what the server does not say is empty."""

    batch_id: str
    status: str
    completed: int
    failed: int
    output_file_id: str
    error_file_id: str
    message: str

    @classmethod
    def of(cls, reply: Fields) -> Remote:
        """What a reply says, whatever it is."""
        counts = sound.fields(reply.get("request_counts"))
        errors = sound.objects(sound.fields(reply.get("errors")).get("data"))
        return cls(
            batch_id=str(reply.get("id") or ""),
            status=str(reply.get("status") or "").strip().lower(),
            completed=sound.count(counts.get("completed")) or 0,
            failed=sound.count(counts.get("failed")) or 0,
            output_file_id=str(reply.get("output_file_id") or ""),
            error_file_id=str(reply.get("error_file_id") or ""),
            message=sound.message("; ".join(sound.message(e.get("message")) for e in errors)),
        )


@dataclass
class Provider:
    """One server's files and batches.

    Args:
        base_url: with the `/v1`.
        headers: sent with everything; may hold a key, which is cut out of errors.
        retries: tries after the first.
        timeout_s: of one request, between two pieces of it.
        max_bytes: of a reply, or of a line of a file.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    retries: int = 3
    timeout_s: float = 600.0
    max_bytes: int = bounded.REPLY

    @property
    def key(self) -> str:
        """The API key that is sent; "" where none is."""
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def patiently(self, step: Callable[[], _T]) -> _T:
        """What a step returns; it is done again where that may help.

        Raises:
            EngineError: it failed each time.
        """
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=30, jitter=0.5),
            retry=tenacity.retry_if_exception_type(_TransientError),
            reraise=True,
        )
        try:
            return tries(step)
        except _TransientError as last:
            raise self._error(str(last)) from None

    def find_file(self, name: str, size: int) -> str | None:
        """The id of an uploaded file of that name and size."""
        for file in self._pages("/files", {"purpose": "batch"}):
            if (file.get("filename"), file.get("bytes")) == (name, size):
                return self._id(file)
        return None

    def upload(self, path: Path, name: str) -> str:
        """Send a file; the server's id of it."""
        with path.open("rb") as stream:
            sent = {"file": (name, stream, "application/jsonl")}
            made = self._send("POST", "/files", data={"purpose": "batch"}, files=sent)
        return self._id(made)

    def find_batch(self, mark: str) -> Remote | None:
        """The batch that carries a mark of ours in its metadata."""
        for batch in self._pages("/batches", {}):
            if sound.fields(batch.get("metadata")).get(MARK) == mark:
                return Remote.of(batch)
        return None

    def create(self, file_id: str, endpoint: str, mark: str) -> Remote:
        """Begin a batch.

        Raises:
            EngineError: it was refused, or nobody knows whether it was made. A list may lag behind
                what it lists, so only a later run looks.
        """
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": _WINDOW,
            "metadata": {MARK: mark},
        }
        try:
            return Remote.of(self._send("POST", "/batches", json=body))
        except _TransientError as unclear:
            if unclear.refused:
                raise
            raise self._error(f"{unclear}; the next run looks whether the batch was made") from None

    def batch(self, batch_id: str) -> Remote:
        """A batch as the server has it now.

        Raises:
            EngineError: the server does not answer, or not with a batch.
        """
        return Remote.of(self.patiently(lambda: self._send("GET", f"/batches/{batch_id}")))

    def cancel(self, batch_id: str) -> Remote:
        """Cancel a batch, unless it has ended; the batch as the server has it then."""
        batch = self.batch(batch_id)
        if batch.status in ENDED | {"cancelling"}:
            return batch
        path = f"/batches/{batch_id}/cancel"
        return Remote.of(self.patiently(lambda: self._send("POST", path)))

    def download(self, file_id: str, path: Path) -> None:
        """Fetch a file, which gets its name when it is whole; of a line too long its beginning."""
        self.patiently(lambda: self._download(file_id, path))

    def close(self) -> None:
        """Close connections."""
        self._client.close()

    @cached_property
    def _client(self) -> httpx.Client:
        return client_of(self.base_url, timeout_s=self.timeout_s, headers=self.headers)

    def _download(self, file_id: str, path: Path) -> None:
        url = f"{self.base_url}/files/{file_id}/content"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with bounded.opened(self._client, "GET", url) as response, writing(path):
                if response.status_code != 200:
                    self._check(response, bounded.beginning(response, bounded.ERROR))
                with part_of(path).open("wb") as file:
                    for piece in clipped(bounded.plain(response), self.max_bytes):
                        file.write(piece)
        except ValueError as endless:
            raise self._error(f"GET {url}: {endless}") from None
        except httpx.HTTPError as error:
            raise _TransientError(f"GET {url}: {type(error).__name__}: {error}") from None
        part_of(path).replace(path)

    def _pages(self, path: str, query: Mapping[str, str]) -> Iterator[Fields]:
        """Every object of a list, page after page."""
        after: dict[str, str] = {}
        while True:
            params = {**query, "limit": str(_PAGE), **after}
            page = self._send("GET", path, params=params)
            found = sound.objects(page.get("data"))
            yield from found
            last = page.get("last_id") or (found[-1].get("id") if found else None)
            # A server that knows no pages would give the first one for ever.
            if not page.get("has_more") or not last or after == {"after": last}:
                return
            after = {"after": str(last)}

    def _send(self, method: str, path: str, **content: Any) -> Fields:
        url = self.base_url + path
        try:
            response = bounded.fetch(self._client, method, url, limit=self.max_bytes, **content)
        except bounded.TooLargeError as error:
            raise self._error(f"{method} {url}: {error}") from None
        except httpx.HTTPError as error:
            raise _TransientError(f"{method} {url}: {type(error).__name__}: {error}") from None
        self._check(response, response.content)
        try:
            data = decoded(response.content, self.key, sound.data)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise self._error(f"{method} {url}: the reply is no JSON object")
        return data

    def _id(self, made: Fields) -> str:
        if not isinstance(made.get("id"), str):
            raise self._error("the server does not say the id of what it has")
        return str(made["id"])

    def _check(self, response: httpx.Response, content: bytes) -> None:
        if response.is_success:
            return
        asked = f"{response.request.method} {response.request.url}"
        message = f"{asked}: HTTP {response.status_code}: {error_message(content)}"
        if response.status_code in PASSING:
            raise _TransientError(message, refused=response.status_code < 500)
        raise self._error(message)

    def _error(self, message: str) -> EngineError:
        return EngineError(
            f"batch: {sound.message(masked(message, self.key))}",
            "nothing is lost or sent twice: mend it and do the same again, or give up what is "
            "open: kvbench batch cancel GROUP (--forget where the server is gone)",
        )


ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
"""What a batch's status is when nothing more will come."""
