"""An experiment by its name: a file, a group that was prepared or run, or a sweep's groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytest_kvbench.errors import GuardError, MissingPrerequisiteError, UsageError
from pytest_kvbench.experiment.load import Declared, Override
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.experiment.snapshot import Keys, Snapshot
from pytest_kvbench.hints import command
from pytest_kvbench.own.classes import are_in
from pytest_kvbench.pipeline.declared import load_stages
from pytest_kvbench.store.origin import refuse_unconfirmed
from pytest_kvbench.store.places import group_names, is_group
from pytest_kvbench.store.store import DATABASE, Store


def find_declared(
    name: str,
    reports: Path,
    overrides: Sequence[Override] = (),
    *,
    ran: bool = False,
    reads: bool = False,
) -> tuple[Declared, ...]:
    """An experiment, or its stages in order, or those of each member of its roster.

    Args:
        name: a YAML file, a group, or what a sweep's groups are called before their stage's name.
        reports: where groups are kept.
        overrides: keys that win over what is found.
        ran: of a group what its last run declared, whatever was prepared since; that is only read.
        reads: of a group too nothing is started, asked or sent.

    Raises:
        UsageError: neither exists.
        GuardError: a group came from elsewhere, and nobody has confirmed what it declares.
    """
    path = Path(name)
    if Path(name.removesuffix(".gz")).suffix in {".yaml", ".yml"}:
        return load_stages(path, overrides=overrides)
    groups = groups_of(name, reports)
    if not groups:
        names = group_names(reports)
        raise UsageError(
            f"{name!r} is neither an experiment file (.yaml) nor a group in {reports}",
            f"groups there: {', '.join(names) or 'none'}",
        )
    if not (reads or ran):
        for group in groups:
            refuse_unconfirmed(reports / group)
    found = [(group, snapshot(reports / group, ran=ran)) for group in groups]
    return tuple(
        load_stages(None, inline=keys, inline_source=group, overrides=overrides)[0]
        for group, keys in found
    )


def groups_of(name: str, reports: Path) -> list[str]:
    """The group of that name, or those of the sweep or roster, in order; empty where there is none.

    Of a roster's members each is one group, or the stages of its sweep.
    """
    if is_group(reports / name):
        return [name]
    names = group_names(reports)
    sweeps = _chains([n for n in names if n.startswith(f"{name}.")], reports)
    sweeps = [chain for chain in sweeps if len(chain) > 1][:1]
    roster = _chains([n for n in names if n.startswith(f"{name}@")], reports)
    return [group for chain in sweeps or roster for group in chain]


def _chains(groups: Sequence[str], reports: Path) -> list[list[str]]:
    """Groups that follow one another, in order, by the first of each chain."""
    after = {group: snapshot(reports / group)["after"] for group in groups}
    follower = {before: group for group, before in after.items() if before}
    chains = [[group] for group in sorted(after) if not after[group]]
    for chain in chains:
        while (following := follower.get(chain[-1])) and following not in chain:
            chain.append(following)
    return chains


def snapshot(folder: Path, *, ran: bool = False) -> Keys:
    """What was prepared or run last in a group's folder, or run last (`ran`).

    Raises:
        MissingPrerequisiteError: nothing was prepared or run there.
    """
    with Store(folder / DATABASE, reads=True) as store:
        prepared, runs = store.prepared(), store.runs()
    if prepared is not None and not ran:
        return stored_experiment(folder, prepared).snapshot()
    if not runs:
        raise never_run(folder, prepared=prepared is not None)
    return stored_experiment(folder, runs[-1].snapshot).snapshot()


def stored_experiment(folder: Path, stored: Keys) -> Experiment:
    """A stored experiment; its group is the folder that it lies in, whatever it was before.

    Raises:
        GuardError: what is stored is no experiment; or it came from elsewhere, and names classes
            that nobody has confirmed.
    """
    named = (Snapshot(stored).get(key) for key in ("engine.name", "kv", "sensitivity"))
    if are_in(list(named)):  # whoever reads on imports them
        refuse_unconfirmed(folder)
    try:
        return Experiment.model_validate({"sensitivity": None, **stored, "group": folder.name})
    except (ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise GuardError(
            f"{folder}: what it declares is no experiment: {': '.join(lines[1:3] or lines)}",
            "run it from its file, in another group: kvbench run FILE.yaml",
        ) from None


def never_run(folder: Path, *, prepared: bool) -> MissingPrerequisiteError:
    """The refusal of a group that has a database and no run."""
    run = command("run", folder) if prepared else "kvbench run FILE.yaml"
    return MissingPrerequisiteError(f"{folder}: the database records no run", f"make one: {run}")
