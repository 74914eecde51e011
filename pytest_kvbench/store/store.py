"""What was asked and answered: one SQLite file per group, written as answers land.

WAL with `synchronous=NORMAL`: a commit survives the death of any process at once, and the file
stays consistent through a power loss. Several processes write at the same time; each statement is
short, and waits up to a minute for its turn.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pytest_kvbench.divergence.records import Divergence
from pytest_kvbench.experiment.snapshot import Keys
from pytest_kvbench.observation import Outcome
from pytest_kvbench.records import (
    Answer,
    Arm,
    Failure,
    ReasoningRule,
    Request,
    Score,
    canonical,
)
from pytest_kvbench.rows import BinStats, CellRow, Throughput, TransitionRow
from pytest_kvbench.selection import Selection, TaskManifest
from pytest_kvbench.store import analysis, manifests, texts, throughput
from pytest_kvbench.store.answers import ANSWERS, answer_of, divergence_of, save_answers
from pytest_kvbench.store.arms import save_arms
from pytest_kvbench.store.contents import Contents
from pytest_kvbench.store.database import Database, Schema

SCHEMA_VERSION = 8
DATABASE = "kvbench.sqlite"
_THIS_RUN = (
    "(SELECT coalesce(max(rowid), 0) FROM experiments)"  # never by time: clocks are set back
)
_CHUNK = 500  # keys per IN list; SQLite allows far more, but its planner slows down


@dataclass(frozen=True)
class RunRow:
    """One run of a group: what was declared and on which engine."""

    run_id: str
    snapshot: Keys
    fingerprint: Mapping[str, str]
    replicate_offset: int
    command: str
    started_at: str
    finished_at: str | None = None
    asks_again: bool = False


@dataclass(frozen=True)
class Unscored:
    """An answer without a score, with what its metric needs."""

    key: str
    metric: str
    text: str
    reasoning: str
    finish_reason: str
    answers: tuple[str, ...]
    meta: Mapping[str, object]
    context: str
    divergence: Divergence | None = None


def _request_row(request: Request) -> tuple[str | int, ...]:
    place = (request.task, request.bin, request.example_id, request.replicate, request.aa)
    prompt, max_tokens, _ = request.asks
    return request.key, request.arm.arm_id, *place, prompt, max_tokens


class Store:
    """The database of one group. An instance may move between threads, but is for one at a time.

    `reads`: nothing will be written, so that it need not be possible.
    """

    def __init__(self, path: Path, *, reads: bool = False) -> None:
        self.path = path
        script = (files(__package__) / "schema.sql").read_text(encoding="utf-8")
        self._db = Database(path, Schema(SCHEMA_VERSION, script), reads=reads)

    def close(self) -> None:
        """Close the connection; committed rows are already safe."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def check(self) -> None:
        """Refuse a database that is not whole: pages, indexes, references, chosen examples."""
        self._db.check()
        manifests.check(self._db)

    # -- runs ------------------------------------------------------------------------------

    def start_run(self, run: RunRow) -> None:
        """Record a run; the second process of the same run changes nothing.

        What was prepared before has begun with it.
        """
        declared = (canonical(run.snapshot).decode(), canonical(run.fingerprint).decode())
        begun = (run.replicate_offset, run.asks_again, run.command, run.started_at)
        with self._db.write() as db:
            db.execute("DELETE FROM prepared")
            db.execute(
                "INSERT INTO experiments VALUES (?,?,?,?,?,?,?,NULL) ON CONFLICT DO NOTHING",
                (run.run_id, *declared, *begun),
            )

    def finish_run(self, run_id: str, at: str) -> None:
        """Note when a run ended, as an ISO time."""
        with self._db.write() as db:
            db.execute("UPDATE experiments SET finished_at=? WHERE run_id=?", (at, run_id))

    def runs(self) -> list[RunRow]:
        """All runs in the order they began, whatever the clock said."""
        rows = self._db.read("SELECT * FROM experiments ORDER BY rowid")
        return [
            RunRow(
                **{
                    **dict(row),
                    "snapshot": self._db.parsed(row["snapshot"]),
                    "fingerprint": self._db.parsed(row["fingerprint"], dict),
                    "asks_again": bool(row["asks_again"]),
                }
            )
            for row in rows
        ]

    def save_prepared(self, snapshot: Keys) -> None:
        """Note the experiment that examples were chosen for, until a run of it begins."""
        with self._db.write() as db:
            db.execute("DELETE FROM prepared")
            db.execute("INSERT INTO prepared VALUES (?)", (canonical(snapshot).decode(),))

    def prepared(self) -> Keys | None:
        """The experiment that was prepared and has not been run since."""
        rows = self._db.read("SELECT snapshot FROM prepared")
        return self._db.parsed(rows[0][0]) if rows else None

    def next_replicate(self) -> int:
        """The first replicate number that no request uses."""
        highest = self._db.read("SELECT max(replicate) FROM requests")[0][0]
        return 0 if highest is None else int(highest) + 1

    # -- manifests -------------------------------------------------------------------------

    def save_manifest(self, manifest: TaskManifest, selection: Selection) -> None:
        """Replace the selection of one task. Examples of earlier selections stay."""
        with self._db.write() as db:
            manifests.save(db, manifest, selection)

    def manifest(self, task: str) -> tuple[TaskManifest, Selection] | None:
        """The stored selection of one task and what it was made with."""
        return manifests.load(self._db, task)

    # -- requests and what became of them --------------------------------------------------

    def save_arms(self, arms: Iterable[tuple[Arm, str | None]]) -> None:
        """Record arms, each with the addresses that it is asked at, if they were declared."""
        with self._db.write() as db:
            save_arms(db, arms)

    def save_requests(self, requests: Iterable[Request]) -> None:
        """Record what will be asked; what is known already stays as it is."""
        requests = list(requests)
        arms = {r.arm.arm_id: r.arm for r in requests}
        with self._db.write() as db:
            save_arms(db, ((arm, None) for arm in arms.values()))
            db.executemany(
                "INSERT INTO requests VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
                map(_request_row, requests),
            )

    def save_answers(
        self, answers: Sequence[Answer], *, origin: str = "engine"
    ) -> Sequence[Answer]:
        """Store answers, all or none; one that is there already stays as it is. What is stored."""
        kept = texts.of_answers(self._db, answers)
        with self._db.write() as db:
            save_answers(db, kept, origin)
        return kept

    def save_failures(self, failures: Iterable[Failure]) -> None:
        """Store failures; a later failure of the same request replaces the earlier."""
        kept = texts.of_failures(self._db, failures)
        with self._db.write() as db:
            db.executemany(
                "INSERT INTO failures (key, kind, message, attempts, run)"
                " VALUES (?,?,?,?,(SELECT coalesce(max(rowid), 0) FROM experiments))"
                " ON CONFLICT DO UPDATE SET kind=excluded.kind, message=excluded.message,"
                " attempts=excluded.attempts, created_at=excluded.created_at, run=excluded.run",
                [(f.key, f.kind, f.message, f.attempts) for f in kept],
            )

    def answers(self, keys: Sequence[str]) -> dict[str, Answer]:
        """The stored answers among `keys`."""
        return {row["key"]: answer_of(self._db, row) for row in self._among(ANSWERS, keys)}

    def divergences(self, keys: Sequence[str]) -> Iterator[tuple[str, Divergence]]:
        """How far arms are from the full cache, by the keys of those requests that say it."""
        for row in self._among("SELECT key, payload FROM divergences WHERE key IN ({})", keys):
            if (found := divergence_of(self._db, row["payload"])) is not None:
                yield row["key"], found

    def requested(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that were ever to be asked."""
        return {row[0] for row in self._among("SELECT key FROM requests WHERE key IN ({})", keys)}

    def answered(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that have an answer."""
        return {row[0] for row in self._among("SELECT key FROM answers WHERE key IN ({})", keys)}

    def settled(self, keys: Sequence[str]) -> set[str]:
        """Those of `keys` that have an answer or a failure."""
        failed = self._among("SELECT key FROM failures WHERE key IN ({})", keys)
        return self.answered(keys) | {row[0] for row in failed}

    # -- scores ----------------------------------------------------------------------------

    def unscored(
        self, keys: Sequence[str], rule: ReasoningRule, measure: str = ""
    ) -> Iterator[Unscored]:
        """Answers among `keys` whose score is missing, or of another metric or rule.

        The metric of one that says how far its distributions are is the `measure` of these.
        """
        for row in self._among(
            "SELECT a.key, iif(v.key IS NULL, d.metric, ?) AS metric, a.text, a.reasoning,"
            " a.finish_reason, x.answers, x.meta, x.context, v.payload"
            " FROM answers a JOIN requests r USING (key) JOIN datasets d USING (task)"
            " JOIN examples x USING (example_id) LEFT JOIN scores s USING (key)"
            " LEFT JOIN divergences v USING (key)"
            " WHERE (s.key IS NULL OR s.metric != iif(v.key IS NULL, d.metric, ?) OR s.rule != ?)"
            " AND a.key IN ({})",
            keys,
            measure,
            measure,
            rule,
        ):
            yield Unscored(
                row["key"],
                row["metric"],
                row["text"],
                row["reasoning"],
                row["finish_reason"],
                tuple(self._db.parsed(row["answers"], list)),
                self._db.parsed(row["meta"], dict),
                row["context"],
                divergence_of(self._db, row["payload"]),
            )

    def save_scores(
        self, scores: Iterable[tuple[str, str, Score]], rule: ReasoningRule = "strip"
    ) -> None:
        """Store `(key, metric, score)` rows made under a rule, replacing older ones."""
        with self._db.write() as db:
            db.executemany(
                "INSERT OR REPLACE INTO scores (key, metric, rule, value, em, label, parts)"
                " VALUES (?,?,?,?,?,?,?)",
                [
                    (key, metric, rule, s.value, s.em, s.label, canonical(dict(s.parts)).decode())
                    for key, metric, s in scores
                ],
            )

    def outcomes(self, keys: Sequence[str]) -> dict[str, Outcome]:
        """By request key: the reply with its score, or the failure. Absent where nothing came."""
        rows = self._among(
            "SELECT r.key, s.value AS score, s.em, coalesce(s.label, '') AS label, s.parts,"
            " coalesce(f.kind, '') AS failure, coalesce(f.message, '') AS message,"
            " a.text, a.finish_reason, a.origin,"
            " CASE WHEN t.arms_in_request = 1 THEN t.latency_s END AS latency_s,"  # else nobody's
            " t.ttft_s, t.prompt_tokens, t.completion_tokens, t.achieved,"
            " t.kept_bytes, t.full_bytes, t.note"
            " FROM requests r LEFT JOIN answers a USING (key) LEFT JOIN telemetry t USING (key)"
            " LEFT JOIN scores s USING (key) LEFT JOIN failures f USING (key)"
            " WHERE (a.key IS NOT NULL OR f.key IS NOT NULL) AND r.key IN ({})",
            keys,
        )
        return {
            row["key"]: Outcome(
                **{**dict(row), "parts": self._db.parsed(row["parts"] or "{}", dict)}
            )
            for row in rows
        }

    def failures(self, keys: Sequence[str]) -> list[Failure]:
        """The failures among `keys`, in no particular order."""
        query = "SELECT key, kind, message, attempts FROM failures WHERE key IN ({})"
        return [Failure(**dict(row)) for row in self._among(query, keys)]

    # -- results ---------------------------------------------------------------------------

    def save_analysis(
        self,
        bin_stats: Sequence[BinStats],
        cells: Sequence[CellRow],
        transitions: Sequence[TransitionRow],
    ) -> None:
        """Replace the rows of the analysis before."""
        with self._db.write() as db:
            analysis.save(db, bin_stats, cells, transitions)

    def request_keys(self) -> set[str]:
        """The keys of all requests that were ever to be asked."""
        return {row[0] for row in self._db.read("SELECT key FROM requests")}

    @property
    def contents(self) -> Contents:
        """All that is stored, for readers of whole groups."""
        return Contents(self._db)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self._db.read(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 -- called with literals

    def landed(self, run_id: str) -> int:
        """Answers and failures that came since a run began, from the engine or a shared control."""
        return throughput.landed(self._db, run_id)

    def last_outcome_at(self) -> str | None:
        """The time of the last answer or failure that came, as stored; None where none did."""
        return throughput.last_outcome_at(self._db)

    def throughput(self, run_id: str) -> Throughput:
        """A run's requests and tokens a second: see `throughput.of_run`."""
        return throughput.of_run(self._db, run_id)

    def seconds_per_token(self) -> float | None:
        """Median wall time per prompt token of the answers stored so far, sweeps counted once."""
        average = "SELECT avg(latency_s / prompt_tokens) FROM telemetry WHERE prompt_tokens > 0"
        rows = self._db.read(average)
        return None if rows[0][0] is None else float(rows[0][0])

    def _among(self, query: str, keys: Sequence[str], *before: str) -> Iterator[sqlite3.Row]:
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            yield from self._db.read(query.format(",".join("?" * len(chunk))), [*before, *chunk])
