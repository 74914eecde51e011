"""`ruler_made/NAME`: RULER's 13 tasks made here, at any length, with the tokenizer that serves.

`qa_1` and `qa_2` need a file of SQuAD or HotpotQA. The wording is ours, or RULER's where its
`constants.py` and `niah.py` are to be had (`scripts/data/synthetic` of its repository).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import Field

from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import parse_json, read_text
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.tasks import ruler_contexts
from pytest_kvbench.tasks.base import (
    Options,
    TaskOptions,
    example_id,
    files_digest,
    read_options,
    seeded,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, list_in, rows_in, text_of, texts_in
from pytest_kvbench.tasks.counting import vocabulary
from pytest_kvbench.tasks.generated import Generated, Slot
from pytest_kvbench.tasks.haystack import load_haystack, word_costs
from pytest_kvbench.tasks.ruler import TOKENS
from pytest_kvbench.tasks.ruler_contexts import LINE, Costs, Needles, Question, Text
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.tasks.wording import Wording, constants
from pytest_kvbench.wire import sound

FAMILY = "ruler_made"

NIAH: Mapping[str, Needles] = {
    "niah_single_1": Needles("noise"),
    "niah_single_2": Needles("prose"),
    "niah_single_3": Needles("prose", value="uuids"),
    "niah_multikey_1": Needles("prose", keys=4),
    "niah_multikey_2": Needles("needle"),
    "niah_multikey_3": Needles("needle", "uuids", "uuids"),
    "niah_multivalue": Needles("prose", values=4),
    "niah_multiquery": Needles("prose", queries=4),
}
"""Task -> what is hidden (synthetic.yaml)."""

_SENTENCE = "Among the secret {type_needle_v}, that of {key} reads: {value}."
_OWN: Mapping[str, str] = {
    "niah": "Some secret {type_needle_v} are hidden in the text below.\n{context}\n"
    "By the text, what are all the secret {type_needle_v} of {query}? The text says:",
    "variable_tracking": "Keep track of the variables in this text.\n\n{context}\n"
    "Question: Which variables are {query} in the end? Answer: There are {num_v}:",
    "common_words_extraction": "A numbered list of words, some of them far more frequent.\n"
    "{context}\nQuestion: Which 10 words are the most frequent? Answer: The 10 words are:",
    "freq_words_extraction": "A text in code, in which dots mean nothing.\n{context}\n"
    "Question: Which three coded words are the most frequent? Answer: The three words are:",
    "qa": "Answer from these documents. Say the answer only.\n\n{context}\n\n"
    "Question: {query} Answer:",
}
_KINDS: Mapping[str, str] = {
    **dict.fromkeys(NIAH, "niah"),
    "vt": "variable_tracking",
    "cwe": "common_words_extraction",
    "fwe": "freq_words_extraction",
    **dict.fromkeys(("qa_1", "qa_2"), "qa"),
}
_TO_ONE = (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer"))
"""What RULER replaces in its template where one value is asked for."""

_SHOT = 300  # tokens of the worked example's text


class RulerMadeOptions(TaskOptions):
    """Options of `ruler_made/*`.

    `path`: for `qa_1` and `qa_2`, the file of SQuAD or HotpotQA. `templates`: the folder of RULER's
    `constants.py` and `niah.py`, for its own wording. `chat`: whether the chat template is applied;
    by default not, as prompts end with the answer's first words. `shot`: whether `vt` and `cwe`
    begin with a worked example, as RULER's do.
    """

    path: str | None = None
    templates: str | None = None
    chat: bool = False
    shot: bool = Field(default=True)


@dataclass(frozen=True)
class RulerMade(Generated):
    """One of the 13 tasks."""

    task: str
    options: RulerMadeOptions

    @property
    def name(self) -> str:
        """`ruler_made/<task>`."""
        return f"{FAMILY}/{self.task}"

    @property
    def max_tokens(self) -> int:
        """New tokens of a reply: RULER's."""
        return TOKENS[self.task]

    @property
    def _shape(self) -> Mapping[str, object]:
        return {"chat": self.options.chat, "shot": self.options.shot, "sentence": self._sentence}

    @cached_property
    def template_version(self) -> str:
        """Whose wording it is, then the digest of all that shapes a prompt."""
        return self._wording.version(task=self.task, max_tokens=self.max_tokens, **self._shape)

    def prompt(self, example: Example) -> Prompt:
        """The worked example, if there is one, then instruction, text and question."""
        given = sound.fields(example.meta["fields"])
        fields = {"example": "", **{name: str(text) for name, text in given.items()}}
        head, tail = self._wording.parts(example.context, fields)
        return Prompt(
            text_of(example.meta, "shot") + head, tail, self.max_tokens, self.options.chat
        )

    def _make(self, slot: Slot, filler: int, costs: Costs) -> Example:
        text = self._text(slot, filler, costs)
        fields = self._numbered(text)
        meta: dict[str, object] = {"fields": fields, "shot": self._shot(slot, costs)}
        if text.depths:
            meta |= {"depth": text.depths[0], "depths": list(text.depths)}
        question = self._wording.parts("", {**fields, "example": ""})[1]
        identity = example_id(self.name, question, text.context, text.answers, str(slot.source))
        return Example(identity, question, text.context, text.answers, meta)

    def _text(self, slot: Slot, filler: int, costs: Costs) -> Text:
        rng = slot.rng()
        if self.task in NIAH:
            return ruler_contexts.needles(
                NIAH[self.task], self._sentence, rng, slot.depth, filler, costs
            )
        if self.task == "vt":
            return ruler_contexts.chain(rng, filler, costs)
        if self.task == "cwe":
            return ruler_contexts.common_words(rng, filler, costs)
        if self.task == "fwe":
            return ruler_contexts.coded_words(rng, filler, costs)
        return ruler_contexts.documents(rng.choice(self._asked), self._pool, rng, filler, costs)

    def _numbered(self, text: Text) -> dict[str, str]:
        """What the question names; in the singular where one value is asked for."""
        fields = dict(text.fields)
        if self.task in NIAH and NIAH[self.task].is_one:
            fields["type_needle_v"] = fields["type_needle_v"].removesuffix("s")
        return fields

    def _shot(self, slot: Slot, costs: Costs) -> str:
        """The worked example: a short text of another seed with its answer."""
        if self.task not in {"vt", "cwe"} or not self.options.shot:
            return ""
        other = Slot(slot.low, slot.high, slot.target, slot.depth, (*slot.source, "shot"))
        text = self._text(other, _SHOT, costs)
        head, tail = self._wording.parts(text.context, {**text.fields, "example": ""})
        listed = enumerate(text.answers, start=1)
        answers = " ".join(f"{n}. {w}" if self.task == "cwe" else w for n, w in listed)
        return f"{head}{tail} {answers}\n\n"

    def _costs(self, tokenizer: Tokenizer) -> Mapping[str, int]:
        if self.task.startswith("qa_"):
            counts = tokenizer.costs([f"Document 100:\n{text}\n\n" for text in self._pool])
            return dict(zip(self._pool, counts, strict=True))
        haystack = "noise" if self.task == "vt" else getattr(NIAH.get(self.task), "haystack", "")
        if haystack in {"noise", "prose"}:
            return word_costs(load_haystack(haystack), tokenizer)
        lines = self._some_lines()
        return {LINE: max(1, round(sum(tokenizer.costs(lines)) / len(lines)))}

    def _some_lines(self) -> list[str]:
        """Lines of a text as samples of what one costs."""
        rng = seeded(FAMILY, self.task)
        if self.task in NIAH:
            what = NIAH[self.task]
            return ruler_contexts.lines(what, self._sentence, rng, 20)
        if self.task == "cwe":
            return [f" {1000 + n}. {word}" for n, word in enumerate(vocabulary()[:200])]
        return [f" {word}" for word in (*["..."] * 60, *ruler_contexts.made_up(rng, 40))]

    @cached_property
    def _templates(self) -> Mapping[str, object]:
        place = Path(self.options.templates).expanduser() if self.options.templates else None
        return {**constants(place, "niah.py"), **constants(place, "constants.py")}

    @cached_property
    def _sentence(self) -> str:
        return str(self._templates.get("needle", _SENTENCE))

    @cached_property
    def _wording(self) -> Wording:
        kind = _KINDS[self.task]
        official = sound.fields(self._templates.get("TASKS")).get(kind)
        if not isinstance(official, Mapping):
            return Wording(self._in_number(_OWN[kind]))
        whole = text_of(official, "template") + text_of(official, "answer_prefix")
        return Wording(self._in_number(whole), official=True)

    def _in_number(self, template: str) -> str:
        if self.task in NIAH and NIAH[self.task].is_one:
            for several, one in _TO_ONE:
                template = template.replace(several, one)
        return template

    @cached_property
    def _asked(self) -> list[Question]:
        if self.options.path is None:
            raise UsageError(
                f"{self.name}: no file with questions",
                f"task_options: {{{self.name}: {{path: ...}}}}: SQuAD's or HotpotQA's JSON",
            )
        return read_questions(Path(self.options.path).expanduser())

    @cached_property
    def _pool(self) -> list[str]:
        return list(dict.fromkeys(text for asked in self._asked for text in asked.documents))


def read_questions(file: Path) -> list[Question]:
    """The questions with an answer of SQuAD's JSON (either version), or of HotpotQA's.

    Raises:
        UsageError: it is neither.
    """
    needed = "needed: SQuAD's `data`, or HotpotQA's list of question, answer and context"
    whole = parse_json(read_text(file), str(file), needed)
    try:
        asked = [*(_squad(whole) if isinstance(whole, Mapping) else _hotpot(whole))]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UsageError(f"{file}: {type(error).__name__}: {error}", needed) from error
    if not asked:
        raise UsageError(f"{file}: holds no question", needed)
    return asked


def _squad(whole: Row) -> Iterator[Question]:
    articles = rows_in(whole["data"], "data")
    for paragraph in (p for one in articles for p in rows_in(one["paragraphs"], "paragraphs")):
        for qa in rows_in(paragraph["qas"], "qas"):
            given = rows_in(qa["answers"], "answers")
            answers = tuple(dict.fromkeys(text_of(answer, "text") for answer in given))
            if answers and not qa.get("is_impossible"):
                yield Question(text_of(qa, "question"), answers, (text_of(paragraph, "context"),))


def _hotpot(whole: list[Row]) -> Iterator[Question]:
    for row in whole:
        documents = tuple(_document(one) for one in list_in(row["context"], "context"))
        yield Question(text_of(row, "question"), (text_of(row, "answer"),), documents)


def _document(titled: object) -> str:
    title, sentences = list_in(titled, "context")
    return f"{title}\n{''.join(texts_in(sentences, 'context'))}"


def names(options: Options) -> list[str]:  # noqa: ARG001  # a family's signature
    """The names of all 13 tasks of the family."""
    return [f"{FAMILY}/{task}" for task in TOKENS]


def ruler_made(task: str, options: Options) -> RulerMade:
    """`ruler_made/<task>`.

    Raises:
        UsageError: an unknown task or option, or a file that cannot be read.
    """
    if task not in TOKENS:
        raise unknown_task(f"{FAMILY}/{task}", names(options))
    read = read_options(RulerMadeOptions, f"{FAMILY}/{task}", options)
    is_qa = task.startswith("qa_")
    return RulerMade(
        metric="any_of" if is_qa else "all_of",
        data_version=files_digest([Path(read.path).expanduser()]) if is_qa and read.path else "",
        task=task,
        options=read,
    )
