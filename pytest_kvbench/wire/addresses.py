"""Addresses of servers: their form, what they have in common, and the proxy on the way to them."""

from __future__ import annotations

import ipaddress
import re
from typing import TypedDict
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

_PORTS = {"http": 80, "https": 443}
_OPERATION = re.compile(r"/(chat/)?completions$")
_LABEL = re.compile(r"(?!xn--$)[\w-]{1,63}")
_HEADER = re.compile(r"([!-~]([ -~]*[!-~])?)?")
_TWICE = re.compile(r"/(v\d+)/\1(/|$)")


class Announced(TypedDict):
    """What a server that a run starts writes into a file when it is up."""

    base_url: str
    pid: int
    fingerprint: dict[str, str]


def problem_of(url: str) -> str:
    """What is wrong with the form of a server's address, in words; "" where nothing is.

    Nobody is asked: an address of the right form may still be the wrong one.
    """
    if re.search(r"\s", url) or not url.isprintable():
        return "has a blank in it"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no address: {error}"
    if parts.scheme not in _PORTS or "://" not in url:
        return "has no http:// or https:// in front"
    if not parts.hostname or port == 0:
        return "names no host" if not parts.hostname else "names port 0"
    return _problem_of_host(parts.hostname) or _problem_of_path(parts)


def _problem_of_host(host: str) -> str:
    try:
        if ":" in host or re.fullmatch(r"[\d.]+", host):
            ipaddress.ip_address(host)
    except ValueError as error:
        return f"names no host: {error}"
    labels = host.removesuffix(".").split(".")
    if ":" not in host and not all(_LABEL.fullmatch(label) for label in labels):
        return f"names no host: {host!r} cannot be one"
    return ""


def _problem_of_path(parts: SplitResult) -> str:
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment:
        return f"has a {'?' if parts.query else '#'}: nothing can follow the path"
    if twice := _TWICE.search(path):
        return f"has /{twice[1]} twice"
    if "//" in path:
        return "has // in its path"
    if operation := _OPERATION.search(path):
        return f"ends in {operation[0]}, which we add"
    return ""


def is_header(value: str) -> bool:
    """Whether a text can be a header's value: printable ASCII, without blanks around it."""
    return _HEADER.fullmatch(value) is not None


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine, by its own words: no name is looked up."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    # 0.0.0.0, on which servers say that they listen, reaches this machine too.
    return ip.is_loopback or ip.is_unspecified or bool(mapped and mapped.is_loopback)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address; never one for this machine itself."""
    parts = urlsplit(url)
    if parts.hostname is None or is_loopback(url):
        return None
    if proxy_bypass(parts.hostname) or proxy_bypass(f"{parts.hostname}:{_port(parts)}"):
        return None
    named = getproxies()
    proxy = (named.get(parts.scheme) or named.get("all") or "").strip()
    if not proxy:
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_same_server(url: str, other: str) -> bool:
    """Whether both have the same scheme, host and port."""
    return _origin(url) == _origin(other) is not None


def is_same_address(url: str, other: str) -> bool:
    """Whether a request would come to the same place; names of this machine are one."""
    return _place(url) == _place(other)


def _place(url: str) -> tuple[str, str | None, int | None, str]:
    parts = urlsplit(url)
    host = "localhost" if is_loopback(url) else (parts.hostname or "").rstrip(".")
    return parts.scheme, host, _port(parts), parts.path.rstrip("/")


def place_of(url: str) -> str:
    """Scheme, host and port, as people write them; all of what is no address."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _origin(url: str) -> tuple[str, str | None, int | None] | None:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, _port(parts)
    except ValueError:
        return None


def _port(parts: SplitResult) -> int | None:
    return parts.port or _PORTS.get(parts.scheme)
