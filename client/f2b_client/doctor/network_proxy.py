"""Which web proxy the connection takes, and whether that proxy lets it through.

Flower speaks through httpx, which reads HTTPS_PROXY, ALL_PROXY and NO_PROXY (also in small letters). The rules here
are httpx's own, so that the doctor takes the way the SuperNode will take. On loopback `start` switches proxies off.
"""

import base64
import fnmatch
import http.client
import ipaddress
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus

from f2b_client.doctor.finding import Finding
from f2b_client.doctor.network_address import Address, connect, is_ip, resolve
from f2b_client.doctor.outcome import BlockedError, blocked, passed, warned

PROXY_SECONDS = 6.0
DEFAULT_PORTS = {"http": 80, "https": 443}
SETTING = (
    "Set HTTPS_PROXY=http://USER:PASSWORD@PROXY:PORT for the client's service (deploy/f2b-client.service)"
)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A web proxy. `authorization` is secret and is never shown."""

    address: Address
    scheme: str
    authorization: str | None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.address}"


def proxy_for(address: Address) -> Proxy | None:
    """The proxy that an HTTPS connection to this address takes; None where it goes directly.

    Raises:
        BlockedError: the environment names a proxy that cannot be used.
    """
    text = _chosen(address)
    return None if text is None else _parse(text)


def check_environment(address: Address, proxy: Proxy | None) -> Iterator[Finding]:
    """Say which way the connection goes, and whether NO_PROXY does what it was meant to do.

    Args:
        address: the centre's.
        proxy: the way there, of `proxy_for`.
    """
    if proxy is None:
        yield passed("proxy", "The connection goes directly, not through a proxy.")
    else:
        ignored = [entry for entry in _no_proxy() if _meant_for(entry, address)]
        if ignored:
            yield warned(
                "no-proxy",
                f"NO_PROXY lists '{ignored[0]}', meant for {address.host}; Flower does not understand this form and "
                f"goes through {proxy}.",
                "environment",
                f"Add {address.host} itself to NO_PROXY if the proxy is not wanted; networks (10.0.0.0/8) and "
                "wildcards (*.example.org) are not understood, .example.org is.",
            )


def through(proxy: Proxy, address: Address) -> socket.socket:
    """A connection to the address through the proxy (HTTP CONNECT).

    Raises:
        BlockedError: the proxy does not answer, asks for a password, refuses, or cannot get there.
    """
    if proxy.scheme != "http":
        raise BlockedError(
            warned(
                "proxy",
                f"{proxy} is spoken to over TLS; the doctor looks through http:// proxies only and stops here.",
                str(proxy),
                "Most proxies named https:// are meant as http://; ask IT. Otherwise see log/supernode.log after "
                "the start.",
            )
        )
    resolve(proxy.address)
    connection = connect(proxy.address, check="proxy")
    try:
        status = _ask_for(connection, proxy, address)
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise blocked(
            "proxy",
            f"{proxy} accepts connections and does not answer as a web proxy ({type(error).__name__}).",
            str(proxy),
            "Ask IT for the proxy's address and port; a port for SOCKS or for its web page is not the one.",
        ) from error
    if status != HTTPStatus.OK:
        connection.close()
        raise _refusal(proxy, address, status)
    return connection


def _ask_for(connection: socket.socket, proxy: Proxy, address: Address) -> int:
    connection.settimeout(PROXY_SECONDS)
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    answer = http.client.HTTPResponse(connection, method="CONNECT")
    answer.begin()
    return answer.status


def _refusal(proxy: Proxy, address: Address, status: int) -> BlockedError:
    if status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and proxy.authorization is None:
        what, mend = "asks for a password and none is set (407)", f"{SETTING}."
    elif status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        what = "refuses the user name or password that is set (407)"
        mend = (
            f"{SETTING}; write special characters as %XX, such as %40 for @. Proxies that demand Kerberos or NTLM "
            f"need an exception for {address}."
        )
    elif status in (HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT):
        what = f"cannot reach {address} itself ({status})"
        mend = (
            f"Ask IT to open the way from the proxy to {address}, or the centre whether its SuperLink runs."
        )
    else:
        what = f"does not permit connections to {address} ({status})"
        mend = f"Ask IT to allow CONNECT to {address} on the proxy."
    return blocked("proxy", f"The proxy {what}.", str(proxy), mend)


def _chosen(address: Address) -> str | None:
    """The choice httpx makes: NO_PROXY before the scheme's own proxy before ALL_PROXY."""
    entries = _no_proxy()
    if "*" in entries or any(_exempts(entry, address) for entry in entries):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get("https") or proxies.get("all") or None


def _no_proxy() -> list[str]:
    return [entry.strip() for entry in urllib.request.getproxies().get("no", "").split(",") if entry.strip()]


def _exempts(entry: str, address: Address) -> bool:
    wanted, _, rest = entry.rpartition("://")
    if wanted not in ("", "all", "https"):
        return False
    whole = bool(wanted) or is_ip(rest.split("/")[0]) or rest.lower() == "localhost"
    rest = rest.split("/")[0]
    name, colon, port = rest.rpartition(":")
    if is_ip(rest) or not colon or not port.isdecimal():
        name = rest
    elif not _same_port(int(port), wanted, address.port):
        return False
    name, host = name.strip("[]").lower(), address.host.lower()
    if whole:
        return host == name
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _same_port(port: int, scheme: str, asked: int) -> bool:
    """Httpx forgets a port that is its scheme's own: it then stands for any port in an entry, for none in a URL."""
    own = DEFAULT_PORTS["https"]
    return (scheme == "https" and port == own) or (port == asked and asked != own)


def _meant_for(entry: str, address: Address) -> bool:
    if entry.startswith("*."):
        return fnmatch.fnmatch(address.host.lower(), entry.lower())
    try:
        return "/" in entry and ipaddress.ip_address(address.host) in ipaddress.ip_network(
            entry, strict=False
        )
    except ValueError:
        return False


def _parse(text: str) -> Proxy:
    parts = urllib.parse.urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise blocked(
            "proxy",
            f"HTTPS_PROXY or ALL_PROXY names a {parts.scheme or 'nameless'} proxy that Flower cannot use.",
            "environment",
            f"{SETTING}. SOCKS proxies are not supported; write special characters of the password as %XX.",
        )
    return Proxy(
        address=Address(parts.hostname, port or DEFAULT_PORTS[parts.scheme]),
        scheme=parts.scheme,
        authorization=_authorization(parts),
    )


def _authorization(parts: urllib.parse.SplitResult) -> str | None:
    if not parts.username:
        return None
    pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
    return "Basic " + base64.b64encode(pair.encode()).decode("ascii")
