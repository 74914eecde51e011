"""Answers one by one in report.html: data of a size, in a real browser, whatever a reply holds."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import random
import re
import sqlite3
import string
import threading
from dataclasses import replace
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.observation import Outcome
from pytest_kvbench.ops.view import server_of
from pytest_kvbench.pipeline.conclude import analyse, report
from pytest_kvbench.records import SCORE, Example, Prompt
from pytest_kvbench.report import plots, write_report
from pytest_kvbench.report.pages.marks import cut, marks_of
from pytest_kvbench.report.pages.packed import ELEMENT, AnswersPage, packed
from pytest_kvbench.report.pages.records import Answer, Answers, Arm
from pytest_kvbench.selection import ManifestEntry
from tests.support.chromium import chromium, needs_chromium
from tests.support.groups import make_group
from tests.support.summaries import make_summary

ROOM = 2_000_000
SCRIPTS = "</script><script>window.hit = 1; alert(1)</script><img src=x onerror='window.hit = 1'>"
TURNED = "\u202egnikrow\u202c \u0645\u0631\u062d\u0628\u0627 \x1b[2J"
LONG = "word " * 40_000
PATH = "/example?place="


def entry(n, context="", answers=("x",), tokens=10):
    example = Example(f"e{n}", f"question {n}", context or f"text {n}", answers)
    return ManifestEntry(example, 0, tokens, "", 5)


def made(replies, *, context="", tokens=10):
    """Answers in which a control that is right stands beside each of some (score, reply)."""
    arms = [Arm("none", 1.0), Arm("snapkv", 0.5)]
    answers = []
    for n, (score, reply) in enumerate(replies):
        answers.append(Answer(n, 0, 0, 1.0, Outcome(f"c{n}", 1.0, text="right")))
        answers.append(Answer(n, 1, 0, score, Outcome(f"t{n}", score, text=reply)))
    pairs = [(2 * n, 2 * n + 1) for n in range(len(replies))]
    examples = [("t", entry(n, context, tokens=tokens)) for n in range(len(replies))]
    return Answers(
        ("control", "treated"), examples, arms, answers, pairs,
        prompt_of=lambda e, v, p: Prompt(e.example.context, e.example.question, 5),
    )  # fmt: skip


def unpacked(text):
    return json.loads(gzip.decompress(base64.b64decode(text)))


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.text()), min_size=1, max_size=5))
def test_any_reply_comes_back_as_it_was_and_is_no_markup_on_the_way(replies):
    text = packed(made(replies), ROOM)
    assert not set(text) - set(string.ascii_letters + string.digits + "+/=")
    assert [row[4] for row in unpacked(text)["answers"][1::2]] == [reply for _, reply in replies]


def test_five_thousand_answers_with_long_prompts_fit_and_what_is_left_out_is_named(tmp_path):
    rng = random.Random(0)
    letters = ("".join(rng.choices(string.printable, k=300)) for _ in range(2500))
    found = made(
        [(float(n % 10 > 0), reply) for n, reply in enumerate(letters)],
        context="".join(rng.choices(string.ascii_lowercase, k=30_000)),
        tokens=8_000,
    )
    write_report(tmp_path, make_summary(), plots=False, page=AnswersPage(found, "kvbench view g"))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(html.encode()) < ROOM
    data = unpacked(re.search(f"{re.escape(ELEMENT)}([^<]*)", html)[1])
    assert data["left_out"].startswith("prompts are")
    assert len(data["pairs"]) == data["all"] == 2500
    changed = [row[4] for row in data["answers"] if row[3] == 0]
    assert len(changed) == 250
    assert all(len(reply) == 300 for reply in changed)
    assert "kvbench view g" in html


def test_where_not_even_scores_fit_pairs_that_changed_are_kept():
    found = made([(float(n % 100 > 0), f"{n}") for n in range(11_000)])
    data = unpacked(packed(found, 60_000))
    lost = [right for _, right in data["pairs"] if data["answers"][right][3] == 0]
    assert len(lost) == 110
    assert len(data["pairs"]) < data["all"] == 11_000
    assert "those that changed first" in data["left_out"]


def test_a_needle_is_marked_and_a_cut_prompt_keeps_it():
    needle = "The secret number of Rome is 12345."
    context = "Filler here. " * 2_000 + needle + " More of it." * 2_000
    marks = marks_of(Example("e", "q", context, ("12345",)))
    assert marks == [needle]
    pieces = cut(context, marks, 3_000)
    assert len(pieces) == 3
    assert needle in pieces[1]
    assert sum(map(len, pieces)) <= 3_000
    assert context.startswith(pieces[0])
    assert context.endswith(pieces[2])
    assert cut(context, marks, len(context)) == [context]


def test_each_arm_shows_the_prompt_that_it_was_sent():
    def sent(one, variant, policy):
        context = "" if policy == "withheld" else one.example.context
        return Prompt(context, one.example.question + ("!" * (variant == "loud")), 5)

    arms = [Arm("none", 1.0), Arm("withheld", 1.0), Arm("none", 1.0, "loud"), Arm("none", 1.0, "b")]
    answers = [Answer(0, place, 0, 1.0, Outcome(f"k{place}", 1.0, text="x")) for place in range(4)]
    found = Answers(("a", "b"), [("t", entry(0))], arms, answers, [(0, 1)], prompt_of=sent)
    (one,) = unpacked(packed(found, ROOM))["examples"]
    prompts = one["prompts"]
    assert prompts[""]["head"] == ["text 0"]
    assert prompts[" withheld"]["head"] == [""]
    assert prompts["loud"]["tail"] == ["question 0!"]
    assert prompts["b"] == "", "it is as that of the first variant"


def test_what_stands_everywhere_is_no_evidence():
    assert not marks_of(Example("e", "q", "abc " * 50, ("abc", "b", "nowhere")))


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """Hostile replies: of example 0-0 scripts, of 0-1 turned letters, of 0-2 length."""
    prepared = make_group(
        tmp_path_factory.mktemp("pages"),
        per_bin=8,
        draw=lambda cell, i, rng: float(cell.is_control or i not in (0, 3)),
        failed=1,
    )
    texts = {"0-0": SCRIPTS, "0-1": TURNED, "0-2": LONG, "0-3": "an answer  of other words"}
    with sqlite3.connect(prepared.database) as db:
        for name, text in texts.items():
            db.execute(
                "UPDATE answers SET text = ? WHERE key IN (SELECT key FROM requests JOIN arms "
                "USING (arm_id) WHERE example_id LIKE ? AND policy != 'none')",
                (text, f"%jsonl{name}"),
            )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_all", lambda *_: ())
        analyse(prepared)
        report(prepared)
        yield prepared


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as one:
        yield one


@pytest.fixture
def page(group, browser):
    browser.complaints.clear()
    yield (group.folder / "report.html").as_uri()
    assert not browser.complaints
    assert browser.run("window.hit") is None


BROKEN = """
[...document.querySelectorAll('td:not(.wide):not(.reply)')].filter((cell) => {
  const text = cell.firstChild;
  if (text?.nodeType !== 3 || /\\s|[-/]/.test(text.data)) return false;
  const range = document.createRange();
  range.selectNodeContents(text);
  return range.getClientRects().length > 1;
}).map((cell) => cell.innerText)
"""
"""Cells whose one word is in two lines."""


def rows(browser):
    return browser.run("[...document.querySelectorAll('#pairs tbody tr')].map((r) => r.innerText)")


def example(browser):
    browser.wait("document.querySelector('#example .current')")
    return browser.run("document.getElementById('example').innerText")


@needs_chromium
def test_a_link_to_a_cell_shows_its_pairs_and_a_filter_changes_the_address(browser, page):
    browser.open(f"{page}#answers?budget=0.5&bin=0&change=lost")
    assert len(rows(browser)) == 2
    assert all("snapkv 0.50" in row and "lost" in row for row in rows(browser))
    browser.run(
        "((s) => { s.value = ''; s.dispatchEvent(new Event('change')) })"
        "(document.querySelector('[name=change]'))"
    )
    browser.wait("document.querySelectorAll('#pairs tbody tr').length === 8")
    assert browser.run("location.hash") == "#answers?budget=0.5&bin=0"
    browser.open(f"{page}#answers?q={quote('other words')}")
    browser.wait("document.querySelectorAll('#pairs tbody tr').length === 2")
    browser.open(f"{page}#answers?failure=TIMEOUT")
    browser.wait("document.querySelectorAll('#pairs tbody tr').length === 1")
    assert "too slow" in rows(browser)[0]


@needs_chromium
def test_each_pair_has_the_verdict_of_its_cell(group, browser, page):
    cells = json.loads((group.folder / "summary.json").read_text())["cells"]
    wanted = {c["verdict_holm"] for c in cells if c["bin"] == 0 and c["budget"] == 0.5}
    browser.open(f"{page}#answers?budget=0.5&bin=0")
    column = "[...document.querySelectorAll('#pairs thead th')].map((h) => h.innerText)"
    at = browser.run(column).index("Verdict")
    cells_there = "[...document.querySelectorAll('#pairs tbody tr')].map((r) => r.cells"
    assert set(browser.run(f"{cells_there}[{at}].innerText)")) == wanted


def test_of_two_measures_a_page_has_the_verdict_of_scores():
    keys = [CellKey("jsonl", 0, "", "snapkv", 0.5, measure) for measure in (SCORE, "overlap")]
    found = replace(made([(1.0, "x")]), verdicts=dict(zip(keys, ["holds", "breaks"], strict=True)))
    assert unpacked(packed(found, ROOM))["verdicts"] == [["jsonl", 0, "", "snapkv", 0.5, "holds"]]


@needs_chromium
def test_verdict_tables_link_to_the_answers_behind_them(browser, page):
    browser.open(page)
    first = "document.querySelector('td a[href^=\"#answers?\"]')"
    wanted = browser.run(f"{first}.parentElement.parentElement.cells[3].textContent")
    browser.run(f"{first}.click()")
    browser.wait("document.querySelector('[name=budget]').value")
    assert all(f"snapkv {wanted}" in row for row in rows(browser))


@needs_chromium
def test_an_example_by_its_link_has_all_arms_and_a_word_diff(browser, page):
    browser.open(f"{page}#answers?example=jsonl:words.jsonl0-3&budget=0.2")
    text = example(browser)
    for word in ("question: q3", "control", "snapkv 0.50", "snapkv 0.20", "200 B of 1000 B"):
        assert word.lower() in text.lower().replace("question\n", "question: ")
    assert "5 new" in text
    current = "document.querySelector('#example .current pre')"
    assert browser.run(f"[...{current}.querySelectorAll('del')].map((d) => d.innerText)") == ["3"]
    inserted = browser.run(f"[...{current}.querySelectorAll('ins')].map((d) => d.textContent)")
    assert "".join(inserted).split() == ["an", "ofother", "words"]
    browser.run("document.getElementById('diff').click()")
    browser.wait(f"!{current}.querySelector('del')")
    assert browser.run(f"{current}.textContent") == "an answer  of other words"


@needs_chromium
def test_keys_go_through_examples_search_and_close(browser, page):
    browser.open(page)
    browser.press("j")
    first = example(browser)
    browser.press("j")
    browser.wait("document.querySelectorAll('#pairs tr[aria-current]')[0]?.rowIndex === 2")
    browser.press("k")
    browser.wait("document.querySelectorAll('#pairs tr[aria-current]')[0]?.rowIndex === 1")
    assert example(browser) == first
    browser.press("Escape")
    browser.wait("document.getElementById('one').hidden")
    browser.press("/")
    browser.wait("document.activeElement.id === 'search'")
    browser.press("j")
    browser.wait("document.getElementById('search').value === 'j'")


@needs_chromium
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("0-0", "</script><script>window.hit = 1"),
        ("0-1", "\\u202egnikrow\\u202c \u0645\u0631\u062d\u0628\u0627 \\u001b[2J"),
        ("0-2", "word word word"),
    ],
)
def test_no_reply_runs_or_breaks_the_page(browser, page, name, shown):
    browser.open(f"{page}#answers?example=jsonl:words.jsonl{name}&budget=0.5", width=390)
    example(browser)
    browser.run("document.getElementById('diff').click()")
    browser.wait("!document.querySelector('#example del')")
    assert shown in example(browser).replace("\n", " ")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    assert len(rows(browser)) == 16


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_or_the_paper(browser, page, width):
    browser.open(f"{page}#answers?example=jsonl:words.jsonl0-0", width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.call("Emulation.setEmulatedMedia", media="print")
    wide = 703  # CSS pixels between the margins of A4
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=wide, height=1000, deviceScaleFactor=1,
        mobile=False,
    )  # fmt: skip
    tables = "[...document.querySelectorAll('table')]"
    assert browser.run(f"Math.max(...{tables}.map((t) => t.scrollWidth))") <= wide
    hidden = f"{tables}.flatMap((t) => [...t.rows[0].cells]).filter((c) => !c.offsetWidth).length"
    assert browser.run(hidden) == 0
    scrolled = "[...document.querySelectorAll('.scroll, pre')]"
    assert browser.run(f"{scrolled}.filter((e) => e.scrollHeight > e.clientHeight + 1).length") == 0
    assert not browser.run(BROKEN), "a word or number goes on in the next line"
    again = "[...document.querySelectorAll('th button')].map((b) => getComputedStyle(b).display)"
    assert set(browser.run(again)) == {"contents"}, "buttons are not printed on a table's next page"
    browser.call("Emulation.setEmulatedMedia", media="")


@pytest.fixture
def served(group):
    with server_of(group, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join(60)


def ask(port, path, method="GET", host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_view_serves_an_example_whole_to_this_machine_and_nothing_else(group, served):
    before = group.database.read_bytes()
    status, text = ask(served, f"{PATH}2")
    assert status == 200
    assert LONG in [row[4] for row in json.loads(text)["answers"].values()]
    assert ask(served, "/", host="evil.example")[0] == 403
    assert [ask(served, path)[0] for path in (f"{PATH}99", f"{PATH}-1", "/../x", "/x")] == [404] * 4
    assert [ask(served, path)[0] for path in (PATH + "9" * 5000, "http://[")] == [404, 400]
    assert ask(served, "/", "POST")[0] == 501
    assert group.database.read_bytes() == before


@needs_chromium
def test_view_fetches_what_the_page_has_no_room_for(browser, served):
    browser.complaints.clear()
    browser.open(f"http://127.0.0.1:{served}/#answers?example=jsonl:words.jsonl0-2&budget=0.5")
    text = example(browser)
    assert "Show all 200,000 characters" in text
    assert "not in this page" not in text
    assert not browser.complaints
