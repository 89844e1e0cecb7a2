"""A SuperNode that an HTTP error made deaf is noticed, told of, and started again: a real SuperLink, one real error.

The error comes from a TLS proxy in front of the SuperLink, as a hospital's middlebox would answer it.
"""

import asyncio
import json
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import uvicorn
from federation_runs import CLIENT, SERVER, free_port, run
from grpc_health.v1 import health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from f2b_client import kept
from f2b_client.link import read_link
from f2b_client.settings import SiteFolder, load_joined
from f2b_client.supernode import STOPPED_POLLING
from f2b_client.supervisor import Supervisor
from f2b_server.certificates import make_server_certificate
from f2b_server.settings import StudyFolder
from f2b_server.superlink import running_superlink

pytestmark = pytest.mark.slow

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LEFT_BEHIND = ("host", "content-length", "transfer-encoding", "content-encoding")


@dataclass
class Proxy:
    """Forwards to the SuperLink; answers the next request of a path with an error when told to."""

    upstream: str
    ca: Path
    inject: dict[str, int] = field(default_factory=dict)
    injected: list[str] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        for name in [name for name in self.inject if path.endswith(name)]:
            self.injected.append(path)
            return Response("x", self.inject.pop(name))
        context = ssl.create_default_context(cafile=self.ca)
        async with httpx.AsyncClient(
            base_url=f"https://{self.upstream}", verify=context, trust_env=False
        ) as up:
            headers = {k: v for k, v in request.headers.items() if k not in LEFT_BEHIND}
            reply = await up.request(request.method, path, content=await request.body(), headers=headers)
        kept_headers = {k: v for k, v in reply.headers.items() if k not in LEFT_BEHIND}
        return Response(reply.content, reply.status_code, headers=kept_headers)


@contextmanager
def serving(proxy: Proxy, port: int, certificate: Path, key: Path) -> Iterator[None]:
    app = Starlette(routes=[Route("/{path:path}", proxy.answer, methods=["GET", "POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, ssl_certfile=certificate, ssl_keyfile=key, log_level="warning"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(20)


def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, what
        time.sleep(0.1)
    return time.monotonic() - began


def enrol(root: Path, address: str) -> tuple[StudyFolder, SiteFolder]:
    study, site, kit = root / "study", root / "north", root / "kit.zip"
    names = ["--name", "Stall", "--question", "Is it noticed?", "--site", "north", "--site", "south"]
    trunk = ["--trunk-name", "random", "--trunk-digest", "0" * 64]
    for command in (
        [*SERVER, "study", "new", str(study), *names, *trunk],
        [*SERVER, "study", "check", str(study)],
        [*SERVER, "enrol", str(study), "north", "--address", address, "--out", str(kit)],
        [*CLIENT, "join", str(kit), "--site", str(site)],
        [*SERVER, "admit", str(study), "north", str(site / "keys" / "node.pub")],
    ):
        done = run(command)
        assert done.returncode == 0, done.stderr
    return StudyFolder(study), SiteFolder(site)


def programs_of(site: SiteFolder) -> set[str]:
    """The modules that the hospital's processes, and whatever those started, run."""
    ours = [
        one
        for one in psutil.Process().children(recursive=True)
        if any(str(site.path) == w for w in one.cmdline())
    ]
    family = {one.pid: one for parent in ours for one in (parent, *parent.children(recursive=True))}
    return {one.cmdline()[2] for one in family.values()}


@contextmanager
def supervised(supervisor: Supervisor) -> Iterator[None]:
    """What `start` does after the preparation, without a cohort: this test asks for no training."""
    supervisor.folder.state.mkdir(parents=True, exist_ok=True)

    def work() -> None:
        with supervisor._served_health(f"127.0.0.1:{supervisor.health}"):
            supervisor._keep_running(load_joined(supervisor.folder))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        supervisor._stop.set()
        thread.join(90)


@pytest.mark.parametrize("error", [500, 429])
def test_a_supernode_that_stopped_polling_is_noticed_and_started_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    monkeypatch.setattr(kept, "SHORTEST_PAUSE_SECONDS", 6.0)  # it left in good order: no lease to wait for
    upstream, front, health = (free_port() for _ in range(3))
    study, site = enrol(tmp_path, f"127.0.0.1:{front}")
    certificate, key = make_server_certificate(study.ca, ["127.0.0.1"])
    proxy = Proxy(f"127.0.0.1:{upstream}", study.ca / "ca.pem")
    said: list[str] = []
    with (
        running_superlink(study, f"127.0.0.1:{upstream}"),
        serving(proxy, front, certificate, key),
        supervised(Supervisor(site, said.append, str(health))),
        grpc.insecure_channel(f"127.0.0.1:{health}") as channel,
    ):
        probe = health_pb2_grpc.HealthStub(channel)

        def link() -> int:
            request = health_pb2.HealthCheckRequest(service="link")
            return int(probe.Check(request, wait_for_ready=True, timeout=20).status)

        until(lambda: link() == SERVING, 90, "the link never came up")
        state = read_link(site)
        assert state is not None
        assert state.doing == "polling"
        assert programs_of(site) == {
            "f2b_client.supernode",
            "f2b_client.cli",
        }  # no stock SuperExec, no ClientApp
        proxy.inject["/pull-messages"] = error
        noticed = until(lambda: link() == NOT_SERVING, 60, "nobody noticed")
        assert proxy.injected == ["/v1/fleet/pull-messages"]
        assert said[-1] == f"SuperNode ended with code {STOPPED_POLLING}; starting it again in 6 s"
        supervisor_state = json.loads((site.state / "supervisor.json").read_text())
        assert supervisor_state["doing"] == "restarting"
        back = until(lambda: link() == SERVING, 90, "it did not come back")
        until(lambda: json.loads((site.state / "supervisor.json").read_text())["doing"] == "connected", 5, "")
    state = read_link(site)
    assert state is not None
    assert state.doing == "disconnected"
    sys.stderr.write(f"\nHTTP {error}: noticed after {noticed:.1f} s, polling again {back:.1f} s later\n")
