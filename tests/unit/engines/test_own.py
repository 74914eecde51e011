"""Engines of users: what a class is, what it is asked, and what becomes of what it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_kvbench.engines import arms, own
from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.engines.own import AskedArm, Reply, reading
from pytest_kvbench.engines.own import __main__ as served
from pytest_kvbench.errors import ExperimentError, UsageError
from pytest_kvbench.experiment.load import Declared, load_experiment
from pytest_kvbench.own.classes import Classes
from pytest_kvbench.pipeline import plan
from pytest_kvbench.records import Answer, Failure, Prompt, Request

CLASS = """
from pytest_kvbench.engines.own import Reply
from helper import WORD

class Mine:
    policies = {"kivi2": 0.15, "window": None}

    def generate(self, messages, arm):
        return Reply(WORD)

made = Mine()

class Any:
    generate = Mine.generate

class NoEngine:
    pass

class Odd(Mine):
    policies = ["kivi2"]
"""
NAME = "./mine.py:Mine"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Classes are read in this process, which a process of its own would take a second for."""
    (tmp_path / "mine.py").write_text(CLASS)
    (tmp_path / "helper.py").write_text("WORD = 'red'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own, "read", lambda module, spec, what: reading.read(spec))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    monkeypatch.delitem(__import__("sys").modules, "helper", raising=False)
    return tmp_path


def declared(folder: Path, **keys: Any) -> Declared:
    kv = {"policies": ["kivi2", "window"], "budgets": [1.0, 0.5, 0.2]}
    inline = {"group": "g", "tasks": ["niah/single"], "kv": kv, "engine.name": NAME, **keys}
    return load_experiment(None, inline=inline)


def test_its_policies_are_those_that_it_names(folder: Path) -> None:
    plan.check(declared(folder))
    cells = plan.cells(declared(folder).experiment)
    budgets = {(cell.policy, cell.budget) for cell in cells}
    assert budgets == {("none", 1.0), ("kivi2", 0.15), ("window", 0.5), ("window", 0.2)}
    plan.check(declared(folder, **{"engine.name": "./mine.py:Any", "kv": {"policies": ["x"]}}))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"engine.name": "vlm"}, "engine.name: 'vlm' is not valid\nvalid: local, llamacpp"),
        ({"engine.name": "./none.py:Mine"}, "there is no file ./none.py"),
        ({"engine.name": "./mine.py:Missing"}, "it cannot be imported: AttributeError"),
        ({"engine.name": "./mine.py:NoEngine"}, "it has no method generate"),
        ({"engine.name": "./mine.py:Odd"}, "policies is ['kivi2']"),
        ({"kv.policies": ["snapkv"]}, "has no policy 'snapkv'\nvalid: none, kivi2, window"),
        ({"engine.base_url": "http://127.0.0.1:9/v1"}, "a run starts engine.name"),
        ({"kv.question_aware": False}, "is not told where a question begins"),
        ({"engine.stream": True}, "has no use for it"),
        ({"engine.slots": "8x4096"}, "only an embedded server that we start"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_asked(
    folder: Path, keys: Mapping[str, Any], told: str
) -> None:
    with pytest.raises((ExperimentError, UsageError)) as refused:
        plan.check(declared(folder, **keys))
    assert told in str(refused.value)
    assert str(refused.value).count("\n") == 1


def test_it_is_its_files_and_its_name(folder: Path) -> None:
    first = own.CLASSES.digest(NAME)
    assert own.CLASSES.digest(NAME) == first != own.CLASSES.digest("./mine.py:made")
    (folder / "helper.py").write_text("WORD = 'blue'\n")
    assert own.CLASSES.digest(NAME) != first


def test_a_hook_may_give_a_class_or_an_object(folder: Path) -> None:
    module = __import__("importlib").import_module("tests.unit.engines.test_own")
    classes = Classes("engine", lambda spec: {})
    classes.bring({"text": NAME, "class": module.Scripted, "object": module.SCRIPTED})
    assert classes.brought == {
        "text": NAME,
        "class": "tests.unit.engines.test_own:Scripted",
        "object": "tests.unit.engines.test_own:SCRIPTED",
    }
    for odd in ({"x": Scripted(None)}, {"x": 3}, {NAME: NAME}, {3: NAME}, {"x": "mine.py"}):
        with pytest.raises(UsageError, match="pytest_kvbench_engines"):
            classes.bring(odd)


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        ("./mine.py:Mine", "/a/project/mine.py:Mine"),
        ("mine.py:Mine", "/a/project/mine.py:Mine"),
        ("../mine.py:Mine", "/a/mine.py:Mine"),
        ("/b/mine.py:Mine", "/b/mine.py:Mine"),
        ("pkg.mine:Mine", "pkg.mine:Mine"),
    ],
)
def test_a_relative_file_counts_from_the_folder_of_who_gives_it(given: str, spec: str) -> None:
    classes = Classes("engine", lambda spec: {})
    classes.bring({"mine": given}, Path("/a/project"))
    assert classes.brought == {"mine": spec}


class Scripted:
    """Gives or raises what it is told to."""

    def __init__(self, gives: Any) -> None:
        self.gives = gives

    def generate(self, messages: Any, arm: AskedArm) -> Any:
        self.messages, self.arm = messages, arm
        if isinstance(self.gives, Exception):
            raise self.gives
        return self.gives


SCRIPTED = Scripted(Reply("red"))


def ask(folder: Path, gives: Any, chat: bool = True) -> tuple[Answer | Failure, Scripted]:
    """An engine that was asked one request, by the very body that a run sends."""
    experiment = declared(folder, **{"kv.params": {"window": {"w": 3}}}).experiment
    settings, cell = experiment.engine, plan.cells(experiment)[-1]
    arm = plan.arm_of(experiment, cell, "", "")
    request = Request(arm, "t", 0, "e", 2, Prompt("Context. ", "Say red.", 9, chat, ("\n",)))
    engine, kind = Scripted(gives), kind_of(settings)
    _, body = kind.request_body(settings, [request])
    reply = served._answered(engine, json.loads(json.dumps(body)), 0.0)
    (outcome,) = kind.read([request.key], json.loads(json.dumps(reply)), None)
    return outcome, engine


@pytest.mark.parametrize("chat", [True, False])
def test_it_is_told_the_messages_and_the_arm(folder: Path, chat: bool) -> None:
    _, engine = ask(folder, Reply("red"), chat)
    assert engine.messages == [{"role": "user", "content": "Context. Say red."}]
    wanted = AskedArm("window", 0.2, {"w": 3}, 9, seed=2, stop=["\n"], chat=chat)
    assert engine.arm == wanted


@pytest.mark.parametrize("as_mapping", [True, False])
def test_a_reply_is_an_answer_with_its_bytes(folder: Path, as_mapping: bool) -> None:
    values = {"text": "red", "prompt_tokens": 7, "new_tokens": 1, "kept_bytes": 2, "full_bytes": 10}
    outcome, _ = ask(folder, values if as_mapping else Reply(**values))  # type: ignore[arg-type]
    assert isinstance(outcome, Answer)
    assert (outcome.text, outcome.finish_reason) == ("red", "stop")
    found = outcome.telemetry
    assert (found.prompt_tokens, found.completion_tokens, found.achieved) == (7, 1, 0.2)


def test_log_probabilities_are_written_as_openai_has_them() -> None:
    reply = Reply("ab", logprobs=[{"a": -0.1, "b": -2.0}, {"b": -0.5}])
    first, second = served._written(reply)["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["logprob"]) == ("a", -0.1)
    assert [one["token"] for one in first["top_logprobs"]] == ["a", "b"]
    assert second["top_logprobs"] == [{"token": "b", "logprob": -0.5}]


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        (RuntimeError("CUDA\nis gone"), "RuntimeError: CUDA is gone"),
        (None, "generate gave NoneType, not a Reply"),
        ("red", "generate gave str, not a Reply"),
        (Reply(3), "text: "),  # type: ignore[arg-type]
        ({"txt": "red"}, "text: Field required"),
        (Reply("red", kept_bytes=3), "kept_bytes is 3, full_bytes None"),
        (Reply("red", kept_bytes=3, full_bytes=0), "full_bytes 0"),
        (Reply("red", kept_bytes=float("nan"), full_bytes=1), "kept_bytes"),  # type: ignore[arg-type]
        (Reply("red", logprobs=[3]), "logprobs.0: "),  # type: ignore[list-item]
        (Reply("red", finish_reason="error"), "broke the reply off"),
        (Reply("red", prompt_tokens={1}), "prompt_tokens"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_reply_is_a_failure_that_says_why(folder: Path, gives: Any, told: str) -> None:
    outcome, _ = ask(folder, gives)
    assert isinstance(outcome, Failure)
    assert told in outcome.message


def test_a_server_of_a_class_is_told_what_its_constructor_names(folder: Path) -> None:
    (folder / "made.py").write_text(
        "class Made:\n    def __init__(self, model, threads=2, dtype='x'):\n"
        "        self.all = (model, threads, dtype)\n    generate = print\n"
    )
    options = served._parser().parse_args(["./made.py:Made", "--model=m", "--address-file=a"])
    assert served._made(options).all == ("m", 2, "x")
    settings = declared(
        folder, **{"engine.dtype": "float16", "engine.model": "m"}
    ).experiment.engine
    start = kind_of(settings).start
    assert start is not None
    words = start.command(settings, ("", ""), 7, Path("a.json"), 3)
    taken = vars(served._parser().parse_args(words[3:]))
    assert (
        taken.items() >= {"engine": NAME, "dtype": "float16", "threads": 3, "watch_pid": 7}.items()
    )
    assert json.loads(taken["facts"]) == {"weights": "m", "dtype": "float16"}
    assert start.facts(settings, ("", "")).items() >= json.loads(taken["facts"]).items()


def test_its_arms_have_their_own_identity(folder: Path) -> None:
    experiment = declared(folder, **{"kv.params": {"window": {"w": 3}}}).experiment
    assert arms.identity_params(experiment.engine, experiment.kv, "window") == {"w": 3}
    assert arms.identity_params(experiment.engine, experiment.kv, "none") == {}
