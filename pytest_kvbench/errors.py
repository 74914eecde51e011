"""What can go wrong, as one tree.

    KvbenchError                 two readable lines: what is wrong, what is valid or what to do
    ├── UsageError               the user's input: exit code 4
    │   ├── ExperimentError      a YAML file, a marker, an override
    │   └── MissingPrerequisiteError  a stage asked for before the one it needs
    ├── GuardError               stored data does not fit the experiment: exit code 4
    └── InfrastructureError      what cannot be measured: exit code 10
        ├── ControlError         a full cache that has nothing to lose
        ├── EngineError          a server that does not start, answer or keep its word
        │   └── RefusedError     it was asked, and refused as it would refuse all else
        └── StoreError           a database that cannot be read or written

Nothing in the package raises a bare exception for a situation a user can meet.
"""

from __future__ import annotations


class KvbenchError(Exception):
    """Base of all errors meant for people.

    Args:
        what: what is wrong, naming the file, key and value.
        hint: what is valid, or the next step. Printed as a second line.
    """

    def __init__(self, what: str, hint: str = "") -> None:
        self.what = what
        self.hint = hint
        super().__init__(f"{what}\n{hint}" if hint else what)

    def __reduce__(self) -> tuple[type[KvbenchError], tuple[str, str]]:
        return type(self), (self.what, self.hint)


class UsageError(KvbenchError):
    """The user's input is wrong."""


class ExperimentError(UsageError):
    """An experiment file, marker or override is wrong."""


class MissingPrerequisiteError(UsageError):
    """A stage was asked for before the stage it needs; the hint names the command."""


class GuardError(KvbenchError):
    """What is stored was made by a different experiment."""


class InfrastructureError(KvbenchError):
    """Something could not be measured."""


class ControlError(InfrastructureError):
    """A control is not worth comparing with: its treatments were not asked."""


class EngineError(InfrastructureError):
    """A server did not start, answer, or apply what was asked."""


class RefusedError(EngineError):
    """A server refused a request that it was sent, for a reason that holds for every other."""


class StoreError(InfrastructureError):
    """The group database cannot be read or written."""
