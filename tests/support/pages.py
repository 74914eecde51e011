"""README, CONTRIBUTING and docs/ as data: their blocks, commands, links and tables."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = "README.md"
_FILES = (README, *sorted(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")))
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in (*_FILES, "CONTRIBUTING.md")}
"""Every page by its path, in the order in which its commands are run."""
TEXT = "\n".join(PAGES.values())

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", flags=re.S | re.M)
_INLINE = re.compile(r"`((?:kvbench|make|pytest) [^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.M)


def blocks(language: str) -> list[str]:
    """The text of every fenced block of a language, on any page."""
    return [text for name, text in _FENCED.findall(TEXT) if name == language]


def block(language: str, containing: str) -> str:
    """The one block of a language that holds a text."""
    (found,) = (text for text in blocks(language) if containing in text)
    return found


def commands(text: str = TEXT) -> list[str]:
    """Every command, in the order of the text: those of `sh` blocks and those in a sentence.

    Comments are dropped, `a && b` is two, `x one|two` is `x one` and `x two`.
    """
    found: list[tuple[int, str]] = []
    for match in _FENCED.finditer(text):
        if match[1] == "sh":
            found += [(match.start(), line) for line in _lines(match[2])]
    unfenced = re.sub(r"^```\w*$", lambda fence: " " * len(fence[0]), text, flags=re.M)
    found += [(match.start(), match[1]) for match in _INLINE.finditer(unfenced)]
    parts = [part for _, line in sorted(found, key=_place) for part in line.split(" && ")]
    return list(dict.fromkeys(one for part in parts for one in _alternatives(part)))


def _place(found: tuple[int, str]) -> int:
    return found[0]


def _lines(text: str) -> Iterator[str]:
    """Logical lines: one in an open quote goes on in the next."""
    pending = ""
    for line in text.splitlines():
        pending += re.sub(r"\s+# .*", "", line)
        try:
            shlex.split(pending)
        except ValueError:
            pending += "\n"
            continue
        yield pending
        pending = ""


def _alternatives(command: str) -> Iterator[str]:
    choices = [word.split("|") for word in command.split(" ")]
    yield from map(" ".join, itertools.product(*choices))


def links(page: str) -> list[str]:
    """The targets of all links and images of a page."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", PAGES[page]))


def anchors(page: str) -> set[str]:
    """What a link to a heading of a page may be, as GitHub makes it."""
    headings = _HEADING.findall(_FENCED.sub("", PAGES[page]))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(first_header: str) -> list[list[str]]:
    """The rows of the first table whose first column is headed so, as cells."""
    _, _, after = TEXT.partition(f"\n| {first_header} |")
    rows = itertools.takewhile(lambda line: line.startswith("|"), after.splitlines()[1:])
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows][1:]


def tree(text: str) -> list[str]:
    """The paths of a tree of what a run leaves, with `*` for what differs."""
    folder, paths = "", []
    for line in text.splitlines():
        named = line.partition("# ")[0]
        if not line.startswith(" "):
            folder = ""
        for word in named.split():
            paths += [folder + path for path in _braced(re.sub(r"<[^>]+>", "*", word))]
        if not line.startswith(" ") and named.strip().endswith("/"):
            folder = paths.pop()
    return paths


def _braced(path: str) -> list[str]:
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", path)
    return [found[1] + one + found[3] for one in found[2].split(",")] if found else [path]
