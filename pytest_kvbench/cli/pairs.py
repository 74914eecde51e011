"""What `kvbench judge` is given, as a table: a CSV of pairs, or the results of two sides."""

from __future__ import annotations

import csv
import difflib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench import hints
from pytest_kvbench.cellkey import ALL_BINS
from pytest_kvbench.cli import given
from pytest_kvbench.errors import UsageError
from pytest_kvbench.reading import TextStream

if TYPE_CHECKING:
    import pandas as pd

    from pytest_kvbench.rows import JudgedPairs
    from pytest_kvbench.tasks.result_files import Choice, Scores

_Arm = tuple[str, float]
TEXTS = ("task", "policy", "example_id", "cluster", "variant", "measure")
NUMBERS = ("bin", "budget", "control", "treated", "control_high", "treated_high")
OPTIONAL = ("variant", "measure", "control_high", "treated_high")
_OTHER_MARKS = {"\t": "tabs", ";": "semicolons"}
_NEEDED = "give a CSV in UTF-8 with a header and commas between the columns"


def read_pairs(file: Path) -> pd.DataFrame:
    """The rows of a CSV; texts as they are, empty numbers as NaN.

    Raises:
        UsageError: no CSV, a column that is there twice, or rows that are longer than the header.
    """
    import pandas as pd

    stream = TextStream(file)
    header = _header(stream, file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # columns would be dropped
            return pd.read_csv(
                stream,
                names=header,
                header=None,
                index_col=False,
                skipinitialspace=True,
                dtype=dict.fromkeys(TEXTS, str),
                keep_default_na=False,  # a policy may be called NA or None
                na_values={column: ["", "nan", "NaN"] for column in NUMBERS},
                low_memory=False,  # else a column may be numbers in one piece and texts in another
            )
    except pd.errors.EmptyDataError:
        return pd.DataFrame(columns=header)
    except (ValueError, OverflowError, pd.errors.ParserWarning) as error:
        raise UsageError(f"{file}: is no CSV: {' '.join(str(error).split())}", _NEEDED) from error


def joined(control: Path, treated: Path, metric: str, task: str) -> pd.DataFrame:
    """The pairs of two sides' results, by example; says what only one side has.

    A side is a result file or a folder of them, or a group, baseline or card of ours: as control
    its full cache, as treated each of its arms, or its full cache where it has no other.

    Raises:
        UsageError: a side has no scores, or they have no example in common.
    """
    import pandas as pd

    from pytest_kvbench.tasks.result_files import TREATED, Choice, pairs_of

    choice = Choice(metric, task, given.tasks(control.parent, treated.parent))
    ((name, _), before), *_ = _arms(control, choice, treated=False)
    if name == TREATED and control.resolve() == treated.resolve():
        warnings.warn(f"{control} is compared with itself", stacklevel=2)
    rows: list[dict[str, object]] = []
    for arm, after in _arms(treated, choice, treated=True):
        pairs = sorted(pairs_of(before, after, *arm), key=lambda r: (r["task"], r["example_id"]))
        _say_unpaired(control, before, treated, after, len(pairs))
        rows += pairs
    return pd.DataFrame(rows)


def _arms(path: Path, choice: Choice, *, treated: bool) -> list[tuple[_Arm, Scores]]:
    """Policy and budget with their scores; of a file neither is known."""
    from pytest_kvbench.ops.baselines import side_at
    from pytest_kvbench.records import FULL_CACHE, SCORE
    from pytest_kvbench.tasks.result_files import TREATED, Scores, read_scores

    side = side_at(path)
    if side is None:
        return [((TREATED, 0.5), read_scores(path, choice))]
    found: dict[_Arm, Scores] = {}
    for cell in side.cells:
        if cell.key.measure == SCORE:
            name = f"{cell.key.policy} {cell.key.variant}".strip()
            scores = found.setdefault((name, cell.key.budget), Scores({}, {}))
            for example, score in cell.scores.items():
                scores.add((cell.key.task, example), score, cell.clusters[example])
    full = [(arm, of) for arm, of in found.items() if arm[0].split()[0] == FULL_CACHE]
    others = [(arm, of) for arm, of in found.items() if arm[0].split()[0] != FULL_CACHE]
    chosen = [*others, *full][: len(others) or 1] if treated else full[:1]
    if not chosen:
        raise UsageError(f"{path}: has no scored answer of the full cache", "run it: kvbench run")
    return chosen


def _held(side: Scores) -> str:
    tasks = sorted({task for task, _ in side.by_example if task})
    return f"{hints.count(len(side.by_example), 'example')}{' of ' * bool(tasks)}{', '.join(tasks)}"


def _say_unpaired(control: Path, before: Scores, treated: Path, after: Scores, paired: int) -> None:
    only = [len(side.by_example) - paired for side in (before, after)]
    if not paired:
        one, other = (_held(side) for side in (before, after))
        raise UsageError(
            f"{control} and {treated} have no example in common",
            f"they hold {one} and {other}: are they of one task and version?",
        )
    if any(only):
        warnings.warn(
            f"{hints.count(only[0], 'example')} of {control} and {only[1]:,} of {treated} "
            f"{hints.have(sum(only))} no counterpart",
            stacklevel=3,
        )


def side_lines(judged: JudgedPairs, margin: float) -> Iterator[str]:
    """A line for each task and arm: the verdict, the scores and their difference's interval."""
    from pytest_kvbench.tasks.result_files import TREATED

    for cell in judged["cells"]:
        if cell["bin"] == ALL_BINS and len(judged["cells"]) > 1:
            continue
        word = cell["verdict_holm"] or "not-measured"
        figures = (
            f"control {cell['control_mean']:.3f}, treated {cell['treated_mean']:.3f}, "
            f"delta {cell['delta']:+.3f} [{cell['ci_low']:+.3f}, {cell['ci_high']:+.3f}], "
            if cell["delta"] is not None and cell["ci_low"] is not None
            else f"{cell['reason']}, "
        )
        arm = "" if cell["policy"] == TREATED else f"{cell['policy']} {cell['budget']:g} "
        yield f"{cell['task']} {arm}{word}: {figures}n={cell['n']}, margin {margin:g}"
        if needed := cell["needed"]:
            yield f"  about {hints.count(needed, 'example')} would decide"


def _warn_of_near(file: Path, name: str) -> None:
    """Of a column that may be meant for one that tables can do without."""
    near = difflib.get_close_matches(name.lower(), OPTIONAL, n=1, cutoff=0.8)
    if near and name not in OPTIONAL:
        warnings.warn(f"{file}: column {name} is not read; is it {near[0]}?", stacklevel=3)


def _header(stream: TextStream, file: Path) -> list[str]:
    try:
        names = [name.strip() for name in next(csv.reader(stream, skipinitialspace=True), [])]
    except csv.Error as error:
        raise UsageError(f"{file}: its header cannot be read: {error}", _NEEDED) from error
    if not any(names):
        raise UsageError(f"{file}: has no header", _NEEDED)
    if len(names) == 1 and (marks := [mark for mark in _OTHER_MARKS if mark in names[0]]):
        raise UsageError(f"{file}: {_OTHER_MARKS[marks[0]]} stand between its columns", _NEEDED)
    for name in names:
        _warn_of_near(file, name)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{file}: columns that are there twice: {', '.join(twice)}", "keep one")
    return names
