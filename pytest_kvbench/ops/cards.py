"""A group's result to be handed on: one JSON file, named by what is in it, and one to be read.

A card holds what was planned, on which data, by whom it was answered, every figure and verdict, and
the scores by example, so that whoever asks again elsewhere can compare. It holds no text of a
prompt or a reply, and nothing of the place where it was made: no address, command, key or time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kvbench.cellkey import CellKey
from pytest_kvbench.errors import UsageError
from pytest_kvbench.files import readable_json, replace_text, writing
from pytest_kvbench.observation import Observation
from pytest_kvbench.ops.dry_run import dry_run
from pytest_kvbench.ops.run_names import data_of, named_runs
from pytest_kvbench.pipeline.baseline import PAIR, Side, side_from
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.stored_plan import Observed, observed
from pytest_kvbench.records import digest
from pytest_kvbench.rows import Summary

SCHEMA = 1
_MADE_BY = "make one: kvbench card GROUP"
CARDS = "cards"
"""Below the folder of groups."""

_PLACES = (
    *("base_url", "also", "launch", "headers", "api_key_env", "concurrency", "max_rpm", "max_tpm"),
    *("timeout_s", "retries", "start_timeout_s", "max_reply_mb", "threads", "mode"),
)
"""Keys of `engine` that say where and how fast one asks, not what is answered."""
_COUNTS = ("requests", "answers", "failures", "labels", "placebos", "notes", "aa")
_FIGURES = ("cells", "transitions", "sensitivity", "certificates", "tasks", "bins", "missing")
_BYTES = ("achieved_mean", "kept_bytes_mean", "full_bytes_mean")


@dataclass(frozen=True)
class Card:
    """What `kvbench card` writes; `content` is plain JSON data."""

    content: Mapping[str, Any]

    @cached_property
    def name(self) -> str:
        """`card_` and the beginning of the content's sha256."""
        return f"card_{digest(dict(self.content))[:16]}"

    @property
    def plan(self) -> Mapping[str, Any]:
        """The experiment, without the places where it was asked."""
        plan: Mapping[str, Any] = self.content["plan"]
        return plan

    @property
    def side(self) -> Side:
        """Its scores by example, to be compared with."""
        return replace(Side.from_json(self.content["scores"]), experiment=self.plan)

    @property
    def summary(self) -> Summary:
        """What the report's tables are made of."""
        figures = {name: self.content[name] for name in _FIGURES if name in self.content}
        counts = {"integrity": self.content["integrity"], "partial": self.content["partial"]}
        found: Any = {"group": self.content["group"], "experiment": self.plan, **figures, **counts}
        summary: Summary = found
        return summary

    def save(self, folder: Path) -> Path:
        """Write it and its Markdown below a folder; the path of the JSON file."""
        from pytest_kvbench.ops.card_page import card_markdown

        file = folder / f"{self.name}.json"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        content = readable_json({"card": self.name, **self.content})
        replace_text(file, PAIR.sub(r"[\1 \2]", content))
        replace_text(file.with_suffix(".md"), card_markdown(self))
        return file

    def check(self) -> None:
        """Raise what a reader would meet who takes it for a card and it is none."""
        from pytest_kvbench.ops.card_page import card_markdown, leaderboard

        leaderboard([self])
        _ = self.side, self.content["replies"].keys(), self.plan["engine"]["name"]
        _ = self.content["identities"]["server"].keys()
        card_markdown(self)

    @classmethod
    def load(cls, file: Path) -> Card:
        """Read a card.

        Raises:
            UsageError: it is none, or not as it was written.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            name, schema = content.pop("card"), content["schema"]
            card = cls(content)
            if schema != SCHEMA:
                raise ValueError(f"schema {schema!r}")
            card.check()
        except (OSError, ValueError, RecursionError) as error:
            raise UsageError(f"{file}: is no card: {error}", _MADE_BY) from None
        except (LookupError, TypeError, AttributeError, ArithmeticError):
            raise UsageError(f"{file}: is no card: it is of another shape", _MADE_BY) from None
        if card.name != name:
            raise UsageError(
                f"{file}: is not as it was written: its name is {name}, its content is {card.name}",
                "take it from where it was made: kvbench card GROUP",
            )
        return card


def card_of(prepared: Prepared) -> Card:
    """The card of a group as it is stored. Changes nothing; the same group has the same card.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    stored = observed(prepared)
    summary = dry_run(prepared, prepared.experiment.gate)
    side = side_from(prepared, stored.judged, summary["cells"]).to_json()
    integrity = {name: value for name, value in summary["integrity"].items() if name in _COUNTS}
    return Card(
        {
            "schema": SCHEMA,
            "group": prepared.experiment.group,
            "plan": plan_of(prepared.experiment.snapshot()),
            "data": {task: data_of(m) for task, m in sorted(prepared.manifests.items())},
            "identities": {
                "server": dict(prepared.fingerprint),
                "arms": list(_arms(prepared, stored)),
            },
            **{name: summary[name] for name in _FIGURES if name in summary},  # type: ignore[literal-required]
            "bytes": [
                {**CellKey.of_row(row).columns(), **{name: row[name] for name in _BYTES}}  # type: ignore[literal-required]
                for row in summary["bin_stats"]
            ],
            "integrity": integrity,
            "partial": summary["partial"],
            "replies": replies_of(stored.rows),
            "scores": {**side, "experiment": {}},
        }
    )


def plan_of(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """An experiment's keys without those of a place."""
    engine = {name: of for name, of in snapshot["engine"].items() if name not in _PLACES}
    if endpoints := engine.get("endpoints"):
        engine["endpoints"] = {
            arm: {name: of for name, of in endpoint.items() if name not in _PLACES}
            for arm, endpoint in endpoints.items()
        }
    kept = {name: of for name, of in snapshot.items() if name not in ("after", "executor")}
    return {**kept, "engine": engine}


def replies_of(rows: Iterable[Observation]) -> dict[str, str]:
    """By cell, a digest of all its replies, word for word."""
    texts: dict[str, list[list[Any]]] = {}
    for one in rows:
        said = one.outcome.failure or one.outcome.text
        place = [one.example_id, one.replicate, one.aa, said]
        texts.setdefault(CellKey.of(one.cell).item_id, []).append(place)
    return {item: digest(sorted(of, key=json.dumps)) for item, of in sorted(texts.items())}


def _arms(prepared: Prepared, stored: Observed) -> Iterator[dict[str, Any]]:
    """Every arm that was asked, by all that may change its answers, with its run's name."""
    runs = {(run.variant, run.arm.arm_id): run for run in named_runs(prepared)[0]}
    for arm in {request.arm.arm_id: request.arm for _, request in stored.planned}.values():
        run = runs.get((arm.variant, arm.arm_id))
        named = {"target": run.target, "run": run.name} if run else {}
        yield {"arm": arm.arm_id, **arm.to_json(), **named}
