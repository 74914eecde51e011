"""An engine of a user's, by its class or a name for it: served by a process of ours.

One server has all arms. Which policies there are is what the class says (`policies`), or any; the
bytes that it reports are the proof.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytest_kvbench.engines import completion
from pytest_kvbench.engines.body import Body, arm_fields, one_arm
from pytest_kvbench.engines.kinds.base import Kind, Startable, Types
from pytest_kvbench.engines.own import CLASSES
from pytest_kvbench.engines.policies import recipe_of
from pytest_kvbench.errors import KvbenchError, UsageError
from pytest_kvbench.experiment.engine import ENGINES, EngineSettings
from pytest_kvbench.own.classes import is_spec
from pytest_kvbench.records import FULL_CACHE, Params, Request
from pytest_kvbench.server import weights
from pytest_kvbench.wire.sound import Fields


def check_name(name: str) -> None:
    """Refuse a name that is neither ours nor of an engine of the user's.

    Raises:
        UsageError: with what is valid.
    """
    if name not in ENGINES and not is_spec(CLASSES.spec_of(name)):
        raise UsageError(
            f"{name!r} is not valid",
            f"valid: {', '.join([*ENGINES, *CLASSES.named()])}, or a class: ./FILE.py:Class, "
            "MODULE:Class",
        )


@functools.cache
def kind_of_class() -> Kind:
    """The kind of every engine of a user's."""
    return Kind(
        one_server=True,
        only_ours=True,
        identity=recipe_of,
        check_policy=_check_policy,
        fixed=_fixed,
        folder=_folder,
        body=_body,
        read=completion.read_arms,
        sends_key=False,
        start=Startable(_check, _facts, _command),
    )


def _policies(settings: EngineSettings) -> Mapping[str, float | None] | None:
    """What its class says that it has; None: any."""
    return CLASSES.entry(_spec(settings))["policies"]


def _spec(settings: EngineSettings) -> str:
    """The class.

    Raises:
        UsageError: nobody gives one that name.
    """
    check_name(settings.name)
    return CLASSES.spec_of(settings.name)


def _check_policy(settings: EngineSettings, policy: str, _params: Params) -> None:
    there = _policies(settings)
    if there is not None and policy not in (FULL_CACHE, *there):
        raise UsageError(
            f"engine {settings.name} has no policy {policy!r}",
            f"valid: {', '.join(dict.fromkeys([FULL_CACHE, *there]))}",
        )


def _fixed(settings: EngineSettings, policy: str, _params: Params) -> float | None:
    return (_policies(settings) or {}).get(policy)


def _body(settings: EngineSettings, requests: Sequence[Request], extras: Fields) -> Body:
    path, body = one_arm(settings, requests, extras)
    return path, {**body, "kv": [arm_fields(request) for request in requests]}


def _check(settings: EngineSettings) -> None:
    _policies(settings)


def _facts(settings: EngineSettings, _types: Types) -> dict[str, str]:
    return {"engine": CLASSES.digest(_spec(settings)), **_of_model(settings)}


def _of_model(settings: EngineSettings) -> dict[str, str]:
    """What its class is handed: a model that is here by its content, another by its name."""
    model = _folder(settings) or Path(settings.model)
    identity = weights.content_digest(model) if model.exists() else settings.model
    return {"weights": identity, "dtype": settings.dtype or ""}


def _folder(settings: EngineSettings) -> Path | None:
    """The folder of its model, if it is one that `local` could load from this machine."""
    try:
        source = weights.resolve(settings.model)
        return None if source.hub_id else weights.materialise(source)
    except KvbenchError:  # its class may know what to do with it
        return None


def _command(
    settings: EngineSettings, _types: Types, pid: int, address: Path, threads: int | None
) -> list[str]:
    return [
        *(sys.executable, "-m", "pytest_kvbench.engines.own", _spec(settings)),
        *("--model", str(_folder(settings) or settings.model)),
        *("--facts", json.dumps(_of_model(settings))),
        *("--watch-pid", str(pid), "--address-file", str(address)),
        *(("--dtype", settings.dtype) if settings.dtype else ()),
        *(("--threads", str(threads)) if threads else ()),
    ]
