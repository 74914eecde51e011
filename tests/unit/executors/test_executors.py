"""Parsl without its processes: what is handed out, taken back, configured and refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from pytest_kvbench import executors
from pytest_kvbench.engines import Capabilities
from pytest_kvbench.errors import EngineError, ExperimentError, UsageError
from pytest_kvbench.executors import flow as flow_module
from pytest_kvbench.executors import guard, presets, worker
from pytest_kvbench.executors.engine import CHUNK, HandedOut
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.executor import ExecutorSettings
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.experiment.schema import KV, Experiment
from pytest_kvbench.records import (
    Answer,
    Arm,
    Failure,
    Prompt,
    Request,
    Sampling,
    Telemetry,
    digest,
)
from tests.support.mock_server import MockServer

Outcomes = list[worker.Outcome]
TERMS = worker.Terms(worker.VERSION, "{}", "{}", "{}", "run", "", 1)


def request(n: int, budget: float = 0.5) -> Request:
    arm = Arm("local", "mock", "f", "snapkv", budget, Sampling(), "1")
    return Request(arm, "t", 0, f"e{n}", 0, Prompt("text ", f"Say word{n}", 8))


def answer(asked: Request) -> Answer:
    return Answer(asked.key, asked.example_id, "stop", Telemetry(0.1))


class LostError(Exception):
    """A worker went away."""


class FakeFlow:
    """Workers that answer when told to: in order, or as `script` says for each chunk."""

    def __init__(self, script: Sequence[BaseException | None] = (), hold: bool = False) -> None:
        self.chunks: list[list[tuple[Request, ...]]] = []
        self.held: list[Callable[[], None]] = []
        self.closed = 0
        self._script = list(script)
        self._hold = hold

    def submit(
        self, terms: worker.Terms, calls: Sequence[Sequence[Request]]
    ) -> concurrent.futures.Future[Outcomes]:
        self.chunks.append([tuple(call) for call in calls])
        future: concurrent.futures.Future[Outcomes] = concurrent.futures.Future()
        error = self._script.pop(0) if self._script else None

        def end() -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result([[answer(r) for r in call] for call in calls])

        if self._hold:
            self.held.append(end)
        else:
            end()
        return future

    def is_loss(self, error: BaseException) -> bool:
        return isinstance(error, LostError)

    def close(self) -> None:
        self.closed += 1

    @property
    def sizes(self) -> list[int]:
        return [sum(map(len, chunk)) for chunk in self.chunks]


def engine(flow: FakeFlow, places: int = 2, ahead: int = 4) -> HandedOut:
    return HandedOut(lambda: flow, TERMS, Capabilities(CHUNK, CHUNK), places=places, ahead=ahead)


async def ask(of: HandedOut, calls: Sequence[Sequence[Request]]) -> list[object]:
    answers = (of.answer(call) for call in calls)
    return list(await asyncio.gather(*answers, return_exceptions=True))


def arms(n: int) -> list[Request]:
    return [request(n, budget) for budget in (0.2, 0.5, 0.8)]


def test_calls_that_wait_together_travel_together() -> None:
    flow = FakeFlow()
    calls = [arms(n) for n in range(40)]
    outcomes = asyncio.run(ask(engine(flow), calls))
    assert outcomes == [[answer(r) for r in call] for call in calls]
    assert max(flow.sizes) == 15  # five calls of three; a sixth would be more than 16
    assert sum(flow.sizes) == 120


def test_every_worker_gets_some_of_little() -> None:
    flow = FakeFlow(hold=True)

    async def act() -> None:
        asking = asyncio.ensure_future(ask(engine(flow), [[request(n)] for n in range(8)]))
        while len(flow.chunks) < 3:
            await asyncio.sleep(0)
        assert flow.sizes[:2] == [4, 2]
        while not asking.done():
            while flow.held:
                flow.held.pop()()
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(act(), 60))
    assert sum(flow.sizes) == 8


def test_no_more_is_out_than_allowed() -> None:
    flow = FakeFlow(hold=True)

    async def act() -> None:
        asking = asyncio.ensure_future(ask(engine(flow), [[request(n)] for n in range(200)]))
        while len(flow.chunks) < 4:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert flow.sizes == [16] * 4
        flow.held.pop(0)()
        while len(flow.chunks) < 5:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(asyncio.wait_for(act(), 60))


def test_a_lost_chunk_is_asked_again_call_by_call() -> None:
    flow = FakeFlow([LostError("worker 1")])
    calls = [arms(n) for n in range(5)]
    outcomes = asyncio.run(ask(engine(flow, places=1), calls))
    assert outcomes == [[answer(r) for r in call] for call in calls]
    assert flow.sizes == [15, 3, 3, 3, 3, 3]


def test_a_request_that_ends_every_worker_is_a_failure() -> None:
    flow = FakeFlow([LostError("worker 1 on n3")] * 3)
    (outcome,) = asyncio.run(ask(engine(flow), [arms(1)]))
    assert isinstance(outcome, list)
    assert [type(o) for o in outcome] == [Failure] * 3
    assert outcome[0].message == "its worker was lost 3 times: worker 1 on n3"
    assert len(flow.chunks) == 3


def test_workers_that_cannot_start_end_the_run() -> None:
    flow = FakeFlow([RuntimeError("Error 1:\n\tEXIT CODE: 127\n")])
    (outcome,) = asyncio.run(ask(engine(flow), [arms(1)]))
    assert isinstance(outcome, EngineError)
    assert outcome.what == (
        "Parsl's workers cannot answer: RuntimeError | Error 1: | EXIT CODE: 127"
    )


def test_what_is_cancelled_is_not_sent() -> None:
    flow = FakeFlow(hold=True)

    async def act() -> None:
        of = engine(flow, places=1, ahead=1)
        first = asyncio.ensure_future(of.answer([request(1)]))
        while not flow.chunks:
            await asyncio.sleep(0)
        second = asyncio.ensure_future(of.answer([request(2)]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second.cancel()
        flow.held.pop()()
        await first
        await of.aclose()

    asyncio.run(asyncio.wait_for(act(), 60))
    assert flow.sizes == [1]
    assert flow.closed == 1


def test_what_was_not_asked_starts_nothing() -> None:
    flow = FakeFlow()
    asyncio.run(engine(flow).aclose())
    assert flow.closed == 0


# -- the worker ----------------------------------------------------------------------------------


def terms(mock: MockServer, tmp_path: Path, **more: str) -> worker.Terms:
    settings = EngineSettings(name="local", model="mock", base_url=mock.base_url, retries=0)
    told = {"fingerprint": json.dumps(mock.fingerprint), "version": worker.VERSION, **more}
    return worker.Terms(
        engine=settings.model_dump_json(),
        kv=KV().model_dump_json(),
        run_id=tmp_path.name,
        folder=str(tmp_path),
        share=1,
        **told,
    )


def test_a_worker_answers_with_one_engine(mock: MockServer, tmp_path: Path) -> None:
    for n in (1, 2):
        (first, second) = worker.answer_chunk(terms(mock, tmp_path), [arms(n), arms(n + 10)])
        assert [a.text for a in first] == [f"word{n}"] * 3  # type: ignore[union-attr]
        assert [a.key for a in second] == [r.key for r in arms(n + 10)]  # type: ignore[union-attr]
    assert mock.posts == 4


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ({"fingerprint": '{"weights": "others", "dtype": "f16"}'}, "weights is mock, not others"),
        ({"version": "0.0.1"}, "the run has 0.0.1"),
    ],
)
def test_a_worker_refuses_another_engine_than_the_runs(
    mock: MockServer, tmp_path: Path, differs: dict[str, str], said: str
) -> None:
    outcomes = worker.answer_chunk(terms(mock, tmp_path, **differs), [arms(1), arms(2)])
    assert [type(o) for o in outcomes] == [EngineError] * 2
    assert said in str(outcomes[0])
    assert mock.posts == 0


def test_a_server_that_dies_costs_what_it_had_not_answered(tmp_path: Path) -> None:
    with MockServer() as server:
        told = terms(server, tmp_path)
        worker.answer_chunk(told, [arms(1)])
    (outcome,) = worker.answer_chunk(told, [arms(2)])
    assert isinstance(outcome, EngineError)
    assert "is gone" in outcome.what


# -- settings and refusals -----------------------------------------------------------------------


def experiment(**executor: object) -> Experiment:
    keys = {"group": "g", "tasks": ["niah/single"], "executor": executor}
    return load_experiment(inline=keys).experiment


def test_where_it_runs_is_no_part_of_a_group() -> None:
    here, there = experiment(), experiment(name="parsl", preset="slurm", blocks=50)
    assert there.executor.blocks == 50
    assert digest(here.snapshot()) == digest(there.snapshot())
    assert Experiment(**there.snapshot()).executor == ExecutorSettings()


@pytest.mark.parametrize(
    ("executor", "said"),
    [
        ({"name": "dask"}, "executor.name: 'dask' is not valid"),
        ({"name": "parsl", "preset": "kubernetes"}, "valid: local, slurm|local or slurm"),
        ({"name": "parsl", "memory_gb": 64}, "scheduler_options"),
        ({"name": "parsl", "walltime": "1 h"}, "executor.walltime: '1 h'"),
    ],
)
def test_a_wrong_section_is_two_lines(executor: dict[str, object], said: str) -> None:
    with pytest.raises(ExperimentError, match=said) as refused:
        experiment(**executor)
    assert str(refused.value).count("\n") == 1


def test_a_time_that_yaml_takes_for_a_number() -> None:
    assert experiment(walltime=36000).executor.walltime == "10:00:00"


def test_workers_of_xdist_are_refused() -> None:
    parsl = ExecutorSettings(name="parsl")
    with pytest.raises(UsageError, match="-n 0"):
        executors.check(parsl, EngineSettings(), workers=True)
    executors.check(parsl, EngineSettings(mode="batch", base_url="http://h/v1"), workers=True)
    executors.check(ExecutorSettings(), EngineSettings(), workers=True)


def test_without_parsl_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as refused:
        executors.check(ExecutorSettings(name="parsl"), EngineSettings())
    assert refused.value.hint == 'install it: pip install "pytest-kvbench[parsl]"'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no such file"),
        ("konfig = 1", "config is NoneType, not parsl.Config"),
        ("config = 1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "cluster.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=said):
        executors.check(ExecutorSettings(name="parsl", config=str(file)), EngineSettings())


def test_slurm_needs_its_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = ExecutorSettings(name="parsl", preset="slurm")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="sbatch"):
        executors.check(slurm, EngineSettings())


# -- configurations ------------------------------------------------------------------------------


def test_the_preset_of_this_machine(tmp_path: Path) -> None:
    config = presets.config_of(ExecutorSettings(name="parsl", workers=3, blocks=2), tmp_path)
    (executor,) = config.executors
    assert executor.address == "127.0.0.1"
    assert (executor.provider.init_blocks, executor.provider.max_blocks) == (2, 2)
    assert (presets.places(config), presets.workers_of_node(config)) == (6, 3)
    assert config.run_dir == str(tmp_path)
    assert config.usage_tracking == 0
    assert not config.initialize_logging


def test_the_preset_of_slurm(tmp_path: Path) -> None:
    section = ExecutorSettings(
        name="parsl",
        preset="slurm",
        workers=4,
        nodes=3,
        blocks=5,
        walltime="08:00:00",
        partition="gpu",
        account="lab",
        scheduler_options="#SBATCH --gpus-per-node=1\n#SBATCH --mem=64G",
        worker_init="module load cuda",
        address="10.0.0.1",
    )
    config = presets.config_of(section, tmp_path)
    (executor,) = config.executors
    provider = executor.provider
    assert type(provider).__name__ == "SlurmProvider"
    assert (provider.partition, provider.account) == ("gpu", "lab")
    assert (provider.nodes_per_block, provider.max_blocks, provider.min_blocks) == (3, 5, 0)
    assert (provider.walltime, provider.mem_per_node) == ("08:00:00", None)
    for line in ("#SBATCH --gpus-per-node=1", "#SBATCH --mem=64G"):
        assert line in provider.scheduler_options
    assert provider.worker_init.startswith("module load cuda")
    assert executor.address == "10.0.0.1"
    assert "--watch-pid" not in executor.launch_cmd  # the controller is on another machine
    assert presets.places(config) == 60


def test_a_users_file_is_guarded_where_it_says_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "cluster.py"
    file.write_text(
        "from parsl.config import Config\n"
        "from parsl.executors import HighThroughputExecutor\n"
        "here = {'address': '127.0.0.1'}\n"
        "one = HighThroughputExecutor(label='one', max_workers_per_node=7, **here)\n"
        "two = HighThroughputExecutor(label='two', launch_cmd='mine {debug}', **here)\n"
        "config = Config(executors=[one, two])\n"
    )
    config = presets.config_of(ExecutorSettings(name="parsl", config=str(file)), tmp_path / "p")
    one, two = config.executors
    assert "pytest_kvbench.executors.guard" in one.launch_cmd
    assert two.launch_cmd == "mine {debug}"
    assert config.run_dir == str(tmp_path / "p")
    assert presets.places(config) == 8
    assert presets.workers_of_node(config) == 7


# -- the guard -----------------------------------------------------------------------------------

_PARENT = """\
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("who", ["guarded", "watched"])
def test_nothing_outlives_who_is_guarded_or_watched(tmp_path: Path, who: str) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    watched = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    log = tmp_path / "log" / "out"
    guarded = subprocess.Popen(
        guard.command_line(log, "parent", watch_pid=watched.pid),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    try:
        child = psutil.Process(int(_line_of(log)))
        guarded.send_signal(signal.SIGINT)  # is for the controller alone
        (guarded if who == "guarded" else watched).kill()
        guarded.wait(20)
        assert not psutil.wait_procs([child], timeout=20)[1]
    finally:
        for process in (guarded, watched):
            process.kill()
            process.wait(60)


_POOL = """\
import subprocess, sys, time
code = "import time; time.sleep(60)"
workers = [subprocess.Popen([sys.executable, "-c", code, "--multiprocessing-fork"])
           for _ in range(2)]
print(*(worker.pid for worker in workers), flush=True)
time.sleep(60)
"""


def test_a_pool_that_has_lost_a_process_for_good_is_ended(tmp_path: Path) -> None:
    (tmp_path / "pool.py").write_text(_POOL)
    log = tmp_path / "out"
    guarded = subprocess.Popen(
        guard.command_line(log, "pool", replaces_s=1),
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"},
    )
    try:
        lost, other = map(psutil.Process, map(int, _line_of(log).split()))
        time.sleep(1)  # the guard has seen both
        lost.kill()
        assert guarded.wait(30) == -signal.SIGKILL
        assert not psutil.wait_procs([other], timeout=20)[1]
    finally:
        guarded.kill()
        guarded.wait(20)


def test_who_is_replaced_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    there = [1, 3, 2, 2, 3, 2, 2, 2, 2]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now)
    pool = guard._Guarded(psutil.Process(), 2.5)
    found = []
    for count in there:
        now += 1
        monkeypatch.setattr(pool, "_started", lambda count=count: count)
        found.append(pool.has_lost_one())
    assert found == [False] * 7 + [True] * 2


# -- Parsl's interchange -------------------------------------------------------------------------


class FakeExecutor:
    """As much of Parsl's executor as fails when its interchange is gone."""

    def __init__(self) -> None:
        self.interchange_proc = subprocess.Popen(["sleep", "60"])
        self.tasks: dict[int, concurrent.futures.Future[Outcomes]] = {}
        self.bad_state_is_set = False

    def set_bad_state_and_fail_all(self, error: Exception) -> None:
        self.bad_state_is_set = True
        for future in self.tasks.values():
            future.set_exception(error)


class FakeKernel:
    """One whose end waits for the interchange."""

    run_dir = "nowhere"

    def __init__(self) -> None:
        self.executors = {"kvbench": FakeExecutor()}
        self.ends = threading.Event()

    def cleanup(self) -> None:
        self.ends.wait(60)


def test_without_its_interchange_what_is_out_fails_and_so_does_what_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_module, "_CLOSE_WITHOUT_S", 0.1)
    kernel = FakeKernel()
    flow = flow_module.ParslFlow(kernel)  # type: ignore[arg-type]
    (executor,) = kernel.executors.values()
    first, done, second = (concurrent.futures.Future[Outcomes]() for _ in range(3))
    done.set_result([])
    executor.tasks |= {1: done, 2: first}  # Parsl's own way to fail all stumbles over the first
    executor.interchange_proc.kill()
    with pytest.raises(RuntimeError, match="interchange"):
        first.result(30)
    executor.tasks[3] = second
    with pytest.raises(RuntimeError, match="interchange"):
        second.result(30)
    flow.close()  # though Parsl's own end has none
    kernel.ends.set()
    executor.interchange_proc.wait(20)


def _line_of(file: Path) -> str:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if file.exists() and (text := file.read_text()).endswith("\n"):
            return text
        time.sleep(0.02)
    raise AssertionError("it did not start in time")
