"""Why requests failed, in the words of who failed them: each kind once, and how often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_kvbench import hints
from pytest_kvbench.records import Failure
from pytest_kvbench.report import text
from pytest_kvbench.rows import FailureMessage
from pytest_kvbench.wire import sound

_KINDS = 5
_SHOWN = 3
_LONGEST = 160
"""Characters of a message within a sentence."""


def failure_messages(failures: Iterable[Failure]) -> list[FailureMessage]:
    """Why requests failed: the first few messages, and how often each came, numbers aside.

    Requests that were not even sent come last: others tell why.
    """
    messages_of: dict[tuple[str, str], list[str]] = {}
    for failure in failures:
        alike = (failure.kind, sound.words(failure.message))
        messages_of.setdefault(alike, []).append(failure.message)
    return [
        {"kind": kind, "message": messages[0], "n": len(messages)}
        for (kind, _), messages in sorted(messages_of.items(), key=_is_unsent)[:_KINDS]
    ]


def _is_unsent(alike: tuple[tuple[str, str], object]) -> bool:
    (_, words), _ = alike
    return words.startswith("not asked")


def failure_words(messages: Sequence[FailureMessage]) -> str:
    """The messages within a sentence: `3 x HTTP 503: stalled; 1 x HTTP 500: out of memory`."""
    return "; ".join(
        f"{one['n']:,} x {text.fit(text.plain(one['message']), _LONGEST)}" for one in messages
    )


def failure_lines(messages: Sequence[FailureMessage], failed: int, width: int = 80) -> list[str]:
    """How many requests failed, and why: a kind of message each, the first one's with the count."""
    first, *others = (f"{one['n']:,} x {text.plain(one['message'])}" for one in messages[:_SHOWN])
    more = failed - sum(message["n"] for message in messages[:_SHOWN])
    others += [f"{more:,} x other messages"] if more > 0 else []
    head = f"{hints.count(failed, 'request')} failed: {first}"
    sentences = (head, *(f"  {line}" for line in others))
    return [line for sentence in sentences for line in text.wrapped(sentence, width)]
