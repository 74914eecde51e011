"""The embedded server: all policies of `policies.table`, proven by the bytes of its real tensors.

One server has all arms. Each request names those that it asks, and says where the question begins;
it answers them from one prefill; every choice says how many bytes of its cache were kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kvbench import extras
from pytest_kvbench.divergence.records import Token
from pytest_kvbench.engines import completion
from pytest_kvbench.engines.body import ArmFields, Body, arm_fields, chat_fields
from pytest_kvbench.engines.kinds.base import Kind, Startable, Types
from pytest_kvbench.engines.policies import classes_of, identity_of
from pytest_kvbench.errors import EngineError
from pytest_kvbench.experiment.engine import EngineSettings
from pytest_kvbench.policies.table import checked, get_policy
from pytest_kvbench.records import FULL_CACHE, Params, Request
from pytest_kvbench.server import choice, weights
from pytest_kvbench.wire import bounded, sound
from pytest_kvbench.wire.sound import Fields

if TYPE_CHECKING:
    from pytest_kvbench.engines.probe import Probe

_PROBE_S = 10.0
_ARMS = 64


def _body(settings: EngineSettings, requests: Sequence[Request], _extras: Fields) -> Body:
    first = requests[0]
    prompt, sampling = first.prompt, first.arm.sampling
    forced = first.arm.method == "forced"
    beside: list[ArmFields] = (
        [{"policy": FULL_CACHE, "budget": 1.0}] if forced and not _has_control(requests) else []
    )
    arms = [*beside, *map(arm_fields, requests)]
    body: dict[str, object] = {
        "model": settings.model,
        "max_tokens": prompt.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed + first.replicate,
        "kv": arms,
    }
    if forced:
        body["force"] = {"reference": _reference(first)}
    if prompt.stop:
        body["stop"] = list(prompt.stop)
    if prompt.chat:
        parts = [{"type": "text", "text": text} for text in (prompt.head, prompt.tail)]
        return "/chat/completions", {**body, **chat_fields(prompt, parts)}
    for arm in arms:
        if not arm.get("question_aware", True):
            arm["context_chars"] = len(prompt.head)
    return "/completions", {**body, "prompt": prompt.text}


def _has_control(requests: Sequence[Request]) -> bool:
    """Whether the first asks for the reply that all others are compared on."""
    return requests[0].arm.is_control and not requests[0].aa


def _reference(request: Request) -> list[Token] | None:
    """The tokens of the full cache's reply, where it is known: then nothing is decoded."""
    if request.against is None or request.against.divergence is None:
        return None
    return list(request.against.divergence.positions.reference) or None


def _fingerprint(probe: Probe) -> dict[str, str]:
    from pytest_kvbench.wire.lean import httpx  # late: megabytes that no worker needs
    from pytest_kvbench.wire.network import client_of

    url, model = probe.base_url.rstrip("/") + "/models", probe.settings.model
    try:
        with client_of(url, timeout_s=_PROBE_S, headers=probe.headers) as client:
            response = bounded.fetch(client, "GET", url)
        if not response.is_success:
            error = f"HTTP {response.status_code}: {completion.error_message(response.content)}"
            message = sound.message(error).rstrip(" :")
            raise EngineError(
                f"engine.base_url: {url} is no list of models: {message}",
                "name an embedded server, with its /v1; no key is sent to one",
            )
        entries = sound.objects(sound.fields(sound.data(response.content)).get("data"))
    except (httpx.HTTPError, bounded.TooLargeError, ValueError) as error:
        raise EngineError(
            f"engine.base_url: no server answers at {url}: {sound.message(str(error))}",
            "start it: kvbench serve --port 8000",
        ) from None
    served = {str(n): e for e in entries for n in (e.get("id"), *_list(e.get("aliases")))}
    if model not in served:
        raise EngineError(
            f"engine.model: {model!r} is not served at {probe.base_url}",
            f"served there: {', '.join(sorted(served))}",
        )
    fingerprint = sound.fields(served[model].get("fingerprint"))
    return {name: str(value) for name, value in fingerprint.items()}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _check_policy(_settings: EngineSettings, policy: str, params: Params) -> None:
    checked(policy, params)


def _fixed(settings: EngineSettings, policy: str, params: Params) -> float | None:
    return get_policy(policy).fixed_budget(
        params, 32 if _dtype(settings).startswith("float32") else 16
    )


def _check(settings: EngineSettings) -> None:
    extras.need(extras.EMBEDDED, "engine.name: local", "local")
    weights.resolve(settings.model)


def folder_of(settings: EngineSettings) -> Path:
    """The folder of the model that a server of ours loads, converted or fetched if need be.

    Raises:
        UsageError: there is no such model, or its folder lacks files.
        EngineError: it could not be converted.
    """
    return weights.materialise(weights.resolve(settings.model))


def _facts(settings: EngineSettings, _types: Types) -> dict[str, str]:
    folder = folder_of(settings)
    return choice.choose(folder, settings.dtype, slots=settings.slots).fingerprint(folder)


def _command(
    settings: EngineSettings, _types: Types, pid: int, address: Path, threads: int | None
) -> list[str]:
    return [
        *(sys.executable, "-m", "pytest_kvbench.server"),
        *("--model", settings.model),
        *("--dtype", _dtype(settings), "--slots", settings.slots, "--port", "0"),
        *("--watch-pid", str(pid), "--address-file", str(address)),
        *(("--threads", str(threads)) if threads else ()),
    ]


def _dtype(settings: EngineSettings) -> str:
    return settings.dtype or weights.default_dtype(weights.default_device())


KIND = Kind(
    first_lever="knorm",
    one_server=True,
    arms_per_request=_ARMS,
    identity=identity_of,
    classes=classes_of,
    folder=folder_of,
    marks_question=True,
    dtypes=weights.DTYPES,
    check_policy=_check_policy,
    fixed=_fixed,
    body=_body,
    read=completion.read_arms,
    measures=("overlap", "same_top"),
    repeats=True,
    takes_slots=True,
    fingerprint=_fingerprint,
    sends_key=False,
    start=Startable(_check, _facts, _command),
)
