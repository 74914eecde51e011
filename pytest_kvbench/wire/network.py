"""One way out for all that asks a server: its proxy, its certificates, and no redirect elsewhere.

Loopback never goes through a proxy. A redirect to another host would take the key and the prompts
there, so it ends the request; one that stays at the host is followed where it keeps the method.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from pytest_kvbench.errors import EngineError
from pytest_kvbench.wire import sound
from pytest_kvbench.wire.addresses import is_same_server, place_of, problem_of, proxy_of

if TYPE_CHECKING:
    import httpx

REDIRECTS = frozenset({301, 302, 303, 307, 308})
KEEPS_METHOD = frozenset({307, 308})
HOPS = 3
"""Redirects that are followed, one after the other."""


class RedirectError(EngineError):
    """A redirect that is not followed."""


def proxy_to(url: str) -> str | None:
    """The proxy for an address, if there is one.

    Raises:
        EngineError: it speaks no HTTP, or its address has not the form of one.
    """
    proxy = proxy_of(url)
    if proxy is None:
        return None
    scheme = proxy.split(":")[0].lower()
    wrong = problem_of(proxy) if scheme in {"http", "https"} else f"is a {scheme} proxy"
    if wrong:
        raise EngineError(
            f"the proxy of the environment for {place_of(url)} {wrong}",
            "name one that speaks HTTP in HTTPS_PROXY, or the host in NO_PROXY",
        )
    return proxy


def certificates(url: str) -> ssl.SSLContext | bool:
    """httpx's: those of SSL_CERT_FILE, or its own on a bare system; none where none are needed."""
    if not url.startswith("https:"):
        return True
    from pytest_kvbench.wire.lean import httpx  # late: a worker beside its own server needs none

    return httpx.create_ssl_context()


def redirected(method: str, url: str, status: int, location: str | None) -> str | None:
    """Where a redirect leads that may be followed; None where the response is no redirect.

    Raises:
        RedirectError: it leads elsewhere, or would turn a POST into a GET.
    """
    if status not in REDIRECTS or not location:
        return None
    target = _joined(url, location)
    follows = method == "GET" or status in KEEPS_METHOD
    if follows and is_same_server(url, target):
        return target
    where = target if is_same_server(url, target) else f"{place_of(target)}, another server"
    raise RedirectError(
        f"{url} sends requests on to {sound.message(where)} (HTTP {status}): neither key nor "
        "prompts go there",
        "name the address that answers itself: engine.base_url or engine.endpoints",
    )


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return location  # no address, so no server


def client_of(
    url: str, *, timeout_s: float, headers: Mapping[str, str] = MappingProxyType({})
) -> httpx.Client:
    """A client for one server; its caller closes it.

    Args:
        url: any address of the server.
        timeout_s: between two pieces of a reply, and for the connection.
        headers: sent with every request; may hold a key.

    Raises:
        EngineError: see `proxy_to`; by its requests, see `redirected`.
    """
    from pytest_kvbench.wire.lean import httpx

    # Loading certificates takes 20 ms, which plain HTTP has no use for.
    certified = certificates(url) if url.startswith("https:") else False
    return httpx.Client(
        headers=dict(headers),
        timeout=timeout_s,
        verify=certified,
        proxy=proxy_to(url),
        trust_env=False,  # it would take a proxy for loopback, and keys from ~/.netrc
        follow_redirects=True,
        max_redirects=HOPS,
        event_hooks={"response": [_stay]},
    )


def _stay(response: httpx.Response) -> None:
    """Called for every response before a redirect is followed."""
    request = response.request
    location = response.headers.get("location")
    redirected(request.method, str(request.url), response.status_code, location)
