"""A million requests over 1 to 200 endpoints: when endpoints, network or controller are the limit.

    python tests/benchmarks/simulation.py [--requests 1000000] [--seed 0] [--plot FILE.png]

Simulated by simpy, from what was measured of one controller process (see `Controller`). Real is
`engines.balance.Balanced`: its `post` chooses, counts, leaves out and sends elsewhere, as a process
of the simulation. Mirrored are the tries and pauses of `engines.client.Http` and the look, every
few seconds, at endpoints that were left out. Deadlines are left out: nothing comes near 600 s.
"""

from __future__ import annotations

import argparse
import math
import random
import types
from array import array
from collections.abc import Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from pytest_kvbench.engines import balance
from pytest_kvbench.engines.base import RequestFailedError
from pytest_kvbench.errors import EngineError

ENDPOINTS = (1, 2, 5, 10, 20, 50, 100, 200)
RETRIES = 3
"""As `engine.retries`."""


@dataclass(frozen=True)
class Controller:
    """One `kvbench run`; the seconds are of its processor, as `plan_size.py` measures them."""

    answer_s: float = 0.87e-3
    kilobyte_s: float = 13e-6
    """More for each kB of prompt."""
    places: int = 100_000
    """Most requests in flight, whatever `engine.concurrency` is."""


@dataclass(frozen=True)
class Network:
    """The link between the controller and all endpoints."""

    bytes_s: float = 125e6
    round_trip_s: float = 0.002


@dataclass(frozen=True)
class Endpoints:
    """Servers, all alike; a reply takes lognormal time."""

    count: int = 1
    slots: int = 8
    mean_s: float = 2.0
    spread: float = 0.5
    """Standard deviation of the logarithm."""
    stragglers: float = 0.01
    """Share of the replies that take `slower` times as long."""
    slower: float = 10.0
    failing: float = 0.002
    """Share of the tries that end in an error which is worth another."""
    lives_s: float = 12 * 3600.0
    """Mean time until one dies; exponential."""
    down_s: float = 600.0

    @property
    def service_s(self) -> float:
        """Mean time of a try, stragglers included."""
        return self.mean_s * (1 + self.stragglers * (self.slower - 1))


@dataclass(frozen=True)
class World:
    """What is simulated."""

    requests: int = 1_000_000
    prompt_bytes: int = 32_000
    answer_bytes: int = 1_000
    controller: Controller = field(default_factory=Controller)
    network: Network = field(default_factory=Network)
    endpoints: Endpoints = field(default_factory=Endpoints)
    seed: int = 0

    @property
    def request_bytes(self) -> int:
        """There and back."""
        return self.prompt_bytes + self.answer_bytes

    @property
    def controller_s(self) -> float:
        """Processor time of one request."""
        return self.controller.answer_s + self.prompt_bytes / 1000 * self.controller.kilobyte_s

    @property
    def ceilings(self) -> dict[str, float]:
        """Requests a second that each part could carry alone."""
        e = self.endpoints
        return {
            "endpoints": e.count * e.slots / e.service_s,
            "network": self.network.bytes_s / self.request_bytes,
            "controller": 1 / self.controller_s,
        }


@dataclass
class Result:
    """What came of it; the shares of time are of the whole, from first request to last answer."""

    world: World
    seconds: float = 0.0
    answered: int = 0
    failed: int = 0
    tries: int = 0
    deaths: int = 0
    stops: int = 0
    """How often no endpoint was left: the run ends, and goes on when it is started again."""
    used: dict[str, float] = field(default_factory=dict)
    waits: array[float] = field(default_factory=lambda: array("f"))

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return (self.answered + self.failed) / self.seconds

    @property
    def limit(self) -> str:
        """The part that is nearly always busy; none is where too few requests are in flight."""
        name = max(self.used, key=lambda part: self.used[part])
        return name if self.used[name] >= 0.8 else "requests in flight"

    @property
    def p99_s(self) -> float:
        """From when a request's turn has come until its answer is stored."""
        return float(np.quantile(self.waits, 0.99))


@types.coroutine
def until(event: simpy.Event) -> Generator[simpy.Event, Any, Any]:
    """Await an event of the simulation: a coroutine that awaits nothing else is a process of it."""
    return (yield event)


class Pipe:
    """Something that serves one after another, in order: the controller's processor, the link."""

    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._free_at = 0.0
        self.busy_s = 0.0

    def delay(self, cost_s: float, after_s: float = 0.0) -> float:
        """How long until what comes `after_s` from now is through."""
        begins = max(self._env.now + after_s, self._free_at)
        self._free_at = begins + cost_s
        self.busy_s += cost_s
        return self._free_at - self._env.now


class Server:
    """One endpoint: slots, a queue before them, and an end now and then."""

    def __init__(self, env: simpy.Environment, kind: Endpoints, rng: random.Random) -> None:
        self.env = env
        self.kind = kind
        self.rng = rng
        self.up = True
        self.slots = simpy.Resource(env, kind.slots)
        self.held: dict[simpy.Process, None] = {}
        self.busy_s = 0.0
        self.deaths = 0
        if math.isfinite(kind.lives_s):
            env.process(self._live_and_die())

    async def serve(self) -> bool:
        """One try; whether it was answered. Interrupted where the server dies."""
        process = self.env.active_process
        self.held[process] = None
        try:
            with self.slots.request() as turn:
                await until(turn)
                began = self.env.now
                try:
                    await until(self.env.timeout(self._service_s()))
                finally:
                    self.busy_s += self.env.now - began
            return self.rng.random() >= self.kind.failing
        finally:
            self.held.pop(process, None)

    def _service_s(self) -> float:
        kind, rng = self.kind, self.rng
        straggles = rng.random() < kind.stragglers
        middle = math.log(kind.mean_s) - kind.spread**2 / 2
        return rng.lognormvariate(middle, kind.spread) * (kind.slower if straggles else 1.0)

    def _live_and_die(self) -> Iterator[simpy.Event]:
        while True:
            yield self.env.timeout(self.rng.expovariate(1 / self.kind.lives_s))
            self.up = False
            self.deaths += 1
            for process in list(self.held):
                process.interrupt()
            yield self.env.timeout(self.kind.down_s)
            self.up = True


class Connection:
    """What `Http` is: tries, pauses, and the knowledge that a server is gone."""

    def __init__(self, run: Run, server: Server) -> None:
        self._run = run
        self._server = server
        self._gone = False

    async def post(self, path: str, body: Any, *, stream: bool = False) -> None:
        """See `Http.post`."""
        for attempt in range(1, RETRIES + 2):
            if self._gone:
                raise EngineError("gone")
            self._run.result.tries += 1
            reached = self._server.up
            if reached and await self._tried():
                return
            if attempt <= RETRIES:
                await until(self._run.env.timeout(pause_s(attempt, self._run.rng)))
        if not reached:
            self._gone = True
            raise EngineError("gone")
        raise RequestFailedError("ENGINE_ERROR", "", RETRIES + 1)

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _tried(self) -> bool:
        try:
            return await self._server.serve()
        except simpy.Interrupt:  # it died: the connection is reset
            return False


def pause_s(attempt: int, rng: random.Random) -> float:
    """As `retry._BACKOFF`, from a seed."""
    return min(30.0, 0.5 * 2 ** (attempt - 1) + rng.uniform(0, 0.5))


class Watching:
    """Stands for the task of `Balanced` that looks after those left out: it never ends."""

    def done(self) -> bool:
        """See `asyncio.Task.done`."""
        return False


class Run:
    """One simulation."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.env = simpy.Environment()
        self.rng = random.Random(world.seed)
        self.result = Result(world)
        self._cpu, self._link = Pipe(self.env), Pipe(self.env)
        self._servers = {
            f"e{n}": Server(self.env, world.endpoints, random.Random(f"{world.seed} {n}"))
            for n in range(world.endpoints.count)
        }
        self._balanced = balance.Balanced(list(self._servers), self._connect, self._is_well)
        self._balanced._watch = Watching()  # asyncio has no part in this
        self._back = self.env.event()

    def simulate(self) -> Result:
        """Until every request has ended."""
        kind, result = self.world.endpoints, self.result
        self.env.process(self._take_back())
        numbers = iter(range(self.world.requests))
        places = min(kind.count * kind.slots, self.world.controller.places)
        done = self.env.all_of([self.env.process(self._place(numbers)) for _ in range(places)])
        self.env.run(done)
        result.seconds = seconds = self.env.now
        result.deaths = sum(server.deaths for server in self._servers.values())
        busy = sum(server.busy_s for server in self._servers.values())
        result.used = {
            "endpoints": busy / (kind.count * kind.slots * seconds),
            "network": self._link.busy_s / seconds,
            "controller": self._cpu.busy_s / seconds,
        }
        return result

    async def _place(self, numbers: Iterator[int]) -> None:
        """One of the requests in flight, after the other: as `engine.concurrency` has places."""
        for _ in numbers:
            began = self.env.now
            await self._ask()
            await until(self.env.timeout(self._cpu.delay(self.world.controller_s / 2)))
            self.result.waits.append(self.env.now - began)

    async def _ask(self) -> None:
        world, env = self.world, self.env
        sent_s = self._cpu.delay(world.controller_s / 2)
        across_s = self._link.delay(world.request_bytes / world.network.bytes_s, sent_s)
        await until(env.timeout(across_s + world.network.round_trip_s))
        while True:
            try:
                await self._balanced.post("", {})
            except RequestFailedError:
                self.result.failed += 1
                return
            except EngineError:
                await self._started_again()
            else:
                self.result.answered += 1
                return

    async def _started_again(self) -> None:
        """No endpoint is left: whoever started the run starts it again when one is there."""
        if self._back.triggered:
            self._back = self.env.event()
            self.result.stops += 1
        await until(self._back)

    def _connect(self, url: str) -> Connection:
        return Connection(self, self._servers[url])

    def _is_well(self, url: str) -> bool:
        return self._servers[url].up

    def _take_back(self) -> Iterator[simpy.Event]:
        """As `Balanced._take_back`."""
        self._back.succeed()
        while True:
            yield self.env.timeout(balance.CHECK_EVERY_S)
            for endpoint in self._balanced._endpoints:
                if endpoint.client is None and self._is_well(endpoint.base_url):
                    endpoint.client = self._connect(endpoint.base_url)
                    if not self._back.triggered:
                        self._back.succeed()


def simulate(world: World) -> Result:
    """A world's million requests; the same seed gives the same."""
    return Run(world).simulate()


# -- the table -----------------------------------------------------------------------------------


def series(world: World) -> dict[str, World]:
    """What is asked, at every number of endpoints: long prompts, and short ones."""
    quick = replace(world.endpoints, mean_s=0.25)
    return {
        "32 kB prompts, replies in 2 s": world,
        "1 kB, 0.25 s": replace(world, prompt_bytes=1_000, endpoints=quick),
    }


def of(world: World, count: int) -> World:
    """The same with so many endpoints."""
    return replace(world, endpoints=replace(world.endpoints, count=count))


def variations(world: World) -> dict[str, World]:
    """200 endpoints with one thing changed."""
    many = of(world, 200)
    return {
        "a link of 100 Mbit/s": replace(many, network=replace(world.network, bytes_s=12.5e6)),
        "256 in flight (engine.concurrency)": replace(many, controller=Controller(places=256)),
        "nothing fails or straggles": replace(
            many, endpoints=replace(many.endpoints, stragglers=0, failing=0, lives_s=math.inf)
        ),
    }


def line(name: str, result: Result) -> str:
    """A row of the table."""
    shares = [f"{result.used[part]:.0%}" for part in ("endpoints", "network", "controller")]
    retried = result.tries - result.world.requests
    cells = [
        name,
        str(result.world.endpoints.count),
        f"{result.seconds / 3600:.2f}",
        f"{result.per_s:,.1f}",
        *shares,
        result.limit,
        f"{result.p99_s:.1f}",
        f"{retried:,}",
        str(result.deaths),
        str(result.stops),
        str(result.failed),
    ]
    return f"| {' | '.join(cells)} |"


def plot(path: Path, results: list[Result]) -> None:
    """Throughput against endpoints, with what the controller and the link could carry alone."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for number, (name, world) in enumerate(series(results[0].world).items()):
        some = results[number * len(ENDPOINTS) : (number + 1) * len(ENDPOINTS)]
        color = f"C{number}"
        axes.plot(ENDPOINTS, [r.per_s for r in some], "o-", color=color, label=name)
        for part, style in (("controller", "--"), ("network", ":")):
            axes.axhline(world.ceilings[part], ls=style, lw=1, color=color)
            axes.text(1, world.ceilings[part] * 1.05, part, color=color, fontsize="small")
    axes.set(xscale="log", yscale="log", xlabel="endpoints", ylabel="requests a second")
    axes.set_xticks(ENDPOINTS, [str(count) for count in ENDPOINTS])
    axes.minorticks_off()
    axes.grid(color="0.9")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="where to draw it, as PNG")
    options = parser.parse_args()
    world = World(requests=options.requests, seed=options.seed)
    worlds = [(name, of(w, count)) for name, w in series(world).items() for count in ENDPOINTS]
    worlds += variations(world).items()
    print(
        "| what | endpoints | hours | requests/s | endpoints busy | network | controller "
        "| the limit | p99 s | retried | deaths | stops | failed |\n" + "|---" * 13 + "|"
    )
    results = []
    with ProcessPoolExecutor() as pool:
        done = pool.map(simulate, [world for _, world in worlds])
        for (name, _), result in zip(worlds, done, strict=True):
            print(line(name, result), flush=True)
            results.append(result)
    if options.plot is not None:
        plot(options.plot, results)


if __name__ == "__main__":
    main()
