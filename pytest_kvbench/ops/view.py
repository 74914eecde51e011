"""A group's report with all its answers, served on loopback: `kvbench view`.

Read only: it answers GET for the page and for one example of it, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import scratch
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline.browse import answers_of
from pytest_kvbench.pipeline.conclude import summary_of, unsummarised
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.report import write_report
from pytest_kvbench.report.pages.packed import AnswersPage, whole
from pytest_kvbench.report.pages.records import Answers

HOST = "127.0.0.1"
ROOM = 12_000_000
"""Bytes of a page that travels over loopback."""
DIGITS = 9
"""Of an example's place; Python reads no number of thousands."""


def server_of(prepared: Prepared, port: int) -> ThreadingHTTPServer:
    """The server of a group's page, bound and not yet serving.

    Args:
        prepared: the group, judged.
        port: 0 for any that is free.

    Raises:
        MissingPrerequisiteError: the group has not been analysed.
        UsageError: the port is taken.
    """
    summary = summary_of(prepared)
    if summary is None:
        raise unsummarised(prepared)
    found = answers_of(prepared, summary["cells"])
    page = AnswersPage(found, command("export", prepared.folder), served=True, most=ROOM)
    with scratch() as room:
        write_report(room, summary, page=page)
        html = (room / "report.html").read_bytes()
    try:
        return ThreadingHTTPServer((HOST, port), partial(_Handler, html, found))
    except OSError as error:
        raise UsageError(
            f"--port {port}: {error.strerror or error}", "give another, or none: any that is free"
        ) from error


class _Handler(BaseHTTPRequestHandler):
    """Asked under another name than loopback's it refuses: the page of a stranger could ask."""

    def __init__(self, html: bytes, found: Answers, *rest: Any) -> None:
        self._html, self._found = html, found
        super().__init__(*rest)

    def do_GET(self) -> None:
        """The page, one of its examples, or what it is not."""
        port = int(self.connection.getsockname()[1])
        if self.headers.get("Host") not in (f"{HOST}:{port}", f"localhost:{port}"):
            return self.send_error(HTTPStatus.FORBIDDEN)
        try:
            asked = urlsplit(self.path)
        except ValueError:  # http://[
            return self.send_error(HTTPStatus.BAD_REQUEST)
        answer: Callable[[], None] = {
            "/": lambda: self._send(self._html, "text/html; charset=utf-8"),
            "/example": lambda: self._example(parse_qs(asked.query)),
        }.get(asked.path, lambda: self.send_error(HTTPStatus.NOT_FOUND))
        return answer()

    def _example(self, asked: dict[str, list[str]]) -> None:
        place = asked.get("place", [""])[0]
        if place.isdecimal() and len(place) <= DIGITS and int(place) < len(self._found.examples):
            data = json.dumps(whole(self._found, int(place)), ensure_ascii=False)
            self._send(data.encode(), "application/json")
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing: what is asked concerns nobody."""
