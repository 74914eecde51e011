"""Connections are open files, of which a process may have so many."""

from __future__ import annotations

import resource
import sys

from pytest_kvbench.errors import EngineError

_OTHER_FILES = 64
_ENOUGH_FILES = 2**16


def allow_open_files(places: int, servers: int = 1) -> None:
    """Let this process have its connections beside its other files.

    The soft limit, often 1,024 or 256, is only a habit of systems; the hard one stays.

    Args:
        places: requests in flight.
        servers: each keeps its own connections open, up to as many.

    Raises:
        EngineError: more than the hard limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    wanted = places * servers + _OTHER_FILES
    if wanted > most:
        times = f" x {servers} servers" if servers > 1 else ""
        raise EngineError(
            f"engine.concurrency {places}{times}: each request in flight is an open file, and a "
            f"process may have {hard} of them here",
            f"lower it to {max(1, (hard - _OTHER_FILES) // servers)}, or raise the limit: "
            "ulimit -Hn",
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # More than this client needs: others may have connections too.
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(wanted, _ENOUGH_FILES)), hard))
