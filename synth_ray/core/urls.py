"""Strict URLs: one spelling per place, so that what was checked is what is called.

A URL is taken apart once, by a grammar narrower than the standard's; the connection is opened from these very parts
and never from the text again. Whatever parsers are known to disagree about is refused, not repaired.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote

from synth_ray.core.errors import ConfigError

CHAT_PATH = "/chat/completions"

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_CHARS = 2048
_CHARS = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/%"
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::(?P<port>[0-9]*))?"
    rf"(?P<path>/{_CHARS}]*)?(?:\?(?P<query>{_CHARS}?]*))?",
    re.ASCII | re.IGNORECASE,
)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile("[\x00-\x1f\x7f\\\\]")


@dataclass(frozen=True, slots=True)
class Url:
    """An http(s) URL in parts. ``host`` is lower case (IPv6 without brackets), ``path`` begins with a slash."""

    scheme: str
    host: str
    port: int
    path: str = "/"
    query: str = ""

    @property
    def origin(self) -> str:
        """Scheme, host and port; the scheme's default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def target(self) -> str:
        """Path and query, as they stand in a request line."""
        return f"{self.path}?{self.query}" if self.query else self.path

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"


def parse_url(text: str) -> Url:
    """The parts of ``text``. Raises ConfigError for everything that is not a plain http(s) URL; never echoes it."""
    match = _URL.fullmatch(text) if len(text) <= _MAX_CHARS else None
    if match is None:
        raise _bad("it must be scheme://host[:port][/path][?query] in plain ASCII, without user, fragment or spaces")
    scheme = match["scheme"].lower()
    path, query = match["path"] or "/", match["query"] or ""
    _check_escapes(path, query)
    return Url(scheme, _host(match["host"].lower()), _port(match["port"], scheme), path, query)


def chat_url(text: str) -> Url:
    """Like ``parse_url``; a missing ``/v1/chat/completions`` is appended to the path, the query stays as it is.

    ``https://h?cid=x/v1/chat/completions``, where the path has landed in the query, is put right; any other query with
    such a path in it is refused.
    """
    url = parse_url(text)
    query = url.query.removesuffix("/v1" + CHAT_PATH)
    if CHAT_PATH in query:
        raise _bad("its path stands in the query; write https://host/v1/chat/completions?cid=...")
    path = url.path.rstrip("/")
    if not path.endswith(CHAT_PATH):
        path += CHAT_PATH if path.endswith("/v1") else f"/v1{CHAT_PATH}"
    return Url(url.scheme, url.host, url.port, path, query)


def parse_origin(text: str) -> str:
    """The canonical form of an origin such as ``http://10.0.0.5:8000``; ConfigError if it has a path or a query."""
    url = parse_url(text)
    if url.target != "/":
        raise ConfigError(
            "an origin is scheme://host[:port], without path or query", "for example https://10.0.0.5:8000"
        )
    return url.origin


def _bad(why: str) -> ConfigError:
    return ConfigError(f"this inference URL is not usable: {why}", "for example https://api.openai.com/v1")


def _check_escapes(path: str, query: str) -> None:
    if _BAD_ESCAPE.search(path + query) or _CONTROL.search(unquote(path + query, errors="replace")):
        raise _bad("it has a broken or dangerous % escape")
    if any(segment in (".", "..") for segment in unquote(path).split("/")):
        raise _bad("its path has dot segments")


def _port(text: str | None, scheme: str) -> int:
    if text is None:
        return _DEFAULT_PORTS[scheme]
    port = int(text) if re.fullmatch("[1-9][0-9]{0,4}", text) else 0
    if not 1 <= port <= 65535:
        raise _bad("its port is not a number from 1 to 65535, written plainly")
    if port == _DEFAULT_PORTS[scheme]:
        raise _bad(f"leave out the port {port}, which is the default of {scheme}")
    return port


def _host(text: str) -> str:
    if text.startswith("["):
        return _ipv6(text[1:-1])
    if _NUMBER_LABEL.fullmatch(text.rpartition(".")[2]):
        return _ipv4(text)
    if len(text) > 253 or not all(_LABEL.fullmatch(label) for label in text.split(".")):
        raise _bad("its host is not a plain host name")
    return text


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise _bad("its host is a number, but not four decimal ones with dots") from None


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        raise _bad("its host is not an IPv6 address") from None
    if str(address) != text or "." in text or address.ipv4_mapped is not None:
        raise _bad("its IPv6 address is not in the canonical form, or hides an IPv4 address")
    return text
