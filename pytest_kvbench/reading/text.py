"""The text of a file: its encoding, its compression, its rows."""

from __future__ import annotations

import codecs
import contextlib
import errno
import gzip
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from pytest_kvbench.errors import UsageError

Place = Path | zipfile.Path
"""A file, or one inside a zip."""

MAX_LINE = 1 << 26
"""Characters of the longest line that is read: no reader holds gigabytes for lack of a newline."""

_SNIFFED = 4096
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_KNOWN = {
    _GZIP: "compressed by gzip twice",
    b"PK\x03\x04": "a zip file (a spreadsheet is one too)",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"PAR1": "a parquet table",
    b"SQLite format 3": "an SQLite database",
}
_PLAIN = "needed: a text file in UTF-8; gzip is read too, other formats are to be unpacked"
BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError)
"""What files, gzip and zip raise; the last is a zip's password or unknown method."""


_PIPES = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""Where a shell puts what it hands over: `<(...)`. Somebody is at the other end already."""


def open_file(path: Path, *, pipe: bool = False) -> io.BufferedReader:
    """As `path.open("rb")`, of files alone: a pipe may wait for ever, a device has no end.

    Args:
        path: what to open.
        pipe: whether a shell's own pipe is taken, which can be read once.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    if pipe and str(path).startswith(_PIPES):
        return path.open("rb")
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # waits for no other end
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or a device: save what it gives as a file", str(path))


def text_lines(file: Place, *, newline: str | None = None, pipe: bool = False) -> Iterator[str]:
    """The lines of a text file, with their ends.

    Args:
        file: what to read; errors name its path.
        newline: as of `open`; "" leaves the ends of lines as they are.
        pipe: as of `open_file`.

    Raises:
        UsageError: it cannot be read or is no text, naming the row and byte.
    """
    where = str(file)
    with _opened(file, where, newline, pipe=pipe) as stream:
        number = 0
        while line := stream.readline(MAX_LINE):
            number += 1
            if len(line) == MAX_LINE:
                raise UsageError(
                    f"{where}:{number}: a line of more than {MAX_LINE:,} characters",
                    "needed: text with line ends",
                )
            _check(line, f"{where}:{number}")
            yield line


def read_text(file: Place, where: str = "", *, limit: int | None = None) -> str:
    """All text of a file.

    Args:
        file: what to read.
        where: how errors name it; its path where empty.
        limit: characters it may have.

    Raises:
        UsageError: it cannot be read, is no text, or is longer.
    """
    where = where or str(file)
    with _opened(file, where) as stream:
        text = stream.read(-1 if limit is None else limit + 1)
    if limit is not None and len(text) > limit:
        raise UsageError(f"{where}: is longer than {limit:,} characters", "is it the right file?")
    _check(text, where, whole=True)
    return text


def first_character(file: Place) -> str:
    """The first character of a text file that is no blank; empty where there is none.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    with _opened(file, str(file)) as stream:
        while character := stream.read(1):
            if not character.isspace():
                return character
    return ""


class TextStream(io.TextIOBase):
    """`text_lines` as a stream, for libraries that want one; ends of lines stay as they are.

    Args:
        file: what to read.
        nul: whether a line may hold the character NUL, at which libraries in C end a text.
    """

    def __init__(self, file: Place, *, nul: bool = False) -> None:
        self._file, self._number, self._nul = file, 0, nul
        self._lines = text_lines(file, newline="", pipe=True)

    def readable(self) -> bool:
        """True: that it can be read is what the stream is for."""
        return True

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # noqa: ARG002  # whole lines
        """The next line."""
        line = next(self._lines, "")
        self._number += 1
        if "\0" in line and not self._nul:
            raise UsageError(f"{self._file}:{self._number}: holds the character NUL", _PLAIN)
        return line

    def read(self, size: int | None = -1, /) -> str:
        """About `size` characters, in whole lines."""
        parts, length = [], 0
        while (size is None or size < 0 or length < size) and (line := self.readline()):
            parts.append(line)
            length += len(line)
        return "".join(parts)


@contextlib.contextmanager
def _opened(
    file: Place, where: str, newline: str | None = None, *, pipe: bool = False
) -> Iterator[io.TextIOWrapper]:
    """A file as text; bytes that are no text become surrogates, which `_check` names by row."""
    with _refusing(where), contextlib.ExitStack() as open_files:
        raw = open_files.enter_context(_binary(file, where, pipe))
        stream = open_files.enter_context(_unpacked(raw))
        encoding = _encoding(stream.peek(_SNIFFED)[:_SNIFFED], where)
        yield open_files.enter_context(
            io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline=newline)
        )


@contextlib.contextmanager
def _refusing(where: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{where}: is not text: {error.reason} ({error.encoding})", _PLAIN
        ) from error
    except BROKEN as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UsageError(
            f"{where}: cannot be read: {reason}", "check the path and the file"
        ) from error


def _binary(file: Place, where: str, pipe: bool) -> IO[bytes]:
    try:
        return open_file(file, pipe=pipe) if isinstance(file, Path) else file.open("rb")
    except ValueError as error:  # a NUL in its name
        raise UsageError(f"{where!r}: cannot be read: {error}", "check the path") from error


def _unpacked(raw: IO[bytes]) -> io.BufferedReader[Any]:
    stream = io.BufferedReader(cast(io.RawIOBase, raw))  # a file, or a zip's member: both read so
    if not stream.peek(len(_GZIP)).startswith(_GZIP):
        return stream
    return io.BufferedReader(gzip.GzipFile(fileobj=stream))


def _encoding(head: bytes, where: str) -> str:
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    for magic, kind in _KNOWN.items():
        if head.startswith(magic):
            raise UsageError(f"{where}: is no text file but {kind}", _PLAIN)
    if head.count(0) > len(head) // 10:  # one alone may be what a model replied
        raise UsageError(f"{where}: is binary, or UTF-16 without a byte order mark", _PLAIN)
    return "utf-8"


def _check(text: str, where: str, *, whole: bool = False) -> None:
    for start in range(0, len(text), _CHUNK):
        try:
            text[start : start + _CHUNK].encode()
        except UnicodeEncodeError as error:
            raise _undecoded(text, start + error.start, where, whole) from None


def _undecoded(text: str, at: int, where: str, whole: bool) -> UsageError:
    row = f":{text.count(chr(10), 0, at) + 1}" if whole else ""
    column = at - text.rfind("\n", 0, at)
    return UsageError(
        f"{where}{row}: is not UTF-8 text: byte 0x{ord(text[at]) & 0xFF:02x} at character {column}",
        "save it as UTF-8, as with: iconv -f LATIN1 -t UTF-8 FILE > NEW",
    )
