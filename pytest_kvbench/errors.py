"""What can go wrong, as one tree, and the exit status each ends with.

    KvbenchError                 two readable lines: what is wrong, what is valid or what to do
    ├── UsageError            4  the user's input
    │   ├── ExperimentError      a YAML file, a marker, an override
    │   └── MissingPrerequisiteError  a stage asked for before the one it needs
    ├── GuardError            4  stored data does not fit the experiment
    └── InfrastructureError  10  what cannot be measured
        ├── ControlError      1  a full cache that has nothing to lose: that is a finding
        │   └── CutError     10  the server cut its prompts: nothing is found
        ├── EngineError          a server that does not start, answer or keep its word
        │   └── RefusedError     it was asked, and refused as it would refuse all else
        └── StoreError           a database that cannot be read or written

Nothing in the package raises a bare exception for a situation a user can meet. `EXIT_FOUND` is the
one status that is no error; 2, 3 and 5 are pytest's and click's own. Which of several a run ends
with, and why, is said by `pipeline.ending`.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_FOUND = 1
"""What was asked for was done, and what it found is bad: a break, a regression, damage."""

EXIT_INTERRUPTED = 2
"""Ctrl-C, as pytest ends with it: nothing was found, good or bad."""


INTERRUPTED = "interrupted: what was answered is kept; the same command goes on where it stopped"
"""What Ctrl-C is answered with."""


class KvbenchError(Exception):
    """Base of all errors meant for people.

    Args:
        what: what is wrong, naming the file, key and value.
        hint: what is valid, or the next step. Printed as a second line.
    """

    exit_status: ClassVar[int] = 10
    """What a process ends with that could not go on because of it, pytest's and ours."""

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n{hint}" if hint else what)

    def __reduce__(self) -> tuple[type[KvbenchError], tuple[str, str]]:
        return type(self), (self.what, self.hint)


class UsageError(KvbenchError):
    """The user's input is wrong."""

    exit_status = 4  # pytest's own for a wrong command line


class ExperimentError(UsageError):
    """An experiment file, marker or override is wrong."""


class MissingPrerequisiteError(UsageError):
    """A stage was asked for before the stage it needs; the hint names the command."""


class GuardError(KvbenchError):
    """What is stored was made by a different experiment."""

    exit_status = 4


class InfrastructureError(KvbenchError):
    """Something could not be measured."""

    exit_status = 10  # none of pytest's own


class ControlError(InfrastructureError):
    """A control is not worth comparing with: its treatments were not asked."""

    exit_status = EXIT_FOUND  # as its item fails, so that it is the same whatever is selected


class CutError(ControlError):
    """A control whose prompts did not arrive whole: its treatments were not asked."""

    exit_status = InfrastructureError.exit_status


class EngineError(InfrastructureError):
    """A server did not start, answer, or apply what was asked."""


class RefusedError(EngineError):
    """A server refused a request that it was sent, for a reason that holds for every other."""


class StoreError(InfrastructureError):
    """The group database cannot be read or written."""
