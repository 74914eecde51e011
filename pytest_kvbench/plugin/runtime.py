"""Measures cells in one process: the first cell of a group runs all of the group's cells.

Registered when the first kvbench item is collected. Without xdist the pool runs ahead over the
later groups of the same experiment; a worker runs the group it was given.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from statistics import mean
from typing import Any

import pytest

from pytest_kvbench.cellkey import CellGroup
from pytest_kvbench.engines.own import AskedArm, Reply
from pytest_kvbench.errors import (
    InfrastructureError,
    KvbenchError,
    UsageError,
)
from pytest_kvbench.experiment.load import Declared
from pytest_kvbench.files import CONTROLS
from pytest_kvbench.observation import failures_of, highs_of, weakest
from pytest_kvbench.pipeline import group as group_stage
from pytest_kvbench.pipeline import measures, plan
from pytest_kvbench.pipeline.ask import Asking, Live, make_pool
from pytest_kvbench.pipeline.before import broken_before
from pytest_kvbench.pipeline.declared import load_stages
from pytest_kvbench.pipeline.driver import drivers
from pytest_kvbench.pipeline.generate import Messages, generate
from pytest_kvbench.pipeline.group import Prepared, Site, controls_root
from pytest_kvbench.pipeline.judge_process import Analyst
from pytest_kvbench.pipeline.observe import without_example
from pytest_kvbench.pipeline.prepare import prepare
from pytest_kvbench.pipeline.sane_control import SILENT
from pytest_kvbench.plugin import notes
from pytest_kvbench.plugin.arm import JudgedArm
from pytest_kvbench.plugin.declaration import Declaration, declaration_of, is_whole
from pytest_kvbench.plugin.measured import MeasuredExperiment
from pytest_kvbench.plugin.options import CONTROLLER, RUNTIME, Options
from pytest_kvbench.plugin.scope import scopes_in_ids
from pytest_kvbench.plugin.shown import Unmeasured, shorten
from pytest_kvbench.plugin.verdict import Controls, MeasuredCell
from pytest_kvbench.processes import end_with
from pytest_kvbench.records import Cell, digest
from pytest_kvbench.store.store import Store

UNMEASURED = pytest.StashKey[tuple[int, str]]()
"""Why an item could not be measured: exit status and words of the error. Unset where it was."""


@dataclass(frozen=True)
class EngineInfo:
    """Who answered: `fingerprint` has all of the server that may change an answer."""

    name: str
    model: str
    fingerprint: Mapping[str, str]


@dataclass(frozen=True)
class Engines:
    """The fixture `engine`: says who answered any cell, and answers.

    `of(cell)` gives who answered. `generate(messages, policy=..., budget=...)` asks the engine that
    the command line names, or that of a `cell`, one message of the user's under the full cache or
    another arm (see `engines.own.AskedArm`), and gives a `Reply`; nothing is stored.
    """

    of: Callable[[MeasuredCell], EngineInfo]
    generate: Callable[..., Reply]


class Runtime:
    """The kvbench side of one pytest process that runs items."""

    NAME = RUNTIME

    def __init__(self, config: pytest.Config, run_id: str, owner_pid: int) -> None:
        self._config = config
        self._run_id = run_id
        self._owner_pid = owner_pid
        self._worker: dict[str, Any] | None = getattr(config, "workerinput", None)
        if self._worker is not None and os.getppid() == owner_pid:  # else it is on another machine
            end_with(owner_pid)  # nobody is left to be told of answers: ask for no more
        self._experiments: dict[str, MeasuredExperiment] = {}
        self._selected: dict[str, dict[Cell, None]] = {}
        self._checked: set[str] = set()

    @classmethod
    def of(cls, config: pytest.Config) -> Runtime:
        """The session's runtime."""
        runtime = config.pluginmanager.get_plugin(cls.NAME)
        assert isinstance(runtime, cls)  # noqa: S101 -- registered before the first item
        return runtime

    def check_engine(self, declared: Declared) -> None:
        """Refuse an engine that can never run, once per session."""
        key = _key(declared)
        if key not in self._checked:
            site, workers = self._site(declared), self._worker is not None
            group_stage.check_engine(declared.experiment, site, workers=workers)
            self._checked.add(key)

    def prepared(self, group: str) -> Prepared | None:
        """A group that was measured here; None where it was not."""
        here = (experiment.prepared for experiment in list(self._experiments.values()))
        return next((one for one in here if one.experiment.group == group), None)

    # -- hooks -----------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_finish(self, session: pytest.Session) -> Iterator[None]:
        """Note which cells were selected; in a worker, say which belong together."""
        declared = {item: declaration_of(item) for item in session.items}
        ours = {item: d for item, d in declared.items() if d is not None}
        for declaration in ours.values():
            cells = self._selected.setdefault(_key(declaration.declared), {})
            cells.update(dict.fromkeys(declaration.cells))
        scopes = {item: d.scope for item, d in ours.items()} if self._worker else {}
        with scopes_in_ids(scopes):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
        """Tell the controller, in plain data, which group ran and what stopped an item."""
        report = yield
        declaration = declaration_of(item)
        if declaration is not None:
            shorten(report, call, item)
            report.kvbench = {
                "group": declaration.declared.experiment.group,
                "cell": declaration.key.item_id,
                "certifies": declaration.declared.experiment.gate.mode == "certify",
                "unmeasured": item.stash.get(UNMEASURED, (0, "")),
            }
        return report

    def pytest_sessionfinish(self) -> None:
        """Stop asking; stored answers stay."""
        for experiment in self._experiments.values():
            experiment.close()
        if self._worker is not None and "_analyst" in self.__dict__:
            self._analyst.close()

    # -- fixtures --------------------------------------------------------------------------

    def cell(self, item: pytest.Item) -> MeasuredCell | JudgedArm:
        """The item's cell or arm, measured; where that cannot be, the item is an error."""
        declaration = declaration_of(item)
        if declaration is None:
            raise UsageError(
                f"{item.nodeid}: the fixture `cell` belongs to tests marked kvbench",
                "valid: @pytest.mark.kvbench('NAME.yaml')",
            )
        problem: KvbenchError
        try:
            if declaration.over_bins:
                return self._judge(declaration)
            measured = self._measure(declaration)
            measured.compare(self.controls)
            return measured
        except KvbenchError as error:
            problem = error
        item.stash[UNMEASURED] = (problem.exit_status, problem.what)
        raise Unmeasured(problem, declaration.key.item_id)

    @cached_property
    def controls(self) -> Controls:
        """The session's controls."""
        return Controls(self._control_of)

    @cached_property
    def engines(self) -> Engines:
        """The session's engines."""
        return Engines(self._engine_of, self._generate)

    def _control_of(self, measured: MeasuredCell) -> MeasuredCell:
        """Read once: every treatment of the group is compared with it, none is asked again."""
        experiment, control = self._experiments[measured.experiment], measured.cell.control
        if control not in experiment.controls:
            experiment.controls[control] = self._read(experiment, control)
        return experiment.controls[control]

    def _engine_of(self, measured: MeasuredCell) -> EngineInfo:
        prepared = self._experiments[measured.experiment].prepared
        engine = prepared.experiment.engine
        return EngineInfo(engine.name, engine.model, prepared.fingerprint)

    def _generate(self, messages: Messages, cell: MeasuredCell | None = None, **arm: Any) -> Reply:
        """See `Engines`; errors are those of `pipeline.generate.generate`."""
        if cell is not None:
            experiment = self._experiments[cell.experiment].prepared.experiment
            declared = Declared(experiment, {})
        else:
            options = Options.of(self._config)
            nothing = {"group": "engine", "tasks": ["niah/single"]}
            inline = {} if options.experiment else nothing
            declared = load_stages(options.experiment, inline=inline, overrides=options.overrides)[
                0
            ]
        return generate(declared.experiment, self._site(declared), messages, AskedArm(**arm))

    def _measure(self, declaration: Declaration) -> MeasuredCell:
        self._await_stage(declaration.declared)
        experiment = self._experiment(declaration.declared)
        cell = declaration.cell
        if cell not in experiment.cells:
            pytest.skip(f"broke in {declaration.declared.experiment.after}")
        if empty := without_example(experiment.prepared, cell):
            if declaration.declared.experiment.gate.mode == "measure":
                pytest.skip(empty)
            raise InfrastructureError(empty, "fewer bins, other edges, or data of that length")
        group = CellGroup.of(cell)
        runs_ahead = self._worker is None or declaration.is_whole
        if reason := experiment.settle(group, experiment.drivers.values() if runs_ahead else ()):
            pytest.skip(reason)
        if not cell.is_control and (problem := experiment.problems[group]):
            raise problem
        return self._read(experiment, cell)

    def _judge(self, declaration: Declaration) -> JudgedArm:
        """An arm over all bins, once all that was selected of its experiment is measured."""
        self._await_stage(declaration.declared)
        experiment = self._experiment(declaration.declared)
        if declaration.cell not in experiment.cells:
            pytest.skip(f"broke in {declaration.declared.experiment.after}")
        for driver in experiment.drivers.values():
            if reason := experiment.settle(driver.group, experiment.drivers.values()):
                pytest.skip(reason)
        found = experiment.certificates(self._analyst.judge)
        return JudgedArm(declaration.key, found[declaration.key])

    def _await_stage(self, declared: Declared) -> None:
        """Skip the item while batches of the stage before are open: they decide what is asked."""
        before = declared.experiment.after
        if before is None or declared.experiment.engine.mode != "batch":
            return
        from pytest_kvbench.batch import ledger

        if reason := ledger.waiting(self._site(declared).reports / before):
            pytest.skip(f"{before}: {reason}")

    def _read(self, experiment: MeasuredExperiment, cell: Cell) -> MeasuredCell:
        group = CellGroup.of(cell)
        observed = experiment.observed(cell)
        outcomes = {(one.example_id, one.replicate): one.outcome for one in observed}
        settings = experiment.prepared.experiment
        return MeasuredCell(
            cell=cell,
            experiment=experiment.key,
            gate=settings.gate_of(cell.measure),
            planned_cells=plan.treated_cells(settings, cell.measure),
            scores={at: o.score for at, o in outcomes.items() if o.score is not None},
            highs=highs_of(outcomes, cell.measure),
            failed=frozenset(at for at, outcome in outcomes.items() if outcome.failure),
            clusters=experiment.clusters,
            cuts={(one.example_id, one.replicate): one.cut for one in observed if one.cut},
            chance=mean([one.chance for one in observed]) if observed else 0.0,
            proof=weakest([one.proof for one in observed if not one.outcome.failure]),
            level=experiment.levels.get(group, {}).get(cell),
            largest=experiment.prepared.manifests[cell.task].largest_context(cell.bin),
            room=measures.room_of(settings, cell.measure),
            sickness=experiment.sick[group],
            silent=sum(o.label in SILENT for o in outcomes.values()),
            failures=tuple(failures_of(observed)),
        )

    def _experiment(self, declared: Declared) -> MeasuredExperiment:
        key = _key(declared)
        if key not in self._experiments:
            site = self._site(declared)
            dropped = broken_before(declared, site, self._analyst.judge)
            prepared = prepare(declared, site, dropped)
            cells = frozenset(plan.cells(prepared.experiment))
            selected = [cell for cell in self._selected[key] if cell in cells]
            store = Store(prepared.database)
            self._experiments[key] = MeasuredExperiment(
                key,
                prepared,
                self._asking(prepared, site, selected, store),
                store,
                cells,
                {driver.group: driver for driver in drivers(prepared, selected)},
            )
        return self._experiments[key]

    def _asking(
        self, prepared: Prepared, site: Site, selected: Sequence[Cell], store: Store
    ) -> Asking:
        """The way an experiment is asked: all selected cells as batches, or live group by group."""
        if prepared.experiment.engine.mode == "batch":
            from pytest_kvbench.batch.session import Batched  # late: HTTP that live runs need not

            controls = controls_root(prepared.experiment, site, prepared.folder)
            return Batched(prepared, store, controls, self._run_id, selected)
        from pytest_kvbench.batch.ledger import warn_of_open

        warn_of_open(prepared.folder)
        return Live(make_pool(prepared, site, on_start=self._warm))

    def _warm(self) -> None:
        """Start the judging process early; a worker leaves judging to its controller."""
        if self._worker is None:
            self._analyst.warm()

    @cached_property
    def _analyst(self) -> Analyst:
        """The controller's judging process; a worker makes one of its own, to judge a stage."""
        controller = self._config.pluginmanager.get_plugin(CONTROLLER)
        return Analyst() if controller is None else controller.analyst

    def _site(self, declared: Declared) -> Site:
        """This run. An experiment of few groups keeps few workers busy: they share its places."""
        groups = len(plan.groups(plan.cells(declared.experiment)))
        options, shares = Options.of(self._config), not is_whole(declared)
        cache = getattr(self._config, "cache", None)  # absent under -p no:cacheprovider
        return Site(
            reports=options.reports,
            run_id=self._run_id,
            owner_pid=self._owner_pid,
            command=options.command,
            controls=cache.mkdir(CONTROLS) if cache is not None else None,
            share=min(groups, self._worker["workercount"]) if shares and self._worker else 1,
            others=self._worker is not None,
            fresh=options.fresh,
            force=options.force,
            compares=bool(options.compare),
            ends_at=options.ends_at,
            tasks=options.tasks,
            say=partial(notes.leave, self._run_id, declared.experiment.group),
        )


def _key(declared: Declared) -> str:
    return digest(declared.experiment.snapshot())
