"""Figures as files: for the report, and for a paper with the numbers that they show."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pytest_kvbench.files import replace_bytes, replace_text, writing
from pytest_kvbench.report.blocks import Image

PAPER = "figures"
"""The folder of figures for a paper, beside the report."""
_PAPER_DPI = 300
_UNDATED: Mapping[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}
"""What makes the same figure the same bytes."""


@dataclass(frozen=True)
class Drawn:
    """A figure, what the report says of it, and the rows of numbers that it shows."""

    figure: Figure
    image: Image
    rows: Sequence[Mapping[str, object]]


def save(drawn: Drawn, folder: Path, formats: Sequence[str] = ()) -> Image:
    """Write the report's picture, and those for a paper; the first's place."""
    replace_bytes(folder / drawn.image.path, _picture(drawn.figure, "png"))
    name = Path(drawn.image.path).stem
    for kind in formats:
        picture = _picture(drawn.figure, kind, dpi=_PAPER_DPI)
        replace_bytes(folder / PAPER / f"{name}.{kind}", picture)
    if formats:
        replace_text(folder / PAPER / f"{name}.csv", _table(drawn.rows))
    return drawn.image


def _picture(figure: Figure, kind: str, **options: Any) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format=kind, metadata=_UNDATED[kind], **options)
    return picture.getvalue()


def _table(rows: Iterable[Mapping[str, object]]) -> str:
    """The plain columns of rows: what is a list or a mapping is drawn nowhere."""
    rows = list(rows)
    columns = [
        name
        for name in dict.fromkeys(key for row in rows for key in row)
        if not any(isinstance(row.get(name), list | dict) for row in rows)
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def empty(folder: Path, kinds: Sequence[str]) -> None:
    """Make a folder, or take away what an earlier report left there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for old in (path for kind in kinds for path in folder.glob(f"*.{kind}")):
            old.unlink()
