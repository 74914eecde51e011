"""Judges in a process of its own, which loads pandas while the answers come in.

pandas and scipy cost a process 90 MB and a second; from here they cost the measuring process
neither. `python -m pytest_kvbench.pipeline.judge_process` reads pickled questions and writes
pickled results until its input ends, which it does with the process that asked.
"""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

from pytest_kvbench.errors import KvbenchError
from pytest_kvbench.pipeline.judge import Question, judge, question_of
from pytest_kvbench.processes import without_collector, without_secrets

if TYPE_CHECKING:
    from pytest_kvbench.analyse import Analysis
    from pytest_kvbench.experiment.schema import Experiment
    from pytest_kvbench.observation import Observations


_RETURNS_TABLES = {"MALLOC_MMAP_THRESHOLD_": "262144"}
"""glibc gives back what is freed from so many bytes on, and does not move that limit up."""
_MANY = 20_000
"""Observations from which on pandas' tables of them are worth a process of their own."""


def judge_apart(experiment: Experiment, observed: Observations) -> Analysis:
    """See `judge.judge`: of many observations in another process, which ends with its memory."""
    if len(observed) < _MANY:
        return judge(experiment, observed)
    with closing(Analyst()) as analyst:
        return analyst.judge(experiment, observed)


class Analyst:
    """The process, started when it is first needed or `warm`ed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def warm(self) -> None:
        """Start the process and let it load pandas, before anything is to be judged."""
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 -- ourselves
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=without_secrets() | _RETURNS_TABLES,
                start_new_session=True,  # Ctrl-C must not take it before the last judgement
            )

    def judge(self, experiment: Experiment, observed: Observations) -> Analysis:
        """See `judge.judge`; here, in this process, where the other one has died."""
        self.warm()
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise RuntimeError("the analyst was started without pipes")
        question = question_of(experiment, observed)
        try:
            pickle.dump(question, process.stdin)
            process.stdin.flush()
            result: Analysis | KvbenchError = pickle.load(process.stdout)  # noqa: S301 -- of our own process
        except (EOFError, BrokenPipeError):
            return question.answer()
        if isinstance(result, KvbenchError):
            raise result
        return result

    def close(self) -> None:
        """End the process, if there is one; it keeps nothing between two questions."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None


def main() -> None:
    """Judge what comes on the standard input, one question after the other, until it ends."""
    # pandas would load it for nothing that judging needs: 25 MB and a quarter of a second.
    sys.modules["pyarrow"] = None  # type: ignore[assignment]  # how the import system says no
    with without_collector():  # the slow part, ahead of time
        importlib.import_module("pytest_kvbench.analyse.observations")
    while True:
        try:
            question: Question = pickle.load(sys.stdin.buffer)  # noqa: S301 -- of the process that started us
        except EOFError:
            return
        result: Analysis | KvbenchError
        try:
            result = question.answer()
        except KvbenchError as error:
            result = error
        pickle.dump(result, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
