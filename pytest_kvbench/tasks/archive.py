"""Where benchmark files lie: a folder, a zip, or the hub's copy of one.

A benchmark's rows are `*.jsonl` files; its prompts are small config files in the folder beside.
`datasets` reads parquet tables (see `parquet`), not these: it refuses loading scripts, cannot open
a zip while the hub is offline, and costs 145 MB of memory in a process, for lines of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from platformdirs import user_cache_path

from pytest_kvbench.errors import StoreError, UsageError
from pytest_kvbench.files import replace_text
from pytest_kvbench.reading import Place, brief, open_file, parse_json, read_text, text_lines
from pytest_kvbench.reading.text import BROKEN
from pytest_kvbench.tasks.columns import Row
from pytest_kvbench.tasks.jsonl import objects

_ENDS = re.compile(r"\.jsonl(\.gz)?$")


@dataclass(frozen=True)
class Archive:
    """A folder or zip with one `*.jsonl` a task, at its top or in `data/`."""

    path: Path

    @cached_property
    def files(self) -> Mapping[str, Place]:
        """Task name -> file, sorted by name.

        Raises:
            UsageError: the zip is broken.
        """
        with _reading(self.path):
            return self._found()

    def _found(self) -> dict[str, Place]:
        root: Place = self.path
        inner = self.path / "data.zip"
        if self.path.is_file() or (inner.is_file() and not any(self.path.glob("*.jsonl"))):
            root = zipfile.Path(self.path if self.path.is_file() else inner)
        found = [p for place in (root, root / "data") if place.is_dir() for p in place.iterdir()]
        named = {_ENDS.sub("", p.name): p for p in found if _ENDS.search(p.name)}
        return dict(sorted(named.items()))

    @property
    def side(self) -> Path:
        """The folder in which config files are looked for."""
        return self.path.parent if self.path.is_file() else self.path

    def rows(self, name: str) -> Iterator[Row]:
        """The rows of a task that is in `files`."""
        file = self.files[name]
        return objects(text_lines(file), str(file))

    def digest(self, name: str) -> str:
        """The sha256 of a task's file."""
        place = self.files[name]
        with (
            _reading(place),
            open_file(place) if isinstance(place, Path) else place.open("rb") as file,
        ):
            return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()


@contextlib.contextmanager
def _reading(place: Place) -> Iterator[None]:
    try:
        yield
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{place}: cannot be read: {reason}", "get the file anew") from error


def local_archive(given: str | None, variable: str) -> Archive | None:
    """The archive at the path an option gives, or else an environment variable.

    Raises:
        UsageError: a path that is neither folder nor zip.
    """
    name = given or os.environ.get(variable)
    if not name:
        return None
    path = Path(name).expanduser()
    if not path.is_dir() and not (path.is_file() and zipfile.is_zipfile(path)):
        raise UsageError(
            f"{'path' if given else variable}: {name} is neither a folder nor a zip",
            "give the folder or zip with the benchmark's *.jsonl files",
        )
    return Archive(path)


def cache_folder() -> Path:
    """Where downloads are kept: `KVBENCH_CACHE`, or the user's cache folder."""
    return Path(os.environ.get("KVBENCH_CACHE") or user_cache_path("pytest-kvbench"))


def fetch_pinned(url: str, sha256: str, target: Path) -> bytes:
    """The bytes behind `url`, kept at `target`, refused unless their sha256 is the pinned one.

    Raises:
        OSError: they cannot be had, or are not the pinned ones.
    """
    if target.is_file() and _sha256(target.read_bytes()) == sha256:
        return target.read_bytes()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}:
        raise OSError(f"{url}: HF_HUB_OFFLINE is set")
    from pytest_kvbench.wire.lean import httpx

    try:
        data = httpx.get(url, follow_redirects=True, timeout=30).raise_for_status().content
    except httpx.HTTPError as error:
        raise OSError(f"{url}: {error}") from error
    if _sha256(data) != sha256:
        raise OSError(f"{url}: sha256 {_sha256(data)}, pinned is {sha256}")
    with contextlib.suppress(StoreError):  # a cache that cannot be written costs a download
        replace_text(target, data.decode())
    return data


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def read_config(path: Path) -> Mapping[str, object]:
    """The JSON object in a config file beside the data, empty where there is none.

    Raises:
        UsageError: it is not one.
    """
    if not path.is_file():
        return {}
    needed = "needed: LongBench's own file, a JSON object"
    config = parse_json(read_text(path), str(path), needed)
    if not isinstance(config, dict):
        raise UsageError(f"{path}: {brief(config)}", needed)
    return config
