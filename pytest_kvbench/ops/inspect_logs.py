"""Groups as evaluation logs of Inspect (its JSON format, version 2): one log per arm and task."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_kvbench.files import replace_text
from pytest_kvbench.observation import Outcome
from pytest_kvbench.pipeline.group import Prepared
from pytest_kvbench.pipeline.stored_plan import observed
from pytest_kvbench.records import Arm, Cell, Example, Request, format_budget
from pytest_kvbench.store.store import RunRow

VERSION = 2
_STOPS = {"stop": "stop", "length": "max_tokens"}

Answered = Sequence[tuple[Request, Outcome]]


def export_inspect(prepared: Prepared, target: Path) -> list[Path]:
    """Write the logs of a group; older logs of the same arms and answers are replaced.

    Args:
        prepared: the group, answered and scored.
        target: the folder of logs, as `inspect view --log-dir` takes it.

    Raises:
        MissingPrerequisiteError: nothing was answered, or an answer has no score.
    """
    stored = observed(prepared)
    outcomes = {one.outcome.key: one.outcome for one in stored.rows}
    written = []
    for (task, arm_id), asked in _by_arm(stored.planned).items():
        answered = [(r, outcomes[r.key]) for r in asked if r.key in outcomes]
        log = _log(prepared, stored.run, asked[0].arm, task, answered)
        stamp = re.sub(r"[:.]", "-", stored.run.started_at)
        slug = re.sub(r"[^A-Za-z0-9]+", "-", log["eval"]["task"]).strip("-")
        written.append(target / f"{stamp}_{slug}_{arm_id[:16]}.json")
        replace_text(written[-1], _ordered(log))
    return written


def _ordered(log: dict[str, Any]) -> str:
    """In the order of its keys: a reader of headers alone stops where the samples begin."""
    return json.dumps(log, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _by_arm(
    planned: Sequence[tuple[Cell, Request]],
) -> dict[tuple[str, str], list[Request]]:
    """First runs of what is scored: Inspect has no place for a second run, or distributions."""
    found: dict[tuple[str, str], list[Request]] = {}
    for _, request in planned:
        if not request.aa and not request.arm.method:
            found.setdefault((request.task, request.arm.arm_id), []).append(request)
    return found


def _log(
    prepared: Prepared, run: RunRow, arm: Arm, task: str, answered: Answered
) -> dict[str, Any]:
    manifest = prepared.manifests[task]
    examples = {entry.example.example_id: entry.example for entry in manifest.entries}
    scores = [outcome.score for _, outcome in answered if outcome.score is not None]
    name = f"{task} {arm.policy} {format_budget(arm.budget)} {arm.variant}".rstrip()
    mean = {"name": "mean", "value": sum(scores) / len(scores) if scores else 0.0}
    return {
        "version": VERSION,
        "status": "success",
        "eval": {
            "eval_id": arm.arm_id[:22],
            "run_id": run.run_id,
            "created": run.started_at,
            "task": name,
            "task_id": f"{arm.arm_id[:16]}-{task}",
            "task_version": 0,
            "task_args": {"policy": arm.policy, "budget": arm.budget, **arm.params},
            "dataset": {"name": task, "samples": len(examples)},
            "model": f"{arm.engine}/{arm.model}",
            "config": {},
            "metadata": {"group": prepared.experiment.group, "fingerprint": arm.fingerprint},
        },
        "plan": {"name": "kvbench", "steps": [], "config": {}},
        "results": {
            "total_samples": len(answered),
            "completed_samples": len(scores),
            "scores": [
                {"name": manifest.metric, "scorer": manifest.metric, "metrics": {"mean": mean}}
            ],
        },
        "stats": {"started_at": run.started_at, "completed_at": run.finished_at or ""},
        "samples": list(_samples(answered, examples, manifest.metric, arm.model)),
    }


def _samples(
    answered: Answered, examples: Mapping[str, Example], metric: str, model: str
) -> Iterator[dict[str, object]]:
    first = min((request.replicate for request, _ in answered), default=0)
    for request, outcome in answered:
        example = examples[request.example_id]
        sample: dict[str, object] = {
            "id": request.example_id,
            "epoch": 1 + request.replicate - first,
            "input": "\n\n".join(filter(None, (example.context, example.question))),
            "target": list(example.answers),
            "metadata": {
                "bin": request.bin,
                "label": outcome.label,
                "failure": outcome.failure,
                "achieved": outcome.achieved,
                "latency_s": outcome.latency_s,
            },
        }
        if outcome.score is not None:
            sample["output"] = _output(outcome, model)
            sample["scores"] = {metric: {"value": outcome.score, "answer": outcome.text}}
        yield sample


def _output(outcome: Outcome, model: str) -> dict[str, object]:
    message = {"role": "assistant", "content": outcome.text, "source": "generate"}
    stop = _STOPS.get(outcome.finish_reason or "", "unknown")
    return {
        "model": model,
        "choices": [{"message": message, "stop_reason": stop}],
        **_usage(outcome.prompt_tokens, outcome.completion_tokens),
    }


def _usage(asked: int | None, made: int | None) -> dict[str, object]:
    """Token counts; empty where the server did not count both, as Inspect needs them."""
    if asked is None or made is None:
        return {}
    counts = {"input_tokens": asked, "output_tokens": made, "total_tokens": asked + made}
    return {"usage": counts}
