"""The address in the kit: is it one, does its name resolve, does anything answer there?"""

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from f2b_client.doctor.deadline import within
from f2b_client.doctor.outcome import blocked

DNS_SECONDS = 5.0
CONNECT_SECONDS = 4.0
LARGEST_PORT = 65_535
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL)


@dataclass(frozen=True)
class Address:
    """A host name or IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read `host:port`.

    Raises:
        BlockedError: it is something else, such as a URL.
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (_is_host(host) and port.isdecimal() and 0 < int(port) <= LARGEST_PORT):
        raise blocked(
            "address",
            f"The centre's address in the kit is '{text}', which is not host:port.",
            "joined/kit.json",
            "Ask the centre for a new kit with an address such as centre.example.org:443, without https://, and "
            "run `f2b-client join KIT`.",
        )
    return Address(host, int(port))


def _is_host(text: str) -> bool:
    if is_ip(text):
        return True
    return ":" not in text and all(_LABEL.fullmatch(label) for label in text.removesuffix(".").split("."))


def is_ip(host: str) -> bool:
    """Whether it is a number, so that no DNS is asked."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def resolve(address: Address, *, seconds: float = DNS_SECONDS) -> tuple[str, ...]:
    """The IP addresses of a host.

    Raises:
        BlockedError: the name is not known, or the DNS server does not answer.
    """
    try:
        found = within(
            seconds, lambda: socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        )
    except TimeoutError as error:
        raise blocked(
            "dns",
            f"The DNS server did not answer within {seconds:g} s when asked for {address.host}.",
            str(address),
            "Check the DNS servers in /etc/resolv.conf and that this machine may reach them on port 53.",
        ) from error
    except OSError as error:
        raise blocked(
            "dns",
            f"The name {address.host} does not resolve ({error.strerror or error}).",
            str(address),
            f"Try `getent hosts {address.host}`. If the hospital's DNS knows no outside names, ask IT for an entry, "
            "or set HTTPS_PROXY so that the proxy resolves it.",
        ) from error
    return tuple(sorted({str(entry[4][0]) for entry in found}))


def connect(address: Address, *, check: str = "connect", seconds: float = CONNECT_SECONDS) -> socket.socket:
    """Open a TCP connection.

    Args:
        address: where to.
        check: the name a failure is reported under.
        seconds: how long to wait for the other side.

    Raises:
        BlockedError: refused, no answer, or no way there.
    """
    try:
        return socket.create_connection((address.host, address.port), timeout=seconds)
    except ConnectionRefusedError as error:
        raise blocked(
            check,
            f"{address.host} refuses connections on port {address.port}: nothing listens, or a firewall rejects it.",
            str(address),
            "Compare the port with the kit, ask the centre whether its SuperLink runs, and ask IT whether outgoing "
            f"connections to {address} are rejected.",
        ) from error
    except TimeoutError as error:
        raise blocked(
            check,
            f"{address} does not answer within {seconds:g} s: most likely a firewall drops outgoing connections.",
            str(address),
            f"Ask IT to allow outgoing TCP from this machine to {address}; if the hospital uses a web proxy, set "
            "HTTPS_PROXY for the client's service.",
        ) from error
    except OSError as error:
        what = "there is no route to it" if error.errno in _UNREACHABLE else str(error.strerror or error)
        raise blocked(
            check,
            f"{address} cannot be reached: {what}.",
            str(address),
            "Check this machine's network connection and default gateway.",
        ) from error
