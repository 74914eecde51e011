"""What identifies servers: the fingerprint of a run, which is that of all of its servers in one.

A fact that all servers share stands under its own name (`weights`), one in which they differ under
the server's (`q8_0: type_k`), so that people can read it and every arm finds its own server's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pytest_kvbench.records import canonical

_OF = ": "
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BEHIND = ("base_url", "command")
"""Facts about where a server is or how it is started, where it does not say what it is."""


def is_unambiguous(fingerprint: Mapping[str, str]) -> bool:
    """Whether servers with this fingerprint are sure to answer alike.

    They are where the weights of all are named by a digest of their content, and the rest is known
    too: an address says nothing of who answers there, nor a name or a version of the weights.
    """
    facts = [(name.rpartition(_OF)[2], value) for name, value in fingerprint.items()]
    weights = [value for name, value in facts if name == "weights"]
    return (
        bool(weights)
        and all(_DIGEST.fullmatch(value) for value in weights)
        and not any(name in _BEHIND for name, _ in facts)
    )


def of_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The user's headers as a fact: a gateway may choose the model by one. None: no fact."""
    sent = {name.lower(): value for name, value in headers.items()}
    return {"headers": canonical(sent).decode()} if sent else {}


def merge(by_server: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The facts of several servers as one flat mapping; `of_server` takes it apart again."""
    servers = list(by_server.values())
    shared = {
        name: value
        for name, value in (servers[0] if servers else {}).items()
        if all(facts.get(name) == value for facts in servers)
    }
    different = {
        f"{server}{_OF}{name}": value
        for server, facts in by_server.items()
        for name, value in facts.items()
        if name not in shared
    }
    return {**shared, **different}


def of_server(fingerprint: Mapping[str, str], server: str) -> dict[str, str]:
    """The facts of one server, whatever the others are."""
    shared = {name: value for name, value in fingerprint.items() if _OF not in name}
    start = server + _OF
    different = {n.removeprefix(start): v for n, v in fingerprint.items() if n.startswith(start)}
    return {**shared, **different}
