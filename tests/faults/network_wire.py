"""The wires between the centre and its hospitals: a process that carries IP packets, loses some, and is late with all.

Each wire ends in a TUN device in either of two network namespaces. Commands come as lines on standard input
(`cut NAME`, `mend NAME`, `count`); the process ends with it.
"""

import contextlib
import fcntl
import heapq
import json
import os
import random
import selectors
import struct
import sys
import time
from ctypes import CDLL, get_errno
from dataclasses import dataclass, field

TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI, _CLONE_NEWNET = 0x400454CA, 0x0001, 0x1000, 0x40000000
LARGEST_PACKET = 65_536


@dataclass
class Wire:
    """One wire: what comes out of one end goes, a little later, into the other."""

    name: str
    ends: tuple[int, int]
    is_cut: bool = False
    carried: int = 0
    lost: int = 0
    """By chance."""
    swallowed: int = 0
    """While it was cut."""


@dataclass
class Carrier:
    """Carries the packets of all wires."""

    loss: float
    delay: float
    wires: dict[str, Wire]
    rng: random.Random
    _late: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _number: int = 0

    def run(self) -> None:
        """Until standard input ends."""
        selector = selectors.DefaultSelector()
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        for wire in self.wires.values():
            for number, end in enumerate(wire.ends):
                selector.register(end, selectors.EVENT_READ, (wire, wire.ends[1 - number]))
        while True:
            for key, _ in selector.select(self._until_next()):
                if key.data is None:
                    if not self._obey(os.read(key.fd, 4096).decode()):
                        return
                else:
                    self._take(os.read(key.fd, LARGEST_PACKET), *key.data)
            self._deliver()

    def _obey(self, lines: str) -> bool:
        for line in lines.splitlines():
            word, _, name = line.partition(" ")
            if word == "count":
                counts = {w.name: [w.carried, w.lost, w.swallowed] for w in self.wires.values()}
                sys.stdout.write(json.dumps(counts) + "\n")
                sys.stdout.flush()
            else:
                self.wires[name].is_cut = word == "cut"
        return bool(lines)

    def _take(self, packet: bytes, wire: Wire, other: int) -> None:
        if wire.is_cut:
            wire.swallowed += 1
        elif self.rng.random() < self.loss:
            wire.lost += 1
        else:
            wire.carried += 1
            self._number += 1
            heapq.heappush(self._late, (time.monotonic() + self.delay, self._number, other, packet))

    def _deliver(self) -> None:
        while self._late and self._late[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(self._late)
            with contextlib.suppress(OSError):  # the other end is not up
                os.write(end, packet)

    def _until_next(self) -> float | None:
        return max(0.0, self._late[0][0] - time.monotonic()) if self._late else None


def open_end(namespace: str, device: str) -> int:
    """A new TUN device in a namespace; this process is in that namespace from then on."""
    libc = CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}") as file:  # noqa: PTH123  # a handle, not a file
        if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(get_errno(), f"no way into {namespace}")
    end = os.open(TUN, os.O_RDWR)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
    return end


def main() -> None:
    """The first argument is JSON: centre, sites (name to namespace and device), loss, delay, seed."""
    plan = json.loads(sys.argv[1])
    wires = {}
    for name, (namespace, device) in plan["sites"].items():
        wires[name] = Wire(name, (open_end(plan["centre"], device), open_end(namespace, device)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    Carrier(plan["loss"], plan["delay"], wires, random.Random(plan["seed"])).run()  # noqa: S311  # not for a secret


if __name__ == "__main__":
    main()
