"""A group in one file: a tar.gz whose first member says what the others must be.

    index.json                         group, and path, size and sha256 of every other member
    group/<path>                       the group's folder; the database as one consistent copy
    controls/<control key>/<task-bin>/ the shared controls that the group's requests used

An archive may come from anywhere. Reading believes nothing: no path that leaves its folder, no
link, no device, no member or byte more than the index declares, no content with another sha256.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, Protocol, TypedDict

from pytest_kvbench.errors import StoreError
from pytest_kvbench.experiment.limits import GROUP_NAMES, is_group_name
from pytest_kvbench.files import UNCONFIRMED, UNFINISHED, sweep, unfinished_file, writing
from pytest_kvbench.reading import open_file
from pytest_kvbench.records import canonical, to_json
from pytest_kvbench.store.store import DATABASE

INDEX = "index.json"
SCHEMA = 1
GROUP = "group"
CONTROLS = "controls"

_DATABASE_SIDE_FILES = frozenset(f"{DATABASE}-{kind}" for kind in ("wal", "shm", "journal"))
_MOST_INDEX_BYTES = 16 * 2**20
_HEADERS_PER_MEMBER = 4096  # a header, and a long name's own header and content
_CHUNK = 2**20
_FILE_MODE = 0o644


@dataclass(frozen=True)
class Member:
    """A file as it must be: its path in the archive, its size in bytes, its sha256."""

    path: str
    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: str, file: Path) -> Member:
        """A file as it is now: its path in the archive, size and sha256."""
        with file.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            return cls(path, stream.tell(), sha256)


class MemberRow(TypedDict):
    """A `Member` in the list of an archive."""

    path: str
    bytes: int
    sha256: str


class IndexRow(TypedDict):
    """An `Index` as it stands in an archive."""

    schema: int
    group: str
    files: list[MemberRow]


@dataclass(frozen=True)
class Index:
    """The list of an archive's members, which stands in it as JSON."""

    group: str
    files: tuple[Member, ...]

    @classmethod
    def from_json(cls, data: IndexRow) -> Index:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: it is no index, or one that no archive of ours has.
        """
        try:
            if data["schema"] != SCHEMA:
                raise ValueError(f"schema {data['schema']}, known here: {SCHEMA}")
            index = cls(data["group"], tuple(Member(**m) for m in data["files"]))
            sound = all(isinstance(m.bytes, int) and m.bytes >= 0 for m in index.files)
            names = [member.path for member in index.files]
        except (TypeError, KeyError) as error:
            raise ValueError(f"no index: {error!r}") from None
        if not is_group_name(index.group):
            raise ValueError(
                f"names like {index.group!r} make no sense for a group; valid: {GROUP_NAMES}"
            )
        for name in names:
            if _leaves_its_folder(name):
                raise ValueError(f"{name!r} leaves its folder")
            if passes(PurePosixPath(name)):
                raise ValueError(f"{name!r} is no file that lasts, and in no archive of ours")
        if not sound or len(set(names)) < len(names):
            raise ValueError("sizes or paths make no sense")
        return index

    def below(self, folder: str) -> dict[str, Member]:
        """The members of `group` or `controls`, by path inside it."""
        prefix = f"{folder}/"
        return {m.path.removeprefix(prefix): m for m in self.files if m.path.startswith(prefix)}


def _leaves_its_folder(name: object) -> bool:
    if not isinstance(name, str) or "\\" in name or "\0" in name:
        return True
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and path.as_posix() == name
    return not inside or path.parts[0] not in (GROUP, CONTROLS) or len(path.parts) < 2


def passes(path: PurePath) -> bool:
    """Whether a file does not last: a lock, a hidden or unfinished file, a database's aid."""
    name = path.name
    lock = name == "lock" or name.endswith(".lock")
    ours = any(part == UNCONFIRMED or part.startswith(UNFINISHED) for part in path.parts)
    return ours or name.startswith(".") or lock or name in _DATABASE_SIDE_FILES


# -- writing -------------------------------------------------------------------------------------


def write_archive(target: Path, group: str, files: Mapping[str, Path]) -> Index:
    """Write an archive, and read it back before it gets its name.

    Args:
        target: a file that does not exist yet.
        group: the group's name.
        files: what goes in, by path in the archive. Files may grow meanwhile.

    Raises:
        StoreError: `target` exists or cannot be written, or a file changed meanwhile.
    """
    index = Index(group, tuple(Member.of(path, file) for path, file in sorted(files.items())))
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent)
        with unfinished_file(target.parent) as partial:
            with tarfile.open(partial, "w:gz", compresslevel=6, format=tarfile.PAX_FORMAT) as tar:
                head = canonical({"schema": SCHEMA, **to_json(index)})
                _append(tar, INDEX, len(head), io.BytesIO(head))
                for member in index.files:
                    with files[member.path].open("rb") as stream:
                        _append(tar, member.path, member.bytes, stream)
            verify_archive(partial)
            target.hardlink_to(partial)
    return index


def _append(tar: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, _FILE_MODE
    tar.addfile(info, stream)


# -- reading -------------------------------------------------------------------------------------


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Bounded:
    """A stream that ends in an error where more comes out of it than was declared."""

    def __init__(self, stream: _Readable, most: int) -> None:
        self._stream = stream
        self._left = most

    def allow(self, more: int) -> None:
        self._left += more

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise tarfile.ReadError("it holds more than its index declares")
        return data


class Archive:
    """An archive open for reading, once, from its beginning to its end.

    Raises:
        StoreError: it cannot be read, or cannot be trusted; the offending member is named.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._explained())
            packed = stack.enter_context(open_file(path))
            file = stack.enter_context(gzip.open(packed))
            self._stream = _Bounded(file, _MOST_INDEX_BYTES + _CHUNK)
            self._tar = stack.enter_context(tarfile.open(fileobj=self._stream, mode="r|"))  # type: ignore[call-overload]  # all that a stream needs is read
            self.index = self._read_index()
            self._open = stack.pop_all()
        self._stream.allow(
            sum(-(-m.bytes // 512) * 512 + _HEADERS_PER_MEMBER for m in self.index.files) + _CHUNK
        )

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc: object) -> None:
        self._open.close()

    def extract(self, place: Callable[[Member], Path | None]) -> None:
        """Read everything once, and write it where `place` says (None: only verify)."""
        left = {member.path: member for member in self.index.files}
        with self._explained():
            for info in iter(self._tar.next, None):
                self._copy(info, self._expected(info, left), place)
        for name in left:
            raise self._refusal(name, "is in the index and not in the archive")

    def _read_index(self) -> Index:
        info = self._tar.next()
        if info is None or info.name != INDEX or info.type != tarfile.REGTYPE:
            raise ValueError(f"its first member is not {INDEX}")
        if info.size > _MOST_INDEX_BYTES:
            raise ValueError(f"{INDEX} is larger than {_MOST_INDEX_BYTES} bytes")
        stream = self._tar.extractfile(info)
        return Index.from_json(json.loads(stream.read() if stream else b""))

    def _expected(self, info: tarfile.TarInfo, left: dict[str, Member]) -> Member:
        if info.type != tarfile.REGTYPE or info.issparse():
            raise self._refusal(info.name, "is no plain file")
        if _leaves_its_folder(info.name):
            raise self._refusal(info.name, "leaves its folder")
        member = left.pop(info.name, None)
        if member is None:
            raise self._refusal(info.name, "is not in the index")
        if info.size != member.bytes:
            raise self._refusal(info.name, f"has {info.size} bytes, declared are {member.bytes}")
        return member

    def _copy(
        self, info: tarfile.TarInfo, member: Member, place: Callable[[Member], Path | None]
    ) -> None:
        stream = self._tar.extractfile(info)
        chunks = iter(lambda: stream.read(_CHUNK) if stream else b"", b"")
        sha256 = hashlib.sha256()
        _write(_hashing(chunks, sha256.update), place(member))
        if sha256.hexdigest() != member.sha256:
            raise self._refusal(info.name, "has another sha256 than declared")

    def _refusal(self, name: str, problem: str) -> StoreError:
        return StoreError(
            f"{self._path}: {name!r} {problem}", "nothing of it was restored; use another copy"
        )

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (
            OSError,
            EOFError,
            ValueError,
            RecursionError,
            zlib.error,
            tarfile.TarError,
        ) as error:
            raise StoreError(
                f"{self._path}: is no sound archive of kvbench: {error}",
                "nothing of it was restored; use another copy",
            ) from error


def _hashing(chunks: Iterable[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def _write(chunks: Iterable[bytes], target: Path | None) -> None:
    if target is None:
        for _ in chunks:
            pass
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target), target.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)


def verify_archive(path: Path) -> Index:
    """Read an archive to its end.

    Raises:
        StoreError: it is not what its index declares.
    """
    with Archive(path) as archive:
        archive.extract(lambda _: None)
        return archive.index
