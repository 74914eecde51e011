"""Tries: which are worth repeating, how long one may take, and how long is waited in between."""

from __future__ import annotations

import time
from collections.abc import Mapping

import tenacity

from pytest_kvbench.records import FailureKind

TOO_MANY = 429
LONGEST_WAIT_S = 30.0
_BACKOFF = tenacity.wait_exponential_jitter(multiplier=0.5, max=LONGEST_WAIT_S, jitter=0.5)


class TransientError(Exception):
    """A try that is worth repeating."""

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        *,
        status: int | None = None,
        unreachable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.kind: FailureKind = kind
        self.status = status
        self.unreachable = unreachable
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Limited:
    """Counts what passes between a try that is refused for a rate limit and the next one."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._refused_at: float | None = None

    def __enter__(self) -> None:
        if self._refused_at is not None:
            self.waited_s += time.perf_counter() - self._refused_at

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        limited = isinstance(error, TransientError) and error.status == TOO_MANY
        self._refused_at = time.perf_counter() if limited else None


def tries(retries: int) -> tenacity.AsyncRetrying:
    """A first try and so many more, as long as they end in a `TransientError`."""
    return tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=_wait,
        retry=tenacity.retry_if_exception_type(TransientError),
        reraise=True,
    )


def deadline_s(timeout_s: float, retries: int) -> float:
    """What all tries of a request and the waits between them may take: every one its longest."""
    return (retries + 1) * timeout_s + retries * LONGEST_WAIT_S


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to wait."""
    try:
        return max(0.0, float(headers["Retry-After"]))
    except (KeyError, ValueError):
        return None  # absent, or a date: our own backoff serves


def _wait(state: tenacity.RetryCallState) -> float:
    """What the server asked for, else exponential backoff with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        return min(error.retry_after_s, LONGEST_WAIT_S)
    return _BACKOFF(state)
