"""What many runs say together: statements that would mislead whoever deploys by them."""

from __future__ import annotations

import csv

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.records import FULL_CACHE
from tests.support.groups import TASK, make_group

ONE = {"policies": ["snapkv"], "budgets": [1.0, 0.2]}
HALF = {"policies": ["snapkv"], "budgets": [1.0, 0.5]}


def kvbench(*args):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == 0, done.output
    return done.stdout


def losing(share):
    """Every treated answer of the first `share` of 40 is wrong."""
    return lambda cell, i, rng: float(cell.policy == FULL_CACHE or i % 40 >= 40 * share)


def table(command, reports):
    shown = kvbench(command, "--dir", reports, "--csv", reports / f"{command}.csv")
    return shown, list(csv.DictReader((reports / f"{command}.csv").open(newline="")))


def test_the_luckiest_of_nine_groups_is_not_the_answer(tmp_path):
    for number in range(9):
        draw = losing(0 if number == 4 else 0.125)
        make_group(
            tmp_path, f"g{number}", draw=draw, bins=1, per_bin=40, kv=ONE, examples=f"g{number}"
        )
    shown, (row,) = table("best", tmp_path)
    assert (row["policy"], row["budget"]) == ("", "")
    assert "none shown" in shown
    _, (row, *_) = table("effects", tmp_path)
    assert (row["n"], row["effect"][:5]) == ("360", "-0.11")


def test_a_cell_that_holds_in_few_and_breaks_in_many_is_shown_as_contradicted(tmp_path):
    make_group(tmp_path, "few", draw=losing(0), bins=1, per_bin=60, kv=ONE, tokens=1024)
    many = {"per_bin": 150, "examples": "b", "tokens": 1024}
    make_group(tmp_path, "many", draw=losing(0.3), bins=1, kv=ONE, **many)
    shown, (row,) = table("best", tmp_path)
    assert row["policy"] == ""
    assert (
        "! snapkv 0.2 over all lengths holds in 1 and breaks in 1 of 2 groups "
        "(many at 1,024 to 1,173 tokens): -0.23 over their 210 pairs"
    ) in " ".join(shown.split())


def test_a_length_is_covered_by_every_bin_that_reaches_it(tmp_path):
    """A narrow bin of 16 to 31 tokens holds; a wide one with prompts of that length breaks."""
    make_group(tmp_path, "narrow", draw=losing(0), bins=1, per_bin=16, tokens=16, kv=ONE)
    make_group(
        tmp_path, "narrower", draw=losing(0), bins=1, per_bin=16, tokens=16, kv=ONE, examples="n"
    )
    many = {"per_bin": 200, "examples": "w", "kv": ONE}
    make_group(tmp_path, "wide", draw=lambda c, i, r: float(c.budget == 1), bins=1, **many)
    _, rows = table("best", tmp_path)
    by = {row["length"]: (row["policy"], row["control_mean"]) for row in rows}
    assert by == dict.fromkeys(("all", "16 to 31", "64 to 127"), ("", "1.0"))
    _, rows = table("effects", tmp_path)
    (row,) = (r for r in rows if (r["dial"], r["length"]) == ("control", "16 to 31"))
    assert (row["n"], round(float(row["effect"]), 2)) == ("48", -0.33)


def test_what_holds_where_a_wider_bin_breaks_is_marked(tmp_path):
    make_group(tmp_path, "narrow", draw=losing(0), bins=1, per_bin=300, tokens=1024, kv=ONE)
    wide = {"per_bin": 60, "examples": "w", "kv": ONE}
    make_group(tmp_path, "wide", draw=losing(0.3), bins=1, tokens=968, **wide)
    shown, rows = table("best", tmp_path)
    by = {row["length"]: (row["policy"], row["doubt"]) for row in rows}
    assert by == {
        "all": ("", ""),
        "512 to 1,023": ("", ""),
        "1,024 to 2,047": ("snapkv", "contradicted"),
    }
    assert (
        "! snapkv 0.2 at 1,024 to 2,047 tokens holds in 1 and breaks in 1 of 2 groups "
        "(wide at 968 to 1,027 tokens): +0.00 over their 304 pairs, holds"
    ) in " ".join(shown.split())


def test_a_group_counts_once_and_sentences_stay_whole(tmp_path):
    """One group holds, one breaks at its longer prompts, one at both of its lengths."""
    kv = {"policies": ["snapkv"], "budgets": [1.0, 0.2], "params": {"snapkv": {"note": "a; b"}}}
    draws = {"a": lambda cell: False, "b": lambda cell: cell.bin == 1, "c": lambda cell: True}
    for group, breaks in draws.items():
        draw = lambda cell, i, rng, breaks=breaks: float(cell.budget == 1 or not breaks(cell))  # noqa: E731
        make_group(tmp_path, group, draw=draw, per_bin=60, kv=kv, examples=group, tokens=200)
    shown, _ = table("best", tmp_path)
    arm = 'snapkv {"note":"a; b"} 0.2'
    lines = " ".join(shown.split())
    assert (
        f"! {arm} over all lengths holds in 1 and breaks in 2 of 3 groups (b at 300 to 359 tokens, "
        "c at 200 to 259 and 300 to 359 tokens): -0.50 over their 360 pairs, breaks"
    ) in lines
    kvbench("insights", "--dir", tmp_path)
    bullets = [line for line in (tmp_path / "INSIGHTS.md").read_text().splitlines() if arm in line]
    assert sum("holds in 1 and breaks in 2 of 3 groups" in line for line in bullets) == 1


def test_another_range_of_lengths_in_which_it_breaks_counts(tmp_path):
    make_group(tmp_path, "short", draw=losing(0), bins=1, per_bin=300, kv=HALF)
    make_group(
        tmp_path,
        "long",
        draw=losing(0.3),
        bins=1,
        per_bin=60,
        kv=HALF,
        examples="long",
        tokens=8000,
    )
    shown, rows = table("best", tmp_path)
    by = {row["length"]: row["policy"] for row in rows}
    assert by == {"all": "", "128 to 255": "snapkv", "4,096 to 8,191": ""}
    assert "breaks at 4,096 to 8,191 tokens" in shown


def test_an_arm_that_may_be_the_control_itself_is_not_best(tmp_path):
    kv = {"policies": ["snapkv", "tova"], "budgets": [1.0, 0.5, 0.05]}
    make_group(
        tmp_path,
        draw=lambda cell, i, rng: float(cell.policy != "snapkv" or cell.budget >= 0.5),
        applied=lambda cell: None if cell.policy == "tova" else cell.budget,
        bins=1,
        per_bin=90,
        kv=kv,
    )
    shown, (row,) = table("best", tmp_path)
    assert (row["policy"], row["budget"], row["proof"]) == ("snapkv", "0.5", "proven")
    assert "! left out, placebo?: tova 0.05, tova 0.5" in shown


def test_the_table_says_what_a_choice_rests_on(tmp_path):
    ways = {"plain": {}, "a_variant_with_a_long_name_indeed": {"after": " In one word."}}
    make_group(tmp_path, draw=losing(0), bins=1, per_bin=60, kv=HALF, variants=ways)
    shown, rows = table("best", tmp_path)
    for name in ("pairs", "control", "delta", "keeps", "bytes", "proof"):
        assert name in shown.splitlines()[1]
    assert "(variant a_variant_with_a_long_name_indeed)  margin 0.10" in shown
    assert len(rows) == 2
    assert {(r["margin"], r["n"], r["proof"], r["control_mean"], r["achieved"]) for r in rows} == {
        ("0.1", "60", "proven", "1.0", "0.5")
    }


def test_what_holds_on_every_task_is_written_as_the_kv_section_of_a_model(tmp_path):
    kv = {"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.2], "question_aware": False}
    params = {"params": {"snapkv": {"window_size": 8}}}
    for task, least in (("a", 0.2), ("b", 0.5)):
        make_group(
            tmp_path,
            task,
            tasks=[f"jsonl:{task}.jsonl"],
            draw=lambda cell, i, rng, least=least: float(cell.budget >= least),
            bins=1,
            per_bin=66,
            kv={**kv, **params},
        )
    kvbench("best", "--dir", tmp_path, "--yaml", tmp_path / "models")
    (file,) = (tmp_path / "models").iterdir()
    assert file.name == "smollm2-135m.yaml"
    inline = {"group": "next", "tasks": ["jsonl:a.jsonl"]}
    found = load_experiment(file, inline=inline).experiment.kv
    assert (found.policies, found.budgets, found.question_aware) == (("snapkv",), (1, 0.5), False)
    assert found.params == params["params"]


def test_a_control_that_has_no_margin_to_lose_shows_nothing(tmp_path):
    """Of 80 questions it answers four: whoever loses all of them loses less than the margin."""
    few = lambda cell, i, rng: float(i % 20 == 0)  # noqa: E731
    make_group(tmp_path, draw=few, bins=1, per_bin=80, kv=ONE)
    shown, (row,) = table("best", tmp_path)
    assert (row["policy"], row["control_mean"]) == ("", "0.05")
    assert "! left out, control too low: snapkv 0.2" in shown
    kvbench("insights", "--dir", tmp_path)
    assert "No arm is shown to hold" in (tmp_path / "INSIGHTS.md").read_text()


def test_settings_of_arms_are_whole_and_each_step_of_a_dial_is_there_once(tmp_path):
    for aware, window in ((True, 8), (True, 32), (False, 8)):
        kv = {**ONE, "question_aware": aware, "params": {"snapkv": {"window_size": window}}}
        draw = losing(0 if window == 8 else 0.4)
        make_group(tmp_path, f"g{aware}{window}", draw=draw, bins=1, per_bin=80, kv=kv)
    assert '  snapkv {"window_size":8} 0.2  ' in kvbench("best", "--dir", tmp_path)
    shown, rows = table("effects", tmp_path)
    lines = shown.splitlines()
    assert len(set(lines)) == len(lines) == 1 + len(rows)
    dials = [row["dial"] for row in rows]
    assert (dials.count("question_aware"), dials.count("params")) == (1, 1)
    assert any('  snapkv {"window_size":32} 0.2  ' in line for line in lines)


def test_arms_that_did_nothing_hold_nothing(tmp_path):
    make_group(tmp_path, draw=losing(0), applied=lambda cell: 1.0, per_bin=60, kv=ONE, bins=1)
    shown, (row,) = table("best", tmp_path)
    assert row["policy"] == ""
    assert "! left out, not measured: snapkv 0.2" in shown
    kvbench("insights", "--dir", tmp_path)
    text = (tmp_path / "INSIGHTS.md").read_text()
    assert "On `jsonl:words.jsonl` no arm was measured." in text
    assert "shown to hold: " not in text.lower()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """An easy task with many examples beside a hard one; seen and unseen questions."""
    reports = tmp_path_factory.mktemp("mixed")
    make_group(
        reports, "easy", tasks=["jsonl:easy.jsonl"], draw=losing(0), bins=1, per_bin=200, kv=HALF
    )
    hard = {"tasks": ["jsonl:hard.jsonl"], "bins": 1, "per_bin": 40}
    make_group(reports, "hard", draw=losing(0.475), kv=HALF, **hard)
    make_group(reports, "unseen", draw=losing(0.2), kv={**HALF, "question_aware": False}, **hard)
    params = {**HALF, "params": {"snapkv": {"window_size": 8}}}
    make_group(reports, "params", draw=losing(0.1), kv=params, **hard)
    return reports


def test_an_easy_task_does_not_hide_a_hard_one(mixed):
    kvbench("insights", "--dir", mixed)
    text = (mixed / "INSIGHTS.md").read_text()
    assert "On `jsonl:hard.jsonl` the largest loss is `snapkv 0.5`: -0.47" in text
    assert "On `jsonl:easy.jsonl` the largest loss is `snapkv 0.5`: 0.00" in text
    for row in ("`snapkv` |", "question unseen", '`snapkv {"window_size":8}`'):
        assert row in text.split("Treated minus control on `jsonl:hard.jsonl`")[1]


def test_every_arm_is_compared_with_the_control_first(mixed):
    _, rows = table("effects", mixed)
    first = [row for row in rows if row["dial"] == "control"]
    assert rows[: len(first)] == first
    found = {(r["task"], r["at"], r["to"]): round(float(r["effect"]), 3) for r in first}
    assert found == {
        ("jsonl:easy.jsonl", "", "snapkv 0.5"): 0,
        ("jsonl:hard.jsonl", "", "snapkv 0.5"): -0.475,
        ("jsonl:hard.jsonl", "question unseen", "snapkv 0.5"): -0.2,
        ("jsonl:hard.jsonl", "", 'snapkv {"window_size":8} 0.5'): -0.1,
    }
    dials = {(r["dial"], r["from"], r["to"]): float(r["effect"]) for r in rows}
    assert dials["question_aware", "False", "True"] == pytest.approx(-0.275)
    assert dials["params", '{"window_size":8}', "{}"] == pytest.approx(-0.375)


def test_policies_of_a_fixed_ratio_are_compared_too(tmp_path):
    make_group(
        tmp_path,
        draw=lambda cell, i, rng: float(cell.policy != "q4_0" or i % 4 > 0),
        bins=1,
        per_bin=40,
        kv={"policies": ["q8_0", "q4_0"], "budgets": [1.0]},
        engine={"name": "llamacpp", "model": "m"},
    )
    _, rows = table("effects", tmp_path)
    by = {row["dial"]: row for row in rows}
    assert [row["to"] for row in rows if row["dial"] == "control"] == [
        "q4_0 0.28125",
        "q8_0 0.53125",
    ]
    assert (by["policy"]["from"], by["policy"]["to"]) == (
        "q4_0 0.28125 (keeps 0.28)",
        "q8_0 0.53125 (keeps 0.53)",
    )
    assert float(by["policy"]["effect"]) == pytest.approx(0.25)


def test_variants_of_wording_and_sampling_are_compared_and_no_rung_hides_another(tmp_path):
    ways = {"plain": {}, "terse": {"after": " In one word.", "temperature": 0.7}}
    make_group(
        tmp_path,
        "ways",
        draw=lambda cell, i, rng: float(cell.variant != "terse" or i % 2),
        bins=1,
        per_bin=20,
        kv={"policies": ["snapkv"], "budgets": [1.0, 0.5, 0.2]},
        variants=ways,
    )
    make_group(
        tmp_path,
        "more",
        draw=losing(0),
        bins=1,
        per_bin=20,
        kv={"policies": ["snapkv"], "budgets": [1.0, 0.4]},
        examples="more",
    )
    _, rows = table("effects", tmp_path)
    turned = [(r["dial"], r["from"], r["to"], r["at"]) for r in rows if float(r["n"])]
    assert ("variant", "plain", "terse", "snapkv 0.5") in [row[:4] for row in turned]
    assert ("budget", "0.5", "0.2") in [row[:3] for row in turned]
    worse = next(r for r in rows if r["dial"] == "variant")
    assert float(worse["effect"]) == -0.5


def test_lines_that_were_asked_in_several_ways_say_which(tmp_path):
    """One arm holds at float16 and breaks at float32 and on another engine."""
    local = {"name": "local", "model": "org/m"}
    ways = {
        "half": {"engine": {**local, "dtype": "float16"}},
        "full": {"engine": {**local, "dtype": "float32"}},
        "else": {"engine": {"name": "openai", "model": "org/m"}},
    }
    lost = {"half": 0, "full": 0.4, "else": 0.3}
    for name, keys in ways.items():
        draw = losing(lost[name])
        make_group(tmp_path, name, draw=draw, bins=1, per_bin=80, kv=ONE, examples=name, **keys)
    make_group(tmp_path, "other", bins=1, kv=ONE, engine={"name": "openai", "model": "org-m"})
    shown = kvbench("best", "--dir", tmp_path, "--yaml", tmp_path / "yaml")
    heads = [line for line in shown.splitlines() if line.startswith("org/m")]
    ways = ("openai, dtype not declared", "local, dtype float32", "local, dtype float16")
    assert sorted(heads) == sorted(f"org/m  {TASK} (engine {way})  margin 0.10" for way in ways)
    files = {file.name: file.read_text() for file in (tmp_path / "yaml").iterdir()}
    assert len(files) == 3
    assert files["org-m-local.yaml"].startswith("# org/m: no arm is shown to hold")
    kvbench("insights", "--dir", tmp_path)
    page = (tmp_path / "INSIGHTS.md").read_text()
    assert "`snapkv 0.2` (engine local, dtype float32): -0.40" in page
    assert "`snapkv 0.2` (engine local, dtype float16) (0.00" in page
    assert "dtype float32  " in kvbench("effects", "--dir", tmp_path)
