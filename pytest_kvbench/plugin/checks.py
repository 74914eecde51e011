"""What a check of a cell ends with, where it does not simply pass."""

from __future__ import annotations


class UndeterminedWarning(UserWarning):
    """A gated cell neither holds nor breaks: more examples are needed."""


class UnverifiedWarning(UserWarning):
    """A gated cell holds, and nothing proves that its budget was applied."""


class CheckError(AssertionError):
    """A check that failed; `short` says it in a few words, for a list of failed items."""

    def __init__(self, message: str, short: str) -> None:
        super().__init__(message)
        self.short = short
