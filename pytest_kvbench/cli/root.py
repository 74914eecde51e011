"""The group of all commands: its help by what one wants to do, and how it ends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

import click

from pytest_kvbench.cli import reasons
from pytest_kvbench.errors import EXIT_INTERRUPTED, INTERRUPTED, KvbenchError

SECTIONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Begin": ("init", "validate", "resolve", "power", "inspect", "policies", "serve"),
        "Measure": ("all", "prepare", "run", "score", "analyse", "report", "batch", "wait"),
        "Judge what is there": ("judge", "score-file", "view", "save", "compare"),
        "Learn from many runs": (
            *("aggregate", "catalog", "best", "effects", "insights", "posterior"),
            *("targets", "promote", "export"),
        ),
        "Share": ("card", "reproduce", "leaderboard"),
        "Keep and tidy up": ("controls", "archive", "restore", "trust", "clean"),
    }
)
"""The commands by what one wants to do, in the order in which one comes to it."""

_MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "batch": ("batch",),
        "cards": ("card", "reproduce", "leaderboard"),
        "files": ("validate", "resolve"),
        "groups": ("compare", "save"),
        "keeping": ("controls", "archive", "restore", "trust", "clean"),
        "knowledge": ("aggregate", "catalog", "best", "effects", "insights", "export"),
        "policies": ("policies",),
        "posterior": ("posterior",),
        "power": ("power",),
        "scores": ("judge", "score-file", "inspect"),
        "serve": ("serve",),
        "start": ("init",),
        "targets": ("targets", "promote"),
        "view": ("view",),
        "waiting": ("wait",),
    }
)
_HOME = MappingProxyType({name: module for module, names in _MODULES.items() for name in names})
"""The commands that are not stages, each with its module: one command loads no other's."""


class Root(click.Group):
    """Errors meant for people end as two lines and an exit code, never as a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """The names of all commands, sorted, loaded or not."""
        return sorted({*self.commands, *_HOME})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, loaded when it is first asked for."""
        if cmd_name in _HOME and cmd_name not in self.commands:
            module = import_module(f"pytest_kvbench.cli.{_HOME[cmd_name]}")
            self.add_command(getattr(module, cmd_name.replace("-", "_")))
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click has it, which compares a mistyped name with the commands that are loaded."""
        if args[0] not in self.list_commands(ctx):
            for name in _HOME:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in their sections; one that is in none comes last."""
        placed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in placed)
        width = formatter.width - 6 - max(map(len, self.list_commands(ctx)))
        for title, names in {**SECTIONS, "More": others}.items():
            rows = [
                (name, command.get_short_help_str(width))
                for name in names
                if (command := self.get_command(ctx, name)) is not None
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; its reasons are the exit status."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: _warn(message)
            try:
                done = super().invoke(ctx)
            except KvbenchError as error:
                reasons.end(ctx, error)
            except KeyboardInterrupt:  # click would end it with 1, which is a finding
                click.echo(f"kvbench: {INTERRUPTED}", err=True)
                sys.exit(EXIT_INTERRUPTED)
            reasons.end(ctx)
            return done


def _warn(message: Warning | str) -> None:
    """A warning as a line of its own, without the place in the code."""
    click.echo(f"kvbench: warning: {message}", err=True)
