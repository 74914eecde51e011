"""The content-addressed store: what is known of targets, runs and posteriors, named by content.

    runs/targets/tgt_<sha256>/meta.json           model, data, prompts, seed and control
    runs/targets/tgt_<sha256>/control.jsonl       the control's answers, a line each
    runs/targets/tgt_<sha256>/_runs.jsonl         a line a run under it
    runs/targets/tgt_<sha256>/run_<policy>_<sha1>/{meta.json,answers.jsonl,analysis.json,timings.json}
    runs/posteriors/post_<sampler>_<sha1>/...     see `posteriors`
    runs/targets/_catalog.jsonl                   a line a target, run and posterior

A name is a hash of the configuration: a folder that is there is never written again, and one that
was taken away or is damaged (see `sealed`) is made again with the same bytes. Times are in
`timings.json` alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench.errors import StoreError, UsageError
from pytest_kvbench.files import make_folder, replace_bytes, replace_text, writing
from pytest_kvbench.ops.run_rows import Entry, Timings
from pytest_kvbench.ops.sealed import ANALYSIS, META, TIMINGS, damage, sealed
from pytest_kvbench.records import canonical, digest
from pytest_kvbench.report.text import listing

if TYPE_CHECKING:
    import pandas as pd

CATALOG, RUNS = "_catalog.jsonl", "_runs.jsonl"

Json = Mapping[str, object]
"""Plain data, as it is written."""

FRAME = [
    *("kind", "id", "target", "model", "tasks", "examples", "seed", "policy", "budget", "margin"),
    *("n", "mean", "std", "delta", "ci_low", "ci_high", "verdict", "proof", "achieved"),
    *("ess", "rhat", "wall_s"),
]
"""The columns of `RunStore.frame`; of a posterior `policy` is its sampler and `target` all of its
targets, a run has no ess."""


def target_id(config: Json) -> str:
    """The name of a target by its configuration."""
    return f"tgt_{digest(config)}"


def run_id(policy: str, config: Json) -> str:
    """The name of a run by its configuration, which names its target."""
    return f"run_{slug(policy)}_{_sha1(config)}"


def posterior_id(sampler: str, config: Json) -> str:
    """The name of a posterior by all that decides what it says."""
    return f"post_{sampler}_{_sha1(config)}"


def _sha1(config: Json) -> str:
    return hashlib.sha1(canonical(config), usedforsecurity=False).hexdigest()


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name)


@dataclass(frozen=True)
class RunStore:
    """The store below a folder, `runs`."""

    root: Path

    @property
    def targets(self) -> Path:
        """Where targets and their runs are."""
        return self.root / "targets"

    @property
    def posteriors(self) -> Path:
        """Where posteriors are."""
        return self.root / "posteriors"

    def target(self, target: str) -> Path:
        """The folder of a target."""
        return self.targets / target

    def run(self, target: str, run: str) -> Path:
        """The folder of a run."""
        return self.targets / target / run

    def put(self, place: Path, meta: Entry, files: Mapping[str, str]) -> None:
        """Make a folder with its meta and files; one that is there and whole stays as it is.

        Raises:
            StoreError: it cannot be written.
        """
        content = {name: text.encode() for name, text in files.items()}
        content[META] = text_of(sealed(meta, _without_times(content))).encode()

        def fill(room: Path) -> None:
            for name, data in content.items():
                (room / name).write_bytes(data)

        if not make_folder(place, fill) and damage(place):
            for name, data in content.items():
                replace_bytes(place / name, data)

    def index(self) -> None:
        """Bring `_runs.jsonl` of every target and the catalog up to date: a line a folder, once."""
        everything = list(self.entries())
        for folder in sorted(self.targets.glob("tgt_*")):
            own = [e for e in everything if e["kind"] == "run" and e["target"] == folder.name]
            _replace_if_new(folder / RUNS, lines_of(own))
        if self.targets.is_dir():
            _replace_if_new(self.targets / CATALOG, lines_of(everything))

    def entries(self) -> Iterator[Entry]:
        """The metas of all targets, their runs, and posteriors, in the order of their ids.

        What is damaged is not among them.
        """
        damaged = self.damaged()
        yield from (_meta(folder / META) for folder in self.folders() if folder not in damaged)

    def folders(self) -> Iterator[Path]:
        """Of all targets, their runs, and posteriors, in the order of their ids."""
        for folder in sorted(self.targets.glob("tgt_*")):
            yield from (folder, *sorted(folder.glob("run_*")))
        yield from sorted(self.posteriors.glob("post_*"))

    def damaged(self) -> Mapping[Path, str]:
        """The folders that are not as they were written, with what is wrong."""
        return {folder: wrong for folder in self.folders() if (wrong := damage(folder))}

    def frame(self) -> pd.DataFrame:
        """A row a run, and one a posterior: `FRAME`."""
        import pandas as pd

        rows = [self._row(entry) for entry in self.entries() if entry["kind"] != "target"]
        return pd.DataFrame(rows, columns=FRAME)

    def _row(self, entry: Entry) -> Json:
        named = {"kind": entry["kind"], "id": entry["id"], "target": entry["target"]}
        return {**named, "wall_s": self._wall_s(entry), **entry["dims"], **entry["metrics"]}

    def _wall_s(self, entry: Entry) -> float | None:
        file = self._place(entry) / TIMINGS
        if not file.exists():
            return None
        timings: Timings = json.loads(file.read_text(encoding="utf-8"))
        return timings["wall_s"]

    def _place(self, entry: Entry) -> Path:
        if entry["kind"] == "run":
            return self.run(entry["target"], entry["id"])
        room = self.targets if entry["kind"] == "target" else self.posteriors
        return room / entry["id"]

    def promote(self, ids: Sequence[str], to: Path) -> list[Path]:
        """Copy key figures to a stable place: `figures.csv`, and by id analyses and plots.

        Args:
            ids: beginnings of ids; all where there are none.
            to: the folder; what is there of the same id is replaced.

        Raises:
            UsageError: nothing has such an id.
            StoreError: what has it is damaged.
        """
        from pytest_kvbench.ops.sheet import csv_text

        for folder, wrong in self.damaged().items():
            if folder.name.startswith(tuple(ids) or ""):
                raise StoreError(
                    f"{folder}: is damaged: {wrong}", f"make it again: {_maker(folder)}"
                )
        rows = self.frame()
        for wanted in ids:
            if not rows["id"].str.startswith(wanted).any():
                none = "none; build some: kvbench targets GROUP"
                known = listing(rows["id"]) if len(rows) else none
                raise UsageError(f"{wanted!r} is no run in {self.root}", f"there are {known}")
        kept = rows[[not ids or name.startswith(tuple(ids)) for name in rows["id"]]]
        made = [to / "figures.csv"]
        replace_text(made[0], csv_text(kept))
        chosen = set(kept["id"])
        for entry in self.entries():
            if entry["id"] in chosen:
                made += _copied(self._place(entry), to / entry["id"])
        return made


def _without_times(content: Mapping[str, bytes]) -> Mapping[str, bytes]:
    return {name: data for name, data in content.items() if name != TIMINGS}


def _maker(folder: Path) -> str:
    return f"kvbench {'posterior' if folder.name.startswith('post_') else 'targets GROUP'}"


def text_of(data: Json) -> str:
    """Readable JSON, the same bytes for the same data."""
    return json.dumps(data, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def lines_of(rows: Iterable[Json]) -> str:
    """A line of JSON a row."""
    return "".join(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n" for row in rows)


def _meta(file: Path) -> Entry:
    found: Entry = json.loads(file.read_text(encoding="utf-8"))
    return found


def _replace_if_new(file: Path, text: str) -> None:
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        replace_text(file, text)


def _copied(place: Path, to: Path) -> Iterator[Path]:
    for file in [place / META, place / ANALYSIS, *sorted(place.glob("diagnostics/*.png"))]:
        if file.exists():
            copy = to / file.relative_to(place)
            with writing(copy):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            yield copy
