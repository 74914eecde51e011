"""Rows as people have them: answers in their shapes, columns that are named like ours."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example
from pytest_kvbench.selection import TaskManifest
from pytest_kvbench.tasks.base import example_id
from pytest_kvbench.tasks.binning import BinSpec
from pytest_kvbench.tasks.columns import (
    OURS,
    further,
    list_in,
    rows_in,
    texts_in,
    whole_of,
)
from pytest_kvbench.tasks.manifest import build_task_manifest
from pytest_kvbench.tasks.registry import get_task
from pytest_kvbench.tasks.rows import RowTask, row_example
from pytest_kvbench.tasks.tokenizers import Approximate

ROW = {"question": "Who?", "context": "Ann did it. " * 20, "answers": ["Ann"]}
PLAIN = row_example(ROW)


def manifest(rows, *, by="tokens", **options) -> TaskManifest:
    task = RowTask(name="mine/rows", rows=lambda: rows, **options)
    return build_task_manifest(task, BinSpec(1, (9,), by=by), Approximate(), 0)


def only(rows, **options) -> Example:
    (entry,) = manifest(rows, **options).entries
    return entry.example


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("Ann", ("Ann",)),
        (["Ann", "Anna"], ("Ann", "Anna")),
        ({"text": ["Ann", "Anna"], "answer_start": [0, 5]}, ("Ann", "Anna")),
        ({"text": "Ann", "answer_start": 0}, ("Ann",)),
        ([{"text": "Ann", "answer_start": 0}, {"text": "Anna"}], ("Ann", "Anna")),
    ],
)
def test_answers_are_read_in_the_shapes_people_have(given, read) -> None:
    assert only([{**ROW, "answers": given}]).answers == read


@pytest.mark.parametrize(
    "given",
    [
        *([], [""], ["Ann", " "], "", {"text": [], "answer_start": []}, {"text": [""]}, {}, None),
        *([None], [3], 3, True, [["Ann"]], {"aliases": ["Ann"]}, [{"text": "Ann"}, {"x": 1}]),
    ],
)
def test_other_answers_are_refused_with_their_row(given) -> None:
    with pytest.raises(UsageError, match=r"^mine/rows: row 2: .*answer") as caught:
        manifest([ROW, {**ROW, "answers": given}])
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize("name", sorted(OURS))
@pytest.mark.parametrize("value", [[0, 10_000], True, "x", None, 0.0])
def test_a_column_named_as_one_of_ours_changes_nothing(name, value) -> None:
    row = {**ROW, name: value, f"row.{name}": "mine", "note": "kept"}
    example = only([row])
    task = RowTask(name="mine/rows", rows=lambda: [row])
    assert task.prompt(example) == task.prompt(PLAIN), "the context is whole"
    assert example.example_id == PLAIN.example_id
    assert example.meta == {f"row.row.{name}": value, f"row.{name}": "mine", "note": "kept"}


def test_our_own_cut_wins_over_a_column_of_that_name() -> None:
    long = {**ROW, "context": "word " * 500, "cut": [0, 3]}
    example = only([long], max_length=100)
    assert example.meta["row.cut"] == [0, 3]
    assert example.meta["cut"] != [0, 3]


def test_identity_of_rows_without_a_collision_is_as_before() -> None:
    row = {**ROW, "_id": "7", "length": 3, "all_classes": ["a"]}
    example = row_example(row)
    assert example.example_id == example_id("rows", "Who?", ROW["context"], ["Ann"], "7")
    assert example.meta == {"_id": "7", "length": 3, "all_classes": ["a"]}


@given(
    st.dictionaries(
        st.sampled_from([*sorted(OURS), "row.cut", "length", "options", "depth", "x"]),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
    )
)
def test_no_column_is_lost_and_none_is_taken_for_ours(columns) -> None:
    meta = further({**ROW, **columns}, tuple(ROW))
    assert not meta.keys() & OURS
    assert len(meta) == len(columns)
    example = row_example({**ROW, **columns})
    assert RowTask(name="mine/x", rows=list).prompt(example).text.startswith(ROW["context"])


@pytest.mark.parametrize(
    ("metric", "column", "value"),
    [
        ("classification", "all_classes", "Ann"),
        ("classification", "all_classes", None),
        ("classification_first_line", "all_classes", [1, 2]),
        ("credited", "options", "abcd"),
        ("credited", "options", ["a", "b"]),
        ("any_of", "when", float("nan")),
        ("any_of", "when", object()),
        ("any_of", "when", "\ud83d"),
        ("any_of", "when", 10**2000),
    ],
)
def test_columns_that_cannot_be_scored_or_kept_are_refused_with_their_row(
    metric, column, value
) -> None:
    good = {**ROW, "all_classes": ["Ann", "Bob"], "options": list("abcd")}
    manifest([good], metric=metric)
    with pytest.raises(UsageError, match=rf"row 2: .*{column}") as caught:
        manifest([good, {**good, "question": "Why?", column: value}], metric=metric)
    assert str(caught.value).count("\n") == 1


@pytest.mark.parametrize("length", [True, -1, 2**70, "short", 1.5, None])
def test_a_length_that_is_none_is_refused_where_bins_go_by_it(length) -> None:
    manifest([{**ROW, "length": length}])
    with pytest.raises(UsageError, match="no whole-number `length`"):
        manifest([{**ROW, "length": length}], by="length")


def test_a_users_own_task_cannot_bring_what_is_no_text() -> None:
    task = RowTask(name="mine/rows", rows=list)
    object.__setattr__(task, "examples", lambda *_: [Example("e", "q", "a\ud800", ("x",))])
    with pytest.raises(UsageError, match="example e: context: holds half of a character"):
        build_task_manifest(task, BinSpec(1, (9,)), Approximate(), 0)


# -- benchmarks' own files ------------------------------------------------------------------------


def examples(name: str, **options):
    return get_task(name, options=options).examples(BinSpec(1, (9,)), Approximate(), 0)


LONGBENCH = {"input": "Who?", "context": "Ann.", "answers": ["Ann"], "all_classes": None}


def test_longbench_reads_gzip_and_refuses_a_text_for_a_list(tmp_path: Path) -> None:
    file = tmp_path / "qasper.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(LONGBENCH).encode()))
    (example,) = examples("longbench/qasper", path=str(tmp_path))
    assert example.answers == ("Ann",)
    for row in ({**LONGBENCH, "answers": {"x": 1}}, {**LONGBENCH, "context": None}, {"input": "q"}):
        lines = [json.dumps(LONGBENCH), json.dumps(row)]
        file.write_text("\n".join(lines))
        with pytest.raises(UsageError, match="longbench/qasper: row 2: "):
            examples("longbench/qasper", path=str(tmp_path))
    file.write_text(json.dumps({**LONGBENCH, "answers": "Ann"}))
    assert examples("longbench/qasper", path=str(tmp_path))[0].answers == ("Ann",)


@pytest.mark.parametrize("config", ["[", "[]", '{"qasper": NaN}', "\xff"])
def test_longbench_names_a_broken_config_file(tmp_path: Path, config: str) -> None:
    (tmp_path / "qasper.jsonl").write_text(json.dumps(LONGBENCH))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "dataset2prompt.json").write_text(config, encoding="latin-1")
    task = get_task("longbench/qasper", options={"path": str(tmp_path)})
    with pytest.raises(UsageError, match=r"dataset2prompt\.json"):
        _ = task.template_version


def test_a_broken_zip_is_refused(tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "data.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data/qasper.jsonl", json.dumps(LONGBENCH) * 50)
    whole = bytearray((tmp_path / "data.zip").read_bytes())
    whole[50:70] = b"\xff" * 20
    (tmp_path / "data.zip").write_bytes(whole)
    with pytest.raises(UsageError, match=r"qasper\.jsonl: cannot be read"):
        examples("longbench/qasper", path=str(tmp_path / "data.zip"))


def test_ruler_takes_one_answer_and_names_the_row(tmp_path: Path) -> None:
    row = {"index": 0, "input": "text\nQuestion: q", "outputs": "12345", "length": 9}
    file = tmp_path / "vt.jsonl"
    file.write_text(json.dumps(row))
    assert examples("ruler/vt", path=str(tmp_path))[0].answers == ("12345",)
    file.write_text(json.dumps({**row, "outputs": [12, 13]}))
    assert examples("ruler/vt", path=str(tmp_path))[0].answers == ("12", "13")
    for wrong in ({"outputs": []}, {"input": 3}, {"outputs": [None]}):
        file.write_text("\n".join([json.dumps(row), json.dumps({**row, **wrong})]))
        with pytest.raises(UsageError, match=r"vt\.jsonl: row 2: "):
            examples("ruler/vt", path=str(tmp_path))


CHOICE = {"question": "q", "context": "c", "choices": ["a", "b", "c", "d"], "answer": "A"}


def test_multiple_choice_is_read_by_what_the_file_holds(tmp_path: Path) -> None:
    for name, text in (
        ("data.json", json.dumps(CHOICE)),
        ("rows.jsonl", json.dumps([CHOICE], indent=1)),
        ("rows.txt", "\ufeff\n" + json.dumps([CHOICE])),
    ):
        (tmp_path / name).write_text(text)
        assert len(examples("evidence/mcq", path=str(tmp_path / name))) == 1
    for text in (
        "[]",
        "[1]",
        "[[",
        '[{"a": NaN}]',
        "",
        json.dumps([{**CHOICE, "choices": "abcd"}]),
    ):
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(UsageError) as caught:
            examples("evidence/mcq", path=str(tmp_path / "data.json"))
        assert str(caught.value).count("\n") == 1


def test_what_a_column_holds_is_said_where_it_is_something_else() -> None:
    assert whole_of({"n": "64"}, "n") == 64
    assert whole_of({"n": None}, "n") is None
    assert texts_in(("a", "b"), "dates") == ["a", "b"]
    assert rows_in([{"a": 1}], "turns") == [{"a": 1}]
    for read in (
        lambda: whole_of({"n": [64]}, "n"),
        lambda: list_in("ab", "n"),
        lambda: texts_in(["a", 1], "n"),
        lambda: rows_in([1], "n"),
    ):
        with pytest.raises(ValueError, match=r"^n (is|holds) "):
            read()
