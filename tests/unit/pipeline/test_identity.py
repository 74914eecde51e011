"""Whatever goes into a request's body is in its identity."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_kvbench.engines.kinds import kind_of
from pytest_kvbench.engines.openai import OpenAISource
from pytest_kvbench.experiment.load import load_experiment
from pytest_kvbench.experiment.schema import Experiment
from pytest_kvbench.pipeline import plan
from pytest_kvbench.records import Example, Prompt, digest
from pytest_kvbench.selection import Bin, ManifestEntry, TaskManifest

EXAMPLE = Example("e", "Say red", "the lake ", ("red",))
TRANSPORT = {"stream", "stream_options"}
"""How a reply travels: the same tokens come."""


@dataclasses.dataclass(frozen=True)
class Asks:
    """A task that sends this prompt, and says the same version of all of its templates."""

    sent: Prompt
    name: str = "t"
    template_version: str = "v"

    def prompt(self, example: Example) -> Prompt:
        return self.sent


words = st.sampled_from(["", "a", "b"])
prompts = st.builds(
    Prompt,
    head=words,
    tail=words,
    max_tokens=st.integers(1, 3),
    chat=st.booleans(),
    stop=st.sampled_from([(), ("x",), ("x", "y")]),
)
samplings = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0, 0.5]),
        "top_p": st.sampled_from([1, 0.5]),
        "seed": st.integers(0, 2),
        "max_tokens": st.sampled_from([None, 1, 2]),
    }
)
ways = st.fixed_dictionaries({"before": words, "after": words})
engines = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["local", "openai", "vllm", "llamacpp"]),
        "model": st.sampled_from(["m", "n"]),
    },
    optional={
        "api": st.sampled_from(["auto", "chat", "completions"]),
        "extra_body": st.sampled_from([{}, {"top_k": 1}, {"top_k": None}, {"seed": 9}]),
        "stream": st.booleans(),
        "headers": st.sampled_from([{}, {"X-Route": "a"}, {"X-Route": "b"}]),
    },
)
kvs = st.fixed_dictionaries(
    {"question_aware": st.booleans(), "params": st.sampled_from([{}, {"window_size": 3}])}
)


def asked(
    prompt: Prompt, sampling: dict[str, Any], way: dict[str, str], engine: dict[str, Any], kv: Any
) -> tuple[Any, str]:
    """The path and body of a treated arm's request, and its key."""
    is_local = engine["name"] == "local"
    if is_local:
        engine = {"name": "local", "model": engine["model"]}
        kv = {"policies": ["snapkv"], **kv, "params": {"snapkv": kv["params"]}}
    else:
        url = "http://server/v1"
        engine = {**engine, "endpoints": {"none": url, "fp8": {"base_url": url, "budget": 0.5}}}
        kv = {"policies": ["fp8"]}
    inline = {"group": "g", "tasks": ["t"], "sampling": sampling, "kv": kv, "engine": engine}
    experiment = load_experiment(None, inline={**inline, "variants": {"w": way}}).experiment
    entry = ManifestEntry(EXAMPLE, 0, 5, prompt.content_id, prompt.max_tokens)
    manifest = TaskManifest("t", "any_of", "v", "approximate", (Bin(0, None, None),), (entry,))
    target = plan.Target({} if is_local else _sent(experiment))
    made = plan.requests(
        experiment,
        plan.cells(experiment),
        {"t": manifest},
        {"t": Asks(prompt)},
        target,  # type: ignore[dict-item]  # only prompts are asked of it
    )
    request = next(r for cell, r in made if not cell.is_control)
    path, body = kind_of(experiment.engine).request_body(experiment.engine, [request])
    sent = {name: value for name, value in body.items() if name not in TRANSPORT}
    return (experiment.engine.name, path, sent, dict(experiment.engine.headers)), request.key


def _sent(experiment: Experiment) -> dict[str, str]:
    """What a source says of its requests, without asking a server."""
    made = OpenAISource.__new__(OpenAISource)
    made._settings, made._kind = experiment.engine, kind_of(experiment.engine)
    return made._sent


a_request = st.tuples(prompts, samplings, ways, engines, kvs)


@settings(max_examples=300)
@given(a_request, st.data())
def test_requests_of_one_key_send_the_same(one: tuple[Any, ...], data: st.DataObject) -> None:
    """The second differs in one part or in a few."""
    other = tuple(
        data.draw(st.just(part) | again)
        for part, again in zip(one, (prompts, samplings, ways, engines, kvs), strict=True)
    )
    (sent, key), (sent_too, key_too) = asked(*one), asked(*other)
    if json.dumps(sent, sort_keys=True) != json.dumps(sent_too, sort_keys=True):
        assert key != key_too


@given(a_request)
def test_a_key_needs_no_prompt(one: tuple[Any, ...]) -> None:
    """It is found again without the task, as exports do."""
    prompt, sampling, way, *_ = one
    _, key = asked(prompt, sampling, way, {"name": "local", "model": "m"}, one[4])
    assert len(key) == len(digest(""))
