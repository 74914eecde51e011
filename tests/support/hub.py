"""A stand-in of the hub: its HTTP interface on loopback, as its own client uses it.

Files of a repository are small ones, sent as they are, and large ones (LFS), for which the hub
redirects to another host. A gated repository asks for a token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.serving import Serving

LARGE = (".safetensors", ".parquet", ".zip")


@dataclass(frozen=True)
class Repo:
    """Files by path at each revision; the first revision is `main`."""

    revisions: Mapping[str, Mapping[str, bytes]]
    gated: bool = False

    def commit(self, revision: str) -> str | None:
        """The 40 digits of a revision, which may be named by them or by `main`."""
        name = next(iter(self.revisions)) if revision == "main" else revision
        return name if name in self.revisions else None


@dataclass
class Hub(Serving):
    """Repositories by `owner/name`; use as a context manager, `url` is up inside.

    `breaks` is how many downloads of large files end in the middle. `token` opens what is gated.
    """

    repos: Mapping[str, Repo]
    token: str = "hf_right"  # of a stand-in
    breaks: int = 0
    ranges: list[str] = field(default_factory=list)
    """The Range header of every request for a large file, "" without one."""
    asked: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def routes(self) -> list[Route]:
        get = ["GET", "HEAD"]
        return [
            Route("/api/{kind}/{o}/{n}/revision/{rev}", self._info, methods=get),
            Route("/api/{kind}/{o}/{n}", self._info, methods=get),
            Route("/api/{kind}/{o}/{n}/tree/{rev}", self._tree, methods=get),
            Route("/api/{kind}/{o}/{n}/tree/{rev}/{path:path}", self._tree, methods=get),
            Route("/api/{kind}/{o}/{n}/paths-info/{rev}", self._paths, methods=["POST"]),
            Route("/large/{o}/{n}/{rev}/{path:path}", self._large, methods=get),
            Route("/datasets/{o}/{n}/resolve/{rev}/{path:path}", self._resolve, methods=get),
            Route("/{o}/{n}/resolve/{rev}/{path:path}", self._resolve, methods=get),
        ]

    def _found(self, request: Request) -> tuple[str, str, Mapping[str, bytes]] | Response:
        """Name, commit and files that a request asks for, or why there are none."""
        self.asked.append(f"{request.method} {request.url.path}")
        name = f"{request.path_params['o']}/{request.path_params['n']}"
        right = request.headers.get("authorization") == f"Bearer {self.token}"
        if name not in self.repos:
            # As the hub does it: without a token nobody learns whether there is one.
            return _refused(404 if right else 401, "RepoNotFound")
        repo = self.repos[name]
        if repo.gated and not right:
            return _refused(401, "GatedRepo")
        commit = repo.commit(request.path_params.get("rev", "main"))
        if commit is None:
            return _refused(404, "RevisionNotFound")
        return name, commit, repo.revisions[commit]

    async def _info(self, request: Request) -> Response:
        found = self._found(request)
        if isinstance(found, Response):
            return found
        name, commit, files = found
        siblings = [{"rfilename": path} for path in files]
        return JSONResponse({"id": name, "sha": commit, "siblings": siblings, "tags": []})

    async def _tree(self, request: Request) -> Response:
        found = self._found(request)
        if isinstance(found, Response):
            return found
        folder = request.path_params.get("path", "")
        below = {p: d for p, d in found[2].items() if p.startswith(f"{folder}/" * bool(folder))}
        inner = {p.removeprefix(f"{folder}/").partition("/") for p in below}
        here = sorted({first for first, _, rest in inner if rest})
        folders = [{"type": "directory", "path": f"{folder}/{name}".strip("/"), "oid": "0"}
                   for name in here]  # fmt: skip
        return JSONResponse([*folders, *(_entry(p, d) for p, d in below.items())])

    async def _paths(self, request: Request) -> Response:
        found = self._found(request)
        if isinstance(found, Response):
            return found
        form = await request.form()
        asked = set(form.getlist("paths"))
        return JSONResponse([_entry(p, d) for p, d in found[2].items() if p in asked])

    async def _resolve(self, request: Request) -> Response:
        found = self._found(request)
        if isinstance(found, Response):
            return found
        name, commit, files = found
        path = request.path_params["path"]
        if path not in files:
            return _refused(404, "EntryNotFound", {"X-Repo-Commit": commit})
        etag, size = f'"{_sha(files[path])}"', str(len(files[path]))
        headers = {"X-Repo-Commit": commit, "ETag": etag}
        if not path.endswith(LARGE):
            return Response(files[path], headers=headers)
        headers |= {"X-Linked-Etag": etag, "X-Linked-Size": size}
        elsewhere = f"http://localhost:{self.port}/large/{name}/{commit}/{path}"
        return RedirectResponse(elsewhere, 302, headers=headers)

    async def _large(self, request: Request) -> Response:
        """A large file, from where a Range header says, cut off while there are `breaks` left."""
        files = self.repos[f"{request.path_params['o']}/{request.path_params['n']}"].revisions
        data = files[request.path_params["rev"]][request.path_params["path"]]
        asked = request.headers.get("range", "")
        self.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        headers = {"Content-Length": str(len(data) - start), "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        sent = data[start:]
        if self.breaks and request.method == "GET":
            self.breaks -= 1
            sent = sent[: len(sent) // 2]
        return StreamingResponse(iter([sent]), 206 if asked else 200, headers=headers)


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry = {"type": "file", "path": path, "size": len(data), "oid": _sha(data)[:40]}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _sha(data), "size": len(data), "pointerSize": 130}
    return entry


def _refused(status: int, code: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": code}, status, headers={"X-Error-Code": code, **(headers or {})})


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
