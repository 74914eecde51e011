"""All policies there are: those that the installed kvpress exports, and those of users.

kvpress's classes are read by a process of its own (`server.reading`), once for every state of its
source, and kept as JSON in the cache folder: no process that collects or asks imports torch. What
the pinned version says is part of this package, without the words of its documentation.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pytest_kvbench.files import cache_root
from pytest_kvbench.policies import quantised
from pytest_kvbench.policies.builtin import POLICIES
from pytest_kvbench.policies.entries import ParamEntry, PressEntry, Presses
from pytest_kvbench.policies.notes import CHANNELS, MASKS, NOTES, Note
from pytest_kvbench.policies.params import Param
from pytest_kvbench.policies.policy import EXPECTED, RATIOS, Policy
from pytest_kvbench.policies.reader import read_once

_PINNED = Path(__file__).with_name("kvpress.json")
_NO_NOTE = Note()


@functools.cache
def catalogue() -> Mapping[str, Policy]:
    """All policies that have a name here, the table's first."""
    others = [policy_of(e, NOTES.get(e["name"], _NO_NOTE)) for e in _entries()]
    found = {**{p.name: p for p in others}, **quantised.POLICIES}
    return MappingProxyType({**POLICIES, **{n: p for n, p in found.items() if n not in POLICIES}})


def policy_of(entry: PressEntry, note: Note) -> Policy:
    """The policy that a class is, by what was read of it and what is known beside."""
    dial = note.dial or entry["dial"]
    read = {name: _param(one) for name, one in entry["params"].items() if name != dial}
    set_by_budget = () if note.dial == "presses" else (dial,)
    params = {**read, **{n: p for n, p in note.params.items() if n not in set_by_budget}}
    if not dial and RATIOS not in params:
        params[EXPECTED] = Param(0.5, low=0, high=1)
    return Policy(
        name=entry["name"],
        press=entry["press"],
        paper=note.paper or entry["paper"],
        note=note.text or entry.get("note", ""),
        params=params,
        floor=note.floor,
        needs=note.needs,
        score_uses_budget=entry["score_uses_budget"],
        serving=entry["serving"],
        eager=entry["eager"],
        dial=dial,
        whole=note.whole,
        trained=note.trained,
        refused=note.refused,
        masks=MASKS in note.text or note.dial == CHANNELS,
    )


def _param(read: ParamEntry) -> Param:
    return Param(
        read["default"],
        low=-1_000_000 if read["kind"] == "number" else 0,
        kind=read["kind"],
        choices=tuple(read.get("choices", ())),
        optional=read.get("optional", False) or (read["default"] is None and not read["required"]),
        required=read["required"],
    )


def _entries() -> list[PressEntry]:
    """What was read of kvpress's classes: of the installed one, else of the pinned one."""
    pinned: Presses = json.loads(_PINNED.read_text(encoding="utf-8"))
    source = source_digest()
    if source in ("", pinned["source"]):
        return pinned["presses"]
    file = cache_root() / "policies" / f"kvpress-{source[:16]}.json"
    read: list[PressEntry] = read_once(file, ())
    return read


def source_digest() -> str:
    """The sha256 over the source of the installed kvpress; "" where there is none."""
    return digest_of(sorted(file for folder in _found() for file in folder.rglob("*.py")))


def _found() -> list[Path]:
    """The folder of the installed kvpress, which is not imported."""
    spec = importlib.util.find_spec("kvpress")
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or ()]


def digest_of(files: Sequence[Path]) -> str:
    """The sha256 over the names and contents of files; "" of none."""
    if not files:
        return ""
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()
