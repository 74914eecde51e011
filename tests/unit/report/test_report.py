"""report.md, summary.json and the terminal lines, held against synthetic summaries."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_kvbench.report import (
    append_step_summary,
    step_summary,
    terminal_lines,
    write_report,
)
from pytest_kvbench.report import text as words
from pytest_kvbench.report.context import build
from pytest_kvbench.report.markup import md_prose, to_markdown
from pytest_kvbench.report.progress import progress_line
from pytest_kvbench.report.results import Results
from tests.support.summaries import make_summary

HOSTILE = (
    "| a | b |\n|---|---|\n```\n# heading\n````\n<script>alert(1)</script> "
    "![x](http://evil.example/x.png) \x1b[31m \u202e"
)
# Raw HTML is on, as on GitHub: a tag that gets through is seen.
PARSER = MarkdownIt("commonmark").enable("table")


def markdown(summary):
    return to_markdown(build(Results(summary)))


def tables(text):
    """Every table of a Markdown text as a list of rows of cell texts."""
    found, inside = [], False
    for token in PARSER.parse(text):
        if token.type in ("table_open", "table_close"):
            inside = token.type == "table_open"
            found += [[]] if inside else []
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            found[-1][-1].append("".join(c.content for c in token.children))
    return found


def headings(text):
    tokens = PARSER.parse(text)
    return [
        tokens[i + 1].content
        for i, t in enumerate(tokens)
        if t.type == "heading_open" and t.tag == "h2"
    ]


def verdict_rows(text):
    """The rows of all verdict tables by task, bin, policy and budget."""
    rows = [r for t in tables(text) if "Adjusted" in t[0] for r in t[1:]]
    by_cell = {tuple(r[:4]): r for r in rows}
    assert len(by_cell) == len(rows), "a cell stands twice"
    return by_cell


def test_answer_comes_first_and_every_section_is_there():
    assert headings(markdown(make_summary())) == [
        "Answer",
        "Transition",
        "Verdicts by bin",
        "By prompt length",
        "Answers that changed",
        "Tasks",
        "Sanity of the control",
        "Integrity",
        "Efficiency",
        "Limitations",
        "Provenance",
        "How to repeat it",
        "Terms",
    ]


def test_every_cells_verdicts_are_in_a_table():
    summary = make_summary()
    rows = verdict_rows(markdown(summary))
    treated = [c for c in summary["cells"] if c["policy"] != "none"]
    assert len(treated) == len(rows) == 90
    for cell in treated:
        row = rows[cell["task"], str(cell["bin"]), cell["policy"], f"{cell['budget']:.2f}"]
        assert row[4:6] == [cell["verdict_holm"], cell["verdict"]]
        assert row[7] == str(cell["n"])
        assert row[6].startswith(
            f"{cell['delta']:+.2f}".replace("+0.00", "0.00").replace("-0.00", "0.00")
        )


def test_transition_is_said_in_words_with_its_bracket_and_numbers():
    summary = make_summary()
    row = next(t for t in summary["transitions"] if (t["bin"], t["policy"]) == ("all", "snapkv"))
    assert (row["b_broken"], row["b_safe"]) == (0.6, 0.8)
    text = markdown(summary)
    assert (
        "`snapkv` holds down to 0.80 and breaks from 0.60 down: quality is lost in (0.60, 0.80]"
        in text
    )
    assert "`random` breaks from 0.80 down, the largest budget measured" in text
    assert "`tova` goes lowest: it holds down to 0.40" in text


@pytest.mark.parametrize(
    ("safe", "broken", "said"),
    [
        (0.1, None, "holds down to 0.10, the smallest budget measured"),
        (0.4, None, "holds down to 0.40; below, no budget is shown to hold or to break"),
        (None, 0.2, "breaks from 0.20 down; above, no budget is shown to hold or to break"),
        (None, None, "is undecided: no budget is shown to hold or to break"),
    ],
)
def test_open_brackets_are_said_to_be_open(safe, broken, said):
    summary = make_summary(policies=("snapkv",))
    for row in summary["transitions"]:
        row |= {"b_safe_adjusted": safe, "b_broken_adjusted": broken}
    assert f"`snapkv` {said}" in markdown(summary)


def test_undecided_says_how_many_more_examples():
    summary = make_summary(policies=("snapkv",), budgets=(0.5,))
    for cell in summary["cells"]:
        cell |= {"verdict": "undetermined", "verdict_holm": "undetermined", "needed": 123}
    for row in summary["transitions"]:
        row |= {"b_safe_adjusted": None, "b_broken_adjusted": None}
    assert "About 123 more examples would decide 0.50." in markdown(summary)


def test_the_drop_rule_is_a_column_and_no_claim():
    """On a flat truth with few examples it finds a drop more often than not."""
    summary = make_summary(policies=("random",))
    for row in summary["transitions"]:
        row |= {"b_broken_adjusted": 0.2, "rule_budget": 0.8}
    said = markdown(summary)
    answer = said.partition("## Answer")[2].partition("\n## ")[0]
    assert "drop rule" not in answer.lower()
    assert "drop" not in "\n".join(terminal_lines(summary)).lower()
    (table,) = (t for t in tables(said) if "Quality is lost" in t[0])
    assert {row[table[0].index("Drop rule")] for row in table[1:]} == {"0.80"}


@pytest.mark.parametrize(
    ("correction", "says"),
    [
        ("holm", "the chance that any of them is said to hold wrongly is at most 2.5%"),
        ("bh", "of those said to hold, at most 2.5% are expected to be wrong"),
        ("none", "chosen among 2 rows without a correction: nothing bounds its error"),
    ],
)
def test_what_is_chosen_among_many_carries_a_stated_error(correction, says):
    summary = make_summary(policies=("snapkv", "random"), budgets=(0.5,))
    summary["experiment"]["gate"]["correction"] = correction
    for cell in summary["cells"]:
        if cell["policy"] == "snapkv" and cell["bin"] == "all":
            cell |= {"delta": -0.01, "ci_low": -0.05, "ci_high": 0.02}
            wide = [{"rows": 2, "ci_low": -0.07, "ci_high": 0.04}]
            cell |= {"verdict_holm": "holds", "together": wide}
    for row in summary["transitions"]:
        row |= {"b_safe_adjusted": 0.5 if row["policy"] == "snapkv" else None}
    (lead,) = (line for line in markdown(summary).splitlines() if "goes lowest" in line)
    assert says in lead
    assert "with a delta of -0.01 [-0.07, +0.04]" in lead


def test_rows_stand_in_the_order_people_look_for_them():
    summary = make_summary(policies=("tova", "random"), bins=2)
    for key in ("cells", "bin_stats", "transitions"):
        summary[key].reverse()
    rows = [r[1:4] for r in verdict_rows(markdown(summary)).values()]
    ladder = ["0.80", "0.60", "0.40", "0.20", "0.10"]
    assert rows == [
        [b, p, x] for b in ("all", "0", "1") for p in ("tova", "random") for x in ladder
    ]


def test_driver_names_labels_when_they_make_the_loss():
    summary = make_summary()
    assert "Wrong answers drive the largest loss" in markdown(summary)
    for cell in summary["cells"]:
        cell["delta_unlabelled"] = 0.0
    assert "Labelled answers (empty, truncated, refused, unparsable) drive" in markdown(summary)


def test_how_sure_one_can_be_is_said_with_n_alpha_and_family():
    summary = make_summary()
    for cell in summary["cells"]:
        cell["clusters"] = 40
    text = markdown(summary)
    assert "rests on 200 pairs of answers to the same example, from 40 contexts" in text
    assert "Intervals are at 95%; each direction is tested at 0.025" in text
    assert "Holm's correction" in text
    assert "one family (75 planned)" in text
    assert "Of 15 headline rows, 4 hold and 11 break." in text


def test_failures_are_counted_in_words():
    assert "No request failed." in markdown(make_summary())
    assert "270 requests (3%) failed: 270 TIMEOUT." in markdown(make_summary(failure_rate=0.03))


def test_placebos_notes_and_flags_are_before_the_verdict_table():
    summary = make_summary()
    summary["cells"][1]["flags"] = ["gain: the treated arm scores higher."]
    flagged = markdown(summary)
    assert "`niah-single-bin0-snapkv-0.80`: gain: the treated arm scores higher." in flagged
    assert verdict_rows(flagged)["niah/single", "0", "snapkv", "0.80"][-1] == "gain"
    summary["integrity"]["placebos"] = ["`pyramidkv` equals `snapkv` on 99% of the examples."]
    summary["integrity"]["notes"] = ["gain: in one cell the treated arm scores higher."]
    text = markdown(summary)
    answer = text[: text.index("### Verdicts")]
    assert "- `pyramidkv` equals `snapkv` on 99%" in answer
    assert "- gain: in one cell" in answer
    assert "No placebo was suspected" in markdown(make_summary())


def test_partial_run_names_its_missing_cells_before_anything_else():
    summary = make_summary(missing=2)
    text = markdown(summary)
    notice = text[: text.index("## Answer")]
    assert "Partial run: 2 cells missing" in notice
    assert "`niah-single-bin4-random-0.10`" in notice
    assert "`niah-single-bin4-random-0.20`" in notice
    assert "What is missing" in headings(text)
    assert "Partial run" not in markdown(make_summary())


def test_not_measured_cells_are_listed_with_their_reason():
    summary = make_summary(policies=("snapkv",))
    lost = next(c for c in summary["cells"] if c["policy"] == "snapkv")
    lost |= {
        "verdict": "not-measured",
        "verdict_holm": "not-measured",
        "reason": "12% of pairs lost",
    }
    lost |= {"ci_low": None, "ci_high": None}
    rows = [r for t in tables(markdown(summary)) if t[0] == ["Cell", "Reason"] for r in t[1:]]
    assert rows == [["niah-single-bin0-snapkv-0.80", "12% of pairs lost"]]


def test_several_variants_are_kept_apart():
    text = markdown(make_summary(variants=("terse", "long"), bins=2))
    assert "`niah/single [terse]`: the control scores" in text
    assert "`niah/single [long]`: the control scores" in text


def test_many_curves_are_summed_up_by_their_best_policy():
    tasks = tuple(f"longbench/t{i}" for i in range(13))
    text = markdown(make_summary(tasks=tasks, policies=("snapkv", "tova"), budgets=(0.5, 0.1)))
    answer = text[: text.index("### Verdicts")]
    assert answer.count("goes lowest") + answer.count("No policy was shown to hold") == 13
    assert "Delta is" not in answer


MANY = ("snapkv", "knorm", "streaming_llm", "keydiff", "pyramidkv", "random", "x", "y", "tova")


def test_many_policies_are_ranked_in_report_and_terminal():
    summary = make_summary(policies=MANY, bins=1, budgets=(0.5, 0.3))
    (ranks,) = [t for t in tables(markdown(summary)) if t[0][:2] == ["Policy", "Mean delta"]]
    names = [row[0].strip("`") for row in ranks[1:] if not row[0].startswith("-")]
    assert sorted(names) == sorted(MANY)
    means = [float(row[1]) for row in ranks[1:] if row[0].startswith("`")]
    assert means == sorted(means, reverse=True)
    assert "- `snapkv` breaks" not in markdown(summary)
    lines = terminal_lines(summary)
    shown = [line.split()[0] for line in lines if line.split()[0] in MANY]
    assert shown == names[: len(shown)]


def test_the_report_says_which_policies_beat_random():
    summary = make_summary(policies=("snapkv", "tova", "random"), bins=1, budgets=(0.5, 0.3))
    for cell in summary["cells"]:
        if cell["policy"] != "none":
            level = {"snapkv": 0.6 - (cell["budget"] == 0.3), "tova": 0.1, "random": 0.3}
            cell["treated_mean"] = level[cell["policy"]]
    words = "1 at some budgets (`snapkv`); 1 at no budget (`tova`)"
    assert f"score above `random` (described, not tested): {words}." in markdown(summary)
    assert "above `random`" not in markdown(make_summary(policies=("snapkv", "tova")))


def test_report_of_cells_alone_as_kvbench_judge_makes_them():
    whole = make_summary()
    text = markdown({k: whole[k] for k in ("cells", "transitions", "partial")} | {"group": "pairs"})
    assert headings(text) == ["Answer", "Transition", "Verdicts by bin", "Limitations", "Terms"]
    assert "(0.60, 0.80]" in text


def test_hostile_replies_stay_verbatim_text():
    calm = make_summary(bins=2)
    wild = make_summary(bins=2, replies=(HOSTILE, "~~~\n" + HOSTILE))
    assert headings(markdown(wild)) == headings(markdown(calm))
    assert [len(t) for t in tables(markdown(wild))] == [len(t) for t in tables(markdown(calm))]
    tokens = PARSER.parse(markdown(wild))
    flat = [c for t in tokens for c in [t, *(t.children or [])]]
    assert not [t for t in flat if t.type in ("html_block", "html_inline", "image", "link_open")]
    shown = [t.content for t in tokens if t.type == "fence" and "Control:" in t.content]
    assert len(shown) == 8
    assert all("<script>alert(1)</script>" in s and "````" in s for s in shown)
    assert all("\\x1b[31m \\u202e" in s and "\x1b" not in s for s in shown)


def test_long_replies_are_cut_and_say_so():
    text = markdown(make_summary(bins=1, replies=("x" * 1000, "y")))
    assert "x" * 401 not in text
    assert "[…600 more characters]" in text


def test_hostile_names_break_neither_table_nor_paragraph():
    name = "a|b`<img src=x>_*[l](http://evil.example)\n# h"
    summary = make_summary(bins=1, policies=(name,), tasks=(name,))
    summary["cells"][-1]["flags"] = [f"{name}``(http://evil.example): | <b>"]
    text = markdown(summary)
    flat = [c for t in PARSER.parse(text) for c in [t, *(t.children or [])]]
    assert not [t for t in flat if t.type in ("html_block", "html_inline", "image", "link_open")]
    assert {len(r) for t in tables(text) if "Adjusted" in t[0] for r in t} == {14}


@settings(max_examples=300, deadline=None)
@example("`1``1`")
@given(st.text(alphabet=st.sampled_from("ab `|*_[](){}<>!#\\&$~.1:-+\n"), max_size=30))
def test_prose_is_shown_as_it_was_written(text):
    """Whatever the text, a paragraph and a table cell show its own characters and nothing more."""
    shown = re.sub(r"`([^`]+)`", lambda m: m.group(1), " ".join(text.split()))
    line = md_prose(text)
    tokens = PARSER.parse(f"{line}\n")
    assert {t.type for t in tokens} <= {"paragraph_open", "inline", "paragraph_close"}
    inline = [c for t in tokens for c in (t.children or [])]
    assert {c.type for c in inline} <= {"text", "text_special", "code_inline"}
    assert "".join(c.content for c in inline).split() == shown.split()
    table = tables(f"| h | k |\n| --- | --- |\n| {line} | end |\n")
    assert table[0][1][1] == "end"
    assert table[0][1][0].split() == shown.split()


def test_the_files_of_a_report_are_written(tmp_path):
    summary = make_summary(bins=2, missing=1)
    report = write_report(tmp_path / "new" / "group", summary, plots=False)
    assert report == tmp_path / "new" / "group" / "report.md"
    assert sorted(p.name for p in report.parent.iterdir()) == ["report.html", "report.md"]


SCREENS = {
    "plain": {},
    "partial": {"missing": 30},
    "one": {"bins": 1, "policies": ("snapkv",), "budgets": (0.2,), "per_bin": 5},
    "many tasks": {"tasks": tuple(f"longbench/a-long-task-name-{i}" for i in range(21)), "bins": 2},
    "many budgets": {"budgets": tuple((20 - i) / 20 for i in range(1, 20)), "missing": 9},
    "policies": {
        "policies": tuple(f"policy_with_a_long_name_{i}" for i in range(10)),
        "budgets": (0.95, 0.9, 0.8, 0.6, 0.4, 0.2, 0.1, 0.05),
        "tasks": ("niah/single", "tracking/variables"),
    },
}


@pytest.mark.parametrize("shape", SCREENS.values(), ids=SCREENS)
@pytest.mark.parametrize("width", [60, 80, 132])
def test_terminal_fits_a_screen(shape, width):
    summary = make_summary(**shape)
    summary["cells"][1]["flags"] = [f"gain: {'very ' * 40}suspicious {i}" for i in range(6)]
    paths = ["report   reports/synthetic_v1/report.md", "next     kvbench report synthetic_v1"]
    lines = terminal_lines(summary, width, paths)
    assert len(lines) <= 24
    assert max(map(len, lines)) <= width
    assert lines[-2:] == paths
    assert not any("\n" in line or "`" in line for line in lines)
    assert any(line.startswith(("! niah", "! longbench")) for line in lines)
    assert any("6 cells" in line or "not measured" in line for line in lines) == bool(
        shape.get("missing")
    )


TURNED = "a\u202eb\x1b[2Jc"
"""What turns the reading direction, and what moves a cursor."""


@pytest.mark.parametrize("width", [60, 132])
def test_no_name_turns_a_screen_or_a_page(width, tmp_path):
    shape = {"tasks": (TURNED,), "policies": (f"p{TURNED}",), "missing": 2}
    summary = make_summary(**shape)
    summary["group"] = summary["experiment"]["engine"]["model"] = TURNED
    lines = terminal_lines(summary, width)
    assert any("\\u202e" in line for line in lines)
    page = write_report(tmp_path, summary).with_suffix(".html").read_text(encoding="utf-8")
    for shown in (*lines, page):
        assert not {"\u202e", "\x1b"} & set(shown)


def test_terminal_table_shows_delta_verdict_and_bracket():
    lines = terminal_lines(make_summary())
    assert lines[0].startswith("synthetic_v1, smollm2-135m: 4 hold and 11 break")
    snapkv = next(line for line in lines if line.startswith("snapkv"))
    assert " ".join(snapkv.split()) == "snapkv -.05 H -.22 B -.40 B -.88 B -.95 B (0.60, 0.80]"
    assert any(line.startswith("H holds") for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_long_budgets_stay_apart(width):
    budgets = (0.53125, 0.34375, 0.28125, 0.5, 0.0625)
    head = terminal_lines(make_summary(budgets=budgets), width)[1]
    shown = head.removesuffix("  lost in").split()[1:]
    assert {float(word) for word in shown} <= set(budgets)
    assert len(shown) >= 3


def test_terminal_of_an_empty_run_says_so():
    assert "no treated cell was measured" in terminal_lines({"cells": [], "partial": False})


def test_efficiency_shows_bytes_times_and_tokens_of_each_arm():
    rows = next(t for t in tables(markdown(make_summary())) if "KV kept" in t[0])
    assert len(rows) == 1 + 1 + 15
    control = next(r for r in rows if r[0] == "none")
    assert control[1:5] == ["1.00", "1.000", "50.6 MiB", "50.6 MiB"]
    assert control[8:11] == ["100", "110,000", "800"]
    text = markdown(make_summary())
    assert "9,000 answers took 812,345 prompt tokens and 31,415 new tokens" in text
    assert "The last run took 4 min 10 s" in text


def test_step_summary_is_the_answer_alone_and_short():
    summary = make_summary(missing=1)
    text = step_summary(summary)
    assert headings(text) == ["Answer"]
    assert "Partial run: 1 cell missing" in text
    assert "quality is lost in (0.60, 0.80]" in text
    tasks = tuple(f"longbench/t{i}" for i in range(40))
    long = step_summary(make_summary(tasks=tasks, bins=2, policies=("snapkv", "tova")))
    assert "The first 40 of 400 headline rows" in long
    assert len(verdict_rows(long)) == 40


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"done": 0, "total": 300, "seconds": 0.0}, "0/300 answers"),
        ({"done": 120, "total": 300, "seconds": 40.0}, "120/300 answers, 3.0/s, 1 min 0 s left"),
        ({"done": 10, "total": 70, "seconds": 60.0}, "10/70 answers, 10.0/min, 6 min 0 s left"),
        ({"done": 90, "total": 300, "seconds": 9.0, "reused": 90}, "90/300 answers"),
        (
            {"done": 120, "total": 300, "seconds": 10.0, "reused": 90},
            "120/300 answers, 3.0/s, 1 min 0 s left",
        ),
        (
            {"done": 300, "total": 300, "seconds": 100.0, "failed": 2},
            "300/300 answers, 3.0/s, 2 failed",
        ),
    ],
)
def test_progress_line(counts, line):
    assert progress_line(**counts, verdicts={}) == line


def test_progress_line_counts_verdicts_and_fits():
    counts = {"done": 1200, "total": 3000, "seconds": 400.0}
    verdicts = {"breaks": 1, "holds": 4, "undetermined": 2}
    line = progress_line(**counts, verdicts=verdicts)
    assert line == "1,200/3,000 answers, 3.0/s, 10 min 0 s left, 4 holds, 1 breaks, 2 undetermined"
    for width in range(10, 90):
        assert len(progress_line(**counts, verdicts=verdicts, width=width)) <= width


def test_importing_the_report_loads_nothing_heavy():
    heavy = {"jinja2", "matplotlib", "pandas", "scipy", "torch", "pytest"}
    code = "import sys, pytest_kvbench.report, pytest_kvbench.report.progress; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert not heavy & set(done.stdout.split())


def test_own_wording_is_said_and_official_is_not():
    summary = make_summary(tasks=("longbench/qasper", "longbench/trec"))
    summary["tasks"][0]["prompts"], summary["tasks"][1]["prompts"] = "own", "official"
    said = markdown(summary)
    (line,) = (line for line in said.splitlines() if "in our own wording" in line)
    assert "longbench/qasper" in line
    assert "longbench/trec" not in line
    assert "official" in said


def test_what_a_score_is_made_of_stands_side_by_side():
    summary = make_summary(bins=2, policies=("snapkv",), budgets=(0.5,))
    assert "What the score is made of" not in headings(markdown(summary))
    for row in summary["bin_stats"]:
        full = row["policy"] == "none"
        row["parts_mean"] = {"correct": 0.75, "credited": 0.5 if full else 0.25}
    (table,) = (t for t in tables(markdown(summary)) if "credited" in t[0])
    assert table[0] == ["Policy", "Budget", "Score", "correct", "credited"]
    assert [row[3:] for row in table[1:]] == [["0.75", "0.50"], ["0.75", "0.25"]]


def test_policies_that_go_equally_low_are_named_together():
    summary = make_summary(policies=("snapkv", "tova", "random"))
    for row in summary["transitions"]:
        row["b_safe_adjusted"] = {"snapkv": 0.4, "tova": 0.4, "random": 0.8}[row["policy"]]
    assert "`snapkv` and `tova` go lowest: they hold down to 0.40" in markdown(summary)


def _ladder(verdicts, corrected):
    """A summary of one policy whose verdicts from the largest budget down are these."""
    summary = make_summary(policies=("keydiff",), budgets=(0.9, 0.5, 0.2), bins=1)
    for cell in (c for c in summary["cells"] if c["verdict"]):
        place = (0.9, 0.5, 0.2).index(cell["budget"])
        cell |= {"verdict": verdicts[place], "verdict_holm": corrected[place]}
    for row in summary["transitions"]:
        row |= {"b_safe": 0.9 if verdicts[0] == "holds" else None}
        row |= {"b_broken": 0.2 if verdicts[-1] == "breaks" else None}
        row |= {"b_safe_adjusted": 0.9 if corrected[0] == "holds" else None}
        row |= {"b_broken_adjusted": 0.2 if corrected[-1] == "breaks" else None}
    return summary


OPEN = ("undetermined",) * 3


def test_what_the_correction_takes_back_is_no_part_of_the_answer():
    summary = _ladder(("holds", "undetermined", "breaks"), OPEN)
    said = markdown(summary)
    assert "`keydiff` is undecided: no budget is shown to hold or to break." in said
    answer = said.partition("## Answer")[2].partition("\n## ")[0]
    assert "On its own," not in answer
    assert "No policy was shown to hold at any budget measured." in said
    assert "goes lowest" not in said
    (line,) = (line for line in terminal_lines(summary) if line.startswith("keydiff"))
    assert line.endswith("not found")


def test_the_transitions_table_speaks_of_the_verdict_that_counts():
    said = markdown(_ladder(("holds", "undetermined", "breaks"), OPEN))
    (table,) = (t for t in tables(said) if "Quality is lost" in t[0])
    for row in (dict(zip(table[0], r, strict=True)) for r in table[1:]):
        assert (row["Quality is lost"], row["Holds down to"]) == ("not found", words.NOTHING)
        assert row["Alone, not adjusted"] == "(0.20, 0.90]"


def test_a_bracket_that_the_correction_confirms_has_nothing_beside_it():
    said = markdown(_ladder(("holds", "undetermined", "breaks"), ("holds", "holds", "breaks")))
    assert "On its own, before" not in said
    assert "`keydiff` holds down to 0.90 and breaks from 0.20 down" in said


@pytest.mark.parametrize(
    ("flags", "short", "long"),
    [
        ([], "unverified", "(unverified: nothing proves that the budget was applied)"),
        (["placebo: all equal"], "placebo?", "(possibly a placebo: the answers equal the control"),
    ],
)
def test_a_verdict_on_a_cache_that_nothing_proves_smaller_is_never_plain(flags, short, long):
    summary = _ladder(("holds",) * 3, ("holds",) * 3)
    for cell in summary["cells"]:
        cell |= {"proof": "unverified", "flags": flags} if cell["verdict"] else {}
    said = markdown(summary)
    assert f"3 hold (3 {short})" in terminal_lines(summary)[0]
    assert f"3 hold (3 {short})" in said
    assert (
        f"`keydiff` holds down to 0.90; below, no budget is shown to hold or to break {long}"
        in said
    )
    assert f"down to 0.90 of the full cache's bytes {long}" in said
    assert {cell for row in verdict_rows(said).values() for cell in row[4:6]} == {
        f"holds ({short})"
    }
    (line,) = (line for line in terminal_lines(summary) if line.startswith("keydiff"))
    assert "H" not in line
    assert line.split()[2] == "h"


def test_an_estimate_finer_than_the_ladder_says_between_which_budgets_it_lies():
    summary = make_summary(policies=("snapkv",), budgets=(0.9, 0.5, 0.2), bins=1)
    for row in summary["transitions"]:
        row |= {"estimate": 0.37, "estimate_ci": [0.25, 0.45], "estimate_between": [0.2, 0.5]}
    said = markdown(summary)
    assert "Monotone fit, interpolated" in said
    assert "0.37 between 0.20 and 0.50 [0.25, 0.45]" in said


def test_prices_of_the_experiment_make_costs():
    summary = make_summary(policies=("snapkv",), budgets=(0.5,))
    assert "Price" not in markdown(summary)
    summary["experiment"]["prices"] = {"prompt": 2.0, "completion": 10.0, "currency": "USD"}
    summary["efficiency"] |= {"prompt_tokens": 3_000_000, "completion_tokens": 100_000}
    for arm in summary["efficiency"]["arms"]:
        arm |= {"prompt_tokens": 1_000_000, "completion_tokens": 50_000}
    said = markdown(summary)
    assert "they cost 7 USD" in said
    (table,) = (t for t in tables(said) if t[0][-1] == "Price")
    assert {row[-1] for row in table[1:]} == {"2.5 USD"}


def test_throughput_is_new_tokens_over_the_median_request():
    summary = make_summary(policies=("snapkv",), budgets=(0.5,))
    for arm in summary["efficiency"]["arms"]:
        arm |= {"answers": 10, "completion_tokens": 200, "latency_p50": 4.0}
    (table,) = (t for t in tables(markdown(summary)) if t[0][-1] == "New tokens/s")
    assert {row[-1] for row in table[1:]} == {"5.0"}


def test_the_page_of_a_ci_job_is_appended_to_where_one_is_named(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n", encoding="utf-8")
    append_step_summary(make_summary(), {})
    append_step_summary(make_summary(), {"GITHUB_STEP_SUMMARY": str(page)})
    append_step_summary(make_summary(), {"GITHUB_STEP_SUMMARY": str(tmp_path)})
    said = page.read_text(encoding="utf-8")
    assert said.startswith("before\n")
    assert said.count("# KV budget report") == 1


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        (None, "was not tried (`aa: true` does)"),
        (
            {"replies": 40, "same": 40},
            "at 4 requests in flight gave all 40 again: no sampling noise",
        ),
        ({"replies": 40, "same": 34}, "Yet 6 of 40 replies of the control's second run at 4"),
    ],
)
def test_no_sampling_noise_is_said_only_where_the_control_repeated_itself(floor, said):
    """Several requests decoded together may be answered otherwise than one, also greedily."""
    summary = make_summary()
    usual = {"delta": 0.0, "ci_low": -0.1, "ci_high": 0.1, "discordance": 0.0}
    summary["integrity"]["aa"] = floor and usual | floor
    summary["experiment"]["engine"]["concurrency"] = 4
    text = markdown(summary)
    assert said in text
    assert ("no sampling noise" in text) is bool(floor and floor["same"] == floor["replies"])
    summary["experiment"]["variants"] = {"warm": {"temperature": 0.7}}
    assert "Answers are greedy" not in markdown(summary)


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("code_similarity", "| `code_similarity` (difflib) |"),
        ("code_similarity_levenshtein", "(python-Levenshtein's ratio) |"),
        ("f1", "| `f1` |"),
        ("a metric of yours", "| `a metric of yours` |"),
    ],
)
def test_the_metric_of_a_task_names_its_backend(metric, shown):
    summary = make_summary()
    summary["tasks"][0]["metric"] = metric
    assert shown in markdown(summary)
