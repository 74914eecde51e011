"""Files people have, through pytest and the command line: read, or two lines and exit status 4."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pytest_kvbench.cli.stages import main
from tests.conftest import Project

Kvbench = Callable[..., Result]


@pytest.fixture
def kvbench() -> Kvbench:
    return lambda *args: CliRunner().invoke(main, list(args))


def two_lines(result: Result) -> str:
    assert result.exit_code == 4, result.output
    assert isinstance(result.exception, SystemExit)
    lines = [line for line in result.output.splitlines() if "warning" not in line]
    assert len(lines) == 2, result.output
    return result.output


ODD = {
    "latin-1": b"description: caf\xe9\n",
    "nul": b'description: "a\\0b"\n',
    "inf": b"gate: {margin: .inf}\n",
    "twice": b"group: h\n",
    "bomb": b"b0: &b0 [x, x]\n"
    + b"".join(b"b%d: &b%d [%s]\n" % (i + 1, i + 1, b"*b%d, " % i * 9) for i in range(9)),
    "bins": b"variants: {a: {temperature: 1e999}}\n",
    "binary": b"\0\1\2",
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_experiments_end_in_two_lines_for_every_command(
    project: Project, kvbench: Kvbench, kind: str
) -> None:
    file = project.path / "exp.yaml"
    file.write_bytes(file.read_bytes() + ODD[kind])
    for command in ("validate", "resolve", "prepare", "run", "power"):
        assert "exp.yaml" in two_lines(kvbench(command, "exp.yaml"))
    assert not (project.path / "reports").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_odd_experiments_end_in_two_lines_under_pytest(project: Project, workers: str) -> None:
    file = project.path / "exp.yaml"
    file.write_bytes(file.read_bytes() + b"gate: {margin: .inf}\n")
    result = project.run("-n", workers)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*exp.yaml: line 7, column 16: .inf is no finite number"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_odd_rows_end_in_two_lines_under_pytest(project: Project, workers: str) -> None:
    rows = project.path / "words.jsonl"
    rows.write_bytes(rows.read_bytes() + b'{"question": "caf\xe9", "answers": "x"}\n')
    result = project.run("-n", workers)
    assert result.ret == 4
    result.stdout.fnmatch_lines(["*words.jsonl:101: is not UTF-8 text: byte 0xe9*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("kind", ["pipe", "device", "circle"])
def test_what_is_no_file_is_refused_and_never_waited_for(
    project: Project, kvbench: Kvbench, kind: str
) -> None:
    """Each of these was waited for without an end, or ended in a traceback."""
    odd = project.path / "odd.yaml"
    if kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to("/dev/zero" if kind == "device" else odd)
    exp, folder = project.path / "exp.yaml", project.path / "data"
    folder.mkdir()
    (folder / "qasper.jsonl").symlink_to(odd)
    whole = exp.read_text()
    data = f"task_options: {{longbench/qasper: {{path: {folder}}}}}"
    for command, text in (
        (("validate", "odd.yaml"), whole),
        (("validate", "exp.yaml"), f"extends: odd.yaml\n{whole}"),
        (("prepare", "exp.yaml"), whole.replace("words.jsonl", "odd.yaml")),
        (
            ("prepare", "exp.yaml"),
            f"{whole.replace('jsonl:words.jsonl', 'longbench/qasper')}{data}",
        ),
        (("judge", "odd.yaml"), whole),
        (("score-file", "jsonl:x", "odd.yaml"), whole),
    ):
        exp.write_text(text)
        assert "odd.yaml" in (told := two_lines(kvbench(*command))) or "qasper.jsonl" in told
    assert kvbench("restore", "odd.yaml").exit_code in (4, 10)


def test_a_pipe_of_the_shell_is_judged_and_is_not_read_twice(
    tmp_path: Path, kvbench: Kvbench
) -> None:
    def given(text: str) -> str:
        near, far = os.pipe()
        os.write(far, text.encode())
        os.close(far)
        return f"/dev/fd/{near}"

    assert kvbench("judge", given(HEADER + PAIRS)).exit_code == 0
    rows = f"{json.dumps({'prediction': 'x', 'answers': ['x']})}\n" * 500
    assert "save what it gives as a file" in two_lines(
        kvbench("score-file", "jsonl:x", given(rows))
    )


ROW = {"question": "q", "answers": ["a"]}
ODD_ROWS = {
    "nan": b'{"question": "q", "answers": ["a"], "x": NaN}',
    "nested": b'{"x": ' + b"[" * 100_000,
    "digits": b'{"x": ' + b"9" * 5000 + b"}",
    "no answer": json.dumps({**ROW, "answers": {"text": [], "answer_start": []}}).encode(),
    "half": b'{"question": "\\ud83d", "answers": ["a"]}',
    "utf-16": '{"question": "q"}'.encode("utf-16-le"),
}


@pytest.mark.parametrize("kind", ODD_ROWS)
def test_odd_rows_end_in_two_lines_for_prepare(
    project: Project, kvbench: Kvbench, kind: str
) -> None:
    rows = project.path / "words.jsonl"
    rows.write_bytes(rows.read_bytes() + ODD_ROWS[kind] + b"\n")
    said = two_lines(kvbench("prepare", "exp.yaml"))
    assert "words.jsonl" in said
    assert "101" in said


def test_marks_gzip_and_columns_like_ours_are_read(project: Project, kvbench: Kvbench) -> None:
    rows = project.path / "words.jsonl"
    assert kvbench("prepare", "exp.yaml", "--dir", "plain").exit_code == 0
    marked = [{**json.loads(line), "cut": [0, 9999]} for line in rows.read_text().splitlines()]
    text = "\ufeff" + "\n".join(json.dumps(row) for row in marked)
    rows.write_bytes(gzip.compress(text.encode()))
    exp = project.path / "exp.yaml"
    exp.write_bytes(b"\xef\xbb\xbf" + exp.read_bytes())
    (project.path / "exp.yaml.gz").write_bytes(gzip.compress(exp.read_bytes()))
    for name in ("exp.yaml", "exp.yaml.gz"):
        assert kvbench("prepare", name).exit_code == 0
    plain, packed = (
        json.loads((project.path / folder / "g" / "manifest.json").read_text())["tasks"]
        for folder in ("plain", "reports")
    )
    for entry in packed[0]["entries"]:
        assert entry["example"].pop("meta") == {"row.cut": [0, 9999]}
        entry["example"]["meta"] = {}
    assert packed == plain


HEADER = "task,bin,policy,budget,example_id,cluster,control,treated\n"
PAIRS = "".join(f"t,0,p,0.5,e{i},c{i},1,{i % 2}\n" for i in range(6))
ODD_PAIRS = {
    "latin-1": ((HEADER + PAIRS + "\xe9,0,p,0.5,e9,c,1,1\n").encode("latin-1"), ":8: is not UTF-8"),
    "nan": ((HEADER + PAIRS + "t,0,p,0.5,e9,c,NaN,1\n").encode(), "no control"),
    "inf": ((HEADER + PAIRS + "t,0,p,0.5,e9,c,inf,1\n").encode(), "control of row 6 is inf"),
    "digits": ((HEADER + PAIRS + f"t,{'9' * 5000},p,0.5,e9,c,1,1\n").encode(), "bin of row 6"),
    "large": ((HEADER + PAIRS + "t,1e30,p,0.5,e9,c,1,1\n").encode(), "bin 1e+30"),
    "twice": ((HEADER.strip() + ",control\n" + PAIRS).encode(), "there twice: control"),
    "missing": (HEADER.replace("control", "x").encode() + PAIRS.encode(), "missing columns"),
    "semicolons": ((HEADER + PAIRS).replace(",", ";").encode(), "semicolons stand"),
    "nul": ((HEADER + PAIRS * 200 + "t,0,p,0.5,e\0,c,1,1\n").encode(), ":1202: holds the char"),
    "more": ((HEADER + PAIRS + "t,0,p,0.5,e9,c,1,1,5\n").encode(), "Expected 8 fields"),
    "longer": ((HEADER + PAIRS.replace("\n", ",5\n")).encode(), "is no CSV"),
    "quote": ((HEADER + PAIRS + 't,0,p,0.5,"e9,c,1,1\n').encode(), "EOF inside string"),
    "empty": (b"", "no header"),
    "cut gzip": (gzip.compress((HEADER + PAIRS).encode())[:-9], "cannot be read"),
}


@pytest.mark.parametrize("kind", ODD_PAIRS)
def test_odd_csv_ends_in_two_lines(tmp_path: Path, kvbench: Kvbench, kind: str) -> None:
    content, said = ODD_PAIRS[kind]
    (tmp_path / "pairs.csv").write_bytes(content)
    output = two_lines(kvbench("judge", str(tmp_path / "pairs.csv")))
    assert "pairs.csv" in output
    assert said in output


def test_csv_with_marks_or_gzip_is_judged_alike(tmp_path: Path, kvbench: Kvbench) -> None:
    text, file = HEADER + PAIRS.replace(",p,", ",NA,"), tmp_path / "pairs.csv"
    same = (
        text.encode(),
        b"\xef\xbb\xbf" + text.encode(),
        text.encode("utf-16"),
        gzip.compress(text.encode()),
        text.replace("\n", "\r\n").replace(",", ", ").encode(),
    )
    seen = set()
    for content in same:
        file.write_bytes(content)
        result = kvbench("judge", str(file), "--json")
        assert result.exit_code == 0, result.output
        seen.add(result.output)
    assert len(seen) == 1
    assert '"policy": "NA"' in seen.pop()


def test_predictions_with_marks_or_gzip_are_scored_alike(tmp_path: Path, kvbench: Kvbench) -> None:
    row = {"prediction": "caf\u00e9\r\nx", "answers": ["caf\u00e9"]}
    table = 'prediction,answers\n"caf\u00e9\r\nx",caf\u00e9\n'
    lines = json.dumps(row, ensure_ascii=False)
    for name, text in (("p.csv", table), ("p.jsonl", lines), ("p.json", f"[{lines}]")):
        file = tmp_path / name
        for content in (
            text.encode("utf-8-sig"),
            text.encode("utf-16"),
            gzip.compress(text.encode()),
        ):
            file.write_bytes(content)
            assert kvbench("score-file", "jsonl:x", str(file)).output == "1.0000\n"
        file.write_bytes(text.encode("latin-1"))
        assert "is not UTF-8 text: byte 0xe9" in two_lines(
            kvbench("score-file", "jsonl:x", str(file))
        )


def test_a_file_is_one_task_however_its_path_is_spelt(project: Project, kvbench: Kvbench) -> None:
    file = project.path / "exp.yaml"
    file.write_text(file.read_text().replace("jsonl:words", "jsonl:./words"))
    with_options = kvbench("validate", "exp.yaml", "--set", "task_options.jsonl:.//words.jsonl={}")
    assert with_options.exit_code == 0, with_options.output
    done = kvbench("all", "exp.yaml")
    assert done.exit_code == 0, done.output
    assert project.run("-n", "0").ret == 0
    twice = kvbench(
        "validate", "exp.yaml", "--set", "tasks=[jsonl:words.jsonl, jsonl:./words.jsonl]"
    )
    assert "listed twice: jsonl:words.jsonl" in two_lines(twice)
