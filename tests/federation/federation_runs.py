"""How tests run the commands of both sides."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = [sys.executable, "-m", "f2b_server.cli"]
CLIENT = [sys.executable, "-m", "f2b_client.cli"]
PATIENTS, ROUNDS = 24, 2
ASTRONAUT = "NASA0001"


@dataclass(frozen=True)
class Demo:
    """A finished demo: its folder, what it printed, its JSON."""

    out: Path
    result: dict[str, Any]
    said: str

    @property
    def study(self) -> Path:
        return self.out / "study"

    def site(self, name: str) -> Path:
        return self.out / "sites" / name


def run(command: list[str], *, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env=environment,
    )


def start_client(folder: Path) -> subprocess.Popen[bytes]:
    """`f2b-client start` in the background."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*CLIENT, "start", "--site", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
    )


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_demo(out: Path, *options: str, timeout: float = 900) -> Demo:
    done = run([*SERVER, "demo", "--out", str(out), "--json", *options], timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return Demo(out, json.loads(done.stdout), done.stderr)
