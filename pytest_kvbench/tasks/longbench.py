"""`longbench/NAME`: LongBench v1 and its `_e` half (Bai et al., arXiv 2308.14508; THUDM/LongBench).

What changes scores, and is done as upstream does it: prompts longer than `max_length` tokens are
cut in the middle before the chat template; six tasks go without chat template; four count the
reply's first line alone (their metrics say so); samsum stops at a line's end. Upstream also forbids
samsum to stop at once, which an OpenAI-style server cannot be told.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

from pytest_kvbench.errors import UsageError
from pytest_kvbench.records import Example, Prompt
from pytest_kvbench.score.metric import check_meta, get_metric
from pytest_kvbench.tasks.archive import (
    Archive,
    cache_folder,
    fetch_pinned,
    local_archive,
    read_config,
)
from pytest_kvbench.tasks.base import (
    Options,
    example_id,
    read_options,
    template_version,
    unknown_task,
)
from pytest_kvbench.tasks.columns import Row, answers_of, text_of, whole_of
from pytest_kvbench.tasks.given import Benchmark, BenchmarkOptions
from pytest_kvbench.tasks.hub import hub_file
from pytest_kvbench.tasks.tokenizers import Tokenizer
from pytest_kvbench.wire import sound

FAMILY = "longbench"
VARIABLE = "KVBENCH_LONGBENCH"
REPO = "zai-org/LongBench"
REVISION = "5e628be450b7e67fb7ae6e201bd6d8f7056f7672"
CONFIG_COMMIT = "2e00731f8d0bff23dc4325161044d0ed8af94c1e"
CONFIG_URL = "https://raw.githubusercontent.com/THUDM/LongBench/{commit}/LongBench/config/{file}"
CONFIG_SHA256 = {
    "dataset2prompt.json": "56d22ad4f382169c2b8a11ff4c982a4a1bea096c8152b0f0b85b64686b157c30",
    "dataset2maxlen.json": "72966b3c0933e214591637fb085798c5e687ebff4ddaab5d99bbc31120532022",
}

_ANSWER = "Text:\n{context}\n\nAnswer the question from the text, in as few words as possible.\n\n"
_QA = _ANSWER + "Question: {input}\nAnswer:"
_QA_ZH = "文本：\n{context}\n\n请根据文本用尽量少的文字回答问题。\n\n问题：{input}\n答案："
_SUMMARY = "Text:\n{context}\n\nWrite a summary of this text on one page.\n\nSummary:"
_SUMMARY_ZH = "会议记录：\n{context}\n\n请写出会议总结。\n\n总结："
_QUERY = "Meeting:\n{context}\n\nAnswer from the meeting, in a few sentences.\n\n{input}\nAnswer:"
_SHOTS = "{context}\n{input}"
_COUNT = "{context}\n\nHow many different paragraphs are above? Say the number only.\n\nNumber:"
_FIND = (
    "{context}\n\nWhich paragraph above does this abstract sum up?\n\n{input}\n\n"
    'Answer like "Paragraph 1".\n\nAnswer:'
)
_FIND_ZH = "{context}\n\n下面的摘要出自上面哪一段？\n\n{input}\n\n请按“段落1”的格式回答。\n\n答案："
_CODE = "{context}{input}"


class Config(NamedTuple):
    """LongBench's two config files: data set -> prompt, and the most new tokens of a reply."""

    prompts: Mapping[str, object]
    lengths: Mapping[str, object]


@dataclass(frozen=True)
class Facts:
    """What LongBench fixes for a data set: metric, reply length, and our wording of its prompt."""

    metric: str
    max_tokens: int
    template: str
    chat: bool = True
    stop: tuple[str, ...] = ()


FACTS: Mapping[str, Facts] = {
    "narrativeqa": Facts("f1", 128, _QA),
    "qasper": Facts("f1", 128, _QA),
    "multifieldqa_en": Facts("f1", 64, _QA),
    "multifieldqa_zh": Facts("f1_zh", 64, _QA_ZH),
    "hotpotqa": Facts("f1", 32, _QA),
    "2wikimqa": Facts("f1", 32, _QA),
    "musique": Facts("f1", 32, _QA),
    "dureader": Facts("rouge_l_zh", 128, _QA_ZH),
    "gov_report": Facts("rouge_l", 512, _SUMMARY),
    "qmsum": Facts("rouge_l", 512, _QUERY),
    "multi_news": Facts("rouge_l", 512, _SUMMARY),
    "vcsum": Facts("rouge_l_zh", 512, _SUMMARY_ZH),
    "trec": Facts("classification_first_line", 64, _SHOTS, chat=False),
    "triviaqa": Facts("f1_first_line", 32, _SHOTS, chat=False),
    "samsum": Facts("rouge_l_first_line", 128, _SHOTS, chat=False, stop=("\n",)),
    "lsht": Facts("classification_first_line", 64, _SHOTS, chat=False),
    "passage_count": Facts("count", 32, _COUNT),
    "passage_retrieval_en": Facts("retrieval", 32, _FIND),
    "passage_retrieval_zh": Facts("retrieval_zh", 32, _FIND_ZH),
    "lcc": Facts("code_similarity", 64, _CODE, chat=False),
    "repobench-p": Facts("code_similarity", 64, _CODE, chat=False),
}

IN_E = (
    "qasper",
    "multifieldqa_en",
    "hotpotqa",
    "2wikimqa",
    "gov_report",
    "multi_news",
    "trec",
    "triviaqa",
    "samsum",
    "passage_count",
    "passage_retrieval_en",
    "lcc",
    "repobench-p",
)
"""The data sets that LongBench-E has too, as `<name>_e`: rows balanced over three lengths."""

PUBLISHED = (*FACTS, *(f"{name}_e" for name in IN_E))


class LongBenchOptions(BenchmarkOptions):
    """Options of `longbench/*`.

    `path`: folder or zip with the data (else `KVBENCH_LONGBENCH`, else the hub). `max_length`:
    tokens of the longest prompt; upstream takes a model's context less 500 (3500, 7500, 15500,
    31500). `metric`: another one than LongBench's (`code_similarity_levenshtein` for code).
    `template`, and `metric`, are needed for data sets that LongBench does not have.
    """

    metric: str | None = None
    template: str | None = None


@dataclass(frozen=True)
class LongBench(Benchmark):
    """One data set. Its files are looked for, or downloaded, when something of them is needed."""

    variable: ClassVar[str] = VARIABLE
    dataset: str
    options: LongBenchOptions

    @property
    def name(self) -> str:
        """`longbench/<file name without .jsonl>`."""
        return f"{FAMILY}/{self.dataset}"

    @property
    def base(self) -> str:
        """The data set's name without the `_e` of LongBench-E."""
        return self.dataset.removesuffix("_e")

    @property
    def metric(self) -> str:
        """The metric that the option names, or LongBench's own for the data set."""
        return self.options.metric or self._facts.metric

    @property
    def source(self) -> str:
        """Whose prompts these are: `official` or `own`."""
        return "official" if self._config and not self.options.template else "own"

    @cached_property
    def template_version(self) -> str:
        """Whose wording it is, then the digest of the prompt's text and the reply's length."""
        version = template_version(
            text=self._template,
            max_tokens=self._max_tokens,
            chat=self._facts.chat,
            stop=self._facts.stop,
            max_length=self.options.max_length,
        )
        return f"{self.source}-{version}"

    @cached_property
    def data_version(self) -> str:
        """The sha256 of the data set's file."""
        return self._archive.digest(self.dataset)

    def _whole_prompt(self, example: Example) -> Prompt:
        """The template filled in; head and tail part where the context ends."""
        before, _, after = self._template.partition("{context}")
        head = before + example.context
        tail = after.replace("{input}", example.question)
        facts = self._facts
        return Prompt(head, tail, self._max_tokens, facts.chat, facts.stop)

    def every_example(self, _tokenizer: Tokenizer) -> Iterable[Example]:
        """Every row of the data set's file."""
        return (self._example(row, number) for number, row in enumerate(self._rows(), start=1))

    def _rows(self) -> Iterator[Row]:
        return self._archive.rows(self.dataset)

    @cached_property
    def _archive(self) -> Archive:
        archive = open_archive(self.options.path)
        if self.dataset not in archive.files:
            raise unknown_task(self.name, _named(archive.files))
        return archive

    def _example(self, row: Row, number: int) -> Example:
        published = self.dataset in PUBLISHED  # whose metrics give nothing for a blank answer
        keys = ("length", "language", "all_classes", "_id")
        meta = {key: row[key] for key in keys if row.get(key) is not None}
        try:
            question, context = text_of(row, "input"), text_of(row, "context")
            answers = answers_of(row.get("answers"), blank=published)
            check_meta(self.metric, meta)
        except ValueError as error:
            raise UsageError(
                f"{self.name}: row {number}: {error}", "needed: input, context, answers"
            ) from error
        identity = example_id(FAMILY, question, context, answers, str(row.get("_id", "")))
        return Example(identity, question, context, answers, meta)

    @cached_property
    def _facts(self) -> Facts:
        if self.base in FACTS:
            return FACTS[self.base]
        if self.options.metric and (self.options.template or self._config):
            return Facts(self.options.metric, 64, self.options.template or "")
        raise UsageError(
            f"{self.name} is none of LongBench's data sets ({', '.join(FACTS)}; some also with _e)",
            f"for data of your own: task_options: {{{self.name}: {{metric: ..., template: ...}}}}",
        )

    @property
    def _template(self) -> str:
        official = self._config.prompts.get(self.base) if self._config else None
        return str(self.options.template or official or self._facts.template)

    @property
    def _max_tokens(self) -> int:
        official = whole_of(self._config.lengths, self.base) if self._config else None
        return official or self._facts.max_tokens

    @cached_property
    def _config(self) -> Config | None:
        """LongBench's two config files, where they are to be had."""
        return load_config(open_archive(self.options.path))


def open_archive(path: str | None) -> Archive:
    """The data: the option's path, `KVBENCH_LONGBENCH`, or the hub's `data.zip`, in this order."""
    local = local_archive(path, VARIABLE)
    return local or Archive(hub_file(REPO, "data.zip", REVISION, VARIABLE))


def load_config(archive: Archive) -> Config | None:
    """Prompts and reply lengths: beside the data, else the pinned ones from LongBench's repository.

    Both files or none: half of them would be a mix of two wordings under one name.
    """
    beside = [read_config(archive.side / "config" / file) for file in CONFIG_SHA256]
    if all(beside):
        return Config(*beside)
    try:
        return Config(*map(_pinned, CONFIG_SHA256))
    except OSError as error:
        warnings.warn(
            f"LongBench's own prompts are not to be had ({error}): using our own wording. "
            f"Scores will differ from published ones. Put config/ beside the data in {VARIABLE}.",
            stacklevel=2,
        )
        return None


def _pinned(file: str) -> Mapping[str, object]:
    url = CONFIG_URL.format(commit=CONFIG_COMMIT, file=file)
    target = cache_folder() / "longbench" / CONFIG_COMMIT[:12] / file
    return sound.fields(json.loads(fetch_pinned(url, CONFIG_SHA256[file], target)))


def names(options: Options) -> list[str]:
    """The tasks in the local data; where there are none, those of the hub's archive."""
    path = options.get("path")  # not yet read: what is no text is refused there
    archive = local_archive(path if isinstance(path, str) else None, VARIABLE)
    return _named(PUBLISHED if archive is None else archive.files)


def _named(files: Iterable[str]) -> list[str]:
    return [f"{FAMILY}/{file}" for file in files]


def longbench(dataset: str, options: Options) -> LongBench:
    """`longbench/<dataset>`.

    Raises:
        UsageError: a wrong option, or a data set that neither LongBench nor the data have.
    """
    read = read_options(LongBenchOptions, f"{FAMILY}/{dataset}", options)
    if read.metric:
        get_metric(read.metric)
    # A published name is enough for scoring; whether its data are there shows when they are read.
    if dataset not in PUBLISHED and f"{FAMILY}/{dataset}" not in names(options):
        raise unknown_task(f"{FAMILY}/{dataset}", names(options))
    return LongBench(dataset, read)
