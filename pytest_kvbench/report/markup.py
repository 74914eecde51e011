"""A document as Markdown or HTML: prose and untrusted text escaped, templates rendered.

Whatever a template prints is escaped unless it is markup already: for HTML autoescape sees to it,
for Markdown `finalize`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from pytest_kvbench.report.blocks import Document, Table
from pytest_kvbench.report.pages.packed import AnswersPage
from pytest_kvbench.report.text import printable

# Outside code, GitHub gives these a meaning; an underscore only where it is not inside a word.
# Brackets make a link only as `](`, `][` or `]:`.
_SPECIAL = re.compile(r"[\\*<>~|&$`]|\](?=[(\[:])|_(?![^\W_])|(?<![^\W_])_")
# At the start of a line: headings, rules, lists, boxes to tick.
_LEADING = re.compile(r"^([#+=-]+(?=\s|$)|\[)|^(\d+)([.)])(?=\s|$)")
_SPANS = re.compile(r"`([^`]+)`")
# Spans side by side would be read as one that holds two backticks.
_RUNS = re.compile(r"((?:`[^`]+`)+)")

IMAGE_DPI = 144
"""As `plots.style` saves them; its import would bring matplotlib."""
CSS_DPI = 105
"""A little above CSS's own 96, so that the smallest text of a plot is that of a table."""


class Md(str):
    """Text that is Markdown already."""


def md_prose(prose: Any) -> Md:
    """Prose on one line: code spans for `names`, the rest without any meaning to Markdown."""
    pieces = _RUNS.split(_one_line(prose))
    line = "".join(
        _md_code(p.replace("`", "")) if i % 2 else _md_escape(p) for i, p in enumerate(pieces)
    )
    return Md(_LEADING.sub(_defuse, line))


def md_block(text: str, language: str = "") -> Md:
    """Verbatim text as a fenced block, whatever fences it holds itself."""
    shown = printable(text)
    longest = max(map(len, re.findall(r"`{3,}", shown)), default=2)
    fence = "`" * (longest + 1)
    return Md(f"{fence}{language}\n{shown}\n{fence}")


def labelled(parts: Iterable[tuple[str, str]]) -> str:
    """Verbatim texts behind their labels; later lines are indented, so none can pose as a label."""
    parts = list(parts)
    width = max((len(label) for label, _ in parts), default=0) + 2
    return "\n".join(
        f"{label}:".ljust(width) + printable(text).replace("\n", "\n" + " " * width)
        for label, text in parts
    )


def md_row(values: Any) -> Md:
    """A table row of prose."""
    return Md(f"| {' | '.join(md_prose(v) for v in values)} |")


def md_rule(table: Table) -> Md:
    """The line under a table's head, which aligns its columns."""
    signs = ("--:" if i in table.numeric else "---" for i in range(len(table.columns)))
    return Md(f"| {' | '.join(signs)} |")


def md_alt(prose: str) -> Md:
    """Prose between the brackets of an image."""
    return Md(re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", md_prose(prose.replace("`", ""))))


def md_link(path: str) -> Md:
    """A relative path as a link's target."""
    return Md(quote(path))


def html_prose(prose: Any) -> Markup:
    """Prose as HTML: `names` as code elements, everything escaped."""
    pieces = _SPANS.split(_one_line(prose))
    code = Markup("<code>{}</code>")
    return Markup("").join(code.format(p) if i % 2 else escape(p) for i, p in enumerate(pieces))


def to_markdown(document: Document) -> str:
    """GitHub-flavoured Markdown without HTML; whatever is not `Md` is printed as prose."""
    environment = _environment(
        autoescape=False,  # Markdown; `finalize` escapes for it
        finalize=lambda value: value if isinstance(value, Md) else md_prose(value),
        filters={
            "alt": md_alt,
            "fenced": md_block,
            "labelled": labelled,
            "link": md_link,
            "row": md_row,
            "rule": md_rule,
        },
    )
    return environment.get_template("report.md.j2").render(document=document)


def to_html(document: Document, folder: Path, page: AnswersPage | None = None) -> str:
    """One HTML file that needs no other.

    Args:
        document: what it says.
        folder: where its images are read from.
        page: the answers that one can go through in it, within `AnswersPage.most` characters.
    """

    html = _rendered("report.html.j2", document, folder, browse=page)
    return html if page is None else page.filled(html)


def to_fragment(document: Document, folder: Path) -> str:
    """A piece of HTML without style or script, for a page of others, as of a notebook."""
    return _rendered("notebook.html.j2", document, folder)


def _rendered(template: str, document: Document, folder: Path, **more: Any) -> str:
    def embed(path: str) -> str:
        return f"data:image/png;base64,{b64encode((folder / path).read_bytes()).decode()}"

    def width(path: str) -> int:
        return round(png_width(folder / path) * CSS_DPI / IMAGE_DPI)

    filters = {"prose": html_prose, "printable": printable}
    environment = _environment(autoescape=True, finalize=_seen, filters=filters)
    return environment.get_template(template).render(
        document=document, embed=embed, width=width, **more
    )


def png_width(path: Path) -> int:
    """Pixels, from the header's eight bytes at a fixed place."""
    with path.open("rb") as file:
        return int.from_bytes(file.read(24)[16:20], "big")


def _environment(*, filters: dict[str, Any], **options: Any) -> Environment:
    environment = Environment(  # noqa: S701 # each caller says how it escapes
        loader=PackageLoader("pytest_kvbench.report", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters.update(filters)
    return environment


def _seen(value: Any) -> Any:
    """A text of a page, in an attribute too; what is markup already is left as it is."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _one_line(prose: Any) -> str:
    return " ".join(printable(str(prose)).split())


def _md_code(piece: str) -> str:
    """A code span; not where a pipe is in it, which no span can hide from a table."""
    return _md_escape(piece) if "|" in piece or not piece.strip() else f"`{piece}`"


def _md_escape(piece: str) -> str:
    return _SPECIAL.sub(lambda m: "\\" + m.group(), piece)


def _defuse(match: re.Match[str]) -> str:
    signs, number, stop = match.groups()
    return f"\\{signs}" if signs else f"{number}\\{stop}"
