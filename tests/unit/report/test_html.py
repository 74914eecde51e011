"""report.html: the same document, in one file that asks nothing of the network."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest

from pytest_kvbench.report import write_report
from pytest_kvbench.report.context import build
from pytest_kvbench.report.markup import to_html
from pytest_kvbench.report.results import Results
from tests.support.summaries import make_summary

HOSTILE = '</pre><script>alert(1)</script><img src=x onerror="alert(2)"> & \x1b[2J'
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Elements with attributes and text, as a browser would find them; fails on a wrong nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, make_summary(bins=2, policies=("snapkv",), missing=1))
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def html(summary):
    return to_html(build(Results(summary)), folder=None)


def test_images_are_inside_and_nothing_is_fetched(page):
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 5
    for source in sources:
        kind, _, data = source.partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data).startswith(b"\x89PNG")
    assert all(image["alt"] for image in page.all("img"))
    assert not [image for image in page.all("img") if "loading" in image], "a print lacks them"
    assert not page.all("link")
    assert not [s for s in page.all("script") if "src" in s]
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_images_are_no_larger_than_they_were_drawn(page):
    for image in page.all("img"):
        png = base64.b64decode(image["src"].partition(",")[2])
        drawn_inches = int.from_bytes(png[16:20], "big") / 144
        shown = int(re.match(r"max-width: (\d+)px", image["style"])[1])
        assert 90 <= shown / drawn_inches <= 110


def test_it_says_what_the_markdown_says(page, tmp_path):
    summary = make_summary(bins=2, policies=("snapkv",), missing=1)
    report = write_report(tmp_path, summary, plots=False).read_text(encoding="utf-8")
    titles = [data for tag, data in page.texts if tag == "h2"]
    assert titles == re.findall(r"^## (.*)$", report, re.MULTILINE)
    assert len(page.all("tr")) == sum(
        line.startswith("| ") and not line.startswith("| ---") for line in report.splitlines()
    )
    assert any("Partial run" in data for _, data in page.texts)


def test_sections_are_linked_from_the_top(page):
    targets = [a["href"] for a in page.all("a")]
    assert targets == [f"#{h['id']}" for h in page.all("h2")]


def test_columns_can_be_sorted_by_number(page):
    assert len(page.all("th")) == len(page.all("button"))
    keys = [cell["data-key"] for cell in page.all("td") if "data-key" in cell]
    assert "0.8" in keys
    assert all(re.fullmatch(r"-?[\d.e-]+", key) for key in keys)


def test_hostile_replies_and_names_are_text():
    name = "<b onclick=x>`|"
    summary = make_summary(bins=1, policies=(name,), tasks=(name,), replies=(HOSTILE, HOSTILE))
    page = Page(html(summary))
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.all("b")
    shown = [data for tag, data in page.texts if tag == "pre"]
    assert any("alert(2)" in data and "\\x1b[2J" in data for data in shown)
    assert not any("\x1b" in data for _, data in page.texts)
