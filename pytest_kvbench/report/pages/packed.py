"""Answers as data inside a page: compressed JSON, so that no text can pose as markup.

A page stays within a size. Of more answers it keeps what decides, in steps: whole prompts go
before replies, and what stayed the same before what changed. What was left out is said.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from pytest_kvbench.records import FULL_CACHE, WITHHELD
from pytest_kvbench.report.pages.marks import cut, marks_of
from pytest_kvbench.report.pages.records import Answer, Answers, Pair
from pytest_kvbench.selection import ManifestEntry

WHOLE = 10**9
_GZIP = 31  # of zlib's numbers for a container
RATIO = 20
"""No JSON of replies and prompts is pressed together further: larger is not even tried."""
TOKEN = 5
"""Characters of a prompt's token, about."""


@dataclass(frozen=True)
class Step:
    """How many characters are kept of prompts and replies: of what changed, of what did not.

    `most`: how many pairs, those that changed first.
    """

    note: str
    prompt: tuple[int, int] = (WHOLE, WHOLE)
    reply: tuple[int, int] = (20_000, 20_000)
    most: int = WHOLE


STEPS = (
    Step(""),
    Step("prompts are cut to their ends and what is marked in them", (6_000, 2_000)),
    Step(
        "prompts are here where an answer changed, cut to what is marked; long replies are cut",
        (2_000, 0),
        (4_000, 1_000),
    ),
    Step(
        "prompts are left out, and replies cut where an answer changed, left out where none did",
        (0, 0),
        (600, 0),
    ),
    Step("it holds the first 10,000 pairs, those that changed first", (0, 0), (300, 0), 10_000),
    Step("it holds the first 2,000 pairs, those that changed first", (0, 0), (200, 0), 2_000),
)


@dataclass(frozen=True)
class AnswersPage:
    """Answers inside a page: `rest` says where those are that it has no room for.

    `served`: by a server, which the page asks for what an example lacks.
    """

    found: Answers
    rest: str
    served: bool = False
    most: int = 1_990_000
    """Characters of the whole file."""
    least: int = 400_000
    """Characters for the answers, however much its pictures take."""

    @property
    def sides(self) -> tuple[str, str]:
        """What is compared."""
        return self.found.sides

    @property
    def connect(self) -> str:
        """What the page's policy allows beside nothing."""
        return "; connect-src 'self'" if self.served else ""

    @property
    def filters(self) -> tuple[tuple[str, str], ...]:
        """Names and titles of the lists to choose from."""
        return FILTERS

    def filled(self, html: str) -> str:
        """A page with its data."""
        before, element, after = html.partition(ELEMENT)
        room = max(self.least, self.most - len(html.encode()))
        return before + element + packed(self.found, room, served=self.served) + after


ELEMENT = '<script id="data" type="text/plain">'
FILTERS = (
    ("task", "Task"),
    ("bin", "Bin"),
    ("variant", "Variant"),
    ("policy", "Policy"),
    ("budget", "Budget"),
    ("verdict", "Verdict"),
    ("change", "Change"),
    ("label", "Label"),
    ("failure", "Failure"),
)


def packed(found: Answers, room: int, *, served: bool = False) -> str:
    """The data of a page as base64 of gzip, of at most `room` characters if any step is small.

    Args:
        found: what to show.
        room: how many characters it may have.
        served: whether the page can ask for what is left out of it.
    """
    text = ""
    for step in STEPS:
        if _size(found, step) <= RATIO * room or step is STEPS[-1]:
            text = _pressed(content(found, step, served=served))
            if len(text) <= room:
                break
    return text


def _pressed(data: Mapping[str, object]) -> str:
    """As base64 of gzip; the JSON of all answers is never there as a whole."""
    press = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    pressed = [press.compress(piece.encode()) for piece in _pieces(data)]
    return b64encode(b"".join([*pressed, press.flush()])).decode()


def _pieces(data: Mapping[str, object]) -> Iterator[str]:
    """The JSON of an object; what it has an iterator for is a list."""
    for start, (name, value) in zip(chain("{", repeat(",")), data.items(), strict=False):
        yield f"{start}{_json(name)}:"
        if isinstance(value, Iterator):
            rows = zip(chain([""], repeat(",")), value, strict=False)
            yield from chain("[", (f"{comma}{_json(row)}" for comma, row in rows), "]")
        else:
            yield _json(value)
    yield "}"


def _json(data: object) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))


def _size(found: Answers, step: Step) -> int:
    """About how many characters the JSON of a step has, without making it."""
    replies = sum(
        min(len(a.outcome.text or ""), step.reply[0]) + 100 for a in found.answers if a.outcome
    )
    prompts = sum(min(e.tokens * TOKEN, step.prompt[0]) + 300 for _, e in found.examples)
    return replies + prompts


def content(found: Answers, step: Step, *, served: bool = False) -> dict[str, object]:
    """The data of a page, as far as a step keeps them; examples and answers one by one."""
    pairs = _chosen(found, step.most)
    changed = {
        found.answers[place].example
        for pair in pairs
        if found.change(pair) != "same"
        for place in pair[1:]
    }
    kept = {found.answers[right].example for _, right in pairs}
    return {
        "sides": found.sides,
        "left_out": step.note,
        "served": served,
        "all": len(found.pairs),
        "arms": [[*arm, arm.label] for arm in found.arms],
        "examples": (
            example(found, place, step.prompt[place not in changed]) if place in kept else None
            for place in range(len(found.examples))
        ),
        "answers": (
            _answer(one, step.reply[one.example not in changed]) if one.example in kept else None
            for one in found.answers
        ),
        "pairs": pairs,
        "verdicts": [[*place, word] for place, word in _verdicts(found).items()],
    }


def _verdicts(found: Answers) -> dict[tuple[object, ...], str]:
    """By task, bin, variant, policy and budget; of several measures that of the first: scores."""
    return {key[:-1]: word for key, word in reversed([*found.verdicts.items()])}


def whole(found: Answers, place: int) -> dict[str, object]:
    """One example with all that is known of it: its prompts, and its answers by their places."""
    rows = {at: _answer(one, WHOLE) for at, one in enumerate(found.answers) if one.example == place}
    return {"example": example(found, place), "answers": rows}


def _chosen(found: Answers, most: int) -> Sequence[Pair]:
    if len(found.pairs) <= most:
        return found.pairs
    return sorted(found.pairs, key=lambda pair: found.change(pair) == "same")[:most]


def example(found: Answers, place: int, most: int = WHOLE) -> dict[str, object]:
    """One example with its prompts by variant, as far as they are kept."""
    task, entry = found.examples[place]
    one = entry.example
    marks = marks_of(one)
    return {
        "id": one.example_id,
        "task": task,
        "bin": entry.bin,
        "tokens": entry.tokens,
        "cluster": one.cluster,
        "question": one.question[: max(most, 500)],
        "answers": one.answers,
        "depth": one.meta.get("depth"),
        "marks": marks if most else [],
        "prompts": dict(_prompts(found, entry, marks, most)) if most else {},
    }


def _prompts(
    found: Answers, entry: ManifestEntry, marks: Sequence[str], most: int
) -> Iterator[tuple[str, dict[str, object] | str]]:
    """By variant: the pieces before the question and those from it on, and how long it is.

    Of the arm that is asked without the context, `VARIANT withheld`. One that is as another is its
    name.
    """
    met: dict[str, str] = {}
    for variant, bare in dict.fromkeys((arm.variant, arm.policy == WITHHELD) for arm in found.arms):
        name = f"{variant} {WITHHELD}" if bare else variant
        sent = found.prompt_of(entry, variant, WITHHELD if bare else FULL_CACHE)
        head = sent.head if sent else "" if bare else entry.example.context
        tail = sent.tail if sent else entry.example.question
        if (first := met.setdefault(head + tail, name)) != name:
            yield name, first
            continue
        parts = {"head": cut(head, marks, most), "tail": cut(tail, marks, most)}
        yield name, {**parts, "length": len(head) + len(tail), "sent": sent is not None}


def _answer(answer: Answer, most: int) -> list[object]:
    """One answer as a row; the page knows what stands where."""
    came = answer.outcome
    row: list[object] = [*answer[:4]]
    if came is None:
        return row
    reply = came.text
    return [
        *row,
        reply if reply is None else reply[:most],
        0 if reply is None else len(reply),
        came.label,
        came.failure,
        came.message,
        came.finish_reason,
        came.em,
        dict(came.parts or {}),
        came.latency_s if came.latency_s is None else round(came.latency_s, 4),
        came.ttft_s if came.ttft_s is None else round(came.ttft_s, 4),
        came.prompt_tokens,
        came.completion_tokens,
        came.achieved if came.achieved is None else round(came.achieved, 4),
        came.kept_bytes,
        came.full_bytes,
        answer.samples,
        came.note or "",
    ]
