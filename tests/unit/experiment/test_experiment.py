"""Experiments: merging, environment, overrides, and errors that name file, key and valid values."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import ExperimentError, UsageError
from pytest_kvbench.experiment.load import Override, load_experiment
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.tasks.registry import get_task

MINIMAL = "group: g\ntasks: [niah/single]\n"


def write(folder: Path, text: str, name: str = "e.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_extends_merges_sections_and_replaces_lists(tmp_path: Path) -> None:
    write(tmp_path, "kv: {budgets: [1.0, 0.5], policies: [knorm]}\nbins: {n: 2}\n", "base.yaml")
    file = write(tmp_path, "extends: base.yaml\n" + MINIMAL + "kv: {budgets: [0.3]}\n")
    experiment = load_experiment(file).experiment
    assert experiment.kv.budgets == (0.3,)
    assert experiment.kv.policies == ("knorm",)
    assert experiment.bins.n == 2


def test_the_packaged_default_needs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = load_experiment(write(tmp_path, "extends: default\n" + MINIMAL))
    assert declared.experiment.sampling.seed == 20261121
    assert [file.name for file in declared.files] == ["e.yaml"]  # the project's own alone
    monkeypatch.setenv("KVBENCH_THREADS", "0")
    with pytest.raises(ExperimentError, match=r"^extends: default: engine\.threads"):
        load_experiment(write(tmp_path, "extends: default\n" + MINIMAL))


def test_a_circle_of_extends_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    file = write(tmp_path, "extends: a.yaml\n" + MINIMAL, "b.yaml")
    with pytest.raises(ExperimentError, match="circle"):
        load_experiment(file)


def test_environment_is_expanded_and_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("N", "[1, 2, 3]")
    text = (
        MINIMAL + "bins: {per_bin: '${N}'}\nengine: {model: 'pre-${M:-x}', threads: '${T:-null}'}"
    )
    experiment = load_experiment(write(tmp_path, text)).experiment
    assert experiment.bins.per_bin == (1, 2, 3)
    assert experiment.engine.model == "pre-x"
    assert experiment.engine.threads is None


def test_unset_variable_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "engine: {model: '${NOT_SET}'}")
    with pytest.raises(ExperimentError) as caught:
        load_experiment(file)
    assert "engine.model" in caught.value.what
    assert "NOT_SET" in caught.value.hint


def test_precedence_is_file_marker_command_line(tmp_path: Path) -> None:
    file = write(tmp_path, MINIMAL + "gate: {margin: 0.2, alpha: 0.1}\nbins: {per_bin: 3}")
    declared = load_experiment(
        file,
        inline={"gate": {"margin": 0.3}, "bins.per_bin": 4},
        overrides=[Override.parse("bins.per_bin=5")],
    )
    gate = declared.experiment.gate
    assert (gate.margin, gate.alpha, declared.experiment.bins.per_bin) == (0.3, 0.1, 5)
    assert declared.origins["bins.per_bin"] == "--kvbench-set bins.per_bin=5"


@pytest.mark.parametrize(
    ("key", "value", "what", "hint"),
    [
        ("kv.bugets", "[1]", "kv.bugets: unknown key", "did you mean budgets?"),
        ("enginee.x", "1", "enginee: unknown key", "did you mean engine?"),
        ("kv.budgets", "[1, 2]", "kv.budgets.1: 2 is not valid", "each in (0, 1]"),
        ("kv.budgets", "[0]", "kv.budgets.0: 0 is not valid", "each in (0, 1]"),
        ("kv.budgets", "[0.5, 0.5]", "listed twice: 0.5", "once"),
        ("bins.n", "0", "bins.n: 0 is not valid", "from 1 to 1,000; default 3"),
        ("bins.per_bin", "[1, 2]", "per_bin lists 2 numbers for 3 bins", "per_bin"),
        ("bins.per_bin", "x", "bins.per_bin: 'x' is not valid", "one whole number"),
        ("bins.range", "[5, 2]", "range must be two increasing", "range"),
        ("gate.mode", "gat", "gate.mode: 'gat' is not valid", "measure"),
        ("sampling.trials", "3", "use trials: 1 or a temperature above 0", "sampling"),
        ("tokenizer", "foo", "tokenizer: 'foo'", "tiktoken:NAME"),
        ("tasks", "[]", "tasks: [] is not valid", "[niah/single]"),
        ("kv", "3", "kv: 3 is not valid", "budgets"),
        ("group", "a b", "group: 'a b' is not valid", "letters"),
    ],
)
def test_errors_name_key_value_and_what_is_valid(
    tmp_path: Path, key: str, value: str, what: str, hint: str
) -> None:
    file = write(tmp_path, MINIMAL)
    with pytest.raises(ExperimentError) as caught:
        load_experiment(file, overrides=[Override.parse(f"{key}={value}")])
    assert what in caught.value.what
    assert hint in caught.value.hint
    assert str(caught.value).count("\n") == 1


def test_errors_name_the_file_a_key_came_from(tmp_path: Path) -> None:
    write(tmp_path, "gate: {margin: 5}\n", "base.yaml")
    file = write(tmp_path, "extends: base.yaml\n" + MINIMAL)
    with pytest.raises(ExperimentError, match=r"base\.yaml: gate\.margin: 5 is not valid"):
        load_experiment(file)


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL, "there.yaml")
    with pytest.raises(ExperimentError) as caught:
        load_experiment(tmp_path / "thre.yaml")
    assert "there.yaml" in caught.value.hint


def test_edges_set_the_number_of_bins(tmp_path: Path) -> None:
    experiment = load_experiment(write(tmp_path, MINIMAL + "bins: {edges: [10, 20]}")).experiment
    assert experiment.bins.n == 3


@pytest.mark.parametrize("text", ["[1, 2]", "group: [", "just text"])
def test_what_is_not_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ExperimentError):
        load_experiment(write(tmp_path, text))


def test_yaml_is_loaded_safely(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError):
        load_experiment(write(tmp_path, "group: !!python/object/apply:os.getcwd []\n"))


@given(
    budgets=st.lists(st.floats(0.01, 1), min_size=1, max_size=5, unique=True),
    margin=st.floats(0.01, 0.99),
    trials=st.integers(1, 5),
)
def test_snapshot_round_trip(budgets: list[float], margin: float, trials: int) -> None:
    experiment = Experiment(
        group="g",
        tasks=("niah/single",),
        kv={"budgets": budgets},  # type: ignore[arg-type]  # as YAML gives it
        gate={"margin": margin},  # type: ignore[arg-type]
        sampling={"temperature": 0.5, "trials": trials},  # type: ignore[arg-type]
    )
    assert Experiment(**experiment.snapshot()) == experiment


def test_task_options_come_from_family_then_task() -> None:
    experiment = Experiment(
        group="g",
        tasks=("niah/single", "niah/multikey"),
        task_options={"niah": {"haystack": "noise", "keys": 2}, "niah/multikey": {"keys": 4}},
    )
    assert experiment.options_of("niah/single") == {"haystack": "noise", "keys": 2}
    assert experiment.options_of("niah/multikey") == {"haystack": "noise", "keys": 4}


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("bins.n", "1000000000", "less than or equal to 1000"),
        ("bins.n", "1.0e+9", "less than or equal to 1000"),
        ("bins.n", "1e9", "valid integer"),
        ("bins.n", "1.5", "fractional part"),
        ("bins.per_bin", "1000000000000", "less than or equal to 100000"),
        ("bins.per_bin", "{min: 1, max: 1000000000}", "less than or equal to 100000"),
        ("bins.range", "[1, 10000000000000000000000]", "less than or equal to"),
        ("sampling.trials", "1000000000", "less than or equal to 1000"),
        ("sampling.self_consistency", "1000000000", "less than or equal to 1000"),
        ("sampling.seed", "100000000000000000000", "less than or equal to"),
        ("sampling.max_tokens", "10000000000000", "less than or equal to"),
        ("sampling.temperature", "'inf'", "finite number"),
        ("engine.concurrency", "1000000000", "less than or equal to 10000"),
        ("engine.retries", "1000000000", "less than or equal to 1000"),
        ("engine.timeout_s", "1e400", "finite number"),
        ("engine.timeout_s", "1.0e+300", "less than or equal to"),
        ("engine.max_rpm", "'inf'", "finite number"),
        ("engine.max_rpm", ".inf", ".inf is no finite number"),
        ("engine.max_tpm", ".nan", ".nan is no finite number"),
        ("kv.params", "{snapkv: {x: .inf}}", ".inf is no finite number"),
        ("gate.margin", "'nan'", "finite number"),
        ("group", '"a\\0b"', "NUL"),
        ("tasks", "[a, [", "is not YAML"),
        ("group", "g" * 300, "at most 150 characters"),
    ],
)
def test_absurd_numbers_and_texts_are_refused_at_once(
    tmp_path: Path, key: str, value: str, what: str
) -> None:
    with pytest.raises(ExperimentError, match=re.escape(what)) as caught:
        load_experiment(write(tmp_path, MINIMAL), overrides=[Override.parse(f"{key}={value}")])
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize(
    ("inline", "what"),
    [
        ({"kv": {"budgets": [i / 1e6 for i in range(1, 10**4)]}}, "at most 1000 items"),
        ({"sampling.seed": 10**5000}, "a number of about 500"),
        ({"engine": {"timeout_s": float("inf")}}, "engine.timeout_s: inf is no finite number"),
        ({"kv": {"params": {"snapkv": {"x": object()}}}}, "object is no text, number"),
        ({"description": "\ud800"}, "half of a character"),
        ({"bins.n": 1000, "kv.policies": list("abcdef"), "kv.budgets": [0.1] * 10}, "listed twice"),
        ({"bins.n": 1000, "kv.policies": [f"p{i}" for i in range(60)]}, "180,000 cells"),
        ({"bins.per_bin": 100_000, "kv.policies": [f"p{i}" for i in range(60)]}, "requests"),
    ],
)
def test_absurd_values_of_a_marker_are_refused(inline: dict[str, object], what: str) -> None:
    with pytest.raises(ExperimentError, match=re.escape(what)) as caught:
        load_experiment(None, inline={"group": "g", "tasks": ["niah/single"], **inline})
    assert str(caught.value).count("\n") == 1
    assert len(str(caught.value)) < 1000


def test_a_variable_that_holds_no_yaml_names_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, MINIMAL + "bins: {n: '${N}'}")
    for value in ("[", ".inf", "\udce9"):
        monkeypatch.setenv("N", value)
        with pytest.raises(ExperimentError, match=r"bins\.n: \$\{N\}: line 1") as caught:
            load_experiment(file)
        assert str(caught.value).count("\n") == 1


def test_extends_with_nul_and_a_folder_are_refused(tmp_path: Path) -> None:
    for base in ('"a\\0b"', "."):
        with pytest.raises(ExperimentError) as caught:
            load_experiment(write(tmp_path, f"extends: {base}\n" + MINIMAL))
        assert str(caught.value).count("\n") == 1
    with pytest.raises(ExperimentError, match="cannot be read"):
        load_experiment(tmp_path / "a\0b.yaml")


def test_marks_and_gzip_are_read(tmp_path: Path) -> None:
    for content in (b"\xef\xbb\xbf" + MINIMAL.encode(), gzip.compress(MINIMAL.encode())):
        file = tmp_path / "e.yaml"
        file.write_bytes(content)
        assert load_experiment(file).experiment.group == "g"
    file.write_bytes((MINIMAL + "description: caf\u00e9").encode("latin-1"))
    with pytest.raises(ExperimentError, match=r"e\.yaml:3: is not UTF-8 text: byte 0xe9"):
        load_experiment(file)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("bins: {per_bin: yes}", "bins.per_bin"),
        ("bins: {n: 2, per_bin: [5, on]}", "bins.per_bin"),
        ("kv: {budgets: [yes]}", "kv.budgets"),
        ("engine: {timeout_s: on}", "engine.timeout_s"),
        ("gate: {margin: no}", "gate.margin"),
        ("sampling: {seed: off}", "sampling.seed"),
    ],
)
def test_a_yes_is_no_number(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(ExperimentError, match=rf"{key}: .*needed is a number: yes and on are true"):
        load_experiment(write(tmp_path, f"{MINIMAL}{text}\n"))


def test_a_yes_is_no_number_of_a_task_either() -> None:
    with pytest.raises(UsageError, match="needed is a number"):
        get_task("jsonl:x", options={"max_tokens": True})


def test_a_time_and_a_number_with_a_zero_before_are_what_is_written(tmp_path: Path) -> None:
    text = "executor: {walltime: 10:00:00}\nbins: {n: 1, per_bin: 010}\n"
    experiment = load_experiment(write(tmp_path, MINIMAL + text)).experiment
    assert (experiment.executor.walltime, experiment.bins.per_bin) == ("10:00:00", 10)


@pytest.mark.parametrize(
    "headers",
    [{"x\ny": "a"}, {"x": "a\nb"}, {"x": "a\rb"}, {"": "a"}, {"x": "é"}, {"x": " a"}, {"a b": "c"},
     {"x:": "a"}, {"Content-Length": "5"}]
)  # fmt: skip
def test_what_cannot_be_a_header_is_refused(headers: dict[str, str]) -> None:
    inline = {"group": "g", "tasks": ["niah/single"], "engine": {"headers": headers}}
    with pytest.raises(ExperimentError, match=r"engine: headers"):
        load_experiment(None, inline=inline)
