"""The standard gRPC health service of a running client, for systemd, Kubernetes and monitoring.

Service names: `link` (answers of the centre keep coming), `executor` (its process runs), `ledger` (ledger and receipts
are whole and agree), `disk` (1 GB free and writable), and the empty name for all four. No patient data passes here.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

os.environ.setdefault(
    "GRPC_ENABLE_FORK_SUPPORT", "0"
)  # read at import; the supervisor forks only to start programs

import grpc  # type: ignore[import-untyped]  # ships no types
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from f2b_client.health_checks import Check
from face2bone_model.contract.errors import UsageError

ALL = ""
LARGEST_PORT = 65535
THREADS = 4


def listening_address(text: str) -> str:
    """Where to serve: a bare port means loopback; any other interface has to be named.

    Raises:
        UsageError: it is no port and no host:port.
    """
    host, colon, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= LARGEST_PORT or (colon and not host):
        raise UsageError(
            f"--health {text} is not an address.",
            "Give a port, such as 9464, for this machine alone; or host:port, such as 0.0.0.0:9464, for others too.",
        )
    return f"{host or '127.0.0.1'}:{port}"


class HealthServer:
    """Serves the state of each part; `update` tells it the news."""

    def __init__(self, address: str, checks: Mapping[str, Check]) -> None:
        """Start serving; every part is not serving until the first `update`.

        Args:
            address: host:port, from `listening_address`.
            checks: by service name, whether the part serves.

        Raises:
            UsageError: the address is taken or not of this machine.
        """
        self._checks = checks
        self._known: dict[str, bool] = {}
        self._service = health.HealthServicer()
        self._server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
        health_pb2_grpc.add_HealthServicer_to_server(self._service, self._server)
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise UsageError(
                f"The health service cannot listen on {address}.", "Is the port taken? Choose another."
            ) from error
        for name in (*checks, ALL):
            self._set(name, serving=False)
        self._server.start()

    def update(self) -> None:
        """Ask every part; whoever watches is told of changes only."""
        found = {name: check() for name, check in self._checks.items()}
        for name, serving in {**found, ALL: all(found.values())}.items():
            self._set(name, serving=serving)

    def close(self) -> None:
        """Say that nothing is served any more, and end."""
        self._service.enter_graceful_shutdown()
        self._server.stop(grace=1.0).wait()

    def _set(self, name: str, *, serving: bool) -> None:
        if self._known.get(name) is not serving:
            self._known[name] = serving
            status = health_pb2.HealthCheckResponse
            self._service.set(name, status.SERVING if serving else status.NOT_SERVING)
