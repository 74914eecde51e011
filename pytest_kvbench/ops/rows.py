"""One group as plain tables: a row per answer, per run, per cell, per transition.

Read from a copy of the database, which stands still; the group itself is not touched.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pytest_kvbench.cellkey import ALL_BINS, CellKey, Chain, ChainKey
from pytest_kvbench.errors import StoreError
from pytest_kvbench.experiment.snapshot import ALONE, Snapshot
from pytest_kvbench.files import scratch
from pytest_kvbench.hints import command
from pytest_kvbench.ops.columns import Record, Table
from pytest_kvbench.pipeline.votes import spokesman
from pytest_kvbench.records import SCORE
from pytest_kvbench.rows import BinStats, Provenance, TransitionRow
from pytest_kvbench.score.vote import ballot
from pytest_kvbench.store.contents import Contents, Dataset, Edges
from pytest_kvbench.store.database import copy_database
from pytest_kvbench.store.store import DATABASE, SCHEMA_VERSION, RunRow, Store

_ONE_VOTE = (
    *("task", "variant", "policy", "budget", "engine", "model", "fingerprint", "template"),
    *("question_aware", "params", "sampling", "example_id", "prompt", "max_tokens", "aa"),
)
"""What the samples of one vote have in common, their trial aside."""

_NO_EDGES = Edges(None, None)


@dataclass(frozen=True)
class GroupRows:
    """What a group holds; `transitions` as summary.json has them."""

    answers: Table
    runs: Table
    cells: Table
    transitions: list[TransitionRow]


def read_group(folder: Path) -> GroupRows:
    """Everything a group's database holds.

    Args:
        folder: the group's; never written to.

    Raises:
        StoreError: the database is damaged, foreign, older, newer, or without a run.
    """
    with _copied(folder / DATABASE) as path, Store(path) as store:
        store.check()
        runs = store.runs()
        if not runs:
            raise StoreError(
                f"{folder}: the database records no run", f"run it: {command('run', folder)}"
            )
        try:
            return _Reader(folder, store.contents, runs).read()
        except (StoreError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder}: what its database says makes no sense: {error!r}",
                "use another copy of the group",
            ) from error


def stored_provenance(folder: Path, run: RunRow) -> Provenance | None:
    """What a group's summary.json says of a run's origin; None where it is about another."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        provenance: Provenance = summary["provenance"]
        return provenance if provenance["started"] == run.started_at else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _copied(database: Path) -> Iterator[Path]:
    """A copy of the database, which stands still."""
    if not database.is_file():
        raise StoreError(f"{database}: is not there", "name a group's folder")
    with scratch() as room:
        path = room / DATABASE
        copy_database(database, path)
        yield path


class _Reply(NamedTuple):
    """What an election needs of a reply; `together` samples vote, those of one `vote` and trial."""

    key: str
    example_id: str
    replicate: int
    metric: str | None
    text: str
    failure: str
    together: int
    vote: tuple[object, ...]

    @classmethod
    def of(cls, columns: Sequence[str], row: Sequence[Any], voting: int) -> _Reply:
        """A row of the answers. Greedy decoding draws no samples: its replies stand alone."""
        named = dict(zip(columns, row, strict=True))
        is_drawn = json.loads(named["sampling"])["temperature"] > 0
        together = voting if is_drawn else ALONE
        vote = tuple(named[name] for name in _ONE_VOTE)
        return cls(
            key=named["key"],
            example_id=named["example_id"],
            replicate=named["replicate"],
            metric=named["metric"],
            text=named["text"],
            failure=named["failure"],
            together=together,
            vote=vote,
        )


@dataclass(frozen=True)
class _Reader:
    folder: Path
    contents: Contents
    runs: Sequence[RunRow]

    def read(self) -> GroupRows:
        answers = self._answers()
        return GroupRows(
            answers,
            Table.of("runs", self._runs(answers)),
            Table.of("cells", self._cells()),
            self.contents.transitions(),
        )

    @property
    def group(self) -> str:
        return str(self.runs[-1].snapshot["group"])

    def _answers(self) -> Table:
        """Every outcome, with the run during which it came."""
        (*names, _), found = self.contents.outcomes()
        rows = [(self.group, self._run_id(number), *row) for *row, number in found]
        columns = ("group", "run_id", *names)
        spoken = self._spoken(columns, rows)
        return Table(
            (*columns, "self_consistency", "elected"),
            [(*row, *spokes) for row, spokes in zip(rows, spoken, strict=True)],
        )

    def _spoken(
        self, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, bool]]:
        """For every reply: how many samples vote together, and whether it is the elected one."""
        voting = int(Snapshot(self.runs[-1].snapshot).get("sampling.self_consistency") or ALONE)
        if voting == ALONE:
            return iter([(ALONE, True)] * len(rows))
        replies = [_Reply.of(columns, row, voting) for row in rows]
        elected = self._elected(replies)
        return ((r.together, r.together == ALONE or r.key in elected) for r in replies)

    def _elected(self, replies: Iterable[_Reply]) -> set[str]:
        """The keys of the replies that speak for votes with all their samples."""
        metas = self.contents.metas()
        rule = Snapshot(self.runs[-1].snapshot).get("sampling.reasoning")
        votes: dict[tuple[object, ...], list[_Reply]] = {}
        for reply in replies:
            trial = reply.replicate // reply.together
            votes.setdefault((*reply.vote, trial, reply.together), []).append(reply)
        whole = [
            samples
            for samples in votes.values()
            if len(samples) == samples[0].together
            and not any(r.metric is None or r.failure for r in samples)
        ]
        spokesmen = (
            spokesman(
                {r.replicate: r for r in samples},
                lambda r: ballot(r.metric or "", r.text, metas.get(r.example_id, {}), rule),
            )
            for samples in whole
        )
        return {reply.key for reply in spokesmen}

    def _run_id(self, number: int) -> str:
        """The id of the run during which an answer came, by its place from 1 on; 0: before any."""
        return self.runs[max(0, number - 1)].run_id

    # -- runs ----------------------------------------------------------------------------------

    def _runs(self, answers: Table) -> list[Record]:
        run, failure = (answers.columns.index(name) for name in ("run_id", "failure"))
        came: dict[str, list[int]] = {r.run_id: [0, 0] for r in self.runs}
        for row in answers.rows:
            came[row[run]][bool(row[failure])] += 1
        rows = [self._run(r, *came[r.run_id]) for r in self.runs]
        return [*rows[:-1], {**rows[-1], **self._verdicts()}]

    def _run(self, run: RunRow, answered: int, failed: int) -> Record:
        declared = Snapshot(run.snapshot)
        provenance = stored_provenance(self.folder, run)
        return {
            **declared.dials,
            "group": self.group,
            "source": str(self.folder),
            "run_id": run.run_id,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
            "command": run.command,
            "tasks": declared.listed("tasks"),
            "policies": declared.listed("kv.policies"),
            "budgets": declared.listed("kv.budgets"),
            "bins": declared.get("bins.n"),
            "trials": declared.get("sampling.trials"),
            "mode": declared.get("gate.mode"),
            "answers": answered,
            "failures": failed,
            "git_commit": provenance["git_commit"] if provenance else None,
            "kvbench": provenance["kvbench"] if provenance else None,
            "fingerprint": json.dumps(run.fingerprint, sort_keys=True),
            "snapshot": json.dumps(run.snapshot, sort_keys=True),
            "schema": SCHEMA_VERSION,
        }

    def _verdicts(self) -> dict[str, int]:
        """The number of cells of single bins by corrected verdict."""
        words = [str(c["verdict_holm"]) for c in self.contents.cells() if c["bin"] != ALL_BINS]
        names = {"not_measured": "not-measured"}
        return {
            column: words.count(names.get(column, column))
            for column in ("holds", "breaks", "undetermined", "not_measured")
        }

    # -- cells ---------------------------------------------------------------------------------

    def _cells(self) -> list[Record]:
        """The analysis of the last run, with the dials that may explain it."""
        run, declared = self.runs[-1], Snapshot(self.runs[-1].snapshot)
        sets, bins = self.contents.datasets(), self.contents.bins()
        statistics = self._statistics()
        brackets = {ladder_of(t): bracket_of(t) for t in self.contents.transitions()}
        common = {"group": self.group, "run_id": run.run_id, "started_at": run.started_at}
        return [
            {
                **common,
                **declared.dials,
                **cell,
                **bins.get((cell["task"], str(cell["bin"])), _NO_EDGES)._asdict(),
                **_asked(sets.get(cell["task"]), declared.get("sampling.max_tokens")),
                **statistics.get(CellKey.of_row(cell), {}),
                **brackets.get(ladder_of(cell), {}),
                "bin": str(cell["bin"]),
                **({"metric": measure} if (measure := cell.get("measure")) else {}),
                "params": json.dumps(declared.params(cell["policy"]), sort_keys=True),
                "flags": json.dumps(cell["flags"]),
                "together": json.dumps(cell.get("together") or []),
            }
            for cell in self.contents.cells()
        ]

    def _statistics(self) -> dict[CellKey, dict[str, float | None]]:
        """What each arm did by bin; over all bins, the mean of the bins."""
        rows_of: dict[CellKey, list[BinStats]] = {}
        for row in self.contents.bin_stats():
            of_bin = CellKey.of_row(row)
            for key in (of_bin, of_bin.pooled):
                rows_of.setdefault(key, []).append(row)
        return {key: _means(rows) for key, rows in rows_of.items()}


def ladder_of(row: Chain) -> ChainKey:
    """The ladder of budgets that a row is about."""
    measure = row.get("measure", SCORE)
    return ChainKey(row["task"], row["bin"], row["variant"], row["policy"], measure)


def bracket_of(row: TransitionRow) -> Record:
    """The columns `BRACKET` of a ladder."""
    return {
        "b_safe": row["b_safe"],
        "b_broken": row["b_broken"],
        "b_safe_adjusted": row["b_safe_adjusted"],
        "b_broken_adjusted": row["b_broken_adjusted"],
    }


def _asked(dataset: Dataset | None, max_tokens: int | None) -> Record:
    """The columns that say what was asked: the experiment's length of an answer, or the task's."""
    if dataset is None:
        return {"max_tokens": max_tokens}
    return {**dataset._asdict(), "max_tokens": max_tokens or dataset.max_tokens}


def _means(rows: Sequence[BinStats]) -> dict[str, float | None]:
    """The mean of each statistic over bins that weigh the same."""
    return {
        "fail_rate": _mean(row["fail_rate"] for row in rows),
        "label_rate": _mean(row["label_rate"] for row in rows),
        "latency_p50": _mean(row["latency_p50"] for row in rows),
        "kept_bytes_mean": _mean(row["kept_bytes_mean"] for row in rows),
        "full_bytes_mean": _mean(row["full_bytes_mean"] for row in rows),
        "prompt_tokens_p50": _mean(row["prompt_tokens_p50"] for row in rows),
        "completion_tokens_p50": _mean(row["completion_tokens_p50"] for row in rows),
    }


def _mean(of_bins: Iterable[float | None]) -> float | None:
    values = [value for value in of_bins if value is not None]
    return sum(values) / len(values) if values else None
