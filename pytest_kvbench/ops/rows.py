"""One group as plain tables: a row per answer, per run, per cell, per transition.

Read from a copy of the database, which stands still; the group itself is not touched.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.cellkey import ALL_BINS, CellKey
from pytest_kvbench.errors import StoreError
from pytest_kvbench.experiment.snapshot import ALONE, Snapshot
from pytest_kvbench.files import scratch
from pytest_kvbench.hints import command
from pytest_kvbench.ops.columns import BRACKET, Table
from pytest_kvbench.pipeline.votes import spokesman
from pytest_kvbench.score.vote import ballot
from pytest_kvbench.store.contents import Contents
from pytest_kvbench.store.database import copy_database
from pytest_kvbench.store.store import DATABASE, SCHEMA_VERSION, RunRow, Store

_ONE_VOTE = (
    *("task", "variant", "policy", "budget", "engine", "model", "fingerprint", "template"),
    *("question_aware", "params", "sampling", "example_id", "prompt", "max_tokens", "aa"),
)
"""What the samples of one vote have in common, their trial aside."""

_STATISTICS = (
    "fail_rate",
    "label_rate",
    "latency_p50",
    "kept_bytes_mean",
    "full_bytes_mean",
    "prompt_tokens_p50",
    "completion_tokens_p50",
)


@dataclass(frozen=True)
class GroupRows:
    """What a group holds; `transitions` as summary.json has them."""

    answers: Table
    runs: Table
    cells: Table
    transitions: list[dict[str, Any]]


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


def stored_provenance(folder: Path, run: RunRow) -> Mapping[str, Any]:
    """What a group's summary.json says of a run's origin; empty where it is about another."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        known: Mapping[str, Any] = summary["provenance"]
        return known if known["started"] == run.started_at else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


@contextlib.contextmanager
def _copied(database: Path) -> Iterator[Path]:
    """A copy of the database, which stands still."""
    if not database.is_file():
        raise StoreError(f"{database}: is not there", "name a group's folder")
    with scratch() as room:
        path = room / DATABASE
        copy_database(database, path)
        yield path


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
            self.contents.analysis("transitions"),
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
        """Of every reply: how many vote together, and whether it speaks for them."""
        voting = Snapshot(self.runs[-1].snapshot).dials["self_consistency"]
        if voting == ALONE:
            return iter([(ALONE, True)] * len(rows))
        replies = [dict(zip(columns, row, strict=True)) for row in rows]
        together = [voting if _is_drawn(reply) else ALONE for reply in replies]
        elected = self._elected(replies, together)
        return (
            (count, count == ALONE or reply["key"] in elected)
            for reply, count in zip(replies, together, strict=True)
        )

    def _elected(self, replies: Sequence[Mapping[str, Any]], together: Sequence[int]) -> set[str]:
        """The keys of the replies that speak for votes with all their samples."""
        metas = self.contents.metas()
        rule = self.runs[-1].snapshot["sampling"]["reasoning"]
        votes: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for reply, count in zip(replies, together, strict=True):
            vote = (*(reply[name] for name in _ONE_VOTE), reply["replicate"] // count, count)
            votes.setdefault(vote, []).append(reply)
        whole = [
            samples
            for (*_, count), samples in votes.items()
            if len(samples) == count
            and not any(r["metric"] is None or r["failure"] for r in samples)
        ]
        spoken = (
            spokesman(
                {r["replicate"]: r for r in samples},
                lambda r: ballot(r["metric"], r["text"], metas.get(r["example_id"], {}), rule),
            )
            for samples in whole
        )
        return {reply["key"] for reply in spoken}

    def _run_id(self, number: int) -> str:
        """Of the run during which an answer came, by its place in their order; 0: before any."""
        return self.runs[max(0, number - 1)].run_id

    # -- runs ----------------------------------------------------------------------------------

    def _runs(self, answers: Table) -> list[dict[str, Any]]:
        run, failure = (answers.columns.index(name) for name in ("run_id", "failure"))
        came: dict[str, list[int]] = {r.run_id: [0, 0] for r in self.runs}
        for row in answers.rows:
            came[row[run]][bool(row[failure])] += 1
        rows = [self._run(r, *came[r.run_id]) for r in self.runs]
        rows[-1] |= self._verdicts()
        return rows

    def _run(self, run: RunRow, answered: int, failed: int) -> dict[str, Any]:
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
            "git_commit": provenance.get("git_commit"),
            "kvbench": provenance.get("kvbench"),
            "fingerprint": json.dumps(run.fingerprint, sort_keys=True),
            "snapshot": json.dumps(run.snapshot, sort_keys=True),
            "schema": SCHEMA_VERSION,
        }

    def _verdicts(self) -> dict[str, int]:
        """How the cells of single bins were judged."""
        words = [
            c["verdict_holm"] for c in self.contents.analysis("verdicts") if c["bin"] != ALL_BINS
        ]
        names = {"not_measured": "not-measured"}
        return {
            column: words.count(names.get(column, column))
            for column in ("holds", "breaks", "undetermined", "not_measured")
        }

    # -- cells ---------------------------------------------------------------------------------

    def _cells(self) -> list[dict[str, Any]]:
        """The analysis of the last run, with the dials that may explain it."""
        run, declared = self.runs[-1], Snapshot(self.runs[-1].snapshot)
        sets, bins = self.contents.datasets(), self.contents.bins()
        statistics = self._statistics()
        chains = {_chain(t): t for t in self.contents.analysis("transitions")}
        common = {"group": self.group, "run_id": run.run_id, "started_at": run.started_at}
        return [
            {
                **common,
                **declared.dials,
                **cell,
                **_edges(bins.get((cell["task"], str(cell["bin"])))),
                **_asked(sets.get(cell["task"], {}), declared.get("sampling.max_tokens")),
                **statistics.get(CellKey.of_row(cell), {}),
                **{k: chains.get(_chain(cell), {}).get(k) for k in BRACKET},
                "bin": str(cell["bin"]),
                "params": json.dumps(declared.params(cell["policy"]), sort_keys=True),
                "flags": json.dumps(cell.get("flags") or []),
            }
            for cell in self.contents.analysis("verdicts")
        ]

    def _statistics(self) -> dict[CellKey, dict[str, Any]]:
        """What each arm did by bin; over all bins, the mean of the bins."""
        found: dict[CellKey, list[dict[str, Any]]] = {}
        for row in self.contents.analysis("bin_stats"):
            own = CellKey.of_row(row)
            for key in (own, own.pooled):
                found.setdefault(key, []).append(row)
        return {
            key: {name: _mean([r.get(name) for r in rows]) for name in _STATISTICS}
            for key, rows in found.items()
        }


def _is_drawn(reply: Mapping[str, Any]) -> bool:
    """Whether it is a sample: greedy decoding draws none."""
    return bool(json.loads(reply["sampling"])["temperature"] > 0)


def _chain(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (str(row["bin"]), *(row.get(k) or "" for k in ("task", "variant", "policy")))


def _edges(row: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"low": row["low"], "high": row["high"]} if row else {}


def _asked(row: Mapping[str, Any], max_tokens: int | None) -> dict[str, Any]:
    return {
        "max_tokens": max_tokens or row.get("max_tokens"),
        "template": row.get("template_version"),
        "tokenizer": row.get("tokenizer"),
        "metric": row.get("metric"),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
