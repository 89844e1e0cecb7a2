"""The SuperLink's Control API: register nodes, start a run, ask how it stands, stop it. Flower internals, in one place.

tests/contract/test_flower_internals.py exercises every name imported here.
"""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_public_key
from flwr.cli.cli_client_interceptor import CliClientHttpInterceptor
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from face2bone_model.contract.bundle import study_bundle

FINISHED = "finished"
COMPLETED = "completed"


@dataclass(frozen=True)
class RunStatus:
    """How Flower says a run stands."""

    finished: bool
    completed: bool
    detail: str


class FlowerControl(AbstractContextManager["FlowerControl"]):
    """A connection to the Control API over TLS."""

    def __init__(self, address: str, ca: Path) -> None:
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=False,
            root_certificates=ca.read_bytes(),
            interceptors=[
                CliClientHttpInterceptor(),
                RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            ],
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def answers(self) -> bool:
        """Whether the SuperLink answers."""
        try:
            self._client.ListRuns(ListRunsRequest())
        except httpx.HTTPError:
            return False
        return True

    def register(self, site: str, public_key: str) -> int:
        """Register a site's node key; return its node id."""
        key = load_ssh_public_key(public_key.encode())
        pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return int(self._client.RegisterNode(RegisterNodeRequest(public_key=pem, name=site)).node_id)

    def start_run(self, config: Mapping[str, str | int | float | bool]) -> int:
        """Start a run of the code-free bundle with this configuration; return its id."""
        bundle = study_bundle()
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
            override_config=user_config_to_proto(dict(config)),
            federation="",
        )
        return int(self._client.StartRun(request).run_id)

    def status(self, run_id: int) -> RunStatus:
        """How the run stands."""
        runs = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        status = next(iter(runs.values())).status
        return RunStatus(
            status.status == FINISHED,
            status.sub_status == COMPLETED,
            f"{status.status} {status.sub_status} {status.details}".strip(),
        )

    def stop_run(self, run_id: int) -> None:
        """End the run."""
        self._client.StopRun(StopRunRequest(run_id=run_id))
