"""All that a group's database holds, table by table, for readers of whole groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.records import Meta
from pytest_kvbench.rows import BinStats, CellRow, TransitionRow
from pytest_kvbench.store.database import Database

_ANSWERS = """
    SELECT r.key, r.task, r.bin, arm.variant, arm.policy, arm.budget, arm.engine, arm.model,
        arm.fingerprint, arm.prompt_template_version AS template, arm.question_aware, arm.params,
        arm.sampling, r.example_id, x.cluster, m.tokens, r.prompt, r.max_tokens, r.replicate,
        r.aa, a.text,
        a.finish_reason, a.origin, coalesce(a.created_at, f.created_at) AS created_at,
        coalesce(s.metric, iif(arm.method = '', NULL, 'divergence')) AS metric,
        s.value AS score, s.em, coalesce(s.label, '') AS label, coalesce(s.parts, '{}') AS parts,
        coalesce(f.kind, '') AS failure,
        CASE WHEN t.arms_in_request = 1 THEN t.latency_s END AS latency_s,
        CASE WHEN t.arms_in_request = 1 THEN t.ttft_s END AS ttft_s, t.prompt_tokens,
        t.completion_tokens, t.achieved, t.kept_bytes, t.full_bytes, coalesce(t.note, '') AS note,
        coalesce(a.run, f.run) AS run
    FROM requests r JOIN arms arm USING (arm_id) JOIN examples x USING (example_id)
    LEFT JOIN manifest_entries m ON m.task = r.task AND m.example_id = r.example_id
    LEFT JOIN answers a ON a.key = r.key LEFT JOIN telemetry t ON t.key = r.key
    LEFT JOIN scores s ON s.key = r.key LEFT JOIN failures f ON f.key = r.key
    WHERE a.key IS NOT NULL OR f.key IS NOT NULL
"""


class Dataset(NamedTuple):
    """How the examples of a task were chosen, and what scores their answers.

    `max_tokens` is the longest of the task's own lengths of an answer, in tokens.
    """

    template: str
    tokenizer: str
    metric: str
    max_tokens: int | None


class Edges(NamedTuple):
    """The edges of a bin in tokens, None for an open end."""

    low: int | None
    high: int | None


@dataclass(frozen=True)
class Contents:
    """Reads what is stored.

    Raises:
        StoreError: the database cannot be read.
    """

    db: Database

    def outcomes(self) -> tuple[tuple[str, ...], Iterator[tuple[Any, ...]]]:
        """Names of columns, and a row per answer or failure with its arm, score and telemetry.

        The last column is the place of the run during which it came, from 1 on; 0: before any.
        """
        found = self.db.read(_ANSWERS)
        names = tuple(found[0].keys()) if found else ("key", "created_at", "failure", "run")
        return names, map(tuple, found)

    def metas(self) -> dict[str, Meta]:
        """The `meta` of every example, by the example's id."""
        found = self.db.read("SELECT example_id, meta FROM examples")
        return {example: self.db.parsed(meta, dict) for example, meta in found}

    def datasets(self) -> dict[str, Dataset]:
        """What was asked of the examples, by task."""
        rows = self.db.read(
            "SELECT task, template_version, tokenizer, metric, (SELECT max(max_tokens)"
            " FROM manifest_entries m WHERE m.task = d.task) FROM datasets d"
        )
        return {task: Dataset(*rest) for task, *rest in rows}

    def bins(self) -> dict[tuple[str, str], Edges]:
        """The edges of bins in tokens, by task and bin."""
        rows = self.db.read("SELECT task, bin, low, high FROM bins")
        return {(task, str(bin_)): Edges(low, high) for task, bin_, low, high in rows}

    def cells(self) -> list[CellRow]:
        """The cells of the last analysis, controls and rows over bins too."""
        rows: list[CellRow] = self._payloads("verdicts")
        try:  # bins are stored as text
            return [{**row, **CellKey.of_row(row).columns()} for row in rows]
        except (LookupError, TypeError, ValueError) as error:
            raise self.db.damaged(f"a verdict that names no cell: {error!r}") from error

    def transitions(self) -> list[TransitionRow]:
        """The ladders of the last analysis."""
        rows: list[TransitionRow] = self._payloads("transitions")
        return rows

    def bin_stats(self) -> list[BinStats]:
        """What every arm did on every bin, by the last analysis."""
        rows: list[BinStats] = self._payloads("bin_stats")
        return rows

    def _payloads(self, table: Literal["bin_stats", "verdicts", "transitions"]) -> Any:
        """The records of a table as `analysis.save` stored them."""
        found = self.db.read(f"SELECT payload FROM {table}")  # noqa: S608 -- literals
        return [self.db.parsed(row[0], dict) for row in found]
