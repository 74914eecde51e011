"""The line that is shown while cells are measured."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_kvbench.report import text


def progress_line(
    done: int,
    total: int,
    seconds: float,
    verdicts: Mapping[str, int],
    *,
    reused: int = 0,
    failed: int = 0,
    width: int = 80,
) -> str:
    """`120/300 answers, 3.2/s, 56 s left, 4 holds, 1 breaks`, as much of it as fits.

    Args:
        done: answers that are there, `reused` and `failed` ones included.
        total: answers wanted.
        seconds: since the first request was sent.
        verdicts: cells judged so far, by verdict.
        reused: of `done`, those that were stored before; they say nothing about speed.
        failed: of `done`, requests without a reply.
        width: of the terminal.
    """
    made = done - reused
    parts = [f"{done:,}/{total:,} answers"]
    if made > 0 and seconds > 0:
        rate = made / seconds
        parts += [_rate(rate)]
        parts += [f"{text.duration((total - done) / rate)} left"] if done < total else []
    parts += [f"{failed:,} failed"] if failed else []
    parts += [f"{n:,} {verdict}" for verdict in text.SYMBOLS if (n := verdicts.get(verdict, 0))]
    while len(parts) > 1 and len(", ".join(parts)) > width:
        parts.pop()
    return text.fit(", ".join(parts), width)


def _rate(per_second: float) -> str:
    if per_second >= 1:
        return f"{per_second:.1f}/s"
    return f"{60 * per_second:.1f}/min"
