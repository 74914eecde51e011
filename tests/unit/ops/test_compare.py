"""Two sides compared: pairing, families, new and fixed breaks, policies renamed, baselines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.analyse.evidence import interval, p_breaks, p_holds
from pytest_kvbench.analyse.unpaired import Sample, two_means, two_samples
from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import UsageError
from pytest_kvbench.ops.baselines import find_side, side_of
from pytest_kvbench.ops.listing import comparison_lines
from pytest_kvbench.pipeline.baseline import Measured, Side, load_baseline, save_baseline
from pytest_kvbench.pipeline.compare import compare
from pytest_kvbench.pipeline.ending import of_comparison
from pytest_kvbench.pipeline.stored_plan import observed
from tests.support.groups import by_budget, make_group


def cell(scores, policy="snapkv", budget=0.5, bin_=0, verdict="undetermined", prefix="e"):
    named = {f"{prefix}{i}": float(score) for i, score in enumerate(scores)}
    key = CellKey("t", bin_, "", policy, budget)
    return Measured(key, verdict, named, {e: f"c{e}" for e in named})


def side(*cells, name="g", pooled=None, **experiment):
    return Side(name, experiment, cells, pooled or {})


def only(result):
    (change,) = result.changes
    return change


def test_the_same_scores_are_no_regression():
    result = compare(side(cell([1, 0, 1, 1])), side(cell([1, 0, 1, 1])))
    assert only(result).estimate.delta == 0
    assert only(result).estimate.ci_low < 0 < only(result).estimate.ci_high
    assert not result.regressions


def test_scores_between_bounds_are_worse_only_by_every_reading(tmp_path):
    def between(low, high):
        exact = cell([low] * 60)
        return replace(exact, highs=dict.fromkeys(exact.scores, high))

    base = side(between(0.6, 0.7))
    words = {
        name: only(compare(base, side(now))).change
        for name, now in {
            "below": between(0.1, 0.3),
            "overlapping": between(0.2, 0.65),
            "above": between(0.97, 1.0),
            "exact": cell([0.3] * 60),
        }.items()
    }
    assert words == {"below": "worse", "overlapping": "", "above": "better", "exact": "worse"}
    estimate = only(compare(base, side(between(0.2, 0.65)))).estimate
    assert estimate.ci_low < 0.2 - 0.7 < 0.65 - 0.6 < estimate.ci_high
    assert [*base.cells] == load_baseline(save_baseline(base, tmp_path, "main")).cells


def test_full_caches_alone_are_no_comparison():
    control = cell([1] * 30, policy="none", budget=1.0, verdict=None)
    was, is_ = side(control, cell([1] * 30)), side(control, cell([0] * 30, budget=0.2))
    for base, now in ((was, is_), (was, side(control)), (side(control), is_)):
        with pytest.raises(UsageError, match="have no treated cell in common"):
            compare(base, now)
    assert not compare(side(control), side(control)).regressions


def test_a_shown_loss_is_a_regression_and_mirrored_an_improvement():
    good, bad = side(cell([1] * 30)), side(cell([0] * 30))
    worse, better = compare(good, bad), compare(bad, good)
    assert only(worse).change == "worse"
    assert only(better).change == "better"
    assert worse.regressions
    assert not better.regressions
    assert only(worse).estimate.ci_low == pytest.approx(-only(better).estimate.ci_high)


def test_a_loss_within_the_margin_is_none():
    was, is_ = side(cell([1] * 200)), side(cell([1] * 180 + [0] * 20))
    assert compare(was, is_).regressions
    assert not compare(was, is_, margin=0.2).regressions


def test_what_held_and_breaks_is_a_regression_but_what_was_open_is_only_better_known():
    few = [1, 1, 0]
    held = compare(side(cell(few, verdict="holds")), side(cell(few, verdict="breaks")))
    unsure = compare(side(cell(few)), side(cell(few, verdict="breaks")))
    assert held.regressions
    assert only(unsure).new_break
    assert not unsure.regressions
    fixed = compare(side(cell(few, verdict="breaks")), side(cell(few, verdict="holds")))
    assert only(fixed).fixed_break
    assert not fixed.regressions


def test_other_examples_make_two_samples():
    paired = compare(side(cell([1, 0] * 20)), side(cell([1, 0] * 20)))
    apart = compare(side(cell([1, 0] * 20)), side(cell([1, 0] * 20, prefix="f")))
    assert only(paired).paired
    assert not only(apart).paired
    wide, narrow = only(apart).estimate, only(paired).estimate
    assert wide.ci_high - wide.ci_low > narrow.ci_high - narrow.ci_low
    lost = compare(side(cell([1] * 40)), side(cell([0] * 40, prefix="f")))
    assert only(lost).change == "worse"


def test_pairs_need_examples_in_common():
    result = compare(side(cell([1] * 10)), side(cell([1] * 4)))
    assert not only(result).paired
    assert (only(result).n_base, only(result).n_now) == (10, 4)


def test_policies_of_one_side_are_matched_in_order():
    was = side(cell([1] * 30, "knorm"), cell([1] * 30, "none", 1.0, verdict=None))
    is_ = side(cell([0] * 30, "random"), cell([1] * 30, "none", 1.0, verdict=None))
    result = compare(was, is_)
    assert result.renamed == {"knorm": "random"}
    assert {c.policy: c.change for c in result.changes} == {"knorm": "worse", "none": ""}
    assert any("knorm is compared with random" in line for line in comparison_lines(result))


def test_nothing_in_common_is_refused():
    with pytest.raises(UsageError, match="no cell in common"):
        compare(side(cell([1], budget=0.5)), side(cell([1], budget=0.4)))


def test_unmatched_cells_are_named_and_differing_keys_too():
    was = side(cell([1]), cell([1], budget=0.2), engine={"model": "a"}, group="x")
    is_ = side(cell([1]), cell([1], bin_=3), engine={"model": "b"}, group="y")
    result = compare(was, is_)
    assert [p.budget for p in result.only_base] == [0.2]
    assert [p.bin for p in result.only_now] == [3]
    assert result.differs == {"engine.model": ("a", "b")}
    said = "\n".join(comparison_lines(result))
    assert "engine.model: a -> b" in said
    assert "only in base: 1 cell (t snapkv 0.2)" in said


def test_small_losses_of_many_bins_show_over_all_bins():
    was = side(*(cell([1] * 12, bin_=b) for b in range(5)))
    is_ = side(*(cell([0] * 2 + [1] * 10, bin_=b) for b in range(5)))
    by_bin = {c.bin: c.change for c in compare(was, is_).changes}
    assert by_bin.pop("all") == "worse"
    assert set(by_bin.values()) == {""}


scores = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=3, max_size=20)


@given(scores, scores)
def test_two_means_mirror_and_never_have_width_zero(former, later):
    a, b = (Sample(np.array(s), np.arange(len(s))) for s in (former, later))
    there, back = two_means([(a, b)]), two_means([(b, a)])
    low, high = interval(there, 0.05)
    assert -1 <= low < high <= 1
    assert interval(back, 0.05) == pytest.approx((-high, -low), abs=1e-6)
    assert p_holds(there, 0.0) == pytest.approx(p_breaks(back, 0.0))
    assert p_holds(there, 0.0) + p_breaks(there, 0.0) == pytest.approx(1)


def test_two_means_cover_the_truth():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        a, b = (Sample((rng.random(15) < p).astype(float), np.arange(15)) for p in (0.9, 0.7))
        low, high = interval(two_means([(a, b)]), 0.05)
        covered += low <= -0.2 <= high
    assert covered >= 0.93 * 400


@pytest.mark.parametrize(("base", "now"), [((50, 49), (5, 5)), ((5, 5), (50, 49))])
def test_many_small_bins_of_unequal_size_do_not_add_up_to_a_change(base, now):
    """Ten bins, 98% right on one side and everything on the other: not even one answer less."""

    def sides(n, right, prefix):
        scores = [0.0] * (n - right) + [1.0] * right
        return [cell(scores, bin_=b, prefix=prefix) for b in range(10)]

    change = compare(side(*sides(*base, "a")), side(*sides(*now, "b"))).changes[0]
    assert (change.bin, change.paired, change.change) == ("all", False, "")
    assert change.estimate.ci_low <= change.estimate.delta <= change.estimate.ci_high
    assert change.estimate.ci_low < 0 < change.estimate.ci_high


def test_unequal_samples_that_do_not_differ_are_seldom_worse():
    random, wrong = np.random.default_rng(2), np.zeros(2)
    for _ in range(100):
        strata = [
            tuple(Sample((random.random(n) < 0.98) * 1.0, np.arange(n)) for n in (50, 5))
            for _ in range(10)
        ]
        found = two_samples(strata)
        wrong += [p_breaks(found, 0.0) < 0.025, p_holds(found, 0.0) < 0.025]
    assert (wrong <= 8).all()  # 2.5 expected


def whole_contexts(random, n):
    """Contexts of 20 that are right or wrong as one, 80% of them right."""
    clusters = np.arange(n) // 20
    return Sample((random.random(clusters[-1] + 1) < 0.8)[clusters] * 1.0, clusters)


def test_contexts_that_do_not_differ_are_seldom_worse_or_better():
    """Ten contexts before, two now, two bins: better in a quarter, once."""
    random, wrong = np.random.default_rng(2), np.zeros(2)
    for _ in range(200):
        strata = [tuple(whole_contexts(random, n) for n in (200, 40)) for _ in range(2)]
        found = two_samples(strata)
        wrong += [p_breaks(found, 0.0) < 0.025, p_holds(found, 0.0) < 0.025]
    assert (wrong <= 9).all()  # 5 expected


def test_scores_of_any_kind_in_unequal_samples_are_not_shrunk():
    scores = np.full(50, 0.9)
    strata = [(Sample(scores, np.arange(50)), Sample(scores[:5], np.arange(5)))] * 10
    low, high = interval(two_samples(strata), 0.05)
    assert two_samples(strata).estimate == pytest.approx(0)
    assert low < 0 < high


def test_clusters_widen_two_means():
    values = np.array([0.0, 1.0] * 10)
    alone, shared = np.arange(20), np.repeat(np.arange(4), 5)
    sorted_ = np.sort(values)
    narrow = two_means([(Sample(sorted_, alone), Sample(sorted_, alone))]).error
    assert two_means([(Sample(sorted_, shared), Sample(sorted_, shared))]).error > 1.5 * narrow


# -- groups and baselines ------------------------------------------------------------------------


def broken(cell, i, rng):
    return by_budget(cell, i, rng) if cell.is_control else 0.0


def kvbench(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_a_baseline_is_the_group_it_was_made_of(tmp_path):
    now = side_of(make_group(tmp_path))
    path = save_baseline(now, tmp_path, "main")
    assert path == tmp_path / ".baselines" / "main" / "g.json"
    assert load_baseline(path) == now
    assert len(now.cells) == 6
    assert len(now.pooled) == 2


def test_groups_by_name_file_and_baseline(tmp_path):
    make_group(tmp_path)
    path = save_baseline(find_side("g", tmp_path), tmp_path, "main")
    assert find_side("main", tmp_path) == find_side(str(path), tmp_path) == find_side("g", tmp_path)
    with pytest.raises(UsageError, match="neither a group nor a baseline"):
        find_side("nope", tmp_path)
    path.write_text("{}")
    with pytest.raises(UsageError, match="is no baseline"):
        find_side("main", tmp_path)


@pytest.mark.parametrize("name", ["", "..", ".hidden"])
def test_a_baselines_name_is_a_folders(tmp_path, name):
    with pytest.raises(UsageError, match="cannot be a baseline's name"):
        save_baseline(side(cell([1])), tmp_path, name)


def test_the_command_exits_1_on_a_regression(tmp_path):
    make_group(tmp_path, "good")
    make_group(tmp_path, "same")
    make_group(
        tmp_path, "bad", draw=broken, kv={"policies": ["random"], "budgets": [1.0, 0.5, 0.2]}
    )
    same = kvbench("compare", "good", "same", "--dir", tmp_path)
    assert same.exit_code == 0, same.output
    assert "no regression" in same.output
    bad = kvbench("compare", "good", "bad", "--dir", tmp_path)
    assert bad.exit_code == 1
    assert "REGRESSIONS" in bad.output
    data = json.loads(kvbench("compare", "good", "bad", "--dir", tmp_path, "--json").output)
    assert data["regressions"] == sum(c["regression"] for c in data["changes"])
    assert data["renamed"] == {"snapkv": "random"}


def test_saving_and_comparing_by_command(tmp_path):
    make_group(tmp_path)
    assert kvbench("save", "main", "g", "--dir", tmp_path).exit_code == 0
    done = kvbench("compare", "main", "g", "--dir", tmp_path)
    assert done.exit_code == 0
    assert "g against main" in done.output
    assert max(map(len, done.output.splitlines())) <= 100


# -- other rules ---------------------------------------------------------------------------------


def test_a_dry_run_takes_other_rules_and_writes_nothing(tmp_path):
    make_group(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("*") if p.is_file()}

    def judged(*args):
        done = kvbench("analyse", "g", "--dir", tmp_path, "--dry-run", "--json", *args)
        assert done.exit_code == 0, done.output
        summary = json.loads(done.output)
        return {(c["bin"], c["budget"]): c for c in summary["cells"] if c["policy"] != "none"}

    tight, loose = judged("--set", "gate.margin=0.05"), judged("--set", "gate.margin=0.95")
    assert {c["verdict"] for c in loose.values()} == {"holds"}
    assert {c["verdict"] for c in tight.values()} != {"holds"}
    assert before == {p: p.stat().st_mtime_ns for p in Path(tmp_path).rglob("*") if p.is_file()}


def test_failures_may_count_as_nothing_or_as_zero(tmp_path):
    make_group(tmp_path, failed=10)

    def smallest(*args):
        done = kvbench("analyse", "g", "--dir", tmp_path, "--dry-run", "--json", *args)
        cells = json.loads(done.stdout)["cells"]
        return next(c for c in cells if (c["bin"], c["budget"]) == (0, 0.2))

    dropped, zeroed = smallest(), smallest("--failures", "zero")
    assert dropped["verdict"] == "not-measured"
    assert dropped["n"] == 10
    assert zeroed["n"] == 20
    assert zeroed["verdict"] != "not-measured"
    assert smallest("--set", "gate.max_lost=0.9")["verdict"] != "not-measured"


def test_a_dry_run_of_what_is_not_whole_says_so(tmp_path):
    make_group(tmp_path, failed=10)
    done = kvbench("analyse", "g", "--dir", tmp_path, "--dry-run")
    assert done.exit_code == 10
    assert "1 cell not measured: jsonl:words.jsonl-bin0-snapkv-0.20" in done.stderr.splitlines()[-1]


def test_other_keys_than_the_gates_are_refused(tmp_path):
    make_group(tmp_path)
    done = kvbench("analyse", "g", "--dir", tmp_path, "--dry-run", "--set", "aa=true")
    assert done.exit_code == 4
    assert "only its judgement can change" in done.stderr


@pytest.mark.parametrize("words", [("--failures", "zero"), ("--to", "x"), ("--json",)])
def test_what_only_a_dry_run_does_is_refused_without_one(tmp_path, words):
    make_group(tmp_path)
    done = kvbench("analyse", "g", "--dir", tmp_path, *words)
    assert done.exit_code == 4
    assert done.stderr.splitlines()[1].startswith("add --dry-run")
    assert not (tmp_path / "g" / "summary.json").exists()


# -- what is stored ------------------------------------------------------------------------------


def test_answers_shared_by_equal_variants_are_found_by_both(tmp_path):
    variants = {"plain": {}, "cold": {"temperature": 0.0}, "terse": {"after": " Be brief."}}
    seen = observed(make_group(tmp_path, variants=variants))
    assert len(seen.rows) == len(seen.planned) == 3 * 120
    keys = {name: {r.key for c, r in seen.planned if c.variant == name} for name in variants}
    assert keys["plain"] == keys["cold"]
    assert not keys["plain"] & keys["terse"]


def test_what_was_not_measured_has_no_delta_and_is_no_zero():
    bad = replace(cell([0] * 30, budget=0.2, verdict="not-measured"), reason="8 of 30 lost")
    was = side(
        cell([1] * 30, bin_=1), cell([1] * 30, budget=0.2), cell([1] * 30, budget=0.2, bin_=1)
    )
    is_ = side(cell([1] * 30, bin_=1), bad, cell([1] * 30, budget=0.2, bin_=1))
    result = compare(was, is_)
    assert [(c.bin, c.budget) for c in result.changes] == [(1, 0.5), (1, 0.2)]  # no row over bins
    (reason,) = of_comparison(result)
    assert reason.status == 10
    assert reason.line.startswith("g: 1 cell not compared against g: t-bin0-snapkv-0.20: not meas")
    assert any(
        "not compared: 1 cell: not measured now: 8 of 30" in x for x in comparison_lines(result)
    )
    assert result.to_json()["uncompared"][0]["budget"] == 0.2


def test_another_template_is_said():
    asked = {"t": {"template": "v1", "max_tokens": [8]}}
    was = replace(side(cell([1] * 30)), asked=asked)
    is_ = replace(side(cell([1] * 30)), asked={"t": {"template": "v2", "max_tokens": [8]}})
    assert compare(was, is_).differs == {"prompt template of t": ("v1", "v2")}
