"""Two groups, or a baseline and a group, on one page; and the comparison where CI shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.ops.baselines import find_side
from pytest_kvbench.ops.compare_page import Compared, answers_between, comparison_facts, document
from pytest_kvbench.pipeline.compare import compare
from pytest_kvbench.report.pages.links import link_to
from tests.support.chromium import chromium, needs_chromium
from tests.support.groups import make_group

WORSE = 10
"""Of so many examples a bin each is lost by the later group at every budget."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    make_group(folder, "was", per_bin=12, draw=lambda cell, i, rng: 1.0)
    make_group(
        folder,
        "now",
        per_bin=12,
        draw=lambda cell, i, rng: float(cell.is_control or i >= WORSE),
    )
    done = CliRunner().invoke(main, ["save", "main", "was", "--dir", str(folder)])
    assert not done.exit_code, done.output
    return folder


def between(reports, base, now="now"):
    sides = [find_side(name, reports, now) for name in (base, now)]
    result = compare(*sides, names=(base, now))
    compared = [Compared.of(n, s, reports) for n, s in zip((base, now), sides, strict=True)]
    return result, answers_between(result, *compared)


def test_every_answer_of_both_stands_beside_the_other(reports):
    _, found = between(reports, "was")
    assert found.sides == ("was", "now")
    assert len(found.pairs) == 2 * 12 * 3  # bins, examples, arms
    changes = [found.change(pair) for pair in found.pairs]
    assert changes.count("lost") == 2 * WORSE * 2
    for left, right in found.pairs:
        was, now = found.answers[left], found.answers[right]
        assert was.example == now.example
        assert found.arms[was.arm]._replace(side="now") == found.arms[now.arm]


def test_of_a_baseline_there_are_scores_and_the_same_changes(reports):
    file = str(reports / ".baselines" / "main" / "was.json")
    _, found = between(reports, file)
    _, whole = between(reports, "was")
    lefts = [found.answers[left] for left, _ in found.pairs]
    assert all(one.outcome is None for one in lefts)
    assert sorted(map(found.change, found.pairs)) == sorted(map(whole.change, whole.pairs))


def test_policies_of_other_names_are_paired_as_they_are_compared(reports):
    make_group(reports, "renamed", per_bin=12, kv={"policies": ["tova"], "budgets": [1.0, 0.5]})
    _, found = between(reports, "was", "renamed")
    arms = {(found.arms[found.answers[p].arm].policy, found.arms[found.answers[q].arm].policy)
            for p, q in found.pairs}  # fmt: skip
    assert arms == {("none", "none"), ("snapkv", "tova")}


def test_the_document_has_regressions_first_and_is_cut_for_a_summary(reports):
    result, _ = between(reports, "was")
    (_, table) = document(result).sections[0].blocks
    assert len(table.rows) == len(result.changes)
    assert [row[4].prose for row in table.rows][: len(result.regressions)] == ["worse"] * len(
        result.regressions
    )
    (_, cut, few) = document(result, 3).sections[0].blocks
    assert cut.prose == f"The first 3 of {len(result.changes)} rows:"
    assert few.rows == table.rows[:3]


def test_junit_is_told_the_outcome_and_every_regression(reports):
    result, _ = between(reports, "was")
    (name, outcome), *others = comparison_facts(result)
    assert name == "comparison"
    assert f"{len(result.regressions)} REGRESSIONS" in outcome
    assert {n for n, _ in others} == {"regression"}
    assert len(others) == len(result.regressions) > 0


@pytest.fixture(scope="module")
def written(reports):
    """The page, the summary of a job, and what was printed."""
    job = reports / "job.md"
    args = ["compare", "was", "now", "--dir", str(reports), "--json", "--html"]
    done = CliRunner().invoke(main, args, env={"GITHUB_STEP_SUMMARY": str(job)})
    assert done.exit_code == 1, done.output
    return reports / "now-against-was.html", job.read_text(encoding="utf-8"), done


def test_the_page_is_named_apart_from_json_and_the_job_summary_has_the_table(written):
    page, job, done = written
    assert json.loads(done.stdout)["regressions"]
    assert str(page) in done.stderr
    assert "| Verdict in was | Verdict in now |" in job
    assert "worse" in job


def test_a_named_file_is_where_the_page_goes(reports, tmp_path: Path):
    file = tmp_path / "page.html"
    args = ["compare", "was", "was", "--dir", str(reports), "--html", str(file)]
    assert CliRunner().invoke(main, args).exit_code == 0
    assert "was against was" in file.read_text(encoding="utf-8")


@needs_chromium
def test_a_cell_of_the_page_leads_to_its_answers_of_both_sides(reports, written, tmp_path):
    with chromium(tmp_path / "profile") as browser:
        browser.open(written[0].as_uri())
        browser.run("document.querySelector('td a[href^=\"#answers?\"]').click()")
        browser.wait("document.querySelector('[name=budget]').value")
        rows = "[...document.querySelectorAll('#pairs tbody tr')].map((r) => r.innerText)"
        browser.open(f"{written[0].as_uri()}#answers?change=lost&bin=0&budget=0.2")
        assert len(browser.run(rows)) == WORSE
        control = next(c for c in between(reports, "was")[0].changes if c.policy == "none")
        browser.open(f"{written[0].as_uri()}#answers?{link_to(control.key.columns())}")
        assert len(browser.run(rows)) == 24
        browser.open(f"{written[0].as_uri()}#answers?change=lost&bin=0&budget=0.20")
        browser.press("j")
        browser.wait("document.querySelector('#example .current')")
        cards = browser.run("[...document.querySelectorAll('h4')].map((h) => h.innerText)")
        assert cards[:2] == ["was, snapkv 0.20", "now, snapkv 0.20 lost"]
        assert len(cards) == 6
        assert not browser.complaints
