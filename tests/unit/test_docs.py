"""README, docs/, CONTRIBUTING and .env.example say what is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pytest_kvbench.cli.stages import main
from pytest_kvbench.experiment.engine import ENGINES
from pytest_kvbench.experiment.load import load_stages
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.section import Section
from pytest_kvbench.plugin import options
from pytest_kvbench.policies.table import POLICIES
from pytest_kvbench.tasks.registry import BUILT_IN
from tests.support import generated, pages
from tests.support.pages import PAGES, README, ROOT, TEXT

PACKAGE = ROOT / "pytest_kvbench"
FOREIGN = {
    *("--cache-clear", "--cache-show", "--junitxml"),  # pytest
    *(
        "--batches",
        "--dtype",
        "--kv-cache-dtype",
        "--model",
        "--policy",
        "--port",
        "--slot-save-path",
    ),
    *("--memory-share", "--slots"),  # the embedded server
    "--gpus-per-node",  # Slurm
    *("--no-deps", "--upgrade", "--seed", "--strict"),  # pip, calibration.py, mypy
    *("--dist", "--ignore"),  # pytest, of `make test`
}
"""Options on the pages that are not ours."""


def test_every_option_is_documented_and_there() -> None:
    declared = set(re.findall(r'"(--kvbench-[a-z-]+)"', Path(options.__file__).read_text()))
    assert len(declared) >= 9
    assert declared == set(re.findall(r"--kvbench-[a-z-]+", TEXT))


def keys(section: type[Section] = Experiment, prefix: str = "") -> list[str]:
    found = []
    for name, info in section.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            found += keys(kind, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("key", [k for k in keys() if k != "description"])
def test_every_key_is_documented(key: str) -> None:
    assert f"| `{key}` |" in PAGES["docs/configuration.md"]


@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- generated" in PAGES[page]])
def test_generated_tables_are_those_of_the_code(page: str) -> None:
    assert PAGES[page] == generated.with_tables(PAGES[page]), "make docs writes them"


def test_every_task_and_policy_is_named() -> None:
    assert not [name for name in (*BUILT_IN, *POLICIES) if f"`{name}`" not in TEXT]


def test_every_environment_variable_is_listed() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    used = set(re.findall(r"KVBENCH_[A-Z0-9_]+", code))
    assert used
    assert not [name for name in used if f"{name}=" not in example]
    listed = set(re.findall(r"^#?([A-Z0-9_]+)=", example, flags=re.M))
    assert listed >= used
    assert not [name for name in listed if f"`{name}`" not in PAGES["docs/configuration.md"]]


def ours(group: click.Group) -> Iterator[click.Command]:
    """All commands of `kvbench`, those of a group inside it too."""
    every = click.Context(group)
    for name in group.list_commands(every):
        command = group.get_command(every, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from ours(command)
        else:
            yield command


def test_every_command_is_documented_and_there() -> None:
    assert isinstance(main, click.Group)
    named = {command.split()[1] for command in pages.commands() if command.startswith("kvbench ")}
    every = click.Context(main)
    assert named == set(main.list_commands(every))
    controls = main.get_command(every, "controls")
    assert isinstance(controls, click.Group)
    assert {f"kvbench controls {name}" for name in controls.commands} <= set(pages.commands())


def test_options_on_the_pages_exist() -> None:
    assert isinstance(main, click.Group)
    known = {flag for command in ours(main) for option in command.params for flag in option.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT))
    assert {name for name in named if not name.startswith("--kvbench-")} <= known | FOREIGN
    assert named >= FOREIGN


def test_make_targets_on_the_pages_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.M))
    made = [command.split()[1:] for command in pages.commands() if command.startswith("make ")]
    named = {target for words in made for target in words}
    assert {"install", "evals", "test", "lint"} <= named
    assert named <= targets


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in pages.links(page):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        named = target.resolve().relative_to(ROOT).as_posix()
        assert not anchor or anchor in pages.anchors(named), link


def test_files_and_modules_on_the_pages_exist() -> None:
    files = re.findall(r"(?<![\w./])(?:evals|tests|pytest_kvbench)/[\w./-]*\w", TEXT)
    files += re.findall(r"(?<![\w./<])[\w.-]+\.(?:example|toml|txt)\b|Makefile", TEXT)
    assert {"evals/experiments/longbench.yaml", "constraints.txt"} <= set(files)
    assert not [file for file in set(files) if not (ROOT / file).exists()]
    modules = re.findall(r"-m (pytest_kvbench[\w.]*)", TEXT)
    assert modules
    assert all(importlib.util.find_spec(module) for module in modules)


QUESTIONS = {
    "How is a cell judged?",
    "What does a group ask next?",
    "Where is a request retried?",
    "Where is the prompt built?",
    "Where does the exit code come from?",
    "Where is a control shared?",
    "What is a policy?",
    "What happens on kill -9?",
    "Where is a metric defined?",
    "Where is a new engine added?",
    "Where is the report's sentence made?",
}


def test_where_it_is_is_answered_by_what_is_there() -> None:
    _, _, section = PAGES["CONTRIBUTING.md"].partition("## Where is it?")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if "?" in line]
    assert {row.split(" | ")[0].removeprefix("| ") for row in rows} == QUESTIONS
    for row in rows:
        file, named = None, False
        for word in re.findall(r"`([^`]+)`", row):
            if "/" in word or word.endswith(".py"):
                file = PACKAGE / word
                assert file.exists(), word
            elif file is not None and file.is_file():
                assert re.search(
                    rf"^\s*(?:async )?(?:def |class )?{word}\b", file.read_text(), re.M
                ), word
                named = True
        assert named, row


def test_readme_is_one_page_that_leads_to_all_others() -> None:
    lines = PAGES[README].splitlines()
    assert len(lines) <= 200
    assert max(map(len, lines)) <= 130
    linked = {link.partition("#")[0] for link in pages.links(README)}
    assert {page for page in PAGES if page != README} <= linked
    pictures = list((ROOT / "docs").glob("*.png"))
    assert {f"docs/{picture.name}" for picture in pictures} <= linked
    assert sum(picture.stat().st_size for picture in pictures) < 60_000


@pytest.mark.parametrize("page", [page for page in PAGES if page != README])
def test_a_page_begins_with_its_purpose(page: str) -> None:
    title, blank, purpose = PAGES[page].splitlines()[:3]
    assert re.match(r"# \w", title)
    assert not blank
    assert re.match(r"This page (says|lists|names) .+", purpose)


def test_readme_has_every_experiment_and_engine() -> None:
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "evals").rglob("*.yaml")}
    named = [row[0].strip("`") for row in pages.table("file")]
    assert {f.relative_to(ROOT).as_posix() for name in named for f in ROOT.glob(name)} == files
    named = {
        name for row in pages.table("`engine.name`") for name in re.findall(r"`(\w+)`", row[0])
    }
    assert named == set(ENGINES)


def test_exit_statuses_are_the_same_on_both_pages() -> None:
    short, long = pages.table("exit status of pytest"), pages.table("exit status")
    assert len(short) == 6
    assert [row[0] for row in short] == [row[0] for row in long]


@pytest.mark.parametrize("target", ["install", "evals", "test"])
def test_make_is_plain_pip_and_pytest(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule = r"\$\(STAMP\)" if target == "install" else target
    (recipe,) = re.findall(rf"^{rule}:.*\n((?:\t.+\n)+)", makefile, flags=re.M)
    by_hand = [shlex.split(command) for command in pages.commands(PAGES[README])]
    for line in recipe.splitlines():
        if line.startswith("\t$(BIN)/"):
            assert _plain(line) in by_hand, line


def _plain(line: str) -> list[str]:
    """A line of the Makefile as one types it."""
    for ours, typed in (
        ("\t$(BIN)/", ""),
        ("python -m pip", "pip"),
        (" --quiet", ""),
        ("--constraint", "-c"),
        ("--editable", "-e"),
        ("$(WORKERS)", "8"),
    ):
        line = line.replace(ours, typed)
    return shlex.split(line)


@pytest.mark.parametrize("text", pages.blocks("yaml"))
def test_experiments_on_the_pages_are_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "evals").symlink_to(ROOT / "evals")
    least = "".join(
        line for line in ("group: g\n", "tasks: [niah/single]\n") if line.split()[0] not in text
    )
    (tmp_path / "my.yaml").write_text(least + text, encoding="utf-8")
    assert load_stages(tmp_path / "my.yaml")


def test_messages_and_flags_on_the_pages_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    quoted = [re.findall(r"`([^`]+)`", row[0]) for row in pages.table("what you see")]
    letters = {"E", "F"}
    messages = {message for found in quoted for message in found} - letters - {"analyse --dry-run"}
    assert len(messages) >= 10
    assert not [message for message in messages if message not in code]


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-engines.txt"])
def test_constraints_are_names_and_versions_only(file: str) -> None:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9._]+", line) for line in lines)
    assert "torch==2.13.0" in lines
