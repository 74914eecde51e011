"""The prediction files of other programs, a row at a time: the reply, and the right answers.

A row's format is recognised by its columns. What a benchmark's own scorer does to a reply before it
looks at it is done here too, so that the same row gets the same score.

    kvbench      prediction, answers                    any harness
    LongBench    pred, answers                          pred.py
    LongBench 2  pred, answer                           pred.py: `pred` is a letter or null
    RULER        pred, outputs (the references)         call_api.py
    kvpress      predicted_answer, answer or answers    evaluate.py, a CSV
    lm-eval      doc, filtered_resps or resps, target   --log_samples
    InfiniteBench  prediction or pred, label or ground_truth
    BABILong     output, target, question               a CSV
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pytest_kvbench.score.choice import stated_choice
from pytest_kvbench.tasks.columns import Row, answers_of, first_list

_CONTROL = re.compile(r"[\x00-\x1f]")
_ITEM = re.compile(
    r"""[\s,]*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?=[\s,\]]))""", re.DOTALL
)
_QUOTED_LIST = re.compile(r"""\[\s*['"]""")
_NO_LETTER = "a reply in which its own program read no letter"
_REFERENCES = ("answers", "outputs", "answer")


@dataclass(frozen=True)
class Prediction:
    """One reply and its references; `meta` is what else a metric may need.

    `task` is the row's own word for its task within the family, "" where it has none.
    """

    text: str
    answers: tuple[str, ...]
    meta: Row
    finish_reason: str = "stop"
    task: str = ""

    @property
    def context(self) -> str | None:
        """The text that was asked about, where the row has it."""
        context = self.meta.get("context")
        return context if isinstance(context, str) else None


@dataclass(frozen=True)
class Format:
    """How a format is recognised, and how its rows are read.

    Args:
        name: of the program that writes it.
        needs: columns it must have; of a tuple inside, one.
        read: gives the prediction; raises ValueError for a value that cannot be read.
        clean: what its scorer makes of a reply first; told the task's family and metric.
    """

    name: str
    needs: tuple[str | tuple[str, ...], ...]
    read: Callable[[Row], Prediction]
    clean: Callable[[str, str, str], str] | None = None

    def fits(self, row: Row) -> bool:
        """Whether a row has the columns that this format needs."""
        return all(
            any(one in row for one in ((need,) if isinstance(need, str) else need))
            for need in self.needs
        )

    def __str__(self) -> str:
        words = [need if isinstance(need, str) else " or ".join(need) for need in self.needs]
        return f"{self.name}: {', '.join(words)}"


def read_prediction(row: Row) -> tuple[Format, Prediction]:
    """The format of a row, and the prediction in it.

    Raises:
        ValueError: no format has such columns, or a value cannot be read.
    """
    fitting = next((one for one in FORMATS if one.fits(row)), None)
    if fitting is None:
        raise ValueError(f"its columns are {', '.join(map(str, row)) or 'none'}")
    return fitting, fitting.read(row)


def listed(cell: object) -> object:
    """The list that a table's cell shows, by Python or by numpy; else the cell itself.

    numpy puts no commas between texts, so that Python would read two of them as one.

    Raises:
        ValueError: it begins as a list of texts and does not end as one.
    """
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return cell
    text, at, items = cell.strip(), 1, []
    while found := _ITEM.match(text, at):
        items.append(str(ast.literal_eval(found[1])))
        at = found.end()
    if re.fullmatch(r"[\s,]*\]", text[at:]):
        return items
    if _QUOTED_LIST.match(text):
        raise ValueError(f"{text[:60]!r} is no whole list of texts")
    return cell


# -- the formats ---------------------------------------------------------------------------------


def _plain(row: Row) -> Prediction:
    meta = {**row, "all_classes": listed(row.get("all_classes"))}
    reason = row.get("finish_reason") or "stop"
    answers = _references(row["answers"])
    text = _text(row["prediction"], "prediction")
    return Prediction(text, answers, meta, str(reason), _whole_name(row))


def _longbench(row: Row) -> Prediction:
    meta = {**row, "all_classes": listed(row.get("all_classes"))}
    return Prediction(_text(row["pred"], "pred"), _references(row["answers"]), meta)


def _longbench2(row: Row) -> Prediction:
    """`pred` is the letter that was read in `response`: what upstream counts."""
    letter, response = row["pred"] or None, row.get("response") or ""
    if letter is not None and not re.fullmatch(r"[A-D]", str(letter)):
        raise ValueError(f"pred is {letter!r}; valid: A, B, C, D or null")
    text = str(response)
    if stated_choice(text) != letter:
        text = f"The correct answer is ({letter})" if letter else _NO_LETTER
    return Prediction(text, _references(row["answer"]), row)


def _ruler(row: Row) -> Prediction:
    found = row["outputs"] if "outputs" in row else row["output"]
    return Prediction(_text(row["pred"], "pred"), _references(found), row)


def _kvpress(row: Row) -> Prediction:
    found = row["answers"] if "answers" in row else row["answer"]
    meta = {**row, "all_classes": listed(row.get("all_classes"))}
    text = _text(row["predicted_answer"], "predicted_answer")
    return Prediction(text, _references(found), meta, task=str(row.get("task") or ""))


def _lm_eval(row: Row) -> Prediction:
    """The reply as the filter left it; its document has all references, `target` often the first.

    Of several repeats lm-eval takes the first too.
    """
    doc = row["doc"] if isinstance(row["doc"], Mapping) else {}
    responses = row.get("filtered_resps") or row.get("resps")
    while isinstance(responses, Sequence) and responses and not isinstance(responses, str):
        if (
            len(responses) == 2
            and isinstance(responses[1], bool | str)
            and _is_number(responses[0])
        ):
            raise ValueError("resps are log-likelihoods, not replies")
        responses = responses[0]
    found = next((doc[key] for key in _REFERENCES if key in doc), row.get("target"))
    meta = {**doc, "all_classes": listed(doc.get("all_classes"))}
    return Prediction(_text(responses, "resps"), _references(found), meta)


def _infinitebench(row: Row) -> Prediction:
    """A label is a text, a number, or a list of either; En.MC has the option and its letter."""
    text = row["prediction"] if "prediction" in row else row["pred"]
    answers = _references(first_list(row["label"] if "label" in row else row["ground_truth"]))
    return Prediction(_text(text, "prediction"), answers, row, task=_whole_name(row))


def _babilong(row: Row) -> Prediction:
    """The labels that may be answered are the task's."""
    return Prediction(_text(row["output"], "output"), _references(row["target"]), row)


def _whole_name(row: Row) -> str:
    """The task that a row names as `family/name`; a bare name may be anything."""
    task = row.get("task")
    return task if isinstance(task, str) and "/" in task else ""


def _references(cell: object) -> tuple[str, ...]:
    return answers_of(listed(cell), numbers=True)


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{column} is not a text")
    return value


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


# -- what their scorers do first -----------------------------------------------------------------


def _clean_ruler(text: str, family: str, metric: str) -> str:  # noqa: ARG001  # as `Format.clean`
    return _CONTROL.sub("\n", text.strip()).strip()


def _clean_kvpress(text: str, family: str, metric: str) -> str:
    if family == "ruler":
        return _CONTROL.sub("", text.strip()).strip()
    return text.lstrip() if metric.endswith("_first_line") else text


FORMATS: Sequence[Format] = (
    Format("kvbench", ("prediction", "answers"), _plain),
    Format("lm-eval", ("doc", ("filtered_resps", "resps")), _lm_eval),
    Format("kvpress", ("predicted_answer", ("answers", "answer")), _kvpress, _clean_kvpress),
    Format("RULER", ("pred", ("outputs", "output")), _ruler, _clean_ruler),
    Format("LongBench", ("pred", "answers"), _longbench),
    Format("LongBench v2", ("pred", "answer"), _longbench2),
    Format("InfiniteBench", (("prediction", "pred"), ("label", "ground_truth")), _infinitebench),
    Format("BABILong", ("output", "target", "question"), _babilong),
)
"""In the order in which they are tried."""
