"""Synthetic summaries: made-up experiments whose truth is known, in the shape of DESIGN 7.

Scores are drawn, then summarised by simple textbook formulas, so the numbers hang together (deltas
fit means, verdicts fit intervals) without `analyse`.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MARGIN, ALPHA, DROP = 0.10, 0.05, 0.15
FULL_BYTES_PER_TOKEN = 46_080
CLIFFS = {
    "tova": 0.12,
    "snapkv": 0.35,
    "knorm": 0.45,
    "streaming_llm": 0.30,
    "expected_attention": 0.2,
    "keydiff": 0.25,
    "pyramidkv": 0.33,
    "random": 0.85,
    "q8_0": 0.01,
    "fp8": 0.01,
}
"""Budget at which half of the control's score is lost."""


@dataclass(frozen=True)
class Shape:
    """What to make up."""

    tasks: tuple[str, ...] = ("niah/single",)
    bins: int = 5
    per_bin: int = 40
    policies: tuple[str, ...] = ("snapkv", "tova", "random")
    budgets: tuple[float, ...] = (0.8, 0.6, 0.4, 0.2, 0.1)
    fixed: dict[str, float] = field(default_factory=dict)
    variants: tuple[str, ...] = ("",)
    failure_rate: float = 0.0
    label_rate: float = 0.02
    missing: int = 0
    replies: tuple[str, str] = ("The number is 48213.", "I could not find a special number.")
    seed: int = 0


def make_summary(**wanted: Any) -> dict[str, Any]:
    """A whole summary; `wanted` are fields of `Shape`."""
    shape = Shape(**wanted)
    maker = _Maker(shape, np.random.default_rng(shape.seed))
    return maker.summary()


class _Maker:
    def __init__(self, shape: Shape, rng: np.random.Generator) -> None:
        self.shape, self.rng = shape, rng
        self.cells: list[dict[str, Any]] = []
        self.stats: list[dict[str, Any]] = []
        self.missing: list[dict[str, Any]] = []

    def summary(self) -> dict[str, Any]:
        for task in self.shape.tasks:
            for variant in self.shape.variants:
                self._series(task, variant)
        self._drop_last(self.shape.missing)
        return {
            "schema": 1,
            "group": "synthetic_v1",
            "experiment": _experiment(self.shape),
            "cells": self.cells,
            "transitions": self._transitions(),
            "bin_stats": self.stats,
            "integrity": self._integrity(),
            "efficiency": self._efficiency(),
            "tasks": [
                {
                    "task": task,
                    "metric": "any_of",
                    "prompts": None,
                    "template": "a1b2c3d4",
                    "max_tokens": [32],
                    "tokenizer": "auto:0123456789ab",
                    "n": self.shape.bins * self.shape.per_bin,
                }
                for task in self.shape.tasks
            ],
            "bins": [
                {
                    "task": task,
                    "bin": b,
                    "low": self._low(b),
                    "high": self._low(b + 1),
                    "n": self.shape.per_bin,
                }
                for task in self.shape.tasks
                for b in range(self.shape.bins)
            ],
            "missing": self.missing,
            "flips": self._flips(),
            "provenance": _provenance(self.shape),
            "partial": bool(self.missing),
        }

    def _low(self, index: int) -> int:
        return 256 + index * (2048 - 256) // self.shape.bins

    def _series(self, task: str, variant: str) -> None:
        pooled: dict[tuple[str, float], list[dict[str, Any]]] = {}
        for b in range(self.shape.bins):
            ability = 0.97 - 0.04 * b / max(1, self.shape.bins - 1)
            control = (self.rng.random(self.shape.per_bin) < ability).astype(float)
            self.cells.append(_control_cell(task, b, variant, control))
            self.stats.append(self._stat(task, b, variant, "none", 1.0, control))
            for policy, budget in self._arms():
                keep = _survival(policy, budget, b)
                treated = control * (self.rng.random(control.size) < keep)
                cell = self._cell(task, b, variant, policy, budget, control, treated)
                pooled.setdefault((policy, budget), []).append(cell)
                self.stats.append(self._stat(task, b, variant, policy, budget, treated))
        for cells in pooled.values():
            self.cells.append(_pool(cells))

    def _arms(self) -> list[tuple[str, float]]:
        ladder = [(p, b) for p in self.shape.policies for b in self.shape.budgets]
        return ladder + list(self.shape.fixed.items())

    def _cell(self, task, b, variant, policy, budget, control, treated) -> dict[str, Any]:
        delta = treated - control
        cell = {
            "task": task,
            "bin": b,
            "variant": variant,
            "policy": policy,
            "budget": budget,
            "achieved": budget + 0.001,
            "n": delta.size,
            "clusters": delta.size,
            "control_mean": float(control.mean()),
            "treated_mean": float(treated.mean()),
            "delta": float(delta.mean()),
            "losses": int((delta < 0).sum()),
            "gains": int((delta > 0).sum()),
            "method": "tango",
            "proof": "proven",
            "flags": [],
            "lost": 0,
            "lost_share": 0.0,
            "delta_unlabelled": float(delta.mean()) + 0.01,
            "retention": float(treated[control > 0].mean()) if control.any() else None,
            "needed": None,
            "reason": "",
            **_interval(float(delta.mean()), float(delta.std()), delta.size),
        }
        cell |= _verdicts(cell)
        self.cells.append(cell)
        return cell

    def _stat(self, task, b, variant, policy, budget, scores) -> dict[str, Any]:
        tokens = (self._low(b) + self._low(b + 1)) // 2
        latency = 0.2 + tokens / 800 * float(self.rng.uniform(0.95, 1.05))
        mean = float(scores.mean())
        half = 1.96 * math.sqrt((mean * (1 - mean) + 0.02) / scores.size)
        return {
            "task": task,
            "bin": b,
            "variant": variant,
            "policy": policy,
            "budget": budget,
            "n": scores.size,
            "acc_mean": mean,
            "acc_std": float(scores.std()),
            "em_mean": mean,
            "parts_mean": {},
            "clusters": scores.size,
            "fail_rate": self.shape.failure_rate * (b + 1) / self.shape.bins * (1.2 - budget),
            "latency_p50": latency,
            "latency_p95": latency * 1.4,
            "ttft_p50": latency * 0.6,
            "prompt_tokens_p50": tokens,
            "prompt_tokens_p95": tokens * 1.1,
            "completion_tokens_p50": 8.0,
            "completion_tokens_p95": 16.0,
            "ci_low": max(0.0, mean - half),
            "ci_high": min(1.0, mean + half),
            "achieved_mean": budget if policy == "none" else budget + 0.001,
            "kept_bytes_mean": tokens * FULL_BYTES_PER_TOKEN * budget,
            "full_bytes_mean": float(tokens * FULL_BYTES_PER_TOKEN),
            "label_rate": self.shape.label_rate,
        }

    def _drop_last(self, number: int) -> None:
        keys = ("task", "bin", "variant", "policy", "budget")
        single = [c for c in self.cells if c["bin"] != "all" and c["policy"] != "none"]
        for cell in single[len(single) - number :]:
            self.cells.remove(cell)
            row = {k: cell[k] for k in keys}
            self.stats = [s for s in self.stats if {k: s[k] for k in keys} != row]
            self.missing.append(row | {"reason": "the run was stopped before it"})

    def _transitions(self) -> list[dict[str, Any]]:
        chains: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for c in self.cells:
            if c["policy"] != "none":
                chains.setdefault((c["task"], c["bin"], c["variant"], c["policy"]), []).append(c)
        return [_transition(key, cells) for key, cells in chains.items()]

    def _integrity(self) -> dict[str, Any]:
        failed = round(9_000 * self.shape.failure_rate)
        return {
            "requests": 9_000,
            "answers": 9_000 - failed,
            "failures": {"TIMEOUT": failed} if failed else {},
            "labels": {"TRUNCATED": 120, "EMPTY_OUTPUT": 14} if self.shape.label_rate else {},
            "placebos": [],
            "notes": [],
            "aa": {
                "delta": 0.0,
                "ci_low": -0.02,
                "ci_high": 0.02,
                "n": self.shape.per_bin,
                "losses": 0,
                "gains": 0,
                "method": "exact",
                "tasks": {},
                "replies": self.shape.per_bin,
                "same": self.shape.per_bin,
                "discordance": 0.0,
            },
        }

    def _efficiency(self) -> dict[str, Any]:
        means = ("kept_bytes_mean", "full_bytes_mean", "achieved_mean", "latency_p50")
        means += ("latency_p95", "ttft_p50")
        arms: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in self.stats:
            arms.setdefault((row["variant"], row["policy"], row["budget"]), []).append(row)
        return {
            "answers": 9_000,
            "prompt_tokens": 812_345,
            "completion_tokens": 31_415,
            "arms": [
                dict(zip(("variant", "policy", "budget"), arm, strict=True))
                | {key: float(np.mean([r[key] for r in rows])) for key in means}
                | {"answers": 100, "prompt_tokens": 110_000, "completion_tokens": 800}
                for arm, rows in arms.items()
            ],
        }

    def _flips(self) -> list[dict[str, Any]]:
        control, treated = self.shape.replies
        return [
            {
                "task": c["task"],
                "bin": c["bin"],
                "policy": c["policy"],
                "budget": c["budget"],
                "example_id": f"ex-{i}",
                "question": "What is the special magic number for harbour?",
                "answers": ["48213"],
                "control_text": control,
                "treated_text": treated,
                "control": 1.0,
                "treated": 0.0,
            }
            for i, c in enumerate(c for c in self.cells if c["bin"] != "all" and c.get("losses"))
        ]


def _survival(policy: str, budget: float, index: int) -> float:
    middle = CLIFFS.get(policy, 0.3) * (1 + 0.12 * index)
    return 1 / (1 + math.exp(-4 * math.log(budget / middle) - 0.3))


def _control_cell(task: str, b: int, variant: str, scores: np.ndarray) -> dict[str, Any]:
    blank = dict.fromkeys(
        (
            *("treated_mean", "delta", "ci_low", "ci_high", "delta_unlabelled", "retention"),
            *("losses", "gains", "verdict", "verdict_holm", "verdict_item", "needed"),
        )
    )
    return blank | {
        "task": task,
        "bin": b,
        "variant": variant,
        "policy": "none",
        "budget": 1.0,
        "achieved": 1.0,
        "n": scores.size,
        "clusters": scores.size,
        "control_mean": float(scores.mean()),
        "method": "",
        "proof": "proven",
        "flags": [],
        "lost": 0,
        "lost_share": 0.0,
        "reason": "",
    }


def _pool(cells: list[dict[str, Any]]) -> dict[str, Any]:
    def mean(key: str) -> float:
        return float(np.mean([c[key] for c in cells]))

    def total(key: str) -> int:
        return sum(c[key] for c in cells)

    spread = math.sqrt(sum((c["ci_high"] - c["ci_low"]) ** 2 for c in cells)) / 2 / len(cells)
    delta = mean("delta")
    pooled = cells[0] | {"bin": "all", "delta": delta, "method": "stratified"}
    pooled |= {key: mean(key) for key in ("control_mean", "treated_mean", "achieved")}
    pooled |= {key: total(key) for key in ("n", "clusters", "losses", "gains")}
    pooled |= {"ci_low": max(-1.0, delta - spread), "ci_high": min(1.0, delta + spread)}
    return pooled | {"delta_unlabelled": delta + 0.01} | _verdicts(pooled)


def _interval(delta: float, spread: float, n: int) -> dict[str, float]:
    half = 1.96 * (spread + 0.3 / math.sqrt(n)) / math.sqrt(n)
    return {"ci_low": max(-1.0, delta - half), "ci_high": min(1.0, delta + half)}


def _verdicts(cell: dict[str, Any]) -> dict[str, Any]:
    word = "undetermined"
    if cell["ci_low"] > -MARGIN:
        word = "holds"
    if cell["ci_high"] < -MARGIN:
        word = "breaks"
    wide = min(cell["delta"] + MARGIN - 0.04, 0) if word == "breaks" else 0
    adjusted = "undetermined" if word == "breaks" and wide == 0 else word
    needed = 37 if word == "undetermined" else None
    return {"verdict": word, "verdict_holm": adjusted, "verdict_item": adjusted, "needed": needed}


def _transition(key: tuple[Any, ...], cells: list[dict[str, Any]]) -> dict[str, Any]:
    cells = sorted(cells, key=lambda c: -c["budget"])
    safe = broken = rule = None
    for cell in cells:
        if cell["verdict"] != "holds":
            break
        safe = cell["budget"]
    for cell in reversed(cells):
        if cell["verdict"] != "breaks":
            break
        broken = cell["budget"]
    means = [cells[0]["control_mean"], *(c["treated_mean"] for c in cells)]
    for before, after, cell in zip(means, means[1:], cells, strict=False):
        if before - after >= DROP and rule is None:
            rule = cell["budget"]
    known = safe is not None and broken is not None
    estimate = math.sqrt(safe * broken) if known else None
    task, b, variant, policy = key
    return {
        "task": task,
        "bin": b,
        "variant": variant,
        "policy": policy,
        "b_safe": safe,
        "b_broken": broken,
        "b_safe_adjusted": _walk(cells, "holds"),
        "b_broken_adjusted": _walk(cells[::-1], "breaks"),
        "estimate": estimate,
        "estimate_ci": [broken, safe] if known else None,
        "estimate_between": [broken, safe] if known else None,
        "rule_budget": rule,
        "shape": "slope" if known else ("flat" if broken is None and safe else "undetermined"),
    }


def _walk(cells: list[dict[str, Any]], word: str) -> float | None:
    """The last budget of those that begin a ladder with a corrected verdict."""
    walked = list(itertools.takewhile(lambda c: c["verdict_holm"] == word, cells))
    return walked[-1]["budget"] if walked else None


def _experiment(shape: Shape) -> dict[str, Any]:
    return {
        "group": "synthetic_v1",
        "description": "",
        "tasks": list(shape.tasks),
        "bins": {"n": shape.bins, "per_bin": shape.per_bin, "edges": None, "range": [256, 2048]},
        "kv": {
            "policies": [*shape.policies, *shape.fixed],
            "budgets": [1.0, *shape.budgets],
            "question_aware": True,
        },
        "engine": {"name": "local", "model": "smollm2-135m", "dtype": "float32"},
        "sampling": {"temperature": 0.0, "max_tokens": None, "trials": 1, "seed": 0},
        "gate": {
            "margin": MARGIN,
            "alpha": ALPHA,
            "mode": "measure",
            "max_lost": 0.05,
            "drop_threshold": DROP,
            "correction": "holm",
        },
        "tokenizer": "auto",
        "aa": True,
    }


def _provenance(shape: Shape) -> dict[str, Any]:
    return {
        "kvbench": "0.1.0",
        "python": "3.11.9",
        "platform": "Linux-6.1-x86_64",
        "cpu": "a processor with 2 cores",
        "git_commit": "0123456789abcdef0123456789abcdef01234567",
        "fingerprint": {"weights": "9f" * 32, "dtype": "float32", "kvpress": "0.5.5"},
        "seed": shape.seed,
        "replicate_offset": 0,
        "started": "2026-11-22T08:00:00+00:00",
        "finished": "2026-11-22T08:04:10+00:00",
        "versions": {"torch": "2.13.0", "transformers": "5.2.0", "numpy": "2.4.0"},
        "command": "pytest evals -n 8 --kvbench-report",
    }
