"""Policies of users: classes of theirs, which a process that has kvpress reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_kvbench.own.classes import Classes
from pytest_kvbench.policies.reader import read


def _read(spec: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = read([spec])
    return found


CLASSES = Classes("policy", _read, ("kvpress", "torch", "transformers"))
