"""`kvbench serve --model M`, or `python -m pytest_kvbench.server`: serve one model until stopped.

SIGTERM and SIGINT end the process at once, in the middle of a prefill too: nothing here needs
tidying up. The process also ends when the one it watches does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil

from pytest_kvbench.errors import KvbenchError, UsageError
from pytest_kvbench.server import choice, shape, weights
from pytest_kvbench.wire.addresses import Announced

_WATCH_EVERY_S = 0.5
_SHARED_ROWS = 32  # a row's share of a step: 55 ms alone, 14 of 8, 9 of 16, 6.5 of 32 (two cores)
_PREFILL_CACHE_MIB = 512
_WAITING = frozenset({"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME"})
"""The variables that say how long OpenMP's threads wait awake."""
_SPINS = "20000"
"""Turns: enough for the next part of a step, a small part of what the default costs others."""

PROGRAM = "python -m pytest_kvbench.server"


def main(arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Parse the command line and serve. Returns an exit status only on failure.

    Args:
        arguments: those of this process, where none are given.
        program: how help and errors name the command.
    """
    options = _parser(program).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        if options.watch_pid is not None:
            _watch(options.watch_pid)
        _serve(options)
    except KvbenchError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line talks to its caller
        return error.exit_status
    return 0


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--model", default="smollm2-135m", help="a name, folder, .gguf or hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument(
        "--dtype", choices=weights.DTYPES, help="default: bfloat16 on a GPU, else float32"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--threads",
        type=int,
        default=_default_threads(),
        help="torch threads (default: OMP_NUM_THREADS, else the cores this process may use)",
    )
    parser.add_argument(
        "--slots",
        default="auto",
        metavar="SHAPE",
        help="auto (on a GPU as many tokens as its memory holds, else none), none, or as in "
        "8x16384: rows that decode together x tokens of each; 8x16384/2048: prompts in passes of "
        "so many tokens",
    )
    parser.add_argument(
        "--memory-share",
        type=_share,
        default=shape.SHARE,
        help=f"of a GPU's memory (default: {shape.SHARE})",
    )
    parser.add_argument(
        "--prefill-cache-mib",
        type=int,
        help=f"memory for prompts to come back to (default: {_PREFILL_CACHE_MIB}; on a GPU what "
        "the slots leave)",
    )
    parser.add_argument(
        "--batches", type=Path, help="serve /v1/files and /v1/batches, kept in this folder"
    )
    parser.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="CLASS",
        help="a class of yours that requests may name: ./FILE.py:Class, MODULE:Class, or "
        "NAME=CLASS; repeatable",
    )
    parser.add_argument("--watch-pid", type=int, help="end when this process does")
    parser.add_argument("--address-file", type=Path, help="written (JSON) when ready")
    return parser


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: valid are shares above 0, at most 1")
    return share


def _default_threads() -> int:
    chosen = os.environ.get("OMP_NUM_THREADS", "")
    return int(chosen) if chosen.isdecimal() and int(chosen) else _usable_cores()


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _serve(options: argparse.Namespace) -> None:
    source = weights.resolve(options.model)
    folder = weights.materialise(source)
    listener = _bind(options.host, options.port)
    _sleep_while_waiting()
    _let_segments_grow()
    chosen = choice.choose(
        folder, options.dtype, options.device, options.slots, options.memory_share
    )

    if chosen.dtype == "float16" and chosen.device == "cpu":
        logging.warning("float16 takes three times as long as float32 on a CPU: see --dtype")

    # Only now: a wrong model name or a taken port must not wait for torch.
    import uvicorn

    from pytest_kvbench.server import decoding, loading, model, server
    from pytest_kvbench.server.reuse import PrefillCache
    from pytest_kvbench.server.worker import Worker

    fingerprint = chosen.fingerprint(folder)
    loaded = model.load(
        folder,
        chosen.dtype,
        chosen.device,
        options.threads,
        source.hub_id,
        spread=chosen.spread,
    )
    loaded = loading.with_classes(loaded, options.policy)
    known = _prefill_cache(options.prefill_cache_mib, chosen.memory)
    engine = decoding.engine(loaded, chosen, PrefillCache(known))
    worker = Worker(engine, options.threads, _shared_rows(chosen))
    worker.start()
    names = tuple(dict.fromkeys([options.model, Path(options.model).name.removesuffix(".gguf")]))
    app = server.build_app(server.Served(engine.model, names, fingerprint, worker), options.batches)
    listener.listen()
    _announce(options.address_file, listener, fingerprint)
    config = uvicorn.Config(app, log_config=None, log_level="warning", access_log=False)
    # In a thread that is not the main one uvicorn leaves the signals alone.
    http = threading.Thread(target=uvicorn.Server(config).run, args=([listener],), daemon=True)
    http.start()
    http.join()


def _sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep soon; awake they would take both cores from whoever works.

    Read when its library is loaded, with torch. What the user has set stays.
    """
    if not _WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _let_segments_grow() -> None:
    """Let what one prompt leaves of a GPU's memory fit a longer one.

    A prompt's cache grows pass by pass, each time in memory of its own: in segments of fixed sizes
    what is freed is too small for the next, and all must be given back and asked for again.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is for torch before 2.9
    if not os.environ.keys() & set(names):
        os.environ.update(dict.fromkeys(names, "expandable_segments:True"))


def _prefill_cache(mib: int | None, memory: shape.Memory | None) -> int:
    """Bytes for prompts that may come again."""
    if mib is None and memory is not None:
        return memory.left
    return (_PREFILL_CACHE_MIB if mib is None else mib) * 2**20


def _shared_rows(chosen: choice.Choice) -> int:
    """Rows beside which another request is let in."""
    if chosen.shape is not None:
        return chosen.shape.slots
    return _SHARED_ROWS if chosen.dtype == "float32" else 1


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio switches Nagle's delay off only where the protocol is named, and every connection
    # inherits it from here: unnamed, a short reply takes 44 ms in place of 2.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UsageError(
            f"--host {host} --port {port}: {error.strerror}.", "Valid: a free port, or 0."
        ) from error
    return listener


def _announce(file: Path | None, listener: socket.socket, fingerprint: dict[str, str]) -> None:
    host, port = listener.getsockname()[:2]
    base_url = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    logging.info("serving on %s", base_url)
    if file is not None:
        address: Announced = {"base_url": base_url, "pid": os.getpid(), "fingerprint": fingerprint}
        weights.write_json(file, address)


def _watch(pid: int) -> None:
    """End this process as soon as the process `pid`, as it is now, is gone."""
    try:
        watched = psutil.Process(pid)
    except psutil.NoSuchProcess as error:
        raise UsageError(f"--watch-pid {pid}: no such process.", "Valid: a running one.") from error
    threading.Thread(target=_watch_forever, args=(watched,), daemon=True).start()


def _watch_forever(watched: psutil.Process) -> None:
    # `is_running` compares the start time too: a new process of the same pid is another one.
    while watched.is_running() and watched.status() != psutil.STATUS_ZOMBIE:
        time.sleep(_WATCH_EVERY_S)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
