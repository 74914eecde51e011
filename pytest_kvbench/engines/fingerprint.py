"""What identifies servers: the fingerprint of a run, which is that of all of its servers in one.

A fact that all servers share stands under its own name (`weights`), one in which they differ under
the server's (`q8_0: type_k`), so that people can read it and every arm finds its own server's.
"""

from __future__ import annotations

from collections.abc import Mapping

_OF = ": "


def merge(by_server: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The facts of several servers as one flat mapping; `of_server` takes it apart again."""
    servers = list(by_server.values())
    shared = {
        name: value
        for name, value in (servers[0] if servers else {}).items()
        if all(facts.get(name) == value for facts in servers)
    }
    own = {
        f"{server}{_OF}{name}": value
        for server, facts in by_server.items()
        for name, value in facts.items()
        if name not in shared
    }
    return {**shared, **own}


def of_server(fingerprint: Mapping[str, str], server: str) -> dict[str, str]:
    """The facts of one server, whatever the others are."""
    shared = {name: value for name, value in fingerprint.items() if _OF not in name}
    start = server + _OF
    own = {n.removeprefix(start): v for n, v in fingerprint.items() if n.startswith(start)}
    return {**shared, **own}
