"""Files as people have them: read, or refused in two lines that name the file and the place."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.errors import KvbenchError, UsageError
from pytest_kvbench.reading import brief, odd_value, parse_json, parse_yaml, read_text, text_lines
from pytest_kvbench.reading import text as reading_text
from pytest_kvbench.tasks.jsonl import read_jsonl

TEXT = '{"question": "Où?", "answers": ["茶"]}\n'
SOUND = {
    "plain": TEXT.encode(),
    "mark": b"\xef\xbb\xbf" + TEXT.encode(),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16-be": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "gzip": gzip.compress(TEXT.encode()),
    "gzip of utf-16": gzip.compress(TEXT.encode("utf-16")),
    "dos": TEXT.replace("\n", "\r\n").encode(),
}
BROKEN = {
    "latin-1": ((TEXT + "é").encode("latin-1", "replace"), ":1: is not UTF-8 text: byte 0xf9"),
    "late byte": (TEXT.encode() + b'{"a": "\xe9"}', ":2: is not UTF-8 text: byte 0xe9 at char"),
    "no mark": (TEXT.encode("utf-16-le"), "UTF-16 without a byte order mark"),
    "half of utf-16": (TEXT.encode("utf-16")[:-1], "is not"),
    "cut gzip": (gzip.compress(TEXT.encode())[:-9], "cannot be read"),
    "altered gzip": (gzip.compress(TEXT.encode())[:12] + b"\xff" * 30, "cannot be read"),
    "gzip twice": (gzip.compress(gzip.compress(TEXT.encode())), "compressed by gzip twice"),
    "zip": (b"PK\x03\x04", "a zip file"),
    "parquet": (b"PAR1", "parquet"),
    "binary": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
    "empty": (b"", "holds no row"),
    "blank": (b"\n \n", "holds no row"),
}


def refusal(error: pytest.ExceptionInfo[KvbenchError]) -> str:
    said = str(error.value)
    assert said.count("\n") == 1, said
    assert len(said) < 1000, "errors show values cut"
    return said


@pytest.mark.parametrize("kind", SOUND)
def test_marks_and_gzip_are_read(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(SOUND[kind])
    assert list(read_jsonl(file)) == [json.loads(TEXT)]
    assert read_text(file) == TEXT


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_text_names_file_and_row(tmp_path: Path, kind: str) -> None:
    content, said = BROKEN[kind]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        list(read_jsonl(file))
    assert f"{file}" in refusal(caught)
    assert said in refusal(caught)


def test_a_folder_a_missing_file_and_a_name_with_nul(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(UsageError, match="cannot be read") as caught:
            read_text(place)
        refusal(caught)


def test_members_of_a_zip_are_read_alike(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("rows.jsonl", SOUND["gzip"])
    assert list(text_lines(zipfile.Path(tmp_path / "a.zip", "rows.jsonl"))) == [TEXT]


def test_a_line_without_an_end_fills_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_text, "MAX_LINE", 100)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(gzip.compress(b"{}\n" + b"[" * 1_000_000))
    with pytest.raises(UsageError, match=":2: a line of more than 100 characters"):
        list(text_lines(file))
    with pytest.raises(UsageError, match="longer than 50 characters"):
        read_text(file, limit=50)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": -Infinity}', "-Infinity is no number"),
        ('{"a": 1e999}', "a: inf is no finite number"),
        ('{"a": [{"b": ' + "9" * 5000 + "}]}", "more than 4300 digits"),
        ('{"a": [{"b": ' + "9" * 2000 + "}]}", "a.0.b: a number of about 200"),
        ("[" * 200_000, "nested deeper"),
        ('{"a":' * 60 + "1" + "}" * 60, "nested deeper"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is there twice"),
        ('{"a": "\\ud83d"}', "a: holds half of a character"),
        ('{"\\udc00": 1}', "half of a character"),
        ("{'a': 1}", "not JSON"),
        ("{} {}", "not JSON"),
    ],
)
def test_json_that_cannot_be_kept_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^rows:7: ") as caught:
        parse_json(text, "rows:7")
    assert said in refusal(caught)


def test_json_of_emoji_marks_and_large_ids_is_read() -> None:
    row = {"a": "😀\0", "_id": 2**64 - 1, "b": [None, True, -0.5]}
    assert parse_json("\ufeff" + json.dumps(row), "rows:1") == row


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a: 1\nb: 2\na: 3", 3, "the key 'a' is there twice, first in line 1"),
        ("x:\n  y: 1\n  'y': 2", 3, "the key 'y' is there twice"),
        ("x: " + "[" * 50_000, 1, "nested deeper"),
        ("\n".join(" " * i + "a:" for i in range(100)), 32, "nested deeper"),
        ("a: &a [1,2]\n" + "b: &b [" + "*a," * 3000 + "]\nc: [*b, *b]", 3, "makes more than"),
        ("- &a0 x\n" + "".join(f"- &a{i + 1} [*a{i}]\n" for i in range(40)), 33, "nested deeper"),
        ("a: &a\n  b: *a", 2, "an alias stands inside of what it names"),
        ("a: .inf", 1, ".inf is no finite number"),
        ("a: [1,\n -.INF]", 2, "-.INF is no finite number"),
        ("a: .nan", 1, ".nan is no finite number"),
        ("a: 1.0e+999", 1, "is no finite number"),
        ("a: " + "9" * 5000, 1, "a number of 5000 digits"),
        ('a: "b\\0c"', 1, "holds the character NUL"),
        ('a: "\\ud83d"', 1, "half of a character"),
        ("a: 0b_", 1, "'0b_' is no int"),
        ("a: !!int x", 1, "'x' is no int"),
        ("a: !!set {b}", 1, "the tag '!!set'"),
        ("a: !!binary aGk=", 1, "the tag '!!binary'"),
        ("a: !!python/object/apply:os.getcwd []", 1, "means nothing here"),
        ("? [a]\n: 1", 1, "a key is a list"),
        ("a: 1\n\x07", 2, "is not YAML: special characters"),
        ("a: 1\n---\nb: 1", 2, "another document"),
        ("a: [1", 1, "is not YAML"),
        ("<<: 3", 1, "is not YAML"),
    ],
)
def test_yaml_that_says_nothing_sane_is_refused_by_line(text: str, line: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"^e.yaml: line {line}[ ,]") as caught:
        parse_yaml(text, "e.yaml")
    assert said in refusal(caught)


def test_numbers_that_yaml_takes_for_others_are_texts() -> None:
    text = "[010, -017, 1:30, 1:30.5, 10:00:00, 0, 10, 0.5, 0x10, 1_000, 00]"
    assert parse_yaml(text, "f") == [
        *("010", "-017", "1:30", "1:30.5", "10:00:00", 0, 10, 0.5, 16, 1000, "00"),
    ]


def test_yaml_keys_and_dates_are_texts_and_merges_merge() -> None:
    said = parse_yaml("on: 2024-01-31\n1: {off: =}\nb: &b {x: 1, y: 2}\nc: {<<: *b, y: 3}", "e")
    assert said == {
        "on": "2024-01-31",
        "1": {"off": "="},
        "b": {"x": 1, "y": 2},
        "c": {"x": 1, "y": 3},
    }
    assert parse_yaml('a: "\\ud83d\\ude00"', "e") == {"a": "😀"}
    assert parse_yaml("", "e") is None


def settled(read: Callable[[], object]) -> None:
    """`read` gives plain data, or is refused in two lines."""
    said = ""
    try:
        value = read()
    except UsageError as error:
        value, said = None, str(error)
    assert odd_value(value) is None
    assert said.count("\n") == bool(said)


@given(st.binary(max_size=300))
@settings(max_examples=150)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    file = tmp_path_factory.getbasetemp() / "any"
    file.write_bytes(data)
    settled(lambda: parse_yaml(read_text(file), "any"))
    settled(lambda: list(read_jsonl(file)))


PIECES = (
    "a|b: |- |[|]|{|}|, |: |\n|  |&a |*a|<<: |? |!!int |!!str |>\n|'|\"|1|._|0x|1:00|~|#|---\n|\t|="
)
YAMLISH = st.lists(st.sampled_from(PIECES.split("|")), max_size=25).map("".join)


@given(YAMLISH)
@settings(max_examples=300)
def test_any_yaml_is_read_or_refused(text: str) -> None:
    settled(lambda: parse_yaml(text, "any"))


def test_values_of_any_size_are_shown_briefly() -> None:
    assert brief([1, 2]) == "[1, 2]"
    for value in ("x" * 10**6, list(range(10**6)), 10**5000, [10**5000], {"a": "b" * 10**6}):
        assert len(brief(value)) < 300
