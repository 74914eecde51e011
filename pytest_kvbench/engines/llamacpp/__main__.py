"""`python -m pytest_kvbench.engines.llamacpp --model F.gguf`: serve until told to stop.

xllamacpp runs llama.cpp's HTTP server inside this process. SIGTERM ends it at once; it also ends
when the process that it watches does.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pytest_kvbench.engines.kinds.llamacpp import KIND
from pytest_kvbench.errors import EngineError
from pytest_kvbench.files import replace_json
from pytest_kvbench.processes import end_with
from pytest_kvbench.wire.addresses import Announced


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and serve. Returns an exit status only on failure."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if options.watch_pid is not None:
        end_with(options.watch_pid)
    import xllamacpp

    try:
        server = xllamacpp.Server(_params(xllamacpp, options))
    except RuntimeError as error:  # what went wrong is in the lines above, by llama.cpp itself
        print(error, file=sys.stderr)  # noqa: T201 -- its log
        return EngineError.exit_status
    address: Announced = {
        "base_url": f"{server.listening_address}/v1",
        "pid": os.getpid(),
        "fingerprint": {},
    }
    if options.address_file is not None:
        replace_json(options.address_file, address)
    while True:
        signal.pause()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pytest_kvbench.engines.llamacpp")
    parser.add_argument("--model", required=True, help="a .gguf file")
    parser.add_argument("--name", help="the model's served name")
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--type-k", choices=KIND.types, default=KIND.control)
    parser.add_argument("--type-v", choices=KIND.types, default=KIND.control)
    parser.add_argument("--context", type=int, default=4096, help="tokens of each slot")
    parser.add_argument("--parallel", type=int, default=1, help="slots")
    parser.add_argument("--threads", type=int, help="default: llama.cpp's own")
    parser.add_argument("--slots", help="a folder for saved slots: the proof of the KV type")
    parser.add_argument("--watch-pid", type=int, help="end when this process does")
    parser.add_argument("--address-file", type=Path, help="written (JSON) when ready")
    return parser


def _params(xllamacpp: Any, options: argparse.Namespace) -> Any:
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.name or Path(options.model).stem}
    params.hostnames, params.port = ["127.0.0.1"], options.port
    params.n_parallel, params.n_ctx = options.parallel, options.parallel * options.context
    params.fit_params = False  # it would shrink the context in silence
    params.cache_type_k = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.type_k.upper()}")
    params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{options.type_v.upper()}")
    # A quantised V needs it, and the control must differ in nothing else.
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.cache_ram_mib, params.ui = 0, False  # no prompt comes back: requests say cache_prompt
    if options.slots:
        params.slot_save_path = f"{options.slots.rstrip('/')}/"
    for pool in (params.cpuparams, params.cpuparams_batch):
        pool.poll = 0  # idle servers of other arms leave the cores to the busy one
        if options.threads:
            pool.n_threads = options.threads
    return params


if __name__ == "__main__":
    sys.exit(main())
