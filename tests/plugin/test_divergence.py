"""Distributions in place of grades: planned, asked, stored, judged, reported like any measure."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from pytest_kvbench.cli.stages import main
from tests.conftest import Project
from tests.support.forced_server import LENGTH, ForcedServer
from tests.support.mock_server import MockServer


@pytest.fixture
def mock() -> Iterator[ForcedServer]:
    """In place of the server that grades alone: the fixture `project` is declared on it."""
    with ForcedServer() as server:
        yield server


def declare(project: Project, text: str) -> None:
    file = project.path / "exp.yaml"
    file.write_text(f"{file.read_text()}{text}\n")


def test_arms_are_compared_with_the_full_cache_asked_again(
    project: Project, mock: ForcedServer
) -> None:
    declare(project, "measure: divergence")
    mock.again = 0.99
    project.run("-n", "0").assert_outcomes(passed=2 * 3)
    summary = project.summary()
    cells = {(c["bin"], c["policy"], c["budget"]): c for c in summary["cells"]}
    assert {c["measure"] for c in summary["cells"]} == {"overlap"}
    control, half = cells[0, "none", 1.0], cells[0, "snapkv", 0.5]
    assert control["control_mean"] == pytest.approx(0.99, abs=0.003)
    assert half["delta"] == pytest.approx(0.5 - 0.99, abs=0.05)
    assert cells["all", "snapkv", 0.5]["verdict_holm"] == "breaks"
    assert not any(flag.startswith("identical") for flag in half["flags"])
    sent = [force["arms"] for force in mock.forces]
    assert all(arms[:2] == [("none", 1.0), ("none", 1.0)] for arms in sent), "control, then A/A"
    assert len(sent) == mock.posts == 20, "one request an example"
    assert all(force["reference"] is None for force in mock.forces)


def test_both_measures_are_families_of_their_own(project: Project, mock: ForcedServer) -> None:
    declare(project, "measure: [score, divergence]\ngate: {margin: 0.3, mode: gate}")
    mock.accuracy = lambda policy, budget: 1.0
    mock.overlap = lambda policy, budget: 1.0 if budget == 0.5 else 0.4
    result = project.run("-n", "0", "--kvbench-report", "--kvbench-set", "bins.per_bin=20")
    assert result.ret == 1, "the gate fails by distributions, though every answer is right"
    cells = {
        (c.get("measure", "score"), c["bin"], c["budget"]): c
        for c in project.summary()["cells"]
        if c["policy"] != "none"
    }
    assert len(cells) == 2 * 3 * 2
    assert cells["score", "all", 0.2]["verdict_holm"] == "holds"
    assert cells["overlap", "all", 0.2]["verdict_holm"] == "breaks"
    result.stdout.fnmatch_lines(["*g, mock: 2 hold (margin 0.3)*", "*(overlap, margin 0.05)*"])
    notes = project.summary()["integrity"]["notes"]
    (note,) = [note for note in notes if note.startswith("measures: ")]
    assert "graded answers hold while the distributions moved" in note
    assert "(also jsonl:words.jsonl bin 1 snapkv 0.2 overlap, " in note, "told once"
    report = (project.path / "reports" / "g" / "report.md").read_text(encoding="utf-8")
    assert "## Answer: overlap" in report
    ids = project.run("-n", "0", "--collect-only", "-q").outlines
    assert any(line.endswith("bin0-snapkv-0.20-overlap]") for line in ids)
    assert any(line.endswith("bin0-snapkv-0.20]") for line in ids)


@pytest.mark.parametrize("left", ["not overlap", "overlap"])
def test_of_both_measures_one_that_has_no_answers_yet_has_no_part_of_the_report(
    project: Project, mock: ForcedServer, left: str
) -> None:
    declare(project, "measure: [score, divergence]")
    result = project.run("-n", "0", "-k", left, "--kvbench-report")
    assert result.ret == 0, result.stdout.str()
    report = (project.path / "reports" / "g" / "report.md").read_text(encoding="utf-8")
    assert "Partial run" in report
    assert ("How far distributions moved" in report) == (left == "overlap")


def test_what_is_stored_is_not_asked_again_and_a_known_reply_is_forced(
    project: Project, mock: ForcedServer
) -> None:
    declare(project, "measure: divergence")
    project.run("-n", "0").assert_outcomes(passed=6)
    project.run("-n", "0").assert_outcomes(passed=6)
    assert mock.posts == 20
    declare(project, "kv: {policies: [snapkv, tova], budgets: [1.0, 0.5, 0.2]}")
    text = (project.path / "exp.yaml").read_text(encoding="utf-8")
    old = "kv: {policies: [snapkv], budgets: [1.0, 0.5, 0.2]}\n"
    (project.path / "exp.yaml").write_text(text.replace(old, ""), encoding="utf-8")
    project.run("-n", "0").assert_outcomes(passed=10)
    later = mock.forces[20:]
    assert len(later) == 20
    assert all(len(force["reference"]) == LENGTH for force in later), "nothing is decoded again"
    arms = [("none", 1.0), ("tova", 0.5), ("tova", 0.2)]
    assert all(force["arms"] == arms for force in later)


def test_values_and_positions_are_stored(project: Project, mock: ForcedServer) -> None:
    declare(project, "measure: divergence")
    project.run("-n", "0")
    with sqlite3.connect(project.path / "reports" / "g" / "kvbench.sqlite") as db:
        rows = db.execute(
            "SELECT payload, value, parts, s.metric, policy, aa FROM divergences"
            " JOIN scores s USING (key) JOIN requests USING (key) JOIN arms USING (arm_id)"
        ).fetchall()
    assert len(rows) == 20 * 4
    for payload, value, parts, metric, policy, aa in rows:
        found = json.loads(payload)["positions"]
        assert len(found["overlap_low"]) == LENGTH
        assert value == pytest.approx(sum(found["overlap_low"]) / LENGTH)
        assert metric == "overlap"
        assert {"same_top", "kld", "kld_p90", "nll", "prefix"} <= json.loads(parts).keys()
        assert value == 1.0 or policy != "none", aa


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gate: {divergence: {margin: 0.1}}", "*gate.divergence is for measure: divergence*"),
        ("measure: divergence\nsampling: {temperature: 0.5}", "*use temperature 0*"),
        ("measure: [divergence, divergence]", "*listed twice: divergence*"),
        ("measure: overlap", "*measure.0: 'overlap' is not valid*"),
        ("measure: divergence\nsensitivity: {policy: withheld}", "*withheld is another prompt*"),
        (
            "measure: divergence\ngate: {divergence: {measure: prefix}}",
            "*gate.divergence.measure: engine.name: local does not say prefix*",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(project: Project, text: str, message: str) -> None:
    declare(project, text)
    result = project.run("-n", "0")
    assert result.ret == 4
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize("measure", ["divergence", "[score, divergence]"])
def test_distributions_are_certified_beside_an_arm_that_is_known_to_be_bad(
    project: Project, mock: ForcedServer, measure: str
) -> None:
    file = project.path / "exp.yaml"
    file.write_text(file.read_text().replace("per_bin: 10", "per_bin: 21"))
    declare(project, f"measure: {measure}\ngate: {{mode: certify, divergence: {{margin: 0.15}}}}")
    mock.overlap = lambda policy, budget: {0.1: 0.3, 0.2: 0.7}.get(budget, 1.0)
    result = project.run("-n", "0")
    found = {
        row["budget"]: row
        for row in project.summary()["certificates"]
        if row.get("measure") == "overlap"
    }
    assert result.ret == 1
    assert found[0.5]["certified"], found[0.5]["problems"]
    assert found[0.2]["problems"][0].startswith("breaks over all bins")
    bad = [r for r in project.summary()["sensitivity"] if r.get("measure") == "overlap"]
    assert [(r["policy"], r["budget"], r["verdict"]) for r in bad] == [("random", 0.1, "breaks")]


def test_certifying_distributions_by_another_prompt_is_refused(project: Project) -> None:
    declare(project, "measure: [score, divergence]\nsensitivity: {policy: withheld}")
    declare(project, "gate: {mode: certify, divergence: {margin: 0.3}}")
    result = project.run("-n", "0")
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*sensitivity: gate.mode: certify needs an arm*in overlap*"])


def test_an_engine_that_compares_nothing_is_refused(project: Project, mock: ForcedServer) -> None:
    declare(project, "measure: divergence")
    ollama = ("--kvbench-set", "engine.name=ollama", "--kvbench-set", "kv.policies=[none]")
    result = project.run("-n", "0", *ollama)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*engine.name: ollama compares no distributions*"])


def test_a_server_that_does_not_compare_is_a_failure_of_its_requests(
    project: Project, mock: ForcedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(project, "measure: divergence")
    monkeypatch.setattr(ForcedServer, "completion", MockServer.completion)
    result = project.run("-n", "0")
    assert result.ret == 10
    assert "compares no distributions" in str(project.summary()["integrity"]["messages"])


def test_a_report_shows_the_floor_and_what_moved_most(project: Project, mock: ForcedServer) -> None:
    declare(project, "measure: divergence")
    mock.again = 0.97
    project.run("-n", "0", "--kvbench-report")
    text = (project.path / "reports" / "g" / "report.md").read_text(encoding="utf-8")
    assert "Noise floor (overlap of the full cache with itself, asked again): 0.97" in text
    assert "### By position in the reply" in text
    assert "The largest loss is `snapkv` at 0.20: -0.77." in text
    assert "rong answers" not in text, "a reply is compared, and is not wrong"
    assert text.count(", position ") == 10
    summary = project.summary()
    (note,) = [n for n in summary["integrity"]["notes"] if n.startswith("noise-floor")]
    assert note.endswith("takes it away (also jsonl:words.jsonl bin 1).")
    most = summary["moved"]["most"]
    assert len(most) == 10
    assert [row["kld"] for row in most] == sorted((row["kld"] for row in most), reverse=True)
    assert {row["policy"] for row in most} == {"snapkv"}
    assert "Say " in most[0]["prompt_end"]
    bands = {(row["bin"], row["budget"]): row for row in summary["moved"]["bands"]}
    assert (bands[0, 0.5]["first"], bands[0, 0.5]["last"]) == (0, 7)
    assert bands[0, 0.2]["kld_p50"] > bands[0, 0.5]["kld_p50"]


def test_a_plan_says_what_it_can_never_hold_of_each_measure(project: Project) -> None:
    declare(project, "measure: [score, divergence]")
    lines = project.run("-n", "0", "--kvbench-plan").outlines
    never = [line for line in lines if "can never hold" in line]
    assert len(never) == 2
    assert "a margin of 0.1," in never[0]
    assert "a margin of 0.05 of overlap," in never[1]


def test_pairs_of_several_measures_are_judged_apart(project: Project) -> None:
    rows = ["task,bin,policy,budget,example_id,cluster,control,treated,measure"]
    rows += [f"t,0,p,0.5,e{n},e{n},1,{1 - n % 2},score" for n in range(60)]
    rows += [f"t,0,p,0.5,e{n},e{n},1,0.99,overlap" for n in range(60)]
    (project.path / "pairs.csv").write_text("\n".join(rows), encoding="utf-8")
    done = CliRunner().invoke(main, ["judge", "pairs.csv", "--margin", "0.1", "--json"])
    assert done.exit_code == 0, done.output
    cells = [c for c in json.loads(done.stdout)["cells"] if c["bin"] == 0]
    words = {c.get("measure", "score"): c["verdict_holm"] for c in cells}
    assert words == {"score": "breaks", "overlap": "holds"}


def test_another_measure_of_what_is_stored_asks_nothing(
    project: Project, mock: ForcedServer
) -> None:
    declare(project, "measure: divergence")
    project.run("-n", "0")
    project.run("-n", "0", "--kvbench-set", "gate.divergence.measure=same_top")
    assert mock.posts == 20
    cells = project.summary()["cells"]
    assert {c["measure"] for c in cells} == {"same_top"}
