"""`python -m pytest_kvbench.engines.own CLASS --address-file F`: serve an engine of a user's.

It speaks as much of the OpenAI API as a run asks, on a free port. SIGTERM ends it at once; it also
ends when the process that it watches does.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from pytest_kvbench.engines.own import CLASSES, AskedArm, Reply
from pytest_kvbench.engines.own.reading import load_engine
from pytest_kvbench.errors import EngineError, KvbenchError
from pytest_kvbench.files import replace_json
from pytest_kvbench.processes import end_with
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.addresses import Announced
from pytest_kvbench.wire.conversation import Message
from pytest_kvbench.wire.sound import Fields

_LARGEST = 2**30
_REPLY = TypeAdapter(Reply)
_ARM = TypeAdapter(AskedArm)
_FIELDS = frozenset(field.name for field in fields(AskedArm))


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve. Returns an exit status only on failure."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if options.watch_pid is not None:
        end_with(options.watch_pid)
    try:
        engine = _made(options)
        facts = {"engine": CLASSES.digest(options.engine), **json.loads(options.facts)}
    except KvbenchError as error:
        print(error, file=sys.stderr)  # noqa: T201 -- its log
        return error.exit_status
    asyncio.run(_serve(engine, options.address_file, facts))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_kvbench.engines.own")
    parser.add_argument("engine", metavar="CLASS", help="./FILE.py:Class or MODULE:Class")
    parser.add_argument("--model", help="handed to the class, where it takes a model")
    parser.add_argument("--dtype", help="handed to the class, where it takes a dtype")
    parser.add_argument("--threads", type=int, help="handed to the class, where it takes threads")
    parser.add_argument("--facts", default="{}", help="what else identifies it, as JSON")
    parser.add_argument("--watch-pid", type=int, help="end when this process does")
    parser.add_argument("--address-file", type=Path, required=True, help="written when ready")
    return parser


def _made(options: argparse.Namespace) -> Any:
    """The object: the class, called with those of model, dtype and threads that it names."""
    found = load_engine(options.engine)
    if not isinstance(found, type):
        return found
    try:
        named = inspect.signature(found).parameters
        given = {name: getattr(options, name) for name in ("model", "dtype", "threads")}
        return found(**{n: v for n, v in given.items() if n in named and v is not None})
    except Exception as error:  # a program of the user's
        traceback.print_exc()
        raise EngineError(
            f"engine {options.engine}: it cannot be made: {_words(error)}", "mend its constructor"
        ) from error


async def _serve(engine: Any, address_file: Path, facts: dict[str, str]) -> None:
    app = web.Application(client_max_size=_LARGEST)
    thread = ThreadPoolExecutor(1, "generate")  # a model is used by one request at a time

    async def answer(request: web.Request) -> web.Response:
        came = time.monotonic()
        body = await request.json()
        asked = asyncio.get_running_loop().run_in_executor(thread, _answered, engine, body, came)
        return web.json_response(await asked)

    for path in ("/v1/chat/completions", "/v1/completions"):
        app.router.add_post(path, answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    address: Announced = {
        "base_url": f"http://{host}:{port}/v1",
        "pid": os.getpid(),
        "fingerprint": facts,
    }
    replace_json(address_file, address)
    await asyncio.Event().wait()


def _answered(engine: Any, body: Fields, came: float) -> Fields:
    """The reply to a request; what the user's code raises is that of its arm alone."""
    queued_s = time.monotonic() - came
    try:
        reply = _checked(engine.generate(*_asked(body)))
    except Exception as error:
        traceback.print_exc()
        return {"choices": [{"index": 0, "kv": {"error": _words(error)}}]}
    return {**_written(reply), "timings": {"queue_s": queued_s}}


def _asked(body: Fields) -> tuple[list[Message], AskedArm]:
    """The messages and the arm of a request's body."""
    (arm,) = sound.objects(body["kv"])
    messages = sound.objects(body.get("messages"))
    given = {name: value for name, value in {**body, **arm}.items() if name in _FIELDS}
    asked = _ARM.validate_python({**given, "chat": "messages" in body})
    return messages or [{"role": "user", "content": body["prompt"]}], asked


def _checked(reply: Any) -> Reply:
    """What `generate` gave, if it is a reply.

    Raises:
        TypeError: it is none.
        ValueError: it has something that a reply has not, or names no bytes of a cache.
    """
    if not isinstance(reply, Reply | Mapping):
        raise TypeError(f"generate gave {type(reply).__name__}, not a Reply")
    try:
        given = _REPLY.validate_python(vars(reply) if isinstance(reply, Reply) else dict(reply))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if given.kept_bytes is not None and not (given.full_bytes or 0) > 0:
        raise ValueError(f"kept_bytes is {given.kept_bytes}, full_bytes {given.full_bytes}")
    return given


def _written(reply: Reply) -> Fields:
    kept, full = reply.kept_bytes, reply.full_bytes
    bytes_of = {} if kept is None or full is None else {
        "achieved": kept / full, "kept_bytes": kept, "full_bytes": full
    }  # fmt: skip
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply.text},
        "finish_reason": reply.finish_reason,
        "completion_tokens": reply.new_tokens,
        "kv": bytes_of,
        "logprobs": {"content": [_token(one) for one in reply.logprobs]},
    }
    usage = {"prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.new_tokens}
    return {"choices": [choice], "usage": usage}


def _token(probabilities: Mapping[str, float]) -> Fields:
    """One new token as OpenAI writes its log-probabilities: its own, and all that were given."""
    every = [{"token": token, "logprob": value} for token, value in probabilities.items()]
    return {**every[0], "top_logprobs": every} if every else {"top_logprobs": []}


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


if __name__ == "__main__":
    sys.exit(main())
