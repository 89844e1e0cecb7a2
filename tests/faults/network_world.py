"""A network of its own: a namespace for the centre and one for each hospital, wires between them, `tc` at both ends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WIRE = Path(__file__).with_name("network_wire.py")
CENTRE_HOST = "10.77.0.1"
BURST, LONGEST_QUEUE = "10kb", "400ms"


@dataclass(frozen=True)
class Line:
    """A hospital's line: both directions as fast, delayed and lossy as each other."""

    kilobits: int


@dataclass
class World:
    """The running network."""

    prefix: str
    sites: tuple[str, ...]
    carrier: "subprocess.Popen[str]"

    @property
    def centre(self) -> tuple[str, ...]:
        """What comes before a command of the centre."""
        return inside(f"{self.prefix}-c")

    def at(self, site: str) -> tuple[str, ...]:
        """What comes before a command of a hospital."""
        return inside(_namespace(self.prefix, self.sites, site))

    def cut(self, *sites: str) -> None:
        """From now on every packet of these lines is lost, as behind a dead VPN: nobody is told."""
        self._say(*(f"cut {site}" for site in sites))

    def mend(self, *sites: str) -> None:
        """Packets come through again."""
        self._say(*(f"mend {site}" for site in sites))

    def counts(self) -> dict[str, list[int]]:
        """Packets carried, lost by chance, and swallowed by a cut, of each line."""
        self._say("count")
        assert self.carrier.stdout is not None
        counts: dict[str, list[int]] = json.loads(self.carrier.stdout.readline())
        return counts

    def _say(self, *lines: str) -> None:
        assert self.carrier.stdin is not None
        self.carrier.stdin.write("".join(f"{line}\n" for line in lines))
        self.carrier.stdin.flush()


def cannot() -> str:
    """Why there can be no such network here; empty where there can."""
    if os.geteuid() != 0:
        return "Network namespaces need root."
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "There is no /dev/net/tun."
    probe = f"f2bprobe{os.getpid()}"
    try:
        tried = [_ip("netns", "add", probe), *_try_tc(probe)]
    except FileNotFoundError as error:
        return f"There is no {error.filename} (iproute2)."
    finally:
        _ip_quietly("netns", "delete", probe)
    failed = next((one for one in tried if one.returncode != 0), None)
    return f"Namespaces or tc do not work here: {failed.stderr.strip()}" if failed else ""


@contextmanager
def world(lines: Mapping[str, Line], *, loss: float, delay: float, seed: int) -> Iterator[World]:
    """Make the network; take everything away at the end.

    Args:
        lines: each hospital's.
        loss: share of the packets that are lost, in each direction.
        delay: seconds that a packet takes, in each direction.
        seed: of the losses.
    """
    prefix, sites = f"f2b{os.getpid()}", tuple(lines)
    ends = {site: (_namespace(prefix, sites, site), f"line{number}") for number, site in enumerate(sites)}
    names = [f"{prefix}-c", *(name for name, _ in ends.values())]
    carrier = None
    try:
        for name in names:
            _done("netns", "add", name)
            _done("-n", name, "link", "set", "lo", "up")
        _done("-n", names[0], "address", "add", f"{CENTRE_HOST}/32", "dev", "lo")
        plan = {"centre": names[0], "sites": ends, "loss": loss, "delay": delay, "seed": seed}
        carrier = subprocess.Popen(
            [sys.executable, str(WIRE), json.dumps(plan)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert carrier.stdout is not None
        assert carrier.stdout.readline() == "ready\n"
        for number, site in enumerate(sites):
            _lay(names[0], *ends[site], number, lines[site])
        yield World(prefix, sites, carrier)
    finally:
        if carrier is not None:
            carrier.kill()
            carrier.communicate()
        for name in names:
            _ip_quietly("netns", "delete", name)


def inside(namespace: str) -> tuple[str, ...]:
    """What comes before a command that runs in a namespace; the command's process takes this one's place."""
    return ("ip", "netns", "exec", namespace)


def _lay(centre: str, namespace: str, device: str, number: int, line: Line) -> None:
    """Give a wire's ends their addresses, their speed, and the ways to each other."""
    near, far = f"10.77.{number + 1}.1", f"10.77.{number + 1}.2"
    for name, mine, other in ((centre, near, far), (namespace, far, near)):
        _done("-n", name, "address", "add", mine, "peer", other, "dev", device)
        _done("-n", name, "link", "set", device, "up")
        _run("tc", "-n", name, *_shape(device, line.kilobits)).check_returncode()
    _done("-n", namespace, "route", "add", CENTRE_HOST, "dev", device)


def _shape(device: str, kilobits: int) -> tuple[str, ...]:
    rate = ("rate", f"{kilobits}kbit", "burst", BURST, "latency", LONGEST_QUEUE)
    return ("qdisc", "add", "dev", device, "root", "tbf", *rate)


def _try_tc(namespace: str) -> list["subprocess.CompletedProcess[str]"]:
    return [_run("tc", "-n", namespace, *_shape("lo", 1000))]


def _namespace(prefix: str, sites: tuple[str, ...], site: str) -> str:
    return f"{prefix}-{sites.index(site)}"


def _done(*words: str) -> None:
    done = _ip(*words)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _ip(*words: str) -> "subprocess.CompletedProcess[str]":
    return _run("ip", *words)


def _ip_quietly(*words: str) -> None:
    try:
        _ip(*words)
    except FileNotFoundError:
        return


def _run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
