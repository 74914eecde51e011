"""Where an experiment's servers come from: they run already, or we start one per arm."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_kvbench.engines import arms, launch
from pytest_kvbench.engines.balance import alike
from pytest_kvbench.engines.keys import without_keys
from pytest_kvbench.engines.kinds import Kind, kind_of
from pytest_kvbench.engines.kinds.base import Types
from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.engines.watch import command_line
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import KV
from pytest_kvbench.files import run_folder
from pytest_kvbench.records import FULL_CACHE, digest
from pytest_kvbench.server import weights


class Servers(Protocol):
    """The servers of an experiment by name (see `arms.server_name`)."""

    def check(self) -> None:
        """Refuse at once what can never run.

        Raises:
            UsageError: naming what mends it.
        """

    def facts(self, name: str) -> dict[str, str]:
        """What identifies one; asked of it where it runs already.

        Raises:
            EngineError: it does not answer.
        """

    def open(self, name: str) -> str:
        """Its base URL, once it is up. Blocks.

        Raises:
            EngineError: it does not come up.
        """

    def urls(self, name: str) -> tuple[str, ...]:
        """All its base URLs, where several servers are one; those of servers that run already."""

    def close(self, name: str) -> None:
        """End the server, if this run started it."""

    @property
    def vocabulary(self) -> str:
        """A name for what the control's server tokenizes with, if known without asking it."""


@dataclass(frozen=True)
class Running:
    """Servers that somebody else started: `engine.base_url` and `engine.endpoints`."""

    settings: EngineSettings
    probe: Callable[[str], Probe]
    vocabulary: str = ""

    def check(self) -> None:
        """See `Servers.check`: whether they answer is asked later."""

    def facts(self, name: str) -> dict[str, str]:
        """See `Servers.facts`.

        Another address is another server, where nothing else tells them apart; of several that
        answer alike, all are named, in whatever order they are listed.
        """
        urls = self.urls(name)
        facts = alike(urls, self._facts_of)
        return {**facts, "base_url": ", ".join(sorted(urls))} if self._kind.by_address else facts

    def open(self, name: str) -> str:
        """See `Servers.open`."""
        return self.urls(name)[0]

    def urls(self, name: str) -> tuple[str, ...]:
        """See `Servers.urls`."""
        return arms.endpoints(self.settings)[name].urls

    def _facts_of(self, base_url: str) -> dict[str, str]:
        facts = self._kind.fingerprint(self.probe(base_url))
        check_declared(self.settings, facts)
        return facts

    @property
    def _kind(self) -> Kind:
        return kind_of(self.settings)

    def close(self, name: str) -> None:
        """See `Servers.close`: these were not started by us, and stay up."""


@dataclass(frozen=True)
class Started:
    """Servers that we start, one per arm; their logs lie beside `log`, as `engine-ARM.log`."""

    settings: EngineSettings
    kv: KV
    run_id: str
    owner_pid: int
    log: Path

    def check(self) -> None:
        """See `Servers.check`."""
        command = self.settings.launch.command
        if command is None:
            self._check_startable()
            return
        program = _words(command)[0]
        if "{port}" not in command or shutil.which(program) is None:
            problem = "has no {port}" if "{port}" not in command else f"starts with {program!r}"
            raise UsageError(
                f"engine.launch.command: {problem}",
                "valid: a program that is here, and {port} where its port goes",
            )

    def facts(self, name: str) -> dict[str, str]:
        """See `Servers.facts`: of a server that need not run."""
        if self.settings.launch.command is None:
            start = self._kind.start
            return start.facts(self.settings, self._types(name)) if start else {}
        model = Path(self.settings.model)
        identity = weights.content_digest(model) if model.exists() else self.settings.model
        return {"command": shlex.join(self._command_of_user(name)), "weights": identity}

    def urls(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 -- of none
        """See `Servers.urls`."""
        return ()

    def open(self, name: str) -> str:
        """See `Servers.open`."""
        served = launch.serve(
            run_folder(self.run_id),
            self._file_name(name),
            lambda address: self._command(name, address),
            log=self.log.with_name(f"{self.log.stem}-{_slug(name)}{self.log.suffix}"),
            timeout_s=self.settings.start_timeout_s,
            env=without_keys(self.settings),
        )
        return served.base_url

    def close(self, name: str) -> None:
        """See `Servers.close`."""
        launch.stop(run_folder(self.run_id), self._file_name(name))

    @property
    def vocabulary(self) -> str:
        """See `Servers.vocabulary`."""
        return digest(self.facts(FULL_CACHE)["weights"])[:12]

    @property
    def _kind(self) -> Kind:
        return kind_of(self.settings)

    def _check_startable(self) -> None:
        if self._kind.start is not None:
            self._kind.start.check(self.settings)

    def _types(self, name: str) -> Types:
        policy, _ = arms.arms(self.settings, self.kv)[name]
        return arms.kv_types(self.settings, policy, self.kv.params.get(policy, {}))

    def _file_name(self, name: str) -> str:
        identity = digest([self.facts(name), self.settings.model])
        return f"{self.settings.name}-{_slug(name)}-{identity[:12]}"

    def _command(self, name: str, address: Path) -> list[str]:
        if self.settings.launch.command is not None:
            command = self._command_of_user(name)
            return command_line(self.owner_pid, address, self.settings.launch.health, command)
        start = self._kind.start
        if start is None:
            raise ValueError("arms.check_servers refuses a kind that nobody can start")
        threads = max(1, _cores() // at_once(self.settings, self.kv))
        return start.command(self.settings, self._types(name), self.owner_pid, address, threads)

    def _command_of_user(self, name: str) -> list[str]:
        policy, budget = arms.arms(self.settings, self.kv)[name]
        values = {"policy": policy, "kv": self._types(name)[0], "model": self.settings.model}
        values["budget"] = f"{budget:g}"
        return [_filled(word, values) for word in _words(self.settings.launch.command or "")]


def at_once(settings: EngineSettings, kv: KV) -> int:
    """How many servers may be up together: all, unless they are ours and bounded."""
    count = len(arms.arms(settings, kv))
    return count if settings.addresses else min(count, settings.launch.at_once or count)


def check_declared(settings: EngineSettings, facts: Mapping[str, str]) -> None:
    """Refuse a server that tells something else than was declared.

    Raises:
        EngineError: naming both.
    """
    for name, value in settings.declared.items():
        if facts.get(name, value) != value:
            raise EngineError(
                f"engine.declared.{name} is {value!r}, the server says {facts[name]!r}",
                "declare what is served, or serve what is declared",
            )


def _filled(word: str, values: Mapping[str, str]) -> str:
    # Not str.format: a command line may hold JSON.
    for name, value in values.items():
        word = word.replace(f"{{{name}}}", value)
    return word


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"engine.launch.command: {error}", "close the quotation") from None
    if not words:
        raise UsageError("engine.launch.command: is empty", "valid: a command line with {port}")
    return words


def _slug(name: str) -> str:
    return re.sub(r"[^\w.@-]", "_", name)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
