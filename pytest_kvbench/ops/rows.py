"""One group as plain tables: a row per answer, per run, per cell, per transition.

Read from a copy of the database, which stands still and may be brought to the present schema: the
group itself is not touched, whatever version wrote it.
"""

from __future__ import annotations

import bisect
import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kvbench.errors import StoreError
from pytest_kvbench.files import scratch
from pytest_kvbench.hints import command
from pytest_kvbench.pipeline.votes import spokesman
from pytest_kvbench.score.vote import ballot
from pytest_kvbench.store.database import copy_database
from pytest_kvbench.store.store import DATABASE, RunRow, Store

COLUMNS: Mapping[str, Mapping[str, str]] = {
    "answers": {
        **dict.fromkeys(("group", "run_id", "key", "task"), "string"),
        "bin": "int64",
        **dict.fromkeys(("variant", "policy"), "string"),
        "budget": "double",
        **dict.fromkeys(("engine", "model", "fingerprint", "template"), "string"),
        "question_aware": "bool",
        **dict.fromkeys(("params", "sampling", "example_id", "cluster"), "string"),
        "tokens": "int64",
        "replicate": "int64",
        "aa": "bool",
        **dict.fromkeys(("text", "finish_reason", "origin", "created_at", "metric"), "string"),
        **dict.fromkeys(("score", "em"), "double"),
        **dict.fromkeys(("label", "parts", "failure"), "string"),
        **dict.fromkeys(("latency_s", "ttft_s"), "double"),
        **dict.fromkeys(("prompt_tokens", "completion_tokens"), "int64"),
        "achieved": "double",
        **dict.fromkeys(("kept_bytes", "full_bytes"), "int64"),
        "note": "string",
        "self_consistency": "int64",
        "elected": "bool",
    },
    "runs": {
        **dict.fromkeys(
            ("group", "source", "run_id", "started_at", "finished_at", "command"), "string"
        ),
        **dict.fromkeys(("engine", "model", "tasks", "policies", "budgets"), "string"),
        **dict.fromkeys(("bins", "trials", "self_consistency", "seed", "max_tokens"), "int64"),
        "question_aware": "bool",
        **dict.fromkeys(("temperature", "margin", "alpha"), "double"),
        "mode": "string",
        **dict.fromkeys(("answers", "failures"), "int64"),
        **dict.fromkeys(("holds", "breaks", "undetermined", "not_measured"), "int64"),
        **dict.fromkeys(("git_commit", "kvbench", "fingerprint", "snapshot"), "string"),
        "schema": "int64",
    },
    "cells": {
        **dict.fromkeys(
            ("group", "run_id", "started_at", "engine", "model", "dtype", "task", "bin"), "string"
        ),
        **dict.fromkeys(("low", "high"), "int64"),
        **dict.fromkeys(("variant", "policy"), "string"),
        **dict.fromkeys(("budget", "achieved"), "double"),
        "question_aware": "bool",
        **dict.fromkeys(("params", "template", "tokenizer", "metric"), "string"),
        "temperature": "double",
        **dict.fromkeys(("self_consistency", "max_tokens", "seed"), "int64"),
        **dict.fromkeys(("margin", "alpha"), "double"),
        **dict.fromkeys(("n", "clusters"), "int64"),
        **dict.fromkeys(("control_mean", "treated_mean", "delta", "ci_low", "ci_high"), "double"),
        **dict.fromkeys(("verdict", "verdict_holm", "proof", "flags", "reason"), "string"),
        **dict.fromkeys(("b_safe", "b_broken"), "double"),
        **dict.fromkeys(
            ("fail_rate", "label_rate", "latency_p50", "kept_bytes_mean", "full_bytes_mean"),
            "double",
        ),
        **dict.fromkeys(("prompt_tokens_p50", "completion_tokens_p50"), "double"),
    },
}
"""The tables of a data set and the types of their columns, as pyarrow names them.

Where samples vote (`self_consistency` above 1) a reply that speaks for its vote is `elected`; any
other reply speaks for itself.
"""

ALONE = 1
"""`self_consistency` where nobody votes, as in all that is older than the key."""

_ONE_VOTE = (
    *("task", "variant", "policy", "budget", "engine", "model", "fingerprint", "template"),
    *("question_aware", "params", "sampling", "example_id", "aa"),
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
_ANSWERS = """
    SELECT r.key, r.task, r.bin, arm.variant, arm.policy, arm.budget, arm.engine, arm.model,
        arm.fingerprint, arm.prompt_template_version AS template, arm.question_aware, arm.params,
        arm.sampling, r.example_id, x.cluster, m.tokens, r.replicate, r.aa, a.text,
        a.finish_reason, a.origin, coalesce(a.created_at, f.created_at) AS created_at, s.metric,
        s.value AS score, s.em, coalesce(s.label, '') AS label, coalesce(s.parts, '{}') AS parts,
        coalesce(f.kind, '') AS failure, t.latency_s, t.ttft_s, t.prompt_tokens,
        t.completion_tokens, t.achieved, t.kept_bytes, t.full_bytes, coalesce(t.note, '') AS note
    FROM requests r JOIN arms arm USING (arm_id) JOIN examples x USING (example_id)
    LEFT JOIN manifest_entries m ON m.task = r.task AND m.example_id = r.example_id
    LEFT JOIN answers a ON a.key = r.key LEFT JOIN telemetry t ON t.key = r.key
    LEFT JOIN scores s ON s.key = r.key LEFT JOIN failures f ON f.key = r.key
    WHERE a.key IS NOT NULL OR f.key IS NOT NULL
"""
_MILLISECONDS = len("2026-11-22T03:44:44.000")


@dataclass(frozen=True)
class Table:
    """Rows of one kind, values in the order of `columns`."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]]) -> Table:
        """Rows as one of `COLUMNS`; what a row lacks is None."""
        columns = tuple(COLUMNS[name])
        return cls(columns, [tuple(row.get(column) for column in columns) for row in rows])


@dataclass(frozen=True)
class GroupRows:
    """What a group holds; `transitions` as summary.json has them."""

    answers: Table
    runs: Table
    cells: Table
    transitions: list[dict[str, Any]]


def read_group(folder: Path) -> GroupRows:
    """Everything a group's database holds, of any schema version up to ours.

    Args:
        folder: the group's; never written to.

    Raises:
        StoreError: the database is damaged, foreign, newer, or without a run.
    """
    with _copied(folder / DATABASE) as (path, schema):
        with Store(path) as store:
            store.check()
            runs = store.runs()
        if not runs:
            raise StoreError(
                f"{folder}: the database records no run", f"run it: {command('run', folder)}"
            )
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.row_factory = sqlite3.Row
            try:
                return _Reader(folder, db, runs, schema).read()
            except (sqlite3.Error, LookupError, ValueError, TypeError, AttributeError) as error:
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
def _copied(database: Path) -> Iterator[tuple[Path, int]]:
    """A copy of the database, and the schema version it was written with."""
    if not database.is_file():
        raise StoreError(f"{database}: is not there", "name a group's folder")
    with scratch() as room:
        path = room / DATABASE
        copy_database(database, path)
        with contextlib.closing(sqlite3.connect(path)) as db:
            schema = int(db.execute("PRAGMA user_version").fetchone()[0])
        yield path, schema


@dataclass(frozen=True)
class _Reader:
    folder: Path
    db: sqlite3.Connection
    runs: Sequence[RunRow]
    schema: int

    def read(self) -> GroupRows:
        answers = self._answers()
        return GroupRows(
            answers,
            Table.of("runs", self._runs(answers)),
            Table.of("cells", self._cells()),
            self._payloads("transitions"),
        )

    @property
    def group(self) -> str:
        return str(self.runs[-1].snapshot["group"])

    def _answers(self) -> Table:
        """Every outcome, with the run during which it came."""
        starts = [run.started_at[:_MILLISECONDS] for run in self.runs]
        found = self.db.execute(_ANSWERS)
        names = [column[0] for column in found.description]
        created = names.index("created_at")
        rows = [
            (self.group, self._run_at(starts, row[created]), *row)
            for row in map(tuple, found)  # sqlite3.Row cannot be unpacked twice as fast
        ]
        columns = ("group", "run_id", *names)
        spoken = self._spoken(columns, rows)
        return Table(
            (*columns, "self_consistency", "elected"),
            [(*row, *said) for row, said in zip(rows, spoken, strict=True)],
        )

    def _spoken(
        self, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, bool]]:
        """Of every reply: how many vote together, and whether it speaks for them."""
        voting = _Said(self.runs[-1].snapshot).dials["self_consistency"]
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
        found = self.db.execute("SELECT example_id, meta FROM examples")
        metas = {example: json.loads(meta) for example, meta in found}
        votes: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for reply, count in zip(replies, together, strict=True):
            vote = (*(reply[name] for name in _ONE_VOTE), reply["replicate"] // count, count)
            votes.setdefault(vote, []).append(reply)
        whole = [
            samples
            for (*_, count), samples in votes.items()
            if len(samples) == count and not any(r["metric"] is None for r in samples)
        ]
        spoken = (
            spokesman(
                samples, lambda r: ballot(r["metric"], r["text"], metas.get(r["example_id"], {}))
            )
            for samples in whole
        )
        return {reply["key"] for reply in spoken if reply is not None}

    def _run_at(self, starts: Sequence[str], created: str) -> str:
        """The last run that had started; shared answers may be older than any."""
        place = bisect.bisect_right(starts, created[:_MILLISECONDS])
        return self.runs[max(0, place - 1)].run_id

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
        said = _Said(run.snapshot)
        provenance = stored_provenance(self.folder, run)
        return {
            **said.dials,
            "group": self.group,
            "source": str(self.folder),
            "run_id": run.run_id,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
            "command": run.command,
            "tasks": said.listed("tasks"),
            "policies": said.listed("kv.policies"),
            "budgets": said.listed("kv.budgets"),
            "bins": said.get("bins.n"),
            "trials": said.get("sampling.trials"),
            "mode": said.get("gate.mode"),
            "answers": answered,
            "failures": failed,
            "git_commit": provenance.get("git_commit"),
            "kvbench": provenance.get("kvbench"),
            "fingerprint": json.dumps(run.fingerprint, sort_keys=True),
            "snapshot": json.dumps(run.snapshot, sort_keys=True),
            "schema": self.schema,
        }

    def _verdicts(self) -> dict[str, int]:
        """How the cells of single bins were judged."""
        words = [c["verdict_holm"] for c in self._payloads("verdicts") if c["bin"] != "all"]
        names = {"not_measured": "not-measured"}
        return {
            column: words.count(names.get(column, column))
            for column in ("holds", "breaks", "undetermined", "not_measured")
        }

    # -- cells ---------------------------------------------------------------------------------

    def _cells(self) -> list[dict[str, Any]]:
        """The analysis of the last run, with the dials that may explain it."""
        run, said = self.runs[-1], _Said(self.runs[-1].snapshot)
        sets = {row["task"]: dict(row) for row in self.db.execute("SELECT * FROM datasets")}
        bins = {(r["task"], str(r["bin"])): dict(r) for r in self.db.execute("SELECT * FROM bins")}
        statistics = self._statistics()
        chains = {_chain(t): t for t in self._payloads("transitions")}
        common = {"group": self.group, "run_id": run.run_id, "started_at": run.started_at}
        return [
            {
                **common,
                **said.dials,
                **cell,
                **_edges(bins.get((cell["task"], str(cell["bin"])))),
                **_asked(sets.get(cell["task"], {})),
                **statistics.get(_arm(cell), {}),
                **{k: chains.get(_chain(cell), {}).get(k) for k in ("b_safe", "b_broken")},
                "bin": str(cell["bin"]),
                "params": json.dumps(said.params(cell["policy"]), sort_keys=True),
                "flags": json.dumps(cell.get("flags") or []),
            }
            for cell in self._payloads("verdicts")
        ]

    def _statistics(self) -> dict[tuple[Any, ...], dict[str, Any]]:
        """What each arm did by bin; over all bins, the mean of the bins."""
        found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in self._payloads("bin_stats"):
            for key in (_arm(row), _arm({**row, "bin": "all"})):
                found.setdefault(key, []).append(row)
        return {
            key: {name: _mean([r.get(name) for r in rows]) for name in _STATISTICS}
            for key, rows in found.items()
        }

    def _payloads(self, table: str) -> list[dict[str, Any]]:
        found = self.db.execute(f"SELECT payload FROM {table}")  # noqa: S608 -- called with literals
        return [json.loads(row[0]) for row in found]


@dataclass(frozen=True)
class _Said:
    """A snapshot of any version: what it does not know is None."""

    snapshot: Mapping[str, Any]

    def get(self, dotted: str) -> Any:
        value: Any = self.snapshot
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def listed(self, dotted: str) -> str:
        return ",".join(map(str, self.get(dotted) or ()))

    def params(self, policy: str) -> Mapping[str, Any]:
        known: Mapping[str, Any] = (self.get("kv.params") or {}).get(policy, {})
        return known

    @property
    def dials(self) -> dict[str, Any]:
        """What was the same for all of its cells."""
        return {
            "engine": self.get("engine.name"),
            "model": self.get("engine.model"),
            "dtype": self.get("engine.dtype"),
            "question_aware": self.get("kv.question_aware"),
            "temperature": self.get("sampling.temperature"),
            "self_consistency": self.get("sampling.self_consistency") or ALONE,
            "max_tokens": self.get("sampling.max_tokens"),
            "seed": self.get("sampling.seed"),
            "margin": self.get("gate.margin"),
            "alpha": self.get("gate.alpha"),
        }


def _is_drawn(reply: Mapping[str, Any]) -> bool:
    """Whether it is a sample: greedy decoding draws none."""
    return bool(json.loads(reply["sampling"])["temperature"] > 0)


def _arm(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (str(row["bin"]), *(row[k] for k in ("task", "variant", "policy", "budget")))


def _chain(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (str(row["bin"]), *(row.get(k) or "" for k in ("task", "variant", "policy")))


def _edges(row: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"low": row["low"], "high": row["high"]} if row else {}


def _asked(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "template": row.get("template_version"),
        "tokenizer": row.get("tokenizer"),
        "metric": row.get("metric"),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
