"""Policies of users: classes of theirs, which a process that has kvpress reads."""

from __future__ import annotations

from pytest_kvbench.own.classes import Classes, Found
from pytest_kvbench.policies.entries import PressEntry
from pytest_kvbench.policies.reader import read


def _read(spec: str) -> Found[PressEntry]:
    found: Found[PressEntry] = read([spec])
    return found


CLASSES = Classes("policy", _read, ("kvpress", "torch", "transformers"))
