"""What a report is made of. Strings are prose (see `text`) unless said otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Paragraph:
    """One paragraph."""

    kind: ClassVar[str] = "paragraph"
    prose: str


@dataclass(frozen=True)
class Bullets:
    """A list without order."""

    kind: ClassVar[str] = "bullets"
    items: tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """One table cell: what is shown, what it is sorted by, and a word for its look.

    `link` are the filters by which a page of answers shows what stands behind it.
    """

    prose: str
    key: float | str | None = None
    tone: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `numeric` columns are aligned to the right."""

    kind: ClassVar[str] = "table"
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Image:
    """A plot: what it shows, where it is (relative to the report), and how to read it."""

    kind: ClassVar[str] = "image"
    plot: str
    path: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Verbatim text, not prose."""

    kind: ClassVar[str] = "code"
    source: str
    language: str = ""


@dataclass(frozen=True)
class Exhibit:
    """Verbatim, untrusted texts under a heading: (label, text) each. Only the title is prose."""

    kind: ClassVar[str] = "exhibit"
    title: str
    parts: tuple[tuple[str, str], ...]


Block = Paragraph | Bullets | Table | Image | Code | Exhibit


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A whole report. `notice` stands before everything, where a run is partial."""

    title: str
    notice: tuple[str, ...]
    sections: tuple[Section, ...]
